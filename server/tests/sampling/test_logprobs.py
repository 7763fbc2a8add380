"""Log-probabilities of chosen tokens and their alternatives."""

from __future__ import annotations

import numpy as np
import torch

from forebay_worker.sampling.logprobs import logprobs_of, ranks_of


def test_chosen_and_best_are_log_softmax_best_first():
    logits = torch.randn(3, 500, generator=torch.Generator().manual_seed(0)) * 3
    expected = torch.log_softmax(logits, -1)
    ids = torch.tensor([4, 5, 6])
    found = logprobs_of(logits, ids, np.array([2, 0, 5]), np.array([False, False, True]))
    np.testing.assert_allclose(found.logprobs_R, expected[torch.arange(3), ids], rtol=1e-5)
    assert found.top_counts_R.tolist() == [2, 0, 5]
    assert found.top_ids.tolist() == [*expected[0].topk(2).indices.tolist(), *expected[2].topk(5).indices.tolist()]
    best = torch.cat((expected[0].topk(2).values, expected[2].topk(5).values))
    np.testing.assert_allclose(found.top_logprobs, best, rtol=1e-5, atol=1e-6)


def test_ties_with_the_last_alternative_are_listed_by_id_when_asked_for():
    logits = torch.zeros(2, 300)
    logits[:, 200] = 5.0
    found = logprobs_of(logits, torch.tensor([200, 200]), np.array([3, 3]), np.array([False, True]))
    assert found.top_counts_R.tolist() == [3, 300]
    assert found.top_ids.tolist() == [200, 0, 1, 200, *(i for i in range(300) if i != 200)]


def test_a_rank_counts_the_better_and_equals_share_it():
    logits = torch.tensor([[1.0, 3.0, 3.0, 2.0], [1.0, 3.0, 3.0, -torch.inf]])
    assert ranks_of(logits.repeat(2, 1), torch.tensor([1, 2, 0, 3])).tolist() == [1, 1, 4, 4]


def test_a_token_that_cannot_be_chosen_is_no_alternative():
    logits = torch.full((1, 300), -torch.inf)
    logits[0, [7, 3]] = torch.tensor([2.0, 1.0])
    found = logprobs_of(logits, torch.tensor([7]), np.array([5]), np.array([True]))
    assert found.top_ids.tolist() == [7, 3]


def test_more_alternatives_than_tokens_are_all_tokens():
    found = logprobs_of(torch.tensor([[1.0, 3.0, 2.0]]), torch.tensor([0]), np.array([9]), np.array([False]))
    assert found.top_ids.tolist() == [1, 2, 0]
