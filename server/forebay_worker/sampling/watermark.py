"""Watermark: of the vocabulary, a part that the last token chooses becomes likelier, which a detector can see later.

R = rows, V = vocabulary, G = green tokens.
"""

from __future__ import annotations

import functools

import torch

from forebay_worker.sampling.rows import SamplingRows

_HASH_KEY = 15485863
"""The paper's, as in TGI: a detector of theirs finds our marks."""


def mark_green_tokens(logits_RV: torch.Tensor, rows: SamplingRows) -> None:
    """Add `delta` to the logits of a share `gamma` of all tokens. Modifies `logits_RV`.

    Before all other options. Source: arXiv 2301.10226, algorithm 2, as TGI's WatermarkLogitsProcessor; the permutation
    is made by the CPU's generator whatever the device, so that text and mark are the same everywhere.
    """
    for row, (gamma, delta) in rows.watermark.items():
        last = int(rows.token_ids_SL[rows.slots_R[row], rows.positions_R[row] - 1])
        green_G = _green_tokens(last, logits_RV.shape[1], gamma)
        logits_RV[row, green_G.to(logits_RV.device)] += delta


@functools.lru_cache(maxsize=64)
def _green_tokens(last_token_id: int, vocab_size: int, gamma: float) -> torch.Tensor:
    """The green ids behind a token, int64 [G]. Kept for a while: a permutation of 49k ids takes half a millisecond."""
    generator = torch.Generator().manual_seed(_HASH_KEY * last_token_id)
    return torch.randperm(vocab_size, generator=generator)[: int(vocab_size * gamma)].clone()
