"""Halves of decoder layers one after another in one call: a whole model's, where nothing has to be done between them.

Shapes: T = tokens in the step, D = model width; the others as in `attention_sublayer`.
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from forebay_kernels import _native
from forebay_kernels.ops.attention_sublayer import AttentionSublayer, attention_sublayer_reference
from forebay_kernels.ops.mlp_sublayer import MlpSublayer, mlp_sublayer_reference
from forebay_kernels.ops.rms_norm import rms_norm_reference


@dataclasses.dataclass(frozen=True)
class OutputNorm:
    """A norm of a half's output, before it is added to the stream."""

    weight_D: Tensor
    """float32, contiguous, in CPU memory."""
    eps: float


@dataclasses.dataclass(frozen=True)
class Half:
    """A half, and what is done with its output before it is added to the stream: a norm, a factor or nothing."""

    kernel: AttentionSublayer | MlpSublayer
    output_step: OutputNorm | float | None = None


class AttentionMemory(NamedTuple):
    """What one layer's attention reads and writes beside the stream; as in `attention_sublayer`."""

    cos_sin_cache_PR: Tensor
    key_cache: Tensor
    """Modified."""
    value_cache: Tensor
    """Modified."""


class Sublayers:
    """Halves, each of which takes the last one's output and adds it to the residual stream."""

    def __init__(self, halves: Sequence[Half]) -> None:
        """Keep the halves. Raises: ValueError for a norm's weight that is not a vector; TypeError for its dtype."""
        self._native = _native.Sublayers([_described(half) for half in halves])

    def __call__(  # noqa: PLR0913 - the ops' signatures
        self,
        x_TD: Tensor,
        residual_TD: Tensor | None,
        positions_T: Tensor,
        slot_mapping_T: Tensor,
        block_tables_SB: Tensor,
        context_lens_S: Tensor,
        cu_seqlens_q_S1: Tensor,
        memory: Sequence[AttentionMemory],
    ) -> tuple[Tensor, Tensor]:
        """Return the last half's (result, sum) as that half returns it, both float32 [T, D] and new.

        Equal to the halves and steps one after another, to the bit; a row is bit-equal whatever other rows are in the
        call, and on any number of threads.

        Args:
            x_TD: float32, rows contiguous (the row stride is free), in CPU memory. Not modified.
            residual_TD: like `x_TD`, or None.
            positions_T: this and the next four as in `attention_sublayer`.
            slot_mapping_T: see there.
            block_tables_SB: see there.
            context_lens_S: see there.
            cu_seqlens_q_S1: see there.
            memory: of each attention half, in their order; the caches of one dtype.

        Raises:
            ValueError: for a shape, stride, position, slot, block or device that does not fit, or memory that a cache
                shares, naming it. TypeError: for a dtype.
        """
        rows = (block_tables_SB, context_lens_S, cu_seqlens_q_S1)
        return self._native(x_TD, residual_TD, positions_T, slot_mapping_T, *rows, memory)


def _described(
    half: Half,
) -> tuple[_native.AttentionSublayer | _native.MlpSublayer, Tensor | None, float, float | None]:
    """As the native library takes it: (kernel, norm's weight, norm's eps, factor)."""
    step = half.output_step
    if isinstance(step, OutputNorm):
        return half.kernel.native, step.weight_D, step.eps, None
    return half.kernel.native, None, 0.0, step


def sublayers_reference(  # noqa: PLR0913 - the op's signature
    x_TD: Tensor,
    residual_TD: Tensor | None,
    positions_T: Tensor,
    slot_mapping_T: Tensor,
    block_tables_SB: Tensor,
    context_lens_S: Tensor,
    cu_seqlens_q_S1: Tensor,
    memory: Sequence[AttentionMemory],
    halves: Sequence[Half],
) -> tuple[Tensor, Tensor]:
    """Compute what `Sublayers` computes by the references of its halves."""
    rows, of_layers = (slot_mapping_T, block_tables_SB, context_lens_S, cu_seqlens_q_S1), iter(memory)
    out_TD, sum_TD = x_TD, residual_TD
    for half in halves:
        if isinstance(half.kernel, AttentionSublayer):
            of_layer = next(of_layers)
            places = (of_layer.cos_sin_cache_PR, positions_T, of_layer.key_cache, of_layer.value_cache)
            out_TD, sum_TD = attention_sublayer_reference(out_TD, sum_TD, *places, *rows, half.kernel.weights)
        else:
            out_TD, sum_TD = mlp_sublayer_reference(out_TD, sum_TD, half.kernel.weights)
        if isinstance(half.output_step, OutputNorm):
            out_TD, _ = rms_norm_reference(out_TD, half.output_step.weight_D, half.output_step.eps, None)
        elif half.output_step is not None:
            out_TD = out_TD * half.output_step
    assert sum_TD is not None
    return out_TD, sum_TD
