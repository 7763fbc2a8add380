"""Sampling as an argmax over logits plus Gumbel noise, and log-probabilities.

Shapes: R = rows (tokens to sample), V = vocabulary.
"""

import torch
from torch import Tensor

from forebay_kernels.native import library, runs_native

_WORD = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10

_REACH = 26.1
"""More than the noise of any two tokens can differ by: a token further below its row's best logit cannot win."""
_TILE_TOKENS = 1 << 22
"""Noise made at once by torch: some ten int64 temporaries of this many words, 32 MiB each."""


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
    if not runs_native(logits_RV):
        return gumbel_argmax_torch(logits_RV, seeds_R, positions_R)
    return library.gumbel_argmax(logits_RV, seeds_R, positions_R)


def gumbel_argmax_torch(logits_RV: Tensor, seeds_R: Tensor, positions_R: Tensor) -> Tensor:
    """Compute what `gumbel_argmax` computes with torch operators, on any device: noise for tokens that can win.

    In tiles of rows, so that what it holds does not grow with their number. float64 inside.
    """
    size = max(1, _TILE_TOKENS // logits_RV.shape[1])
    tiles = (torch.split(tensor, size) for tensor in (logits_RV, seeds_R, positions_R))
    return torch.cat([_draw_tile(*tile) for tile in zip(*tiles, strict=True)])


def _draw_tile(logits_RV: Tensor, seeds_R: Tensor, positions_R: Tensor) -> Tensor:
    num_rows, num_tokens = logits_RV.shape
    best_R = logits_RV.amax(dim=1)
    hopeless_R = logits_RV.isnan().any(dim=1) | ~best_R.isfinite()
    rows_N, tokens_N = torch.where(logits_RV >= (best_R - _REACH)[:, None])
    noise_N = _noise(seeds_R[rows_N], positions_R[rows_N], tokens_N)
    values_N = logits_RV[rows_N, tokens_N].double() + noise_N
    largest_R = torch.full((num_rows,), -torch.inf, dtype=torch.float64, device=logits_RV.device)
    largest_R.scatter_reduce_(0, rows_N, values_N, "amax")
    # Of equal sums the lowest index wins; one that lost is out of the race for the lowest.
    indices_N = torch.where(values_N == largest_R[rows_N], tokens_N, num_tokens)
    ids_R = torch.full((num_rows,), num_tokens, dtype=torch.int64, device=logits_RV.device)
    return torch.where(hopeless_R, -1, ids_R.scatter_reduce_(0, rows_N, indices_N, "amin"))


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
    return _noise(seeds_R[:, None], positions_R[:, None], tokens_V[None])


def _noise(seeds: Tensor, positions: Tensor, tokens: Tensor) -> Tensor:
    """Return the noise of tokens, float64; the three int64 tensors are broadcast against each other."""
    counter = [positions & _WORD, (positions >> 32) & _WORD, tokens, torch.zeros_like(tokens)]
    key = [seeds & _WORD, (seeds >> 32) & _WORD]
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


def argmax(logits_RV: Tensor) -> Tensor:
    """Return the index of each row's largest logit, of equals the lowest.

    Args:
        logits_RV: float32, rows contiguous (the row stride is free).

    Returns:
        int64 [R]; -1 for a row without a finite maximum or with a NaN.

    Raises:
        ValueError: for a shape that does not fit. TypeError: for a dtype.
    """
    if not runs_native(logits_RV):
        return argmax_reference(logits_RV)
    return library.argmax(logits_RV)


def argmax_reference(logits_RV: Tensor) -> Tensor:
    """Compute what `argmax` computes with torch operators, on any device."""
    best = logits_RV.max(dim=1)
    return torch.where(best.values.isfinite(), best.indices, -1)


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
    if not runs_native(logits_RV):
        return token_logprobs_reference(logits_RV, ids_R)
    return library.token_logprobs(logits_RV, ids_R)


def token_logprobs_reference(logits_RV: Tensor, ids_R: Tensor) -> Tensor:
    """Compute what `token_logprobs` computes with torch operators, on any device."""
    return logits_RV.log_softmax(dim=1).gather(1, ids_R[:, None])[:, 0]
