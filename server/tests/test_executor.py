"""The executor on a toy decoder: any wrong block, position, length or input would change the text."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from forebay_worker.distributed.groups import ProcessGroup
from forebay_worker.plan import PlanError, RowFlag, SequenceErrorKind, StepErrorKind, StepResult

from .toy import CAPABILITIES, LAST, Plans, ToyModel, generate, make_executor, new_sequence

S = RowFlag.SAMPLES
PROMPT = [5, 6, 7, 8, 9, 10, 11]


def ids_of(result: StepResult) -> dict[int, int]:
    return dict(zip(result.slots.tolist(), result.token_ids.tolist(), strict=True))


def test_a_prompt_in_chunks_gives_the_text_of_the_whole_prompt():
    executor, plans = make_executor(), Plans()
    new = new_sequence(3, PROMPT, [9, 2])
    first = executor.execute(plans(new=[new], chunks=[(3, 1, 3, 0)]))
    assert first.token_ids.size == 0
    text = ids_of(executor.execute(plans(chunks=[(3, 1, 4, LAST)])))[3]
    more = [ids_of(executor.execute(plans(decodes=[(3, 1, S)], appends=a)))[3] for a in ({}, {3: [5]}, {}, {})]
    assert [text, *more] == generate(PROMPT, 5)


def test_decodes_and_chunks_in_one_plan_do_not_touch_each_other():
    executor, plans = make_executor(), Plans()
    other = [50, 51, 52, 53, 54]
    a, b = new_sequence(1, PROMPT, [1, 2, 3]), new_sequence(0, other, [4, 5, 6])
    results = [
        executor.execute(plans(new=[a], chunks=[(1, 1, 7, LAST)])),
        executor.execute(plans(new=[b], decodes=[(1, 1, S)], chunks=[(0, 1, 2, 0)])),
        executor.execute(plans(decodes=[(1, 1, S)], chunks=[(0, 1, 3, LAST)])),
        executor.execute(plans(decodes=[(0, 1, S), (1, 1, S)])),
    ]
    assert [ids_of(r)[1] for r in results] == generate(PROMPT, 4)
    assert [ids_of(r)[0] for r in results[2:]] == generate(other, 2)


def test_a_prefix_hit_reads_the_blocks_of_the_sequence_that_wrote_them():
    executor, plans = make_executor(), Plans()
    twin = [*PROMPT[:4], 40, 41]
    plan = plans(new=[new_sequence(0, PROMPT, [1, 2])], chunks=[(0, 1, 7, LAST)])
    executor.execute(plan)
    new = new_sequence(1, twin, [1, 3], num_computed_tokens=4)
    result = executor.execute(plans(new=[new], decodes=[(0, 1, S)], chunks=[(1, 1, 2, LAST)]))
    assert ids_of(result) == {0: generate(PROMPT, 2)[1], 1: generate(twin, 1)[0]}


def test_a_slot_is_released_and_taken_in_one_plan():
    executor, plans = make_executor(), Plans()
    executor.execute(plans(new=[new_sequence(0, [90, 91], [1])], chunks=[(0, 1, 2, LAST)]))
    new = new_sequence(0, PROMPT, [2, 3], epoch=2)
    result = executor.execute(plans(released=[(0, 1)], new=[new], chunks=[(0, 2, 7, LAST)]))
    assert result.epochs.tolist() == [2]
    assert ids_of(result)[0] == generate(PROMPT, 1)[0]


def test_the_next_tenant_of_a_slot_samples_by_its_own_options():
    executor, plans = make_executor(), Plans()
    options = [{"temperature": 1.5, "seed": 3}, {"temperature": 1.5, "seed": 4}, {}]
    texts = []
    for epoch, sampling in enumerate(options, start=1):
        released = [(0, epoch - 1)] if epoch > 1 else []
        new = new_sequence(0, PROMPT, [epoch * 4 + block for block in range(4)], epoch=epoch, **sampling)
        results = [executor.execute(plans(released=released, new=[new], chunks=[(0, epoch, len(PROMPT), LAST)]))]
        results += [executor.execute(plans(decodes=[(0, epoch, S)])) for _ in range(3)]
        texts.append([ids_of(result)[0] for result in results])
    assert texts == [generate(PROMPT, 4, **sampling) for sampling in options]


@pytest.mark.parametrize(
    "sampling",
    [
        {},
        {"temperature": 1.0, "seed": 2**64 - 3, "top_p": 0.9},
        {"temperature": 1.0, "seed": 7, "typical_p": 0.5, "min_p": 0.01},
        {"repetition_penalty": 1.5},
        {"frequency_penalty": -0.9},
        {"presence_penalty": -2.0},
        {"tgi_frequency_penalty": -9.0},
        {"temperature": 1.5, "frequency_penalty": 0.7, "presence_penalty": 0.4, "tgi_frequency_penalty": 1.0},
        {"logit_bias_ids": (3, 90), "logit_bias_values": (2.0, 3.0), "frequency_penalty": 1.0},
        {"allowed_token_ids": (4, 5, 6), "bad_words": ((4, 5), (5, 4), (6, 6), (4, 4))},
        {"temperature": 1.0, "min_new_tokens": 6, "end_token_ids": tuple(range(48))},
    ],
    ids=lambda sampling: "+".join(sampling) or "greedy",
)
def test_a_sequence_sent_again_goes_on_where_it_stood(sampling: dict[str, Any]):
    whole = generate(PROMPT, 8, **sampling)
    known = PROMPT + whole[:4]
    executor, plans = make_executor(), Plans()
    new = new_sequence(0, known, [7, 6, 5, 4], epoch=9, num_prompt_tokens=len(PROMPT), **sampling)
    results = [executor.execute(plans(new=[new], chunks=[(0, 9, len(known), LAST)]))]
    results += [executor.execute(plans(decodes=[(0, 9, S)])) for _ in range(3)]
    assert [ids_of(r)[0] for r in results] == whole[4:]


def test_seed_and_position_alone_choose_the_token_among_31_others():
    executor, plans = make_executor(), Plans()
    sampling = {"temperature": 1.3, "seed": 77, "top_k": 40}
    news = [new_sequence(0, PROMPT, [1, 2], **sampling)]
    news += [
        new_sequence(slot, [slot, slot + 1, slot + 2], [slot * 2 + 1], temperature=0.1 * slot, seed=slot, top_p=0.8)
        for slot in range(1, 31)
    ]
    results = [executor.execute(plans(new=news, chunks=[(n.slot, 1, n.token_ids.size, LAST) for n in news]))]
    results.append(executor.execute(plans(decodes=[(n.slot, 1, S) for n in news])))
    assert [ids_of(r)[0] for r in results] == generate(PROMPT, 2, **sampling)
    assert ids_of(results[0])[9] == generate([9, 10, 11], 1, temperature=0.9, seed=9, top_p=0.8)[0]


def test_a_row_of_nan_fails_alone_and_stays_failed():
    executor, plans = make_executor(ToyModel(poison=13)), Plans()
    news = [new_sequence(0, [1, 13], [1]), new_sequence(1, PROMPT, [2, 3, 5])]
    result = executor.execute(plans(new=news, chunks=[(0, 1, 2, LAST), (1, 1, 7, LAST)]))
    assert [(e.slot, e.epoch, e.kind) for e in result.errors] == [(0, 1, SequenceErrorKind.NUMERICAL)]
    assert ids_of(result) == {1: generate(PROMPT, 1)[0]}
    # Already sent when the error came back: the failed sequence is named again, its neighbour goes on.
    result = executor.execute(plans(decodes=[(0, 1, S), (1, 1, S)]))
    assert [e.slot for e in result.errors] == [0]
    assert ids_of(result) == {1: generate(PROMPT, 2)[1]}
    new = new_sequence(0, PROMPT, [1, 4], epoch=2)
    result = executor.execute(plans(released=[(0, 1)], new=[new], decodes=[(1, 1, S)], chunks=[(0, 2, 7, LAST)]))
    assert not result.errors
    assert ids_of(result)[0] == generate(PROMPT, 1)[0]


def test_an_unsupported_option_is_answered_in_the_result_of_each_plan_with_a_row_of_it():
    executor, plans = make_executor(), Plans()
    news = [new_sequence(0, PROMPT, [1, 2]), new_sequence(1, [3, 4], [3], unsupported="`min_p`: not here")]
    result = executor.execute(plans(new=news, chunks=[(0, 1, 7, LAST), (1, 1, 1, 0)]))
    assert [(e.slot, e.kind, e.message) for e in result.errors] == [
        (1, SequenceErrorKind.UNSUPPORTED, "`min_p`: not here")
    ]
    result = executor.execute(plans(decodes=[(0, 1, S)], chunks=[(1, 1, 1, LAST)]))
    assert ids_of(result) == {0: generate(PROMPT, 2)[1]}
    assert [e.slot for e in result.errors] == [1]


def test_a_plan_of_failed_sequences_alone_computes_nothing():
    executor, plans = make_executor(), Plans()
    new = new_sequence(0, PROMPT, [1, 2], unsupported="`min_p`: not here")
    result = executor.execute(plans(new=[new], chunks=[(0, 1, 7, LAST)]))
    assert len(result.errors) == 1
    assert not result.slots.size


@pytest.mark.parametrize(
    "error", [MemoryError(), torch.OutOfMemoryError("cuda"), RuntimeError("[...] DefaultCPUAllocator: can't allocate")]
)
def test_out_of_memory_voids_the_rows_of_the_step_and_no_others(error: Exception):
    model = ToyModel()
    executor, plans = make_executor(model), Plans()
    news = [new_sequence(0, PROMPT, [1, 2, 3]), new_sequence(1, [3, 4], [5])]
    executor.execute(plans(new=news, chunks=[(0, 1, 7, LAST), (1, 1, 1, 0)]))
    model.fail_with = [error]
    failed = executor.execute(plans(new=[new_sequence(2, [3], [4])], decodes=[(0, 1, S)], chunks=[(2, 1, 1, LAST)]))
    assert failed.step_error is not None
    assert failed.step_error.kind == StepErrorKind.OUT_OF_MEMORY
    assert (failed.token_ids.size, failed.errors) == (0, [])
    # Sent ahead, in the belief that the step before would succeed.
    ahead = executor.execute(plans(decodes=[(0, 1, S), (2, 1, S)], chunks=[(1, 1, 1, LAST)]))
    assert ahead.step_error is None
    assert [(e.slot, e.kind) for e in ahead.errors] == [(0, 0), (2, 0)]
    assert ids_of(ahead) == {1: generate([3, 4], 1)[0]}
    whole = generate(PROMPT, 3)
    again = new_sequence(0, [*PROMPT, whole[0]], [1, 2, 3], epoch=2, num_prompt_tokens=7, num_computed_tokens=7)
    plan = plans(released=[(0, 1), (2, 1)], new=[again], decodes=[(1, 1, S)], chunks=[(0, 2, 1, LAST)])
    result = executor.execute(plan)
    assert not result.errors
    assert ids_of(result) == {0: whole[1], 1: generate([3, 4], 2)[1]}


def test_an_error_that_is_not_about_memory_is_not_swallowed():
    model = ToyModel()
    model.fail_with = [RuntimeError("shape mismatch")]
    plan = Plans()(new=[new_sequence(0, PROMPT, [1, 2])], chunks=[(0, 1, 7, LAST)])
    with pytest.raises(RuntimeError, match="shape mismatch"):
        make_executor(model).execute(plan)


def reference_logits(ids: list[int]) -> torch.Tensor:
    executor = make_executor()
    captured = []
    model = executor._model
    original = model.logits
    model.logits = lambda hidden: captured.append(original(hidden)) or captured[-1].clone()  # type: ignore[method-assign]
    executor.execute(Plans()(new=[new_sequence(0, ids, list(range(1, 17)))], chunks=[(0, 1, len(ids), LAST)]))
    return captured[-1][0]


def test_raw_and_processed_logprobs_stand_side_by_side():
    executor, plans = make_executor(), Plans()
    L = LAST | RowFlag.LOGPROBS
    news = [
        new_sequence(0, PROMPT, [1, 2], temperature=0.5, seed=1, top_k=3, num_top_logprobs=5),
        new_sequence(1, PROMPT, [3, 4], temperature=0.5, seed=1, top_k=3, num_top_logprobs=5, processed_logprobs=True),
        new_sequence(2, PROMPT, [5, 6], num_top_logprobs=5),
        new_sequence(3, PROMPT, [7, 8]),
    ]
    flags = [L, L, LAST, L]
    result = executor.execute(plans(new=news, chunks=[(s, 1, 7, flags[s]) for s in range(4)]))
    raw = torch.log_softmax(reference_logits(PROMPT), -1)
    scaled = reference_logits(PROMPT) / 0.5
    processed = torch.log_softmax(scaled.masked_fill(scaled < scaled.topk(3).values[-1], -torch.inf), -1)
    ids = result.token_ids.tolist()
    assert ids[0] == ids[1]
    np.testing.assert_allclose(
        result.logprobs, [raw[ids[0]], processed[ids[1]], np.nan, raw[ids[3]]], rtol=1e-5, atol=1e-6
    )
    assert result.top_counts.tolist() == [5, 3, 0, 0]
    assert result.top_ids.tolist() == raw.topk(5).indices.tolist() + processed.topk(3).indices.tolist()
    best = torch.cat((raw.topk(5).values, processed.topk(3).values))
    np.testing.assert_allclose(result.top_logprobs, best, rtol=1e-5, atol=1e-6)


def test_logprobs_are_empty_when_no_row_asked():
    executor, plans = make_executor(), Plans()
    result = executor.execute(plans(new=[new_sequence(0, PROMPT, [1, 2])], chunks=[(0, 1, 7, LAST)]))
    assert (result.logprobs.size, result.top_counts.size, result.top_ids.size) == (0, 0, 0)


def test_logprobs_of_a_failed_row_are_left_out():
    executor, plans = make_executor(ToyModel(poison=13)), Plans()
    L = LAST | RowFlag.LOGPROBS
    news = [
        new_sequence(0, [1, 13], [1], num_top_logprobs=2, processed_logprobs=True, temperature=1.0),
        new_sequence(1, PROMPT, [2, 3], num_top_logprobs=1),
    ]
    result = executor.execute(plans(new=news, chunks=[(0, 1, 2, L), (1, 1, 7, L)]))
    raw = torch.log_softmax(reference_logits(PROMPT), -1)
    assert result.slots.tolist() == [1]
    assert result.top_counts.tolist() == [1]
    np.testing.assert_allclose(result.logprobs, [raw.max()], rtol=1e-5)
    assert result.top_ids.tolist() == [int(raw.argmax())]


@pytest.mark.parametrize("tile", [2, 64])
def test_prompt_logprobs_come_chunk_by_chunk_and_stop_with_the_prompt(tile: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("forebay_worker.executor._HEAD_TILE", tile)
    executor, plans = make_executor(), Plans()
    known = [*PROMPT, 33, 34]
    new = new_sequence(0, known, [1, 2, 3], num_prompt_tokens=7, num_prompt_logprobs=2)
    P = RowFlag.PROMPT_LOGPROBS
    results = [
        executor.execute(plans(new=[new], chunks=[(0, 1, 4, P)])),
        executor.execute(plans(chunks=[(0, 1, 4, P)])),
        executor.execute(plans(chunks=[(0, 1, 1, P | LAST)])),
    ]
    entries = [entry for result in results for entry in result.prompt_logprobs]
    assert [(e.first_position, e.logprobs.size) for e in entries] == [(1, 4), (5, 2)]
    expected = [torch.log_softmax(reference_logits(PROMPT[:p]), -1) for p in range(1, 7)]
    got = np.concatenate([e.logprobs for e in entries])
    np.testing.assert_allclose(got, [expected[p][PROMPT[p + 1]] for p in range(6)], rtol=1e-5, atol=1e-6)
    assert entries[0].top_ids.tolist() == [i for p in range(4) for i in expected[p].topk(2).indices.tolist()]
    ranks = [expected[p].argsort(descending=True).tolist().index(PROMPT[p + 1]) + 1 for p in range(6)]
    assert np.concatenate([e.ranks for e in entries]).tolist() == ranks


def test_end_tokens_cannot_be_chosen_before_the_least_length():
    free = generate(PROMPT, 3)
    held = generate(PROMPT, 3, min_new_tokens=2, end_token_ids=(free[0],))
    assert held[0] != free[0]
    assert held[0] == int(reference_logits(PROMPT).topk(2).indices[1])


def test_a_bad_word_is_never_generated_whole():
    free = generate(PROMPT, 4)
    held = generate(PROMPT, 4, bad_words=(tuple(free[:3]), (free[1], CAPABILITIES.vocab_size - 1)))
    assert held[:2] == free[:2]
    assert held[2] != free[2]


def test_lists_of_an_option_leave_a_slot_with_its_sequence():
    executor, plans = make_executor(), Plans()
    lists = {
        "logit_bias_ids": (3,),
        "logit_bias_values": (50.0,),
        "allowed_token_ids": (3, 4),
        "bad_words": ((4,),),
        "min_new_tokens": 5,
        "end_token_ids": (5,),
    }
    new = new_sequence(0, PROMPT, [1, 2], **lists)
    assert ids_of(executor.execute(plans(new=[new], chunks=[(0, 1, 7, LAST)]))) == {0: 3}
    new = new_sequence(0, PROMPT, [1, 2], epoch=2)
    result = executor.execute(plans(released=[(0, 1)], new=[new], chunks=[(0, 2, 7, LAST)]))
    assert ids_of(result) == {0: generate(PROMPT, 1)[0]}


def test_a_sequence_whose_options_forbid_every_token_is_told_which():
    executor, plans = make_executor(), Plans()
    news = [new_sequence(0, PROMPT, [1, 2], allowed_token_ids=(3,), bad_words=((3,),)), new_sequence(1, PROMPT, [3, 4])]
    result = executor.execute(plans(new=news, chunks=[(0, 1, 7, LAST), (1, 1, 7, LAST)]))
    assert ids_of(result) == {1: generate(PROMPT, 1)[0]}
    assert [(error.slot, error.kind) for error in result.errors] == [(0, SequenceErrorKind.UNSUPPORTED)]
    assert "forbid every token" in result.errors[0].message


class Follower(ProcessGroup):
    """Rank 1 of 2, told by rank 0 what was sampled."""

    def broadcast(self, x: torch.Tensor, src: int = 0) -> torch.Tensor:
        return torch.tensor([-1, 42])


def test_another_rank_takes_the_ids_of_rank_0_and_answers_the_step_alone():
    executor, plans = make_executor(group=Follower(rank=1, world_size=2)), Plans()
    news = [new_sequence(0, PROMPT, [1, 2]), new_sequence(1, [3, 4], [3])]
    result = executor.execute(plans(new=news, chunks=[(0, 1, 7, LAST), (1, 1, 2, LAST)]))
    assert (result.step_id, result.slots.size, result.errors) == (0, 0, [])
    assert executor._table.token_ids[1, 2] == 42
    assert int(executor._table.last_token_S[1]) == 42
    assert executor._table.failed.tolist()[:2] == [True, False]


def started():
    executor, plans = make_executor(), Plans()
    executor.execute(plans(new=[new_sequence(2, PROMPT, [1, 2], epoch=5)], chunks=[(2, 5, 7, LAST)]))
    return executor, plans


RIGHT = (2, 5, S)
LONG = list(range(CAPABILITIES.max_sequence_tokens + 1))
MISUSES: dict[str, tuple[dict[str, Any], str]] = {
    "no row": ({}, "no row"),
    "row of a free slot": ({"decodes": [(3, 5, S)]}, "slot `3` epoch `5`, which holds no sequence"),
    "row of an old epoch": ({"decodes": [(2, 4, S)]}, "epoch `4`, which holds epoch `5`"),
    "row beyond the slots": ({"decodes": [(40, 5, S)]}, "slot `40`, expected less than 40"),
    "release of an old epoch": ({"released": [(2, 4)], "decodes": [RIGHT]}, "release of slot `2` epoch `4`"),
    "taken slot": ({"new": [new_sequence(2, [1], [3], epoch=6)], "decodes": [RIGHT]}, "release it first"),
    "epoch that does not rise": (
        {"released": [(2, 5)], "new": [new_sequence(2, [1], [3], epoch=5)], "chunks": [(2, 5, 1, LAST)]},
        "epoch `5`, expected more than `5`",
    ),
    "null block": ({"appends": {2: [0]}, "decodes": [RIGHT]}, "block `0`, expected 1 to 63"),
    "block beyond the pool": ({"appends": {2: [64]}, "decodes": [RIGHT]}, "block `64`"),
    "append to a free slot": ({"appends": {3: [9]}, "decodes": [RIGHT]}, "holds no sequence"),
    "more blocks than a sequence can have": ({"appends": {2: [3] * 30}, "decodes": [RIGHT]}, "expected at most"),
    "token beyond the vocabulary": (
        {"new": [new_sequence(0, [96], [3])], "decodes": [RIGHT]},
        "token id `96`, expected less than 96",
    ),
    "too long": ({"new": [new_sequence(0, LONG, [3])], "decodes": [RIGHT]}, "has `65` tokens, expected at most 64"),
    "chunk of what is not known": ({"chunks": [(2, 5, 1, LAST)]}, "chunk of slot `2` up to token `8`"),
    "decode before the first token": (
        {"new": [new_sequence(0, [1, 2], [3])], "decodes": [(0, 1, S)]},
        "decode of slot `0` up to token `1`",
    ),
    "two rows of one sequence": ({"decodes": [RIGHT], "chunks": [(2, 5, 1, LAST)]}, "two rows"),
    "missing block": (
        {"new": [new_sequence(0, PROMPT, [3])], "chunks": [(0, 1, 7, LAST)]},
        "slot `0` grows to `7` tokens, its blocks and limits allow 4",
    ),
    "samples in mid-prompt": (
        {"new": [new_sequence(0, PROMPT, [3, 4])], "chunks": [(0, 1, 3, S)]},
        "does not hold its sequence's last known token",
    ),
    "last chunk without its flag": (
        {"new": [new_sequence(0, PROMPT, [3, 4])], "chunks": [(0, 1, 7, S)]},
        "LAST_CHUNK flag does not agree",
    ),
    "pooled output": ({"decodes": [(2, 5, S | RowFlag.POOLED_OUTPUT)]}, "POOLED_OUTPUT"),
    "more tokens than a plan may have": (
        {
            "new": [new_sequence(s, list(range(60)), list(range(3, 18))) for s in (10, 11, 12, 13, 14)],
            "chunks": [(s, 1, 60, LAST) for s in (10, 11, 12, 13, 14)],
        },
        "`300` tokens, expected at most 256",
    ),
}


@pytest.mark.parametrize(("fields", "message"), MISUSES.values(), ids=MISUSES.keys())
def test_a_plan_that_no_right_router_sends_is_refused(fields: dict[str, Any], message: str):
    executor, plans = started()
    with pytest.raises(PlanError) as error:
        executor.execute(plans(**fields))
    assert message in str(error.value)


def test_decodes_must_be_by_ascending_slot():
    executor, plans = started()
    executor.execute(plans(new=[new_sequence(0, [1], [5])], chunks=[(0, 1, 1, LAST)]))
    with pytest.raises(PlanError, match="ascending"):
        executor.execute(plans(decodes=[RIGHT, (0, 1, S)]))
