import pytest
import torch

from forebay_kernels.ops.truncation import (
    keep_window,
    keep_window_reference,
    kth_largest,
    kth_largest_reference,
    mass_window,
    mass_window_reference,
    mean_logit,
    mean_logit_reference,
)

NO_FLOOR = float("-inf")


def rows(spread: float, num_tokens: int, num_rows: int = 6) -> torch.Tensor:
    """Random rows, one of equals and one with tokens that cannot be chosen among them."""
    logits_RV = torch.randn(num_rows, num_tokens, generator=torch.Generator().manual_seed(num_tokens)) * spread
    logits_RV[1] = logits_RV[1].round()
    logits_RV[2, 1::2] = -torch.inf
    return logits_RV


def kept(logits_RV: torch.Tensor, window: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    return (logits_RV >= window[0][:, None]) & (logits_RV <= window[1][:, None])


@pytest.mark.parametrize("spread", [1e-3, 1.0, 6.0, 400.0])
@pytest.mark.parametrize("num_tokens", [1, 33, 4096, 49152])
def test_the_kth_largest_equals_the_reference(instruction_set, num_tokens, spread):
    logits_RV = rows(spread, num_tokens)
    for k in (1, 2, 40, 2000, 49152):
        ks_R = torch.tensor([k, k, k, 0, -1, k + 1])
        assert torch.equal(kth_largest(logits_RV, ks_R), kth_largest_reference(logits_RV, ks_R))


@pytest.mark.parametrize("spread", [1e-3, 1.0, 6.0, 400.0])
@pytest.mark.parametrize("num_tokens", [1, 33, 4096, 49152])
@pytest.mark.parametrize("centre", [float("inf"), 0.5])
def test_a_window_keeps_what_the_reference_keeps(instruction_set, num_tokens, spread, centre):
    logits_RV = rows(spread, num_tokens)
    floors_R = torch.tensor([NO_FLOOR, NO_FLOOR, NO_FLOOR, NO_FLOOR, 0.0, 0.25]).clamp(max=logits_RV.amax(dim=1))
    centres_R = torch.full((6,), centre)
    for share in (1e-4, 0.5, 0.95):
        shares_R = torch.full((6,), share)
        found = kept(logits_RV, mass_window(logits_RV, floors_R, centres_R, shares_R))
        expected = kept(logits_RV, mass_window_reference(logits_RV, floors_R, centres_R, shares_R))
        # The kernel's weights are float32: its cut may be a neighbour's where the reference's sum is as near as that.
        assert int((found != expected).sum()) <= (found.shape[1] > 4096)
        assert (found.any(dim=1)).all()


def test_a_share_of_one_keeps_all_above_the_floor(instruction_set):
    logits_RV = rows(3.0, 100)
    floors_R = torch.full((6,), 0.5)
    for window in (mass_window, mass_window_reference):
        low_R, high_R = window(logits_RV, floors_R, torch.zeros(6), torch.ones(6))
        assert torch.equal(low_R, floors_R)
        assert (high_R == torch.inf).all()


@pytest.mark.parametrize("spread", [1e-3, 1.0, 6.0, 400.0])
@pytest.mark.parametrize("num_tokens", [1, 33, 4096, 49152])
def test_the_mean_equals_the_reference(instruction_set, num_tokens, spread):
    logits_RV = rows(spread, num_tokens)
    for floor in (NO_FLOOR, 0.0):
        floors_R = torch.full((6,), floor).clamp(max=logits_RV.amax(dim=1))
        # float32 in and out; `exp` is within two units in the last place.
        torch.testing.assert_close(
            mean_logit(logits_RV, floors_R), mean_logit_reference(logits_RV, floors_R), rtol=1e-6, atol=1e-6
        )


def test_a_row_is_cut_the_same_alone_and_among_others(instruction_set):
    logits_RV = rows(2.0, 5000, 32)
    floors_R, centres_R, shares_R = torch.full((32,), -3.0), torch.randn(32), torch.linspace(0.01, 0.99, 32)
    ks_R = torch.arange(32)
    together = torch.stack((*mass_window(logits_RV, floors_R, centres_R, shares_R), kth_largest(logits_RV, ks_R)))
    for row in range(32):
        part = slice(row, row + 1)
        window = mass_window(logits_RV[part], floors_R[part], centres_R[part], shares_R[part])
        alone = torch.stack((*window, kth_largest(logits_RV[part], ks_R[part])))
        assert torch.equal(alone, together[:, part])


def test_arguments_that_do_not_fit_are_refused_by_name(instruction_set):
    logits_RV, vector_R = torch.zeros(2, 8), torch.zeros(2)
    with pytest.raises(ValueError, match="shares"):
        mass_window(logits_RV, vector_R, vector_R, torch.zeros(3))
    with pytest.raises(ValueError, match="floors"):
        mean_logit(logits_RV, torch.zeros(1))
    with pytest.raises(TypeError, match="ks"):
        kth_largest(logits_RV, vector_R)


@pytest.mark.parametrize("num_tokens", [1, 33, 4096])
def test_what_a_window_leaves_out_equals_the_reference(instruction_set, num_tokens):
    wide_RV = rows(3.0, num_tokens + 7)
    logits_RV = wide_RV[:, :num_tokens]
    expected_RV = logits_RV.clone()
    lows_R = torch.tensor([NO_FLOOR, -1.0, 0.0, NO_FLOOR, 2.0, 1e9])
    highs_R = torch.tensor([float("inf"), float("inf"), 1.0, 0.5, 2.5, float("inf")])
    beside_R7 = wide_RV[:, num_tokens:].clone()
    keep_window_reference(expected_RV, lows_R, highs_R)
    keep_window(logits_RV, lows_R, highs_R)
    assert torch.equal(logits_RV, expected_RV)
    assert torch.equal(wide_RV[:, num_tokens:], beside_R7)
