"""CPU and GPU kernels for language models; one op a file in `ops`, each with its torch reference."""

from forebay_kernels.native import force_instruction_set, force_torch, native_info, use_torch_alone

__all__ = ["force_instruction_set", "force_torch", "native_info", "use_torch_alone"]
