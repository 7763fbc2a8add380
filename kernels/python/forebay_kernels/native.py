"""The native library: found, or missed by name at its first use; what it runs on; and how to do without it.

On a GPU the ops run torch operators alone, so that a machine without the library can still serve there.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypedDict

# torch first: its libgomp must be loaded before the native library looks for the process's thread team.
import torch
from torch import Tensor

__all__ = [
    "NativeInfo",
    "force_instruction_set",
    "force_torch",
    "library",
    "native_info",
    "native_serves",
    "runs_native",
    "use_torch_alone",
]


class _Missing:
    """Stands for a library that cannot be loaded: whatever is asked of it is the reason why."""

    def __init__(self, reason: ImportError) -> None:
        self._reason = reason

    def __getattr__(self, name: str) -> object:
        raise ImportError(
            f"forebay_kernels cannot load its native library `forebay_kernels._native` ({self._reason}); "
            "install the wheel of this platform, or build it from source with `pip install ./kernels`"
        ) from self._reason


try:
    from forebay_kernels import _native as library
except ImportError as error:
    library = _Missing(error)  # type: ignore[assignment]

_torch_alone = False


def runs_native(x: Tensor) -> bool:
    """Whether an op on `x` is the native library's to compute; else it is torch's."""
    return x.is_cpu and not _torch_alone


def native_serves(device: torch.device) -> bool:
    """Whether ops on a device's tensors are the native library's to compute."""
    return device.type == "cpu" and not _torch_alone


def use_torch_alone(alone: bool) -> bool:
    """Say whether ops on CPU are computed by torch's operators, as they are on a GPU; process-wide.

    Returns: what held before.
    """
    global _torch_alone
    before, _torch_alone = _torch_alone, alone
    return before


@contextmanager
def force_torch() -> Iterator[None]:
    """Compute ops on CPU by torch's operators inside a `with` block; process-wide. For tests and comparisons."""
    before = use_torch_alone(True)
    try:
        yield
    finally:
        use_torch_alone(before)


class NativeInfo(TypedDict):
    """What the native kernels run on."""

    instruction_set: str
    available_instruction_sets: list[str]
    num_threads: int
    thread_team: str


def native_info() -> NativeInfo:
    """Tell which instruction set and threads the native kernels use.

    Returns:
        `instruction_set` in use (`avx512`, `avx2` or `portable`), `available_instruction_sets` best first,
        `num_threads` (follows `torch.set_num_threads`), `thread_team` (`gomp`: torch's own threads, or `pool`).

    Raises:
        ImportError: if the library cannot be loaded.
    """
    return NativeInfo(**library.native_info())


@contextmanager
def force_instruction_set(name: str) -> Iterator[None]:
    """Run the native kernels with the instruction set of that name inside a `with` block; process-wide.

    For tests and benchmarks: outside, the best set of the machine is used.

    Raises:
        ValueError: if this machine does not have the set.
    """
    before = library.force_instruction_set(name)
    try:
        yield
    finally:
        library.force_instruction_set(before)
