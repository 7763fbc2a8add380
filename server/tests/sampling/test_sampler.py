"""The pipeline against transformers' processors, and a row's independence of its neighbours."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from transformers.generation.logits_process import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    TypicalLogitsWarper,
)

from forebay_kernels.ops.sampling_noise import gumbel_argmax
from forebay_worker.sampling.rows import SamplingRows
from forebay_worker.sampling.sampler import NUMERICAL_FAILURE, sample

V = 4096


def random_logits(num_rows: int, vocab_size: int = V, scale: float = 3.0, seed: int = 0) -> torch.Tensor:
    return torch.randn(num_rows, vocab_size, generator=torch.Generator().manual_seed(seed)) * scale


def make_rows(num_rows: int, **columns: Any) -> SamplingRows:
    def column(name: str, default: float, dtype: Any) -> Any:
        return np.broadcast_to(np.asarray(columns.get(name, default), dtype), num_rows).copy()

    return SamplingRows(
        temperature_R=column("temperature", 1.0, np.float32),
        top_k_R=column("top_k", 0, np.int64),
        top_p_R=column("top_p", 1.0, np.float32),
        typical_p_R=column("typical_p", 1.0, np.float32),
        min_p_R=column("min_p", 0.0, np.float32),
        repetition_penalty_R=column("repetition_penalty", 1.0, np.float32),
        frequency_penalty_R=column("frequency_penalty", 0.0, np.float32),
        presence_penalty_R=column("presence_penalty", 0.0, np.float32),
        tgi_frequency_penalty_R=column("tgi_frequency_penalty", 0.0, np.float32),
        seeds_R=column("seed", 5, np.int64),
        positions_R=column("position", 4, np.int64),
        num_prompt_R=column("num_prompt", 2, np.int64),
        slots_R=np.arange(num_rows),
        token_ids_SL=columns.get("token_ids", np.zeros((num_rows, 8), np.int32)),
        end_token_ids=columns.get("end_token_ids", {}),
        logit_bias=columns.get("logit_bias", {}),
        allowed_token_ids=columns.get("allowed_token_ids", {}),
        bad_words=columns.get("bad_words", {}),
        watermark=columns.get("watermark", {}),
    )


def warped(logits: torch.Tensor, row: int, ids: np.ndarray, **options: Any) -> torch.Tensor:
    """transformers' answer for one row, in float64 so that its own cumulative sum is exact enough."""
    processors = LogitsProcessorList()
    if options["repetition_penalty"] != 1.0:
        processors.append(RepetitionPenaltyLogitsProcessor(float(options["repetition_penalty"])))
    if options["temperature"] != 1.0:
        processors.append(TemperatureLogitsWarper(float(options["temperature"])))
    if options["top_k"]:
        processors.append(TopKLogitsWarper(int(options["top_k"])))
    if options["top_p"] < 1.0:
        processors.append(TopPLogitsWarper(float(options["top_p"])))
    if options["min_p"]:
        processors.append(MinPLogitsWarper(float(options["min_p"])))
    if options["typical_p"] < 1.0:
        processors.append(TypicalLogitsWarper(float(options["typical_p"])))
    return processors(torch.from_numpy(ids.astype(np.int64))[None], logits[row : row + 1].double())[0]


