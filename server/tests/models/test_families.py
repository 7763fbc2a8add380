"""Every registered family against transformers, on random weights in float32."""

from __future__ import annotations

import pytest
import safetensors.torch
import torch

from forebay_worker.distributed.groups import ProcessGroup
from forebay_worker.layers.loading import LayerLoader
from forebay_worker.layers.norm import UnitOffsetRmsNorm
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


@pytest.mark.parametrize("attention", ["sdpa", "paged"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("architecture", TINY_CONFIGS)
def test_half_precision_is_as_near_to_float32_as_transformers_is(make_folder, load, architecture, dtype, attention):
    folder, reference = make_folder(architecture, TINY_CONFIGS[architecture], dtype)
    stepper = load(folder, attention=attention)
    assert stepper.model.dtype == dtype
    ids = prompt(33)
    actual = stepper.step([(0, ids)])
    with torch.inference_mode():
        theirs = reference(torch.tensor([ids])).logits[0].float()
        exact = reference.float()(torch.tensor([ids])).logits[0]

    def distance(one: torch.Tensor, other: torch.Tensor) -> float:
        """Of the median token: rounding may send some to another expert."""
        return ((one - other).norm(dim=-1) / exact.norm(dim=-1)).median().item()

    # Some twenty roundings follow each other in two layers; outputs of norms are a few times larger than their inputs.
    assert distance(actual, theirs) < 8 * torch.finfo(dtype).eps
    assert distance(actual, exact) < 1.25 * distance(theirs, exact)


def test_gemmas_norm_adds_one_to_its_weight_before_it_rounds(make_folder):
    # The sum of 1 and a small difference, rounded to bfloat16, would lose the difference's last bits.
    folder, reference = make_folder("Gemma2ForCausalLM", TINY_CONFIGS["Gemma2ForCausalLM"], torch.bfloat16)
    checkpoint = open_model(folder).checkpoint()
    loader = LayerLoader(checkpoint, ProcessGroup(), torch.bfloat16)
    x_TD = torch.randn(200, 64, generator=torch.Generator().manual_seed(4)).bfloat16()
    expected_TD = reference.model.norm(x_TD)
    actual_TD = UnitOffsetRmsNorm(loader, "norm", 64, 1e-6)(x_TD, None)[0]
    # One unit in the last place, where float32 sums in another order fall on the other side of a middle.
    torch.testing.assert_close(actual_TD, expected_TD, atol=0, rtol=2**-7)
    assert (actual_TD == expected_TD).float().mean() > 0.999


@pytest.mark.parametrize("prefix", ["language_model.", "model.language_model."])
def test_the_text_part_of_a_multimodal_model_is_found_under_either_prefix(make_folder, load, prefix):
    folder, _ = make_folder("Gemma3ForConditionalGeneration", TINY_CONFIGS["Gemma3ForConditionalGeneration"])
    expected = load(folder).step([(0, prompt(20))])
    tensors = safetensors.torch.load_file(folder / "model.safetensors")
    (old,) = {name.partition("layers")[0] for name in tensors if ".layers.0.mlp.gate_proj" in name}
    new = prefix + "model." if prefix == "language_model." else prefix
    renamed = {name.replace(old, new): tensor for name, tensor in tensors.items()}
    safetensors.torch.save_file(renamed, folder / "model.safetensors", {"format": "pt"})
    assert any(name.startswith(new) for name in renamed)
    assert any("vision_tower" in name for name in renamed)
    assert torch.equal(load(folder).step([(0, prompt(20))]), expected)
