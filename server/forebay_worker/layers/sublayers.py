"""A norm and what it feeds, as the half of a layer that they are: in one kernel call where there is one for them.

Each half takes what is to be added to the residual stream, and the stream if there is one yet; it returns its own
output, not yet added, and the sum that it was computed from. T = tokens, D = model width.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Protocol

from torch import Tensor

from forebay_worker.attention.backend import AttentionStep
from forebay_worker.kv_cache import KvCache, LayerKvCache
from forebay_worker.layers.attention import GroupedQueryAttention
from forebay_worker.layers.mlp import SwiGluMlp
from forebay_worker.layers.norm import Norm


class AttentionHalf(Protocol):
    """See the module."""

    def __call__(
        self, x_TD: Tensor, residual_TD: Tensor | None, kv: LayerKvCache, step: AttentionStep
    ) -> tuple[Tensor, Tensor]:
        """(output, sum), whole on every rank; writes this step's keys and values into `kv`."""


class MlpHalf(Protocol):
    """See the module."""

    def __call__(self, x_TD: Tensor, residual_TD: Tensor | None) -> tuple[Tensor, Tensor]:
        """(output, sum), whole on every rank."""


OutputStep = Norm | float | None
"""What is done with a half's output before it is added to the stream: a norm, a factor or nothing."""


@dataclasses.dataclass(frozen=True)
class Sublayer:
    """A half, and what is done with its output."""

    half: AttentionHalf | MlpHalf
    output_step: OutputStep = None

    def finish(self, out_TD: Tensor) -> Tensor:
        """What is to be added, of the half's output."""
        if self.output_step is None:
            return out_TD
        if isinstance(self.output_step, float):
            return out_TD * self.output_step
        finished_TD: Tensor = self.output_step(out_TD, None)[0]
        return finished_TD


class Layers(Protocol):
    """All decoder layers at once."""

    def __call__(self, x_TD: Tensor, kv_cache: KvCache, steps: Sequence[AttentionStep]) -> tuple[Tensor, Tensor]:
        """(output of the last half, the sum that it was computed from); `steps`: a layer's each."""


class AttentionAfterNorm:
    """One op after another."""

    def __init__(self, norm: Norm, attention: GroupedQueryAttention) -> None:
        self._norm = norm
        self._attention = attention

    def __call__(
        self, x_TD: Tensor, residual_TD: Tensor | None, kv: LayerKvCache, step: AttentionStep
    ) -> tuple[Tensor, Tensor]:
        """See AttentionHalf."""
        normed_TD, sum_TD = self._norm(x_TD, residual_TD)
        return self._attention(normed_TD, kv, step), sum_TD


class MlpAfterNorm:
    """One op after another."""

    def __init__(self, norm: Norm, mlp: Callable[[Tensor], Tensor]) -> None:
        self._norm = norm
        self._mlp = mlp

    def __call__(self, x_TD: Tensor, residual_TD: Tensor | None) -> tuple[Tensor, Tensor]:
        """See MlpHalf."""
        normed_TD, sum_TD = self._norm(x_TD, residual_TD)
        return self._mlp(normed_TD), sum_TD


def attention_after(norm: Norm, attention: GroupedQueryAttention) -> AttentionHalf:
    """Attention of what `norm` gives."""
    if attention.qkv.packed is not None:
        # Imported when first needed: a float model does not load the native kernels.
        from forebay_worker.layers.fused_sublayers import fused_attention

        if (fused := fused_attention(norm, attention)) is not None:
            return fused
    return AttentionAfterNorm(norm, attention)


def mlp_after(norm: Norm, mlp: Callable[[Tensor], Tensor]) -> MlpHalf:
    """A feed-forward layer on what `norm` gives."""
    if isinstance(mlp, SwiGluMlp) and mlp.gate_up.packed is not None:
        from forebay_worker.layers.fused_sublayers import fused_mlp

        if (fused := fused_mlp(norm, mlp)) is not None:
            return fused
    return MlpAfterNorm(norm, mlp)


def all_in_one(layers: Sequence[Sequence[Sublayer]]) -> Layers | None:
    """All halves of a model's layers in one kernel call; None where one of them, or what follows it, has no such form.

    A layer is its attention, then its feed-forward half; none: they are not what it is made of.
    """
    if not all(layers) or any(isinstance(sublayer.half, AttentionAfterNorm | MlpAfterNorm) for sublayer in layers[0]):
        return None
    from forebay_worker.layers.fused_sublayers import fused_layers

    return fused_layers([sublayer for layer in layers for sublayer in layer])
