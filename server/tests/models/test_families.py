"""Every registered family against transformers, on random weights in float32."""

from __future__ import annotations

import pytest
import torch

from forebay_worker.models.registry import FAMILIES
from forebay_worker.models.source import open_model
from forebay_worker.models.spec import resolve

from .tiny_configs import TINY_CONFIGS, VARIANTS

# Logits of these models spread over some tens; float32 sums of 64 terms in another order differ by a few 1e-6 of that.
ATOL = 1e-4


def prompt(length: int, seed: int = 1) -> list[int]:
    return torch.randint(0, 101, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


def test_every_registered_family_has_a_tiny_configuration():
    assert sorted(TINY_CONFIGS) == sorted(FAMILIES)


@pytest.fixture(scope="module", params=VARIANTS, ids=str)
def pair(request, make_folder):
    """(folder, transformers' model)"""
    return make_folder(*VARIANTS[request.param])


def test_logits_equal_those_of_transformers(pair, load):
    folder, reference = pair
    ids = prompt(45)
    with torch.inference_mode():
        expected = reference(torch.tensor([ids])).logits[0]
    for attention in ("sdpa", "batched", "paged"):
        logits = load(folder, attention=attention).step([(0, ids)])
        torch.testing.assert_close(logits, expected, atol=ATOL, rtol=0)


def test_greedy_tokens_equal_those_of_transformers(pair, load):
    folder, reference = pair
    ids = prompt(21, seed=2)
    reference.generation_config.pad_token_id = 0
    expected = reference.generate(
        torch.tensor([ids]),
        attention_mask=torch.ones(1, len(ids), dtype=torch.long),
        max_new_tokens=32,
        do_sample=False,
        eos_token_id=None,
    )[0, len(ids) :]
    assert load(folder).greedy(ids, 32) == expected.tolist()
    assert load(folder, attention="paged").greedy(ids, 32) == expected.tolist()


def test_a_prompt_in_chunks_gives_the_logits_of_the_whole(pair, load):
    folder, _ = pair
    ids = prompt(40, seed=3)
    whole, chunked = load(folder), load(folder)
    expected = whole.step([(0, ids)])
    parts = [chunked.step([(0, ids[start:stop])]) for start, stop in ((0, 7), (7, 23), (23, 24), (24, 40))]
    torch.testing.assert_close(torch.cat(parts), expected, atol=ATOL, rtol=0)


def test_rows_of_a_mixed_step_do_not_see_each_other(pair, load):
    folder, _ = pair
    first, second = prompt(30, seed=4), prompt(19, seed=5)
    alone, together = load(folder), load(folder)
    expected_first = alone.step([(0, first)])
    expected_second = alone.step([(1, second)])
    together.step([(0, first[:29]), (1, second[:3])])
    mixed = together.step([(0, first[29:]), (1, second[3:])])
    torch.testing.assert_close(mixed[:1], expected_first[29:], atol=ATOL, rtol=0)
    torch.testing.assert_close(mixed[1:], expected_second[3:], atol=ATOL, rtol=0)


def test_every_component_of_a_description_resolves(pair):
    spec = open_model(pair[0]).spec
    for component in (spec.embedding, spec.head, spec.block, spec.attention, spec.mlp, spec.norm):
        assert callable(resolve(component))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_runs_in_the_checkpoints_own_dtype(make_folder, load, dtype):
    folder, reference = make_folder("LlamaForCausalLM", TINY_CONFIGS["LlamaForCausalLM"], dtype)
    stepper = load(folder)
    assert stepper.model.dtype == dtype
    ids = prompt(33)
    with torch.inference_mode():
        expected = reference(torch.tensor([ids])).logits[0].float()
    # bfloat16 keeps 8 bits: logits of some tens differ by some tenths; most top-1 must still agree.
    actual = stepper.step([(0, ids)])
    assert (actual.argmax(-1) == expected.argmax(-1)).float().mean() > 0.9
