"""Self-attention over the paged cache. T = tokens, H = query heads, K = key-value heads, D = head_dim (local)."""

from __future__ import annotations

from torch import Tensor

from forebay_worker.attention.backend import AttentionBackend, AttentionParameters, AttentionStep
from forebay_worker.kv_cache import LayerKvCache
from forebay_worker.layers.linear import ColumnParallelLinear, Projection, RowParallelLinear
from forebay_worker.layers.loading import LayerLoader
from forebay_worker.layers.norm import Norm
from forebay_worker.models.spec import DecoderSpec, resolve


class GroupedQueryAttention:
    """Queries in groups that share a key-value head; with one group a head, plain multi-head attention."""

    def __init__(self, spec: DecoderSpec, loader: LayerLoader, backend: AttentionBackend) -> None:
        """Read this rank's heads."""
        assert loader.layer is not None
        self.backend = backend
        self.is_rotary = spec.layers[loader.layer].rope is not None
        self._num_heads = len(loader.group.shard(spec.num_heads))
        self._num_kv_heads = len(loader.group.shard(spec.num_kv_heads))
        self._head_dim = spec.head_dim
        self.parameters = AttentionParameters(
            scale=spec.head_dim**-0.5 if spec.attention_scale is None else spec.attention_scale,
            window=spec.layers[loader.layer].window,
            softcap=spec.attention_softcap,
        )
        projections = (
            Projection("attention.query", spec.num_heads, spec.head_dim),
            Projection("attention.key", spec.num_kv_heads, spec.head_dim),
            Projection("attention.value", spec.num_kv_heads, spec.head_dim),
        )
        self.qkv = ColumnParallelLinear(loader, projections, spec.hidden_size)
        self.output = RowParallelLinear(loader, "attention.output", spec.hidden_size, spec.num_heads * spec.head_dim)

    def __call__(self, x_TD: Tensor, kv: LayerKvCache, step: AttentionStep) -> Tensor:
        """[T, model width], whole on every rank; writes this step's keys and values into `kv`."""
        heads = self.qkv(x_TD).view(x_TD.shape[0], -1, self._head_dim)
        q_THD = self._query(heads[:, : self._num_heads])
        k_TKD = self._key(heads[:, self._num_heads : -self._num_kv_heads])
        v_TKD = heads[:, -self._num_kv_heads :]
        out_THD = self.backend.forward(q_THD, k_TKD, v_TKD, kv, step, self.parameters)
        return self.output(out_THD.reshape(x_TD.shape[0], -1))

    def _query(self, q_THD: Tensor) -> Tensor:
        return q_THD

    def _key(self, k_TKD: Tensor) -> Tensor:
        return k_TKD


class NormedQueryKeyAttention(GroupedQueryAttention):
    """The same with each head of queries and keys normalized before it is rotated. Source: arXiv 2302.05442."""

    def __init__(self, spec: DecoderSpec, loader: LayerLoader, backend: AttentionBackend) -> None:
        """Read this rank's heads and the norms, which all heads share."""
        super().__init__(spec, loader, backend)
        norm = resolve(spec.norm)
        self.query_norm: Norm = norm(loader, "attention.query_norm", spec.head_dim, spec.norm_eps)
        self.key_norm: Norm = norm(loader, "attention.key_norm", spec.head_dim, spec.norm_eps)

    def _query(self, q_THD: Tensor) -> Tensor:
        return self.query_norm(q_THD, None)[0]

    def _key(self, k_TKD: Tensor) -> Tensor:
        return self.key_norm(k_TKD, None)[0]
