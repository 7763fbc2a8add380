"""Self-attention over the paged cache. T = tokens, H = query heads, K = key-value heads, D = head_dim (local)."""

from __future__ import annotations

from torch import Tensor

from forebay_worker.attention.backend import AttentionBackend, AttentionParameters, AttentionStep
from forebay_worker.kv_cache import LayerKvCache
from forebay_worker.layers.linear import ColumnParallelLinear, Projection, RowParallelLinear
from forebay_worker.layers.loading import LayerLoader
from forebay_worker.models.spec import DecoderSpec


class GroupedQueryAttention:
    """Queries in groups that share a key-value head; with one group a head, plain multi-head attention."""

    def __init__(self, spec: DecoderSpec, loader: LayerLoader, backend: AttentionBackend) -> None:
        """Read this rank's heads."""
        self._backend = backend
        self._num_heads = len(loader.group.shard(spec.num_heads))
        self._num_kv_heads = len(loader.group.shard(spec.num_kv_heads))
        self._head_dim = spec.head_dim
        self._parameters = AttentionParameters(scale=spec.head_dim**-0.5)
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
        q_THD = heads[:, : self._num_heads]
        k_TKD = heads[:, self._num_heads : -self._num_kv_heads]
        v_TKD = heads[:, -self._num_kv_heads :]
        out_THD = self._backend.forward(q_THD, k_TKD, v_TKD, kv, step, self._parameters)
        return self._output(out_THD.reshape(x_TD.shape[0], -1))
