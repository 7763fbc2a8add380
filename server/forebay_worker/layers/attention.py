"""Self-attention over the paged cache. T = tokens, H = query heads, K = key-value heads, D = head_dim (local)."""

from __future__ import annotations

import dataclasses

from torch import Tensor

from forebay_worker.attention.backend import AttentionBackend, AttentionMetadata
from forebay_worker.kv_cache import LayerKvCache
from forebay_worker.layers.linear import ColumnParallelLinear, Projection, RowParallelLinear
from forebay_worker.layers.loading import LayerLoader
from forebay_worker.layers.rotary import Rotation
from forebay_worker.models.spec import DecoderSpec


@dataclasses.dataclass(frozen=True)
class AttentionStep:
    """What every layer's attention shares in one step."""

    rotation: Rotation
    metadata: AttentionMetadata
    backend: AttentionBackend


class GroupedQueryAttention:
    """Queries in groups that share a key-value head; with one group a head, plain multi-head attention."""

    def __init__(self, spec: DecoderSpec, loader: LayerLoader) -> None:
        """Read this rank's heads."""
        self._num_heads = len(loader.group.shard(spec.num_heads))
        self._num_kv_heads = len(loader.group.shard(spec.num_kv_heads))
        self._head_dim = spec.head_dim
        self._scale = spec.head_dim**-0.5
        projections = (
            Projection("attention.query", spec.num_heads, spec.head_dim),
            Projection("attention.key", spec.num_kv_heads, spec.head_dim),
            Projection("attention.value", spec.num_kv_heads, spec.head_dim),
        )
        self._qkv = ColumnParallelLinear(loader, projections, spec.hidden_size)
        self._output = RowParallelLinear(loader, "attention.output", spec.hidden_size, spec.num_heads * spec.head_dim)

    def __call__(self, x_TD: Tensor, kv: LayerKvCache, step: AttentionStep) -> Tensor:
        """[T, model width], whole on every rank; writes this step's keys and values into `kv`."""
        heads = self._qkv(x_TD).view(x_TD.shape[0], -1, self._head_dim)
        num_rotated = self._num_heads + self._num_kv_heads
        rotated = step.rotation(heads[:, :num_rotated])
        q_THD, k_TKD = rotated[:, : self._num_heads], rotated[:, self._num_heads :]
        out_THD = step.backend.forward(q_THD, k_TKD, heads[:, num_rotated:], kv, step.metadata, self._scale)
        return self._output(out_THD.reshape(x_TD.shape[0], -1))
