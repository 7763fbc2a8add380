"""Halves of layers in one kernel call, or all of them: quantized weights, float32, RMS norms, and the paged kernel.

T = tokens, D = model width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from forebay_kernels.ops.attention_sublayer import AttentionSublayer, AttentionWeights
from forebay_kernels.ops.mlp_sublayer import MlpSublayer, MlpWeights
from forebay_kernels.ops.sublayers import AttentionMemory, Half, OutputNorm, Sublayers
from forebay_worker.attention.backend import AttentionStep
from forebay_worker.attention.cpu_paged import CpuPaged
from forebay_worker.kv_cache import KvCache, LayerKvCache
from forebay_worker.layers.attention import GroupedQueryAttention, NormedQueryKeyAttention
from forebay_worker.layers.linear import RowParallelLinear
from forebay_worker.layers.mlp import GeGluMlp, SwiGluMlp
from forebay_worker.layers.norm import Norm, RmsNorm

if TYPE_CHECKING:
    from forebay_worker.layers.sublayers import Sublayer


class FusedAttention:
    """An AttentionHalf but for the sum over ranks, which follows the call."""

    def __init__(self, weights: AttentionWeights, output: RowParallelLinear) -> None:
        """`output`: whose weight is among `weights`."""
        self.kernel = AttentionSublayer(weights)
        self.output = output

    def __call__(
        self, x_TD: Tensor, residual_TD: Tensor | None, kv: LayerKvCache, step: AttentionStep
    ) -> tuple[Tensor, Tensor]:
        """See AttentionHalf."""
        rotation, metadata = step.rotation, step.metadata
        assert rotation is not None
        product_TD, sum_TD = self.kernel(
            x_TD,
            residual_TD,
            rotation.table_PR,
            rotation.positions_T,
            kv.key,
            kv.value,
            metadata.slot_mapping_T,
            metadata.block_tables_SB,
            metadata.context_lens_S,
            metadata.cu_seqlens_q_S1,
        )
        return self.output.sum_over_ranks(product_TD), sum_TD


class FusedMlp:
    """An MlpHalf but for the sum over ranks, which follows the call."""

    def __init__(self, weights: MlpWeights, down: RowParallelLinear) -> None:
        """`down`: whose weight is among `weights`."""
        self.kernel = MlpSublayer(weights)
        self.output = down

    def __call__(self, x_TD: Tensor, residual_TD: Tensor | None) -> tuple[Tensor, Tensor]:
        """See MlpHalf."""
        product_TD, sum_TD = self.kernel(x_TD, residual_TD)
        return self.output.sum_over_ranks(product_TD), sum_TD


class FusedLayers:
    """All halves of a model in one call."""

    def __init__(self, halves: Sequence[Half]) -> None:
        """`halves`: in the order of the layers, attention first."""
        self._kernel = Sublayers(halves)
        # Of the last call, which the next one most likely shares: 90 tensors to look up take 10 us.
        self._memory: tuple[KvCache, list[AttentionMemory]] | None = None

    def __call__(self, x_TD: Tensor, kv_cache: KvCache, steps: Sequence[AttentionStep]) -> tuple[Tensor, Tensor]:
        """See Layers."""
        rotation, metadata = steps[0].rotation, steps[0].metadata
        assert rotation is not None
        return self._kernel(
            x_TD,
            None,
            rotation.positions_T,
            metadata.slot_mapping_T,
            metadata.block_tables_SB,
            metadata.context_lens_S,
            metadata.cu_seqlens_q_S1,
            self._memory_of(kv_cache, steps),
        )

    def _memory_of(self, kv_cache: KvCache, steps: Sequence[AttentionStep]) -> list[AttentionMemory]:
        if self._memory is None or self._memory[0] is not kv_cache:
            memory = [
                AttentionMemory(step.rotation.table_PR, kv.key, kv.value)
                for step, kv in zip(steps, kv_cache.layers, strict=True)
                if step.rotation is not None
            ]
            self._memory = kv_cache, memory
        return self._memory[1]


def fused_layers(sublayers: Sequence[Sublayer]) -> FusedLayers | None:
    """None unless each half is fused, and nothing but what the kernel does lies between two."""
    halves = []
    for sublayer in sublayers:
        half, step = sublayer.half, sublayer.output_step
        if not isinstance(half, FusedAttention | FusedMlp) or not half.output.is_product:
            return None
        if isinstance(step, RmsNorm):
            halves.append(Half(half.kernel, OutputNorm(step.weight_D, step.eps)))
        elif step is None or isinstance(step, float):
            halves.append(Half(half.kernel, step))
        else:
            return None
    return FusedLayers(halves)


def fused_attention(norm: Norm, attention: GroupedQueryAttention) -> FusedAttention | None:
    """None for what the kernel does not do."""
    qkv, output, parameters = attention.qkv, attention.output, attention.parameters
    if not isinstance(norm, RmsNorm) or not isinstance(attention.backend, CpuPaged) or not attention.is_rotary:
        return None
    # Another class may do to queries and keys what the kernel does not know of.
    if type(attention) not in (GroupedQueryAttention, NormedQueryKeyAttention):
        return None
    if qkv.packed is None or output.packed is None:
        return None
    head_norm_weights = None
    if isinstance(attention, NormedQueryKeyAttention):
        query_norm, key_norm = attention.query_norm, attention.key_norm
        if not isinstance(query_norm, RmsNorm) or not isinstance(key_norm, RmsNorm):
            return None
        head_norm_weights = (query_norm.weight_D, key_norm.weight_D)
    weights = AttentionWeights(
        norm_weight_D=norm.weight_D,
        norm_eps=norm.eps,
        qkv=qkv.packed,
        qkv_bias=qkv.bias,
        head_norm_weights=head_norm_weights,
        output=output.packed,
        scale=parameters.scale,
        window=parameters.window,
        softcap=parameters.softcap,
    )
    return FusedAttention(weights, output)


def fused_mlp(norm: Norm, mlp: SwiGluMlp) -> FusedMlp | None:
    """None for what the kernel does not do."""
    if not isinstance(norm, RmsNorm) or mlp.gate_up.packed is None or mlp.down.packed is None:
        return None
    if type(mlp) not in (SwiGluMlp, GeGluMlp):
        return None
    weights = MlpWeights(
        norm_weight_D=norm.weight_D,
        norm_eps=norm.eps,
        gate_up=mlp.gate_up.packed,
        gate_up_bias=mlp.gate_up.bias,
        kind=mlp.kind,
        down=mlp.down.packed,
    )
    return FusedMlp(weights, mlp.down)
