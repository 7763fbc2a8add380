"""Log-probabilities of chosen tokens and of the best ones beside them. R = rows, V = vocabulary, K = alternatives."""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt
import torch

from forebay_kernels.ops.sampling_noise import token_logprobs
from forebay_worker.sampling.rows import F32, I64, Bool

_ROOM_FOR_TIES = 8


@dataclasses.dataclass(frozen=True)
class Logprobs:
    """One entry a row; alternatives are concatenated, best first, equals by id."""

    logprobs_R: F32
    top_counts_R: npt.NDArray[np.uint32]
    top_ids: npt.NDArray[np.uint32]
    top_logprobs: F32


def logprobs_of(logits_RV: torch.Tensor, ids_R: torch.Tensor, num_top_R: I64, ties_R: Bool) -> Logprobs:
    """Report log softmax of `logits_RV` at `ids_R` and at each row's `num_top_R` best.

    A row with ties gets all tokens that equal its last alternative; a token that cannot be chosen (-inf) is never
    an alternative. Does not modify its arguments.
    """
    chosen_R = token_logprobs(logits_RV, ids_R)
    counts_R = np.zeros(num_top_R.size, np.uint32)
    asks_R = np.flatnonzero(num_top_R)
    if not asks_R.size:
        return Logprobs(chosen_R.numpy(force=True), counts_R, np.empty(0, np.uint32), np.empty(0, np.float32))
    total_R = logits_RV.gather(1, ids_R[:, None]).squeeze(1) - chosen_R
    rows = torch.from_numpy(asks_R).to(logits_RV.device)
    counts, ids, values = _best(logits_RV[rows], num_top_R[asks_R], ties_R[asks_R])
    counts_R[asks_R] = counts
    top_logprobs = values - np.repeat(total_R[rows].numpy(force=True), counts)
    return Logprobs(chosen_R.numpy(force=True), counts_R, ids.astype(np.uint32), top_logprobs)


def ranks_of(logits_RV: torch.Tensor, ids_R: torch.Tensor) -> npt.NDArray[np.uint32]:
    """Return 1 + how many tokens have a greater logit than each row's `ids_R`: equals share the best of their ranks."""
    better_RV = logits_RV > logits_RV.gather(1, ids_R[:, None])
    return (torch.count_nonzero(better_RV, dim=1) + 1).numpy(force=True).astype(np.uint32)


def _best(logits_QV: torch.Tensor, num_top_Q: I64, ties_Q: Bool) -> tuple[I64, I64, F32]:
    """Each row's best: how many, and their ids and logits concatenated."""
    vocab_size = logits_QV.shape[1]
    num_top_Q = np.minimum(num_top_Q, vocab_size)
    width = int(num_top_Q.max())
    while True:
        width = min(width + _ROOM_FOR_TIES, vocab_size)
        best = logits_QV.topk(width, dim=-1)
        values_QK, ids_QK = best.values.numpy(force=True), best.indices.numpy(force=True)
        last_Q = np.take_along_axis(values_QK, num_top_Q[:, None] - 1, axis=1)
        last_Q = np.maximum(last_Q, np.finfo(np.float32).min)
        # Done when the ties with the last alternative end inside what we hold: which of them comes first is by id.
        if width == vocab_size or (values_QK[:, -1:] < last_Q).all():
            break
        width *= 4
    order_QK = np.lexsort((ids_QK, -values_QK), axis=-1)
    values_QK = np.take_along_axis(values_QK, order_QK, axis=1)
    ids_QK = np.take_along_axis(ids_QK, order_QK, axis=1)
    counts_Q = (values_QK >= last_Q).sum(axis=1)
    counts_Q = np.where(ties_Q, counts_Q, np.minimum(counts_Q, num_top_Q))
    listed_QK = np.arange(width)[None, :] < counts_Q[:, None]
    return counts_Q, ids_QK[listed_QK], values_QK[listed_QK]
