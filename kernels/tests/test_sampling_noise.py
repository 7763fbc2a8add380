import math

import pytest
import torch

from forebay_kernels import force_torch
from forebay_kernels.ops import sampling_noise
from forebay_kernels.ops.sampling_noise import (
    argmax,
    argmax_reference,
    gumbel_argmax,
    gumbel_argmax_reference,
    gumbel_argmax_torch,
    gumbel_noise_reference,
    token_logprobs,
    token_logprobs_reference,
)


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("spread", [0.0, 0.5, 4.0, 40.0])
@pytest.mark.parametrize("num_tokens", [1, 15, 17, 1000, 49152])
def test_draws_equal_those_with_noise_for_every_token(instruction_set, num_tokens, spread):
    logits_RV = noise(4, num_tokens) * spread
    seeds_R = torch.tensor([0, -1, 1 << 62, -(1 << 63)])
    positions_R = torch.tensor([0, 1, 1 << 40, 77])
    expected_R = gumbel_argmax_reference(logits_RV, seeds_R, positions_R)
    assert torch.equal(gumbel_argmax(logits_RV, seeds_R, positions_R), expected_R)
    assert torch.equal(gumbel_argmax_torch(logits_RV, seeds_R, positions_R), expected_R)


@pytest.mark.parametrize("tile", [1, 3000, 1 << 22])
def test_what_runs_on_a_gpu_draws_the_ids_that_the_cpu_draws(monkeypatch, tile):
    """The same operators on CPU: the noise is integers until its logarithm, and no sum is near enough to another."""
    monkeypatch.setattr(sampling_noise, "_TILE_TOKENS", tile)
    logits_RV = noise(64, 1000, seed=7) * 3
    logits_RV[::3, 100:] = -torch.inf
    seeds_R = torch.randint(-(1 << 62), 1 << 62, (64,), generator=torch.Generator().manual_seed(8))
    positions_R = torch.arange(64) * 1009
    expected_R = gumbel_argmax(logits_RV, seeds_R, positions_R)
    with force_torch():
        assert torch.equal(gumbel_argmax(logits_RV, seeds_R, positions_R), expected_R)


def test_draws_follow_the_softmax(instruction_set):
    probabilities_V = torch.tensor([0.4, 0.25, 0.15, 0.1, 0.05, 0.03, 0.015, 0.005])
    num_draws = 100_000
    logits_RV = probabilities_V.log().expand(num_draws, 8)
    draws_R = gumbel_argmax(logits_RV, torch.full((num_draws,), 1234), torch.arange(num_draws))
    expected_V = probabilities_V * num_draws
    chi_square = float(((draws_R.bincount(minlength=8) - expected_V) ** 2 / expected_V).sum())
    # The 99.9th percentile of chi-square with 7 degrees of freedom; the seeds are fixed, so this cannot flicker.
    assert chi_square < 24.3


def test_noise_has_the_gumbel_mean_and_variance():
    noise_RV = gumbel_noise_reference(torch.arange(10), torch.zeros(10, dtype=torch.int64), 10_000)
    # Euler's constant and pi^2 / 6; standard errors over 1e5 draws are 0.004 and 0.012.
    assert abs(float(noise_RV.mean()) - 0.5772) < 0.016
    assert abs(float(noise_RV.var()) - math.pi**2 / 6) < 0.05


def test_minus_infinity_never_wins_and_a_hopeless_row_yields_minus_one(instruction_set):
    logits_RV = torch.full((4, 100), float("-inf"))
    logits_RV[0, 42] = -1e30
    logits_RV[1] = 0.0
    logits_RV[1, 7] = float("nan")
    logits_RV[2, 3] = float("inf")
    seeds_R = torch.arange(4)
    assert gumbel_argmax(logits_RV, seeds_R, seeds_R).tolist() == [42, -1, -1, -1]
    assert gumbel_argmax_reference(logits_RV, seeds_R, seeds_R).tolist() == [42, -1, -1, -1]
    assert gumbel_argmax_torch(logits_RV, seeds_R, seeds_R).tolist() == [42, -1, -1, -1]


@pytest.mark.parametrize("num_tokens", [1, 100, 128, 1000, 49152])
def test_the_best_token_is_the_first_of_equals(instruction_set, num_tokens):
    logits_RV = (noise(5, num_tokens, seed=num_tokens) * 2).round()
    expected = [int(torch.nonzero(row == row.max())[0]) for row in logits_RV]
    assert argmax(logits_RV).tolist() == expected
    assert argmax_reference(logits_RV).tolist() == expected


def test_a_row_that_has_no_best_token_yields_minus_one(instruction_set):
    logits_RV = torch.full((4, 300), float("-inf"))
    logits_RV[0, 257] = -1e30
    logits_RV[1] = 0.0
    logits_RV[1, 7] = float("nan")
    logits_RV[2, 3] = float("inf")
    assert argmax(logits_RV).tolist() == [257, -1, -1, -1]
    assert argmax_reference(logits_RV).tolist() == [257, -1, -1, -1]


def test_of_equal_sums_the_lowest_index_wins_by_torch_too(monkeypatch):
    monkeypatch.setattr(sampling_noise, "_noise", lambda seeds, positions, tokens: torch.zeros_like(tokens).double())
    logits_RV = torch.tensor([[1.0, 3.0, 3.0, 3.0], [2.0, 2.0, 1.0, 2.0]])
    assert gumbel_argmax_torch(logits_RV, torch.zeros(2).long(), torch.zeros(2).long()).tolist() == [1, 0]


def test_a_draw_does_not_depend_on_the_other_rows(instruction_set):
    logits_RV = noise(33, 5000)
    seeds_R, positions_R = torch.arange(33) * 12345, torch.arange(33)
    together_R = gumbel_argmax(logits_RV, seeds_R, positions_R)
    for r in range(33):
        assert gumbel_argmax(logits_RV[r : r + 1], seeds_R[r : r + 1], positions_R[r : r + 1]) == together_R[r]


@pytest.mark.parametrize("spread", [1.0, 30.0])
def test_logprobs_match_the_reference(instruction_set, spread):
    logits_RV = noise(5, 49152) * spread
    logits_RV[2, 1000:] = float("-inf")
    ids_R = torch.tensor([0, 49151, 999, 5, 6])
    # float32 has 24 bits: sums of up to 49152 terms agree to a few units of the logits' magnitude.
    torch.testing.assert_close(
        token_logprobs(logits_RV, ids_R), token_logprobs_reference(logits_RV, ids_R), rtol=1e-6, atol=2e-5
    )


def test_nan_and_minus_infinity_show_in_the_logprob(instruction_set):
    logits_RV = noise(2, 3000)
    logits_RV[0, 2999] = float("nan")
    logits_RV[1, 5] = float("-inf")
    logprobs_R = token_logprobs(logits_RV, torch.tensor([0, 5]))
    assert logprobs_R[0].isnan()
    assert logprobs_R[1] == float("-inf")


def test_wrong_arguments_are_refused_by_name():
    logits_RV = noise(2, 10)
    with pytest.raises(ValueError, match="`seeds`"):
        gumbel_argmax(logits_RV, torch.arange(3), torch.arange(2))
    with pytest.raises(TypeError, match=r"`logits` has a dtype .*64 bits"):
        gumbel_argmax(logits_RV.double(), torch.arange(2), torch.arange(2))
    with pytest.raises(ValueError, match=r"ids\[1\]` is `10`"):
        token_logprobs(logits_RV, torch.tensor([0, 10]))
