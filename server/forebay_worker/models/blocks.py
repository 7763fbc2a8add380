"""Decoder blocks: the order of norms, attention and feed-forward. T = tokens, D = model width."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

from forebay_worker.attention.backend import AttentionBackend, AttentionStep
from forebay_worker.kv_cache import LayerKvCache
from forebay_worker.layers.loading import LayerLoader
from forebay_worker.layers.sublayers import OutputStep, Sublayer, attention_after, mlp_after
from forebay_worker.models.spec import DecoderSpec, resolve


class Block(Protocol):
    """A decoder layer."""

    sublayers: Sequence[Sublayer]
    """What it computes as halves one after another; empty where it is not made of such."""

    def __call__(
        self, x_TD: Tensor, residual_TD: Tensor | None, kv: LayerKvCache, step: AttentionStep
    ) -> tuple[Tensor, Tensor]:
        """(what is to be added, the residual to add it to)."""


class PreNormBlock:
    """x + attention(norm(x)), then x + mlp(norm(x)); sums are left to the norm that comes next."""

    def __init__(self, spec: DecoderSpec, loader: LayerLoader, backend: AttentionBackend) -> None:
        """Build the components that the description names."""
        norm = resolve(spec.norm)
        attention_norm = norm(loader, "attention.norm", spec.hidden_size, spec.norm_eps)
        self._attention = attention_after(attention_norm, resolve(spec.attention)(spec, loader, backend))
        mlp_norm = norm(loader, "mlp.norm", spec.hidden_size, spec.norm_eps)
        assert loader.layer is not None
        self._mlp = mlp_after(mlp_norm, resolve(spec.layers[loader.layer].mlp or spec.mlp)(spec, loader))
        of_attention, of_mlp = self._output_steps(spec, loader)
        self.sublayers = Sublayer(self._attention, of_attention), Sublayer(self._mlp, of_mlp)

    def _output_steps(self, spec: DecoderSpec, loader: LayerLoader) -> tuple[OutputStep, OutputStep]:
        """What is done with attention's output, and with the feed-forward layer's, before it is added."""
        return None, None

    def __call__(
        self, x_TD: Tensor, residual_TD: Tensor | None, kv: LayerKvCache, step: AttentionStep
    ) -> tuple[Tensor, Tensor]:
        """(what is to be added, the residual to add it to)."""
        attention, mlp = self.sublayers
        attended_TD, residual_TD = self._attention(x_TD, residual_TD, kv, step)
        fed_TD, residual_TD = self._mlp(attention.finish(attended_TD), residual_TD)
        return mlp.finish(fed_TD), residual_TD


class SandwichNormBlock(PreNormBlock):
    """x + norm(attention(norm(x))), then x + norm(mlp(norm(x))). Source: Gemma 2, arXiv 2408.00118."""

    def _output_steps(self, spec: DecoderSpec, loader: LayerLoader) -> tuple[OutputStep, OutputStep]:
        norm = resolve(spec.norm)
        return (
            norm(loader, "attention.output_norm", spec.hidden_size, spec.norm_eps),
            norm(loader, "mlp.output_norm", spec.hidden_size, spec.norm_eps),
        )


class ScaledPreNormBlock(PreNormBlock):
    """x + s * attention(norm(x)), then x + s * mlp(norm(x)): Granite's. Source: arXiv 2408.13359 (µP)."""

    def _output_steps(self, spec: DecoderSpec, loader: LayerLoader) -> tuple[OutputStep, OutputStep]:
        return spec.residual_scale, spec.residual_scale


class PostNormBlock:
    """x + norm(attention(x)), then x + norm(mlp(x)). Source: OLMo 2, arXiv 2501.00656."""

    sublayers: Sequence[Sublayer] = ()

    def __init__(self, spec: DecoderSpec, loader: LayerLoader, backend: AttentionBackend) -> None:
        """Build the components that the description names."""
        norm = resolve(spec.norm)
        self._attention = resolve(spec.attention)(spec, loader, backend)
        self._attention_norm = norm(loader, "attention.output_norm", spec.hidden_size, spec.norm_eps)
        self._mlp = resolve(spec.mlp)(spec, loader)
        self._mlp_norm = norm(loader, "mlp.output_norm", spec.hidden_size, spec.norm_eps)

    def __call__(
        self, x_TD: Tensor, residual_TD: Tensor | None, kv: LayerKvCache, step: AttentionStep
    ) -> tuple[Tensor, Tensor]:
        """(what is to be added, the residual to add it to)."""
        x_TD = x_TD if residual_TD is None else residual_TD + x_TD
        x_TD = x_TD + self._attention_norm(self._attention(x_TD, kv, step), None)[0]
        return self._mlp_norm(self._mlp(x_TD), None)[0], x_TD


class ParallelBlock:
    """x + attention(norm(x)) + mlp(norm(x)). Source: GPT-J, as told in arXiv 2204.02311, section 2."""

    sublayers: Sequence[Sublayer] = ()

    def __init__(self, spec: DecoderSpec, loader: LayerLoader, backend: AttentionBackend) -> None:
        """Build the components that the description names."""
        self._norm = resolve(spec.norm)(loader, "attention.norm", spec.hidden_size, spec.norm_eps)
        self._attention = resolve(spec.attention)(spec, loader, backend)
        self._mlp = resolve(spec.mlp)(spec, loader)

    def __call__(
        self, x_TD: Tensor, residual_TD: Tensor | None, kv: LayerKvCache, step: AttentionStep
    ) -> tuple[Tensor, Tensor]:
        """(what is to be added, the residual to add it to)."""
        normed_TD, residual_TD = self._norm(x_TD, residual_TD)
        return self._attention(normed_TD, kv, step) + self._mlp(normed_TD), residual_TD


class TwoNormParallelBlock(ParallelBlock):
    """x + attention(norm(x)) + mlp(norm'(x)), each half behind a norm of its own: GPT-NeoX's. arXiv 2204.06745."""

    def __init__(self, spec: DecoderSpec, loader: LayerLoader, backend: AttentionBackend) -> None:
        """Build the components that the description names."""
        super().__init__(spec, loader, backend)
        self._mlp_norm = resolve(spec.norm)(loader, "mlp.norm", spec.hidden_size, spec.norm_eps)

    def __call__(
        self, x_TD: Tensor, residual_TD: Tensor | None, kv: LayerKvCache, step: AttentionStep
    ) -> tuple[Tensor, Tensor]:
        """(what is to be added, the residual to add it to)."""
        normed_TD, residual_TD = self._norm(x_TD, residual_TD)
        attended_TD = self._attention(normed_TD, kv, step)
        return attended_TD + self._mlp(self._mlp_norm(residual_TD, None)[0]), residual_TD
