"""The paged keys and values: reserved at start, touched as blocks come into use."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from forebay_worker.models.sharding import num_local_kv_heads
from forebay_worker.models.spec import DecoderSpec


@dataclasses.dataclass(frozen=True)
class LayerKvCache:
    """One layer's `key` and `value`, each [num_blocks, local kv heads, block_size, head_dim]."""

    key: Tensor
    value: Tensor


@dataclasses.dataclass(frozen=True)
class KvCache:
    """Every layer's cache of one shard. Block 0 is the null block."""

    layers: tuple[LayerKvCache, ...]

    @staticmethod
    def allocate(
        spec: DecoderSpec,
        num_blocks: int,
        block_size: int,
        dtype: torch.dtype,
        device: str | torch.device,
        *,
        num_shards: int,
    ) -> KvCache:
        """Reserve memory without touching it: on CPU a page is backed when its block is first written."""
        shape = (num_blocks, num_local_kv_heads(spec, num_shards), block_size, spec.head_dim)

        def reserve() -> Tensor:
            return torch.empty(shape, dtype=dtype, device=device)

        return KvCache(tuple(LayerKvCache(reserve(), reserve()) for _ in range(spec.num_layers)))


def block_bytes(spec: DecoderSpec, block_size: int, dtype: torch.dtype, num_shards: int) -> int:
    """Bytes of one block over all layers of one shard."""
    per_token = 2 * spec.num_layers * num_local_kv_heads(spec, num_shards) * spec.head_dim * dtype.itemsize
    return per_token * block_size
