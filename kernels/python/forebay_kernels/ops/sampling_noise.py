"""Sampling as an argmax over logits plus Gumbel noise, and log-probabilities.

Shapes: R = rows (tokens to sample), V = vocabulary.
"""

import torch
from torch import Tensor

from forebay_kernels import _native

_WORD = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10


def gumbel_argmax(logits_RV: Tensor, seeds_R: Tensor, positions_R: Tensor) -> Tensor:
    """Draw one token a row from `softmax(logits)`: the argmax of `logits[r, v] + noise(seed, position, v)`.

    The noise is a pure function: Philox4x32-10 with the seed's 64 bits as key and (position low, position high, v, 0)
    as counter; the first word w gives `u = (w + 0.5) / 2^32` and the noise `-ln(-ln u)`, in [-3.13, 22.88]. It is made
    only for tokens that can win, which changes nothing. Of equal sums the lowest index wins; -inf never does.

    Args:
        logits_RV: float32, rows contiguous (the row stride is free); divided by the temperature before.
        seeds_R: int64, any bits.
        positions_R: int64, the number of tokens before the one drawn.

    Returns:
        int64 [R]; -1 for a row without a finite maximum or with a NaN.

    Raises:
        ValueError: for a shape that does not fit. TypeError: for a dtype.

    Source: Philox, Salmon et al., SC 2011; Gumbel-max, arXiv 1411.0030.
    """
    if not logits_RV.is_cpu:
        return gumbel_argmax_reference(logits_RV, seeds_R, positions_R)
    return _native.gumbel_argmax(logits_RV, seeds_R, positions_R)


def gumbel_argmax_reference(logits_RV: Tensor, seeds_R: Tensor, positions_R: Tensor) -> Tensor:
    """Compute what `gumbel_argmax` computes with torch operators: float64 noise for every token, on any device."""
    values_RV = logits_RV.double() + gumbel_noise_reference(seeds_R, positions_R, logits_RV.shape[1])
    hopeless_R = logits_RV.isnan().any(dim=1) | ~logits_RV.amax(dim=1).isfinite()
    # argmax promises no order among equals; the first of the largest is the lowest index.
    largest_RV = (values_RV == values_RV.amax(dim=1, keepdim=True)).int()
    return torch.where(hopeless_R, -1, largest_RV.argmax(dim=1))


def gumbel_noise_reference(seeds_R: Tensor, positions_R: Tensor, num_tokens: int) -> Tensor:
    """Return the noise of all tokens, float64 [R, num_tokens]."""
    tokens_V = torch.arange(num_tokens, device=seeds_R.device)
    zeros_RV = torch.zeros((seeds_R.shape[0], num_tokens), dtype=torch.int64, device=seeds_R.device)
    counter = [
        zeros_RV + (positions_R & _WORD)[:, None],
        zeros_RV + ((positions_R >> 32) & _WORD)[:, None],
        zeros_RV + tokens_V,
        zeros_RV,
    ]
    key = [(seeds_R & _WORD)[:, None], ((seeds_R >> 32) & _WORD)[:, None]]
    for _ in range(_ROUNDS):
        # Products of two 32-bit words wrap in int64, which leaves both halves' bits right.
        first, second = counter[0] * _MULTIPLIERS[0], counter[2] * _MULTIPLIERS[1]
        counter = [
            ((second >> 32) & _WORD) ^ counter[1] ^ key[0],
            second & _WORD,
            ((first >> 32) & _WORD) ^ counter[3] ^ key[1],
            first & _WORD,
        ]
        key = [(word + step) & _WORD for word, step in zip(key, _KEY_STEPS, strict=True)]
    return -(-((counter[0].double() + 0.5) / 2.0**32).log()).log()


def token_logprobs(logits_RV: Tensor, ids_R: Tensor) -> Tensor:
    """Return the log-probability of one token a row: `logits[r, ids[r]] - logsumexp(logits[r])`.

    Args:
        logits_RV: float32, rows contiguous (the row stride is free).
        ids_R: int64 in [0, V).

    Returns:
        float32 [R].

    Raises:
        ValueError: for a shape or an index that does not fit, naming it. TypeError: for a dtype.
    """
    if not logits_RV.is_cpu:
        return token_logprobs_reference(logits_RV, ids_R)
    return _native.token_logprobs(logits_RV, ids_R)


def token_logprobs_reference(logits_RV: Tensor, ids_R: Tensor) -> Tensor:
    """Compute what `token_logprobs` computes with torch operators, on any device."""
    return logits_RV.log_softmax(dim=1).gather(1, ids_R[:, None])[:, 0]


def logsumexp(logits_RV: Tensor) -> Tensor:
    """Return `ln(sum(e^logit))` of each row, float32 [R], from float32 rows (the row stride is free).

    Raises:
        ValueError: for a shape that does not fit. TypeError: for a dtype.
    """
    if not logits_RV.is_cpu:
        return logits_RV.logsumexp(dim=1)
    return _native.logsumexp(logits_RV)