@pytest.mark.parametrize("scale", [0.05, 1.0, 4.0])
@pytest.mark.parametrize("vocab_size", [V, 1000, 97])
def test_the_pipeline_equals_transformers_for_every_mixture_of_options(scale: float, vocab_size: int):
    columns = {
        "temperature": np.float32([1.0, 0.5, 1.7, 1.0, 0.3, 1.0, 2.0, 1.0, 1.0, 0.9]),
        "top_k": np.array([0, 5, 0, 1, 200, 2000, 5000, 0, 1, 50]),
        "top_p": np.float32([0.9, 1.0, 0.5, 0.9, 0.95, 0.99, 0.7, 0.01, 1.0, 0.9]),
        "min_p": np.float32([0.0, 0.2, 0.0, 0.0, 0.0, 1e-3, 0.05, 0.0, 0.0, 0.3]),
        "typical_p": np.float32([1.0, 1.0, 0.8, 0.5, 1.0, 0.9, 0.95, 1.0, 0.2, 0.7]),
        "repetition_penalty": np.float32([1.0, 1.2, 0.8, 1.0, 1.0, 3.0, 1.0, 1.0, 1.1, 1.3]),
    }
    logits = random_logits(10, vocab_size, scale)
    token_ids = np.random.default_rng(0).integers(0, vocab_size, (10, 8)).astype(np.int32)
    positions = np.array([1, 2, 3, 4, 5, 6, 7, 8, 4, 4])
    processed = logits.clone()
    ids = sample(processed, make_rows(10, token_ids=token_ids, position=positions, **columns))
    for row in range(10):
        options = {name: column[row] for name, column in columns.items()}
        expected = warped(logits, row, token_ids[row, : positions[row]], **options)
        assert torch.equal(processed[row] == -torch.inf, expected == -torch.inf), options
        kept = expected > -torch.inf
        torch.testing.assert_close(processed[row][kept].double(), expected[kept], rtol=1e-5, atol=1e-6)
        assert kept[ids[row]]


def test_the_draw_is_the_kernels_from_what_is_left():
    logits = random_logits(3)
    processed = logits.clone()
    ids = sample(processed, make_rows(3, top_k=9, seed=[1, 2, 3], position=[4, 5, 6]))
    assert torch.equal(ids, gumbel_argmax(processed, torch.tensor([1, 2, 3]), torch.tensor([4, 5, 6])))


