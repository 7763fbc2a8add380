"""Configuration -> a model ready to run: judges the files first, then reads this rank's share of the weights."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch

from forebay_kernels.native import native_serves
from forebay_worker.attention.select import select_backend
from forebay_worker.config import WorkerConfig
from forebay_worker.device import half_dtype, usable_cuda_memory
from forebay_worker.distributed.groups import ProcessGroup
from forebay_worker.layers.loading import LayerLoader
from forebay_worker.models.decoder import Decoder
from forebay_worker.models.source import ModelSource, open_model
from forebay_worker.models.spec import DecoderSpec
from forebay_worker.weights.errors import ModelRefusedError
from forebay_worker.weights.gguf import GgufFile
from forebay_worker.weights.names import Checkpoint

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclasses.dataclass(frozen=True)
class LoadedModel:
    """A decoder and what its callers must know of it."""

    decoder: Decoder
    spec: DecoderSpec
    vocab_size: int
    max_position_embeddings: int
    dtype: torch.dtype
    """Of activations."""
    kv_cache_dtype: torch.dtype
    num_parameters: int
    """Of the whole model, not of this shard."""


def load_model(config: WorkerConfig, group: ProcessGroup) -> LoadedModel:
    """Load the model at `config.model_path`.

    Raises: ModelRefusedError or ValueError naming what is not supported, before any weight is read where possible.
    """
    source = open_model(Path(config.model_path))
    source.check_num_shards(group.world_size)
    dtype_name = config.dtype or _own_dtype(source, group.device)
    dtype = _dtype("dtype", dtype_name)
    if config.deterministic:
        check_deterministic(config, group.device)
    is_packed = source.is_quantized and native_serves(group.device)
    if group.device.type != "cpu":
        check_room_for_weights(source, dtype, group, config.cuda_memory_fraction)
    backend = select_backend(config.attention, group.device, dtype)
    checkpoint = source.checkpoint()
    max_positions = source.spec.max_position_embeddings
    max_sequence_tokens = min(config.max_total_tokens or max_positions, max_positions)
    loader = LayerLoader(checkpoint, group, dtype, deterministic=config.deterministic)
    decoder = Decoder(source.spec, loader, backend, max_sequence_tokens)
    _refuse_unread(source, checkpoint)
    return LoadedModel(
        decoder=decoder,
        spec=source.spec,
        vocab_size=source.spec.vocab_size,
        max_position_embeddings=max_positions,
        dtype=dtype,
        kv_cache_dtype=_dtype("kv_cache_dtype", config.kv_cache_dtype or ("float16" if is_packed else dtype_name)),
        num_parameters=source.tensors.num_parameters,
    )


def _own_dtype(source: ModelSource, device: torch.device) -> str:
    """A GGUF file says nothing of activations: the kernels for packed weights want float32, a GPU half of it."""
    is_gguf = isinstance(source.tensors, GgufFile)
    return half_dtype(device) if is_gguf and device.type == "cuda" else source.dtype


def check_deterministic(config: WorkerConfig, device: torch.device) -> None:
    """Refuse what cannot promise that a row's result depends on nothing else in its step: all but the CPU kernels.

    Raises: ValueError naming it and what to do.
    """
    if device.type != "cpu":
        raise ValueError(f"deterministic is set, but products on `{device}` depend on the step; set device to cpu")
    if not native_serves(device):
        raise ValueError("deterministic is set, but torch's products depend on the step; unset disable_custom_kernels")
    if config.attention not in ("auto", "paged"):
        raise ValueError(
            f"deterministic is set, but attention `{config.attention}` depends on the step; set it to auto or paged"
        )


def check_room_for_weights(source: ModelSource, dtype: torch.dtype, group: ProcessGroup, fraction: float) -> None:
    """Refuse a model whose weights, this shard's part of them and all in `dtype`, do not fit into a GPU's memory.

    Raises: ValueError naming what they need and what is free.
    """
    needed = source.tensors.num_parameters * dtype.itemsize // group.world_size
    free = usable_cuda_memory(group.device, fraction)
    if needed > free:
        unpacked = ", unpacked from the file's quantized blocks," if source.is_quantized else ""
        raise ValueError(
            f"the weights of `{source.path}`{unpacked} need `{needed}` bytes of `{group.device}` in "
            f"{str(dtype).removeprefix('torch.')}, of which `{free}` are free; raise num_shard, or set device to cpu"
        )


def _dtype(field: str, name: str) -> torch.dtype:
    if name not in DTYPES:
        raise ValueError(f"{field} is `{name}`, expected one of {', '.join(DTYPES)}")
    return DTYPES[name]


def _refuse_unread(source: ModelSource, checkpoint: Checkpoint) -> None:
    """A tensor that nothing reads would change the model's output if it were honoured (a bias, an extra norm)."""
    spec = source.spec
    head = spec.names["head"].at(None) if spec.tied_head else None
    for name in checkpoint.unread():
        is_ignored = name.endswith(spec.ignored_names) or name.startswith(spec.ignored_prefixes)
        if name != head and not is_ignored:
            raise ModelRefusedError(
                f"tensor `{name}` of `{source.path}` has no place in `{spec.architecture}` as its configuration stands"
            )
