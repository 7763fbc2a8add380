"""Where rows of logits are cut: for top-k, top-p and typical-p, without sorting whole rows.

Shapes: R = rows (tokens to sample), V = vocabulary.
"""

import torch
from torch import Tensor

from forebay_kernels.native import library, runs_native


def kth_largest(logits_RV: Tensor, ks_R: Tensor) -> Tensor:
    """Return the `ks[r]`-th largest logit of each row, equals counted.

    Args:
        logits_RV: float32 without NaN, rows contiguous (the row stride is free).
        ks_R: int64; 0 or less: no cut.

    Returns:
        float32 [R]; -inf where there is no cut, or where fewer than `ks[r]` logits are above -inf.

    Raises:
        ValueError: for a shape that does not fit. TypeError: for a dtype.
    """
    if not runs_native(logits_RV):
        return kth_largest_reference(logits_RV, ks_R)
    return library.kth_largest(logits_RV, ks_R)


def kth_largest_reference(logits_RV: Tensor, ks_R: Tensor) -> Tensor:
    """Compute what `kth_largest` computes with torch operators, on any device."""
    num_tokens = logits_RV.shape[1]
    best_RK = logits_RV.topk(min(max(int(ks_R.max()), 1), num_tokens), dim=1).values
    kth_R = best_RK.gather(1, (ks_R - 1).clamp(0, best_RK.shape[1] - 1)[:, None])[:, 0]
    return kth_R.masked_fill((ks_R <= 0) | (ks_R > num_tokens), -torch.inf)


def mass_window(logits_RV: Tensor, floors_R: Tensor, centres_R: Tensor, shares_R: Tensor) -> tuple[Tensor, Tensor]:
    """Return the interval of logits that holds a share of each row's mass, the nearest to a centre first.

    Of the logits at or above the row's floor, those nearest to the centre are kept, as few as have at least
    `shares[r]` of the sum of their `e^logit`, and those as near as the last of them. The answer depends on the row
    alone. The CPU kernel puts logits into buckets by distance and sorts only the one in which the cut falls.

    Args:
        logits_RV: float32 without NaN and +inf, rows contiguous (the row stride is free).
        floors_R: float32; -inf: no floor.
        centres_R: float32; one above the best logit stands for the best logit.
        shares_R: float32 above 0; 1 or more keeps all at or above the floor.

    Returns:
        Lows and highs, each float32 [R] and contiguous: keep where `low <= logit <= high`.

    Raises:
        ValueError: for a shape that does not fit. TypeError: for a dtype.
    """
    if not runs_native(logits_RV):
        return mass_window_reference(logits_RV, floors_R, centres_R, shares_R)
    # Each contiguous: a low is the floor of the next cut.
    low_R, high_R = library.mass_window(logits_RV, floors_R, centres_R, shares_R).t().contiguous()
    return low_R, high_R


def mass_window_reference(
    logits_RV: Tensor, floors_R: Tensor, centres_R: Tensor, shares_R: Tensor
) -> tuple[Tensor, Tensor]:
    """Compute what `mass_window` computes with torch operators: float64 and a sort of whole rows, on any device."""
    best_R = logits_RV.amax(dim=1)
    distance_RV = (logits_RV.double() - torch.minimum(centres_R, best_R).double()[:, None]).abs()
    out_RV = (logits_RV < floors_R[:, None]) | (logits_RV == -torch.inf)
    order_RV = distance_RV.masked_fill(out_RV, torch.inf).argsort(dim=1)
    mass_RV = (logits_RV - best_R[:, None]).double().exp().masked_fill(out_RV, 0.0)
    reached_RV = mass_RV.gather(1, order_RV).cumsum(dim=1)
    wanted_R1 = shares_R.double()[:, None] * reached_RV[:, -1:]
    # A sum may miss what is wanted by its rounding: then the last token with any mass is the cut.
    cut_R1 = (reached_RV < wanted_R1).sum(dim=1, keepdim=True).clamp(max=logits_RV.shape[1] - 1)
    cut_R1 = torch.minimum(cut_R1, (~out_RV).sum(dim=1, keepdim=True).clamp(min=1) - 1)
    kept_RV = ~out_RV & (distance_RV <= distance_RV.gather(1, order_RV.gather(1, cut_R1)))
    low_R = logits_RV.masked_fill(~kept_RV, torch.inf).amin(dim=1)
    high_R = logits_RV.masked_fill(~kept_RV, -torch.inf).amax(dim=1)
    off_R = (shares_R >= 1.0) | out_RV.all(dim=1)
    return torch.where(off_R, floors_R, low_R), high_R.masked_fill(off_R, torch.inf)


def keep_window(logits_RV: Tensor, lows_R: Tensor, highs_R: Tensor) -> None:
    """Set to -inf the logits of each row that lie below its low or above its high. Modifies `logits_RV`.

    Args:
        logits_RV: float32, rows contiguous (the row stride is free).
        lows_R: float32; -inf: none is too low.
        highs_R: float32; inf: none is too high.

    Raises:
        ValueError: for a shape that does not fit. TypeError: for a dtype.
    """
    if not runs_native(logits_RV):
        return keep_window_reference(logits_RV, lows_R, highs_R)
    library.keep_window(logits_RV, lows_R, highs_R)


def keep_window_reference(logits_RV: Tensor, lows_R: Tensor, highs_R: Tensor) -> None:
    """Do what `keep_window` does with torch operators, on any device."""
    logits_RV.masked_fill_((logits_RV < lows_R[:, None]) | (logits_RV > highs_R[:, None]), -torch.inf)


def mean_logit(logits_RV: Tensor, floors_R: Tensor) -> Tensor:
    """Return each row's mean logit under its own softmax, over the logits at or above the row's floor.

    It lies the row's entropy below its log-sum-exp, so that a token's distance from it is what typical-p ranks by.

    Args:
        logits_RV: float32 without NaN and +inf, rows contiguous (the row stride is free).
        floors_R: float32; -inf: no floor.

    Returns:
        float32 [R]; NaN for a row with nothing above -inf at or above its floor.

    Raises:
        ValueError: for a shape that does not fit. TypeError: for a dtype.
    """
    if not runs_native(logits_RV):
        return mean_logit_reference(logits_RV, floors_R)
    return library.mean_logit(logits_RV, floors_R)


def mean_logit_reference(logits_RV: Tensor, floors_R: Tensor) -> Tensor:
    """Compute what `mean_logit` computes with torch operators in float64, on any device."""
    out_RV = (logits_RV < floors_R[:, None]) | (logits_RV == -torch.inf)
    share_RV = logits_RV.double().masked_fill(out_RV, -torch.inf).softmax(dim=1)
    return (share_RV * logits_RV.double().masked_fill(out_RV, 0.0)).sum(dim=1).float()
