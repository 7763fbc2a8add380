"""The steps that a GPU's memory is measured by, run on CPU."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from forebay_worker import startup, warm_up
from forebay_worker.distributed.groups import ProcessGroup
from forebay_worker.executor import Executor
from forebay_worker.loader import load_model
from forebay_worker.plan import Capabilities, StepError, StepErrorKind, StepResult

from .models.tiny_configs import TINY
from .stepper import worker_config

GROUP = ProcessGroup()


@pytest.fixture(scope="module")
def loaded(make_folder):
    folder, _ = make_folder("LlamaForCausalLM", TINY)
    return load_model(worker_config(folder, attention="batched"), GROUP)


@pytest.fixture
def capabilities(loaded):
    return Capabilities(
        num_blocks=1000,
        block_size=16,
        max_sequences=5,
        max_plan_tokens=48,
        vocab_size=loaded.vocab_size,
        max_position_embeddings=loaded.max_position_embeddings,
        max_sequence_tokens=200,
    )


@pytest.fixture
def executed(monkeypatch):
    """The steps that were run: (tokens, contexts, results) each."""
    steps = []
    execute = Executor.execute

    def watched(self, plan, queued_us=0):
        result = execute(self, plan, queued_us)
        steps.append((plan.row_num_tokens.tolist(), self._table.num_computed[plan.row_slots].tolist(), result))
        return result

    monkeypatch.setattr(Executor, "execute", watched)
    return steps


def test_the_largest_steps_are_the_end_of_a_prompt_and_as_many_sequences_as_fit(loaded, capabilities, executed):
    warm_up.run_largest_steps(loaded, GROUP, capabilities)
    assert [(tokens, contexts) for tokens, contexts, _ in executed] == [([48], [200]), ([1] * 5, [200] * 5)]
    for tokens, _, result in executed:
        assert not result.errors and result.token_ids.size == len(tokens) and (result.top_counts == 5).all()


def test_sequences_shorter_than_a_step_are_warmed_whole(loaded, capabilities, executed):
    warm_up.run_largest_steps(loaded, GROUP, dataclasses.replace(capabilities, max_sequence_tokens=20))
    assert [contexts for _, contexts, _ in executed] == [[20], [20] * 5]


def test_steps_that_do_not_fit_are_refused_with_their_sizes(loaded, capabilities, monkeypatch):
    error = StepError(StepErrorKind.OUT_OF_MEMORY, "no memory")
    monkeypatch.setattr(Executor, "execute", lambda self, plan: StepResult(0, step_error=error))
    message = r"steps of `48` tokens of a prompt and of `5` sequences, `200` tokens long, do not fit .*--max-batch-size"
    with pytest.raises(ValueError, match=message):
        warm_up.run_largest_steps(loaded, GROUP, capabilities)


def test_the_cache_of_a_gpu_is_what_fraction_weights_and_steps_leave(loaded, monkeypatch):
    """A made-up GPU of 1,000,000 bytes, half of it free, of which the steps take 100,000."""
    calls = []
    for name in ("empty_cache", "reset_peak_memory_stats", "synchronize"):
        monkeypatch.setattr(torch.cuda, name, lambda *_, name=name: calls.append(name))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 400_000)
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda device: 500_000)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (500_000, 1_000_000))
    monkeypatch.setattr(warm_up, "run_largest_steps", lambda *_: calls.append("steps"))
    group = ProcessGroup(device=torch.device("cuda", 0))
    config = worker_config("", cuda_memory_fraction=0.9)
    room = startup._room(config, group, loaded)
    assert room.num_bytes == (500_000 - 100_000 - 100_000) * 90 // 100
    assert room.max_full_sequences is None
    assert calls == ["empty_cache", "reset_peak_memory_stats", "steps", "synchronize", "empty_cache"]
