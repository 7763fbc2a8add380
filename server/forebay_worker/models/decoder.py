"""The one decoder: embed, blocks, norm, head. What differs between families is in their DecoderSpec.

T = tokens of the step, R = rows that need logits, D = model width, V = vocabulary.
"""

from __future__ import annotations

from torch import Tensor

from forebay_worker.attention.backend import AttentionBackend, AttentionMetadata, AttentionStep
from forebay_worker.kv_cache import KvCache
from forebay_worker.layers.embedding import VocabShard
from forebay_worker.layers.loading import LayerLoader
from forebay_worker.layers.rotary import RotaryEmbedding
from forebay_worker.layers.sublayers import all_in_one
from forebay_worker.models.blocks import Block
from forebay_worker.models.spec import DecoderSpec, resolve


class Decoder:
    """A decoder-only model, or one rank's shard of it. Every rank of a group must make the same calls."""

    def __init__(
        self, spec: DecoderSpec, loader: LayerLoader, backend: AttentionBackend, max_sequence_tokens: int
    ) -> None:
        """Read the weights and build the layers. Raises: ModelRefusedError if a weight does not fit the description.

        `max_sequence_tokens`: no sequence becomes longer.
        """
        block = resolve(spec.block)
        embedding = VocabShard(loader, "embedding", spec.vocab_size, spec.hidden_size)
        head = embedding if spec.tied_head else VocabShard(loader, "head", spec.vocab_size, spec.hidden_size)
        ropes = list(dict.fromkeys(layer.rope for layer in spec.layers))
        self.backend = backend
        self._embedding = resolve(spec.embedding)(spec, loader, embedding)
        self._rotaries = [
            RotaryEmbedding(rope, max_sequence_tokens, loader.dtype, loader.group.device) if rope else None
            for rope in ropes
        ]
        self._rotary_of_layer = [ropes.index(layer.rope) for layer in spec.layers]
        self._blocks: list[Block] = [block(spec, loader.at(layer), backend) for layer in range(spec.num_layers)]
        self._layers = all_in_one([block.sublayers for block in self._blocks])
        self._norm = resolve(spec.norm)(loader, "norm", spec.hidden_size, spec.norm_eps)
        self._head = resolve(spec.head)(spec, head)

    def forward(
        self, input_ids_T: Tensor, positions_T: Tensor, kv_cache: KvCache, metadata: AttentionMetadata
    ) -> Tensor:
        """Run one step's packed tokens; writes their keys and values into `kv_cache`.

        input_ids_T, positions_T: int64. Returns the hidden states [T, D] after the final norm.
        """
        max_context_len = int(metadata.host_context_lens_S.max())
        steps = [
            AttentionStep(rotary.at(positions_T, max_context_len) if rotary else None, metadata)
            for rotary in self._rotaries
        ]
        x_TD, residual_TD = self._embedding(input_ids_T, positions_T), None
        steps_of_layers = [steps[rotary] for rotary in self._rotary_of_layer]
        if self._layers is not None:
            x_TD, residual_TD = self._layers(x_TD, kv_cache, steps_of_layers)
        else:
            for block, step, kv in zip(self._blocks, steps_of_layers, kv_cache.layers, strict=True):
                x_TD, residual_TD = block(x_TD, residual_TD, kv, step)
        hidden_TD: Tensor = self._norm(x_TD, residual_TD)[0]
        return hidden_TD

    def logits(self, hidden_RD: Tensor) -> Tensor:
        """float32 [R, V], the full vocabulary on every rank; ask only for rows that need it."""
        logits_RV: Tensor = self._head(hidden_RD)
        return logits_RV