def test_a_row_gives_the_same_token_alone_and_among_31_others():
    rng = np.random.default_rng(1)
    columns = {
        "temperature": rng.choice([0.0, 0.7, 1.0, 1.5], 32).astype(np.float32),
        "top_k": rng.choice([0, 3, 300], 32),
        "top_p": rng.choice([1.0, 0.9, 0.999], 32).astype(np.float32),
        "min_p": rng.choice([0.0, 0.02], 32).astype(np.float32),
        "typical_p": rng.choice([1.0, 0.6], 32).astype(np.float32),
        "repetition_penalty": rng.choice([1.0, 1.3], 32).astype(np.float32),
        "frequency_penalty": rng.choice([0.0, 0.7], 32).astype(np.float32),
        "presence_penalty": rng.choice([0.0, -0.4], 32).astype(np.float32),
        "tgi_frequency_penalty": rng.choice([0.0, 1.5], 32).astype(np.float32),
        "num_prompt": np.ones(32, np.int64),
        "seed": rng.integers(-(2**62), 2**62, 32),
        "position": rng.integers(1, 8, 32),
        "token_ids": rng.integers(0, V, (32, 8)).astype(np.int32),
    }
    listed = {
        "logit_bias": {r: (rng.integers(0, V, 9), rng.normal(0, 3, 9).astype(np.float32)) for r in range(0, 32, 3)},
        "allowed_token_ids": {r: rng.integers(0, V, 700) for r in range(1, 32, 4)},
        "bad_words": {r: tuple((i,) for i in range(V // 2)) for r in range(0, 32, 5)},
        "end_token_ids": {r: rng.integers(0, V, 3) for r in range(2, 32, 7)},
    }
    logits = random_logits(32, scale=0.5)
    together = sample(logits.clone(), make_rows(32, **columns, **listed)).tolist()
    for r in range(32):
        own = {k: {0: of[r]} for k, of in listed.items() if r in of}
        rows = make_rows(1, **{k: c[r : r + 1] for k, c in columns.items()}, **own)
        assert int(sample(logits[r : r + 1].clone(), rows)) == together[r]


def test_greedy_rows_are_untouched_by_rows_that_draw():
    logits = random_logits(4)
    processed = logits.clone()
    ids = sample(processed, make_rows(4, temperature=np.float32([0, 1, 0, 1]), top_k=2))
    assert ids[[0, 2]].tolist() == logits[[0, 2]].argmax(-1).tolist()
    assert torch.equal(processed[[0, 2]], logits[[0, 2]])
    assert (processed[[1, 3]] > -torch.inf).sum(-1).tolist() == [2, 2]


def test_a_penalty_can_change_the_greedy_choice():
    logits = torch.tensor([[4.0, 3.9, 0.0, -1.0]])
    rows = make_rows(1, temperature=0.0, repetition_penalty=1.2, token_ids=np.zeros((1, 8), np.int32))
    assert sample(logits, rows).tolist() == [1]


def test_forbidden_ids_are_never_chosen():
    logits = torch.tensor([[4.0, 3.9, 0.0, -1.0], [4.0, 3.9, 0.0, -1.0]])
    assert sample(logits, make_rows(2, temperature=0.0, end_token_ids={1: np.array([0, 1])})).tolist() == [0, 2]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_row_with_one_bad_logit_fails_alone(value: float, temperature: float):
    logits = random_logits(3)
    logits[1, 77] = value
    ids = sample(logits.clone(), make_rows(3, temperature=temperature, top_p=0.9))
    assert ids[1] == NUMERICAL_FAILURE
    good = sample(logits[[0, 2]].clone(), make_rows(2, temperature=temperature, top_p=0.9))
    assert ids[[0, 2]].tolist() == good.tolist()


def test_a_row_without_any_possible_token_fails():
    assert sample(torch.full((1, V), -torch.inf), make_rows(1, temperature=0.0)).tolist() == [NUMERICAL_FAILURE]


def test_equal_logits_at_the_edge_are_all_kept():
    logits = torch.zeros(2, V)
    logits[:, 7] = 1.0
    sample(logits, make_rows(2, top_k=[2, 0], top_p=[1.0, 0.5]))
    assert (logits > -torch.inf).sum(-1).tolist() == [V, V]


def test_top_p_finds_its_mass_in_flat_and_in_sharp_rows():
    flat, sharp = torch.zeros(V) + torch.linspace(0, 1e-3, V), torch.linspace(0, 40, V)
    logits = torch.stack((flat, sharp))
    sample(logits, make_rows(2, top_p=0.9))
    assert abs(int((logits[0] > -torch.inf).sum()) - int(0.9 * V)) <= 2
    assert 200 < int((logits[1] > -torch.inf).sum()) < 260


def test_rows_with_top_p_and_rows_with_typical_p_and_none_with_min_p_share_a_step():
    logits = random_logits(4)
    processed = logits.clone()
    options = {"top_p": np.float32([0.5, 0.5, 1.0, 1.0]), "typical_p": np.float32([0.7, 1.0, 0.7, 1.0])}
    sample(processed, make_rows(4, **options))
    for row in range(4):
        own = logits[row : row + 1].clone()
        sample(own, make_rows(1, **{name: column[row] for name, column in options.items()}))
        assert torch.equal(processed[row], own[0])


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 1e-30},
        {"temperature": 1e-40, "top_k": 50, "top_p": 0.9, "min_p": 0.1, "typical_p": 0.9},
        {"temperature": 1e30},
        {"temperature": 3e38, "top_p": 0.5, "typical_p": 0.5},
        {"repetition_penalty": 1e-38},
        {"repetition_penalty": 3e38},
        {"temperature": 1e-30, "repetition_penalty": 1e-38, "frequency_penalty": -2.0},
        {"top_p": 1e-40},
        {"top_k": 2**31 - 1},
    ],
)
def test_the_ends_of_every_range_yield_a_token(options: dict[str, float]):
    """The least temperature overflowed the logits, and the row was reported as damaged weights."""
    logits = random_logits(3, scale=10.0)
    expected = logits.argmax(-1)
    token_ids = np.tile(expected.numpy().astype(np.int32)[:, None], (1, 8))
    ids = sample(logits, make_rows(3, token_ids=token_ids, **options))
    assert (ids >= 0).all()
    if options.get("temperature", 1.0) < 1.0 and "repetition_penalty" not in options:
        assert ids.tolist() == expected.tolist()
