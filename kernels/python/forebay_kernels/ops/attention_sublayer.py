"""The attention half of a decoder layer in one call: norm, projections, rotary, cache write, attention, output.

Shapes: T = tokens in the step, D = model width, H = query heads, K = kv heads, W = head width, P = positions,
R = rotated width, S = sequences, B = most blocks a sequence.
"""

import dataclasses

from torch import Tensor

from forebay_kernels import _native
from forebay_kernels.ops.paged_attention import paged_attention_reference
from forebay_kernels.ops.quantized_linear import PackedWeight, quantized_linear_reference
from forebay_kernels.ops.rms_norm import rms_norm_reference
from forebay_kernels.ops.rotary import rotary_write_kv_reference


@dataclasses.dataclass(frozen=True)
class AttentionWeights:
    """What is fixed of one layer."""

    norm_weight_D: Tensor
    """float32, contiguous, in CPU memory, as all vectors here."""
    norm_eps: float
    """Of the heads' norms too."""
    qkv: PackedWeight
    """(H + 2K) * W x D: queries, keys, values."""
    qkv_bias: Tensor | None
    head_norm_weights: tuple[Tensor, Tensor] | None
    """[W] each: queries and keys are normalized head by head before they turn. Source: arXiv 2302.05442."""
    output: PackedWeight
    """D x H * W."""
    scale: float
    """As in `paged_attention`, and so are the next two."""
    window: int = 0
    softcap: float = 0.0


class AttentionSublayer:
    """`output(attention(rotary(qkv(norm(h)))))`, where `h` is the residual stream with the input added."""

    def __init__(self, weights: AttentionWeights) -> None:
        """Copy the vectors and keep the packed weights.

        Raises:
            ValueError: for a negative window, or a vector that is not one. TypeError: for a dtype.
        """
        query_norm_weight, key_norm_weight = weights.head_norm_weights or (None, None)
        self.weights = weights
        # What `Sublayers` takes.
        self.native = _native.AttentionSublayer(
            weights.norm_weight_D,
            weights.norm_eps,
            weights.qkv,
            weights.qkv_bias,
            query_norm_weight,
            key_norm_weight,
            weights.output,
            weights.scale,
            weights.window,
            weights.softcap,
        )

    def __call__(  # noqa: PLR0913 - the ops' signatures
        self,
        x_TD: Tensor,
        residual_TD: Tensor | None,
        cos_sin_cache_PR: Tensor,
        positions_T: Tensor,
        key_cache: Tensor,
        value_cache: Tensor,
        slot_mapping_T: Tensor,
        block_tables_SB: Tensor,
        context_lens_S: Tensor,
        cu_seqlens_q_S1: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Return (result, h), both float32 and new; without a residual `h` is `x_TD`.

        Equal to `rms_norm`, `quantized_linear`, the bias, the heads' `rms_norm`, `rotary_write_kv`, `paged_attention`
        and `quantized_linear` one after another, to the bit; a row is bit-equal whatever other rows are in the call,
        and on any number of threads.

        Args:
            x_TD: float32, rows contiguous (the row stride is free), in CPU memory. Not modified.
            residual_TD: like `x_TD`, or None.
            cos_sin_cache_PR: this and the rest as in `rotary_write_kv` and `paged_attention`.
            positions_T: see there.
            key_cache: modified.
            value_cache: modified.
            slot_mapping_T: see there.
            block_tables_SB: see there.
            context_lens_S: see there.
            cu_seqlens_q_S1: see there.

        Raises:
            ValueError: for a shape, stride, position, slot, block or device that does not fit, naming it.
            TypeError: for a dtype.
        """
        return self.native(
            x_TD,
            residual_TD,
            cos_sin_cache_PR,
            positions_T,
            key_cache,
            value_cache,
            slot_mapping_T,
            block_tables_SB,
            context_lens_S,
            cu_seqlens_q_S1,
        )


def attention_sublayer_reference(  # noqa: PLR0913 - the op's signature
    x_TD: Tensor,
    residual_TD: Tensor | None,
    cos_sin_cache_PR: Tensor,
    positions_T: Tensor,
    key_cache: Tensor,
    value_cache: Tensor,
    slot_mapping_T: Tensor,
    block_tables_SB: Tensor,
    context_lens_S: Tensor,
    cu_seqlens_q_S1: Tensor,
    weights: AttentionWeights,
) -> tuple[Tensor, Tensor]:
    """Compute what `AttentionSublayer` computes by the references of the ops that it is made of."""
    normed_TD, sum_TD = rms_norm_reference(x_TD, weights.norm_weight_D, weights.norm_eps, residual_TD)
    qkv = quantized_linear_reference(normed_TD, weights.qkv)
    if weights.qkv_bias is not None:
        qkv += weights.qkv_bias
    num_kv_heads, head_width = key_cache.shape[1], key_cache.shape[3]
    heads = qkv.view(x_TD.shape[0], -1, head_width)
    q_THW, k_TKW, v_TKW = heads.tensor_split((-2 * num_kv_heads, -num_kv_heads), dim=1)
    if weights.head_norm_weights is not None:
        query_norm_weight, key_norm_weight = weights.head_norm_weights
        q_THW, _ = rms_norm_reference(q_THW, query_norm_weight, weights.norm_eps)
        k_TKW, _ = rms_norm_reference(k_TKW, key_norm_weight, weights.norm_eps)
    caches = (key_cache, value_cache)
    rotary_write_kv_reference(q_THW, k_TKW, v_TKW, cos_sin_cache_PR, positions_T, *caches, slot_mapping_T)
    rows = (block_tables_SB, context_lens_S, cu_seqlens_q_S1)
    attended_THW = paged_attention_reference(
        q_THW, *caches, *rows, weights.scale, window=weights.window, softcap=weights.softcap
    )
    return quantized_linear_reference(attended_THW.flatten(1), weights.output), sum_TD
