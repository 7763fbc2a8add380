"""Options that change or forbid logits before the choice, against plain formulas."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from transformers.generation.logits_process import SequenceBiasLogitsProcessor

from forebay_worker.sampling.sampler import NOTHING_LEFT, sample

from .test_sampler import V, make_rows, random_logits

TOKEN_IDS = np.array([[5, 5, 9, 5, 7, 9, 5, 1], [3, 4, 5, 6, 7, 8, 9, 10]], np.int32)
"""The first two of each row are its prompt."""


def processed(**columns: Any) -> tuple[np.ndarray, np.ndarray]:
    """Two greedy rows of seven and five known tokens: logits before and after."""
    logits = random_logits(2)
    after = logits.clone()
    sample(after, make_rows(2, temperature=0.0, position=[7, 5], token_ids=TOKEN_IDS, **columns))
    return logits.numpy(), after.numpy()


def known(row: int, start: int) -> list[int]:
    return TOKEN_IDS[row, start : (7, 5)[row]].tolist()


@pytest.mark.parametrize("penalty", [0.75, -1.5])
def test_the_frequency_penalty_counts_generated_tokens(penalty: float):
    before, after = processed(frequency_penalty=[penalty, 0.0])
    expected = before.copy()
    for token in set(known(0, 2)):
        expected[0, token] -= np.float32(penalty) * known(0, 2).count(token)
    np.testing.assert_array_equal(after, expected)


def test_the_presence_penalty_is_the_same_for_once_and_often():
    before, after = processed(presence_penalty=[0.5, 2.0])
    expected = before.copy()
    for row, penalty in enumerate((0.5, 2.0)):
        expected[row, list(set(known(row, 2)))] -= np.float32(penalty)
    np.testing.assert_array_equal(after, expected)


def test_the_frequency_penalty_of_tgi_is_by_share_of_prompt_and_output():
    before, after = processed(tgi_frequency_penalty=[1.5, 0.5])
    expected = before.astype(np.float64)
    for row, penalty in enumerate((1.5, 0.5)):
        # The rule of TGI's processor for one row: a histogram over all ids, divided by how many there are.
        counts = np.bincount(known(row, 0), minlength=V)
        expected[row] -= penalty * counts / len(known(row, 0))
    np.testing.assert_allclose(after, expected, rtol=1e-6)


def test_a_bias_is_added_as_transformers_adds_it_and_before_the_repetition_penalty():
    biases = {(5,): 4.0, (11,): -100.0, (4000,): 2.5}
    ids, values = np.array([5, 11, 4000]), np.float32([4.0, -100.0, 2.5])
    before, after = processed(logit_bias={1: (ids, values)}, repetition_penalty=[1.0, 1.3])
    reference = SequenceBiasLogitsProcessor(biases)
    expected = reference(torch.from_numpy(TOKEN_IDS[1:, :5].astype(np.int64)), torch.from_numpy(before[1:]))[0]
    penalised = expected[list(set(known(1, 0)))]
    expected[list(set(known(1, 0)))] = torch.where(penalised < 0, penalised * 1.3, penalised / 1.3)
    np.testing.assert_allclose(after[1], expected, rtol=1e-6)
    np.testing.assert_array_equal(after[0], before[0])


@pytest.mark.parametrize(("gamma", "delta"), [(0.5, 2.0), (0.25, 5.0)])
def test_the_watermark_favours_the_part_of_the_vocabulary_that_the_last_token_chooses(gamma: float, delta: float):
    before, after = processed(watermark={1: (gamma, delta)})
    # TGI's WatermarkLogitsProcessor on a CPU: the paper's hash of the last token seeds a permutation.
    generator = torch.Generator().manual_seed(15485863 * known(1, 0)[-1])
    green = torch.randperm(V, generator=generator)[: int(V * gamma)].numpy()
    expected = before.copy()
    expected[1, green] += np.float32(delta)
    np.testing.assert_array_equal(after, expected)


def test_the_watermark_comes_before_the_penalties():
    before, after = processed(watermark={1: (0.5, 2.0)}, repetition_penalty=[1.0, 2.0])
    _, marked = processed(watermark={1: (0.5, 2.0)})
    seen = list(set(known(1, 0)))
    np.testing.assert_allclose(
        after[1, seen], np.where(marked[1, seen] < 0, marked[1, seen] * 2, marked[1, seen] / 2), rtol=1e-6
    )
    np.testing.assert_array_equal(after[0], before[0])


def test_only_allowed_tokens_are_left_with_their_logits():
    before, after = processed(allowed_token_ids={1: np.array([3, 1000, 3])})
    np.testing.assert_array_equal(after[0], before[0])
    assert np.flatnonzero(np.isfinite(after[1])).tolist() == [3, 1000]
    assert after[1, 1000] == before[1, 1000]


@pytest.mark.parametrize(
    ("words", "forbidden"),
    [
        (((40,), (41,)), [40, 41]),
        (((9, 5, 42), (5, 42), (42,)), [42]),
        (((9, 5, 43), (7, 5, 44), (5, 9, 45)), [43]),
        # Longer than what was generated, or begun in the prompt: vLLM looks at generated tokens alone.
        (((5, 5, 9, 5, 7, 9, 5, 46), (5, 9, 5, 7, 9, 5, 47), (9, 5, 7, 9, 5, 48)), [48]),
    ],
)
def test_the_last_token_of_a_bad_word_is_forbidden_where_its_beginning_was_generated(
    words: tuple[tuple[int, ...], ...], forbidden: list[int]
):
    before, after = processed(bad_words={0: words})
    assert np.flatnonzero(after[0] == -np.inf).tolist() == forbidden
    np.testing.assert_array_equal(after[1], before[1])


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_row_whose_masks_forbid_everything_fails_alone_and_is_told_apart(temperature: float):
    logits = random_logits(3)
    options = {"allowed_token_ids": {1: np.array([7, 8])}, "bad_words": {1: ((7,),)}}
    rows = make_rows(3, temperature=temperature, top_p=0.9, end_token_ids={1: np.array([8])}, **options)
    ids = sample(logits.clone(), rows).tolist()
    alone = sample(logits[[0, 2]].clone(), make_rows(2, temperature=temperature, top_p=0.9)).tolist()
    assert ids == [alone[0], NOTHING_LEFT, alone[1]]
