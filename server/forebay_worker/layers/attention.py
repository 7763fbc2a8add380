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


class JointlyNormedAttention(GroupedQueryAttention):
    """The same with all heads of queries, and all of keys, normalized as one vector: OLMo 2's."""

    def __init__(self, spec: DecoderSpec, loader: LayerLoader, backend: AttentionBackend) -> None:
        """Read this rank's heads, and their part of the norms' weights."""
        super().__init__(spec, loader, backend)
        self._query_norm = JointNorm(loader, "attention.query_norm", spec.num_heads, spec)
        self._key_norm = JointNorm(loader, "attention.key_norm", spec.num_kv_heads, spec)

    def _query(self, q_THD: Tensor) -> Tensor:
        return self._query_norm(q_THD)

    def _key(self, k_TKD: Tensor) -> Tensor:
        return self._key_norm(k_TKD)


class JointNorm:
    """Root-mean-square norm over the heads of all ranks, each of which holds some."""

    def __init__(self, loader: LayerLoader, role: str, num_heads: int, spec: DecoderSpec) -> None:
        """Read the weight, of which this rank's heads are used."""
        own, width = loader.group.shard(num_heads), spec.head_dim
        self._group = loader.group
        self._weight_HD = loader.vector(role, num_heads * width).view(num_heads, width)[own.start : own.stop]
        # Heads that several ranks hold are summed as often.
        self._num_summed = len(own) * loader.group.world_size * width
        self._eps = spec.norm_eps

    def __call__(self, x_THD: Tensor) -> Tensor:
        """A new tensor; float32 inside."""
        wide_THD = x_THD.float()
        squares_T = self._group.all_reduce(wide_THD.pow(2).sum(dim=(1, 2)))
        scale_T = (squares_T / self._num_summed + self._eps).rsqrt()
        return (wide_THD * scale_T[:, None, None] * self._weight_HD.float()).to(x_THD.dtype)
