"""Decoder blocks: the order of norms, attention and feed-forward. T = tokens, D = model width."""

from __future__ import annotations

from torch import Tensor

from forebay_worker.attention.backend import AttentionBackend, AttentionStep
from forebay_worker.kv_cache import LayerKvCache
from forebay_worker.layers.loading import LayerLoader
from forebay_worker.models.spec import DecoderSpec, resolve


class PreNormBlock:
    """x + attention(norm(x)), then x + mlp(norm(x)); sums are left to the norm that comes next."""

    def __init__(self, spec: DecoderSpec, loader: LayerLoader, backend: AttentionBackend) -> None:
        """Build the components that the description names."""
        norm = resolve(spec.norm)
        self._attention_norm = norm(spec, loader, "attention.norm")
        self._attention = resolve(spec.attention)(spec, loader, backend)
        self._mlp_norm = norm(spec, loader, "mlp.norm")
        self._mlp = resolve(spec.mlp)(spec, loader)

    def __call__(
        self, x_TD: Tensor, residual_TD: Tensor | None, kv: LayerKvCache, step: AttentionStep
    ) -> tuple[Tensor, Tensor]:
        """(what is to be added, the residual to add it to)."""
        normed_TD, residual_TD = self._attention_norm(x_TD, residual_TD)
        normed_TD, residual_TD = self._mlp_norm(self._attention(normed_TD, kv, step), residual_TD)
        return self._mlp(normed_TD), residual_TD
