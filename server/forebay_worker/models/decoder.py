"""The one decoder: embed, blocks, norm, head. What differs between families is in their DecoderSpec.

T = tokens of the step, R = rows that need logits, D = model width, V = vocabulary.
"""

from __future__ import annotations

from torch import Tensor

from forebay_worker.attention.backend import AttentionBackend, AttentionMetadata, AttentionStep
from forebay_worker.kv_cache import KvCache
from forebay_worker.layers.embedding import VocabParallelEmbedding, VocabParallelHead, VocabShard
from forebay_worker.layers.loading import LayerLoader
from forebay_worker.layers.rotary import RotaryEmbedding
from forebay_worker.models.spec import DecoderSpec, resolve


class Decoder:
    """A decoder-only model, or one rank's shard of it. Every rank of a group must make the same calls."""

    def __init__(self, spec: DecoderSpec, loader: LayerLoader, backend: AttentionBackend) -> None:
        """Read the weights and build the layers. Raises: ModelRefusedError if a weight does not fit the description."""
        block = resolve(spec.block)
        embedding = VocabShard(loader, "embedding", spec.vocab_size, spec.hidden_size)
        head = embedding if spec.tied_head else VocabShard(loader, "head", spec.vocab_size, spec.hidden_size)
        self.backend = backend
        self._embedding = VocabParallelEmbedding(embedding)
        self._rotary = RotaryEmbedding(spec.rope, spec.max_position_embeddings, loader)
        self._blocks = [block(spec, loader.at(layer), backend) for layer in range(spec.num_layers)]
        self._norm = resolve(spec.norm)(spec, loader, "norm")
        self._head = VocabParallelHead(head)

    def forward(
        self, input_ids_T: Tensor, positions_T: Tensor, kv_cache: KvCache, metadata: AttentionMetadata
    ) -> Tensor:
        """Run one step's packed tokens; writes their keys and values into `kv_cache`.

        input_ids_T, positions_T: int64. Returns the hidden states [T, D] after the final norm.
        """
        step = AttentionStep(self._rotary.at(positions_T), metadata)
        x_TD, residual_TD = self._embedding(input_ids_T), None
        for block, kv in zip(self._blocks, kv_cache.layers, strict=True):
            x_TD, residual_TD = block(x_TD, residual_TD, kv, step)
        hidden_TD: Tensor = self._norm(x_TD, residual_TD)[0]
        return hidden_TD

    def logits(self, hidden_RD: Tensor) -> Tensor:
        """float32 [R, V], the full vocabulary on every rank; ask only for rows that need it."""
        return self._head(hidden_RD)
