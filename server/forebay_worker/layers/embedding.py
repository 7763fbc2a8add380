"""Embeddings and output heads, their vocabulary divided over ranks.

T = tokens, R = rows that need logits, D = model width, V = vocabulary.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from forebay_worker.distributed.groups import ProcessGroup
from forebay_worker.layers.loading import LayerLoader
from forebay_worker.models.spec import DecoderSpec
from forebay_worker.quantization.method import LinearMethod


class VocabShard:
    """One rank's rows of a [V, D] matrix; the last rank's are padded with zeros when V does not divide."""

    def __init__(self, loader: LayerLoader, role: str, vocab_size: int, hidden_size: int) -> None:
        """Read this rank's rows."""
        self.group: ProcessGroup = loader.group
        self.vocab_size = vocab_size
        self.num_rows = -(-vocab_size // self.group.world_size)
        self.start = self.group.rank * self.num_rows
        whole = loader.matrix(role, vocab_size, hidden_size)
        self.method: LinearMethod = loader.linear([whole.rows(self.start, self.start + self.num_rows)])
        bias = loader.bias(role, vocab_size, self.start, self.start + self.num_rows)
        self.bias = None if bias is None else F.pad(bias, (0, self.num_rows - len(bias)))


class TokenEmbedding:
    """Token ids -> vectors."""

    def __init__(self, spec: DecoderSpec, loader: LayerLoader, shard: VocabShard) -> None:
        self._shard = shard

    def __call__(self, ids_T: Tensor, positions_T: Tensor) -> Tensor:
        """[T, D], whole on every rank. Ids must lie below vocab_size."""
        shard = self._shard
        if shard.group.world_size == 1:
            return shard.method.embed(ids_T)
        local_T = ids_T - shard.start
        elsewhere_T = (local_T < 0) | (local_T >= shard.num_rows)
        rows_TD = shard.method.embed(local_T.masked_fill(elsewhere_T, 0))
        return shard.group.all_reduce(rows_TD.masked_fill(elsewhere_T[:, None], 0))


class ScaledTokenEmbedding(TokenEmbedding):
    """The same times a factor."""

    def __init__(self, spec: DecoderSpec, loader: LayerLoader, shard: VocabShard) -> None:
        """The factor is rounded to the model's dtype, as it was in training."""
        super().__init__(spec, loader, shard)
        self._factor = torch.tensor(spec.embedding_scale, dtype=loader.dtype, device=loader.group.device)

    def __call__(self, ids_T: Tensor, positions_T: Tensor) -> Tensor:
        """See TokenEmbedding."""
        return super().__call__(ids_T, positions_T) * self._factor


class PositionedTokenEmbedding(TokenEmbedding):
    """The same plus a learned vector for each position: GPT-2's."""

    def __init__(self, spec: DecoderSpec, loader: LayerLoader, shard: VocabShard) -> None:
        """Read the positions' matrix, whole."""
        super().__init__(spec, loader, shard)
        positions = loader.matrix("positions", spec.max_position_embeddings, spec.hidden_size)
        self._positions: LinearMethod = loader.linear([positions])

    def __call__(self, ids_T: Tensor, positions_T: Tensor) -> Tensor:
        """See TokenEmbedding."""
        return super().__call__(ids_T, positions_T) + self._positions.embed(positions_T)


class VocabParallelHead:
    """Hidden states -> logits."""

    def __init__(self, spec: DecoderSpec, shard: VocabShard) -> None:
        self._shard = shard

    def __call__(self, hidden_RD: Tensor) -> Tensor:
        """float32 [R, V] on every rank, padding cut off."""
        shard = self._shard
        local = shard.method.apply(hidden_RD)
        logits = shard.group.all_gather_last_dim(local if shard.bias is None else local + shard.bias)
        return logits[:, : shard.vocab_size].float()


class ScaledHead(VocabParallelHead):
    """The same, each logit times a factor."""

    def __init__(self, spec: DecoderSpec, shard: VocabShard) -> None:
        super().__init__(spec, shard)
        self._factor = spec.logits_scale

    def __call__(self, hidden_RD: Tensor) -> Tensor:
        """float32 [R, V] on every rank, padding cut off."""
        return super().__call__(hidden_RD).mul_(self._factor)


class SoftcappedHead(VocabParallelHead):
    """The same, each logit bounded: cap * tanh(logit / cap). Source: Gemma 2, arXiv 2408.00118."""

    def __init__(self, spec: DecoderSpec, shard: VocabShard) -> None:
        super().__init__(spec, shard)
        self._cap = spec.final_softcap

    def __call__(self, hidden_RD: Tensor) -> Tensor:
        """float32 [R, V] on every rank, padding cut off."""
        return (super().__call__(hidden_RD) / self._cap).tanh_().mul_(self._cap)
