"""Every registered family with `deterministic`: a token's logits are the same to the bit, whatever its step holds."""

from __future__ import annotations

import pytest
import torch

from forebay_kernels.native import force_torch

from .test_families import prompt
from .tiny_configs import VARIANTS

PROMPTS = [prompt(length, seed=length) for length in (70, 1, 33, 45)]


def alone(stepper) -> torch.Tensor:
    """Each prompt token by token, as decodes."""
    return torch.cat([stepper.step([(s, [token])]) for s, ids in enumerate(PROMPTS) for token in ids])


def in_company(stepper) -> torch.Tensor:
    """All prompts at once, in chunks of uneven lengths; the logits in the order of `alone`."""
    found = [[] for _ in PROMPTS]
    for start, stop in ((0, 1), (1, 18), (18, 70)):
        rows = [(s, ids[start:stop]) for s, ids in enumerate(PROMPTS) if ids[start:stop]]
        parts = stepper.step(rows).split([len(ids) for _, ids in rows])
        for (s, _), part in zip(rows, parts, strict=True):
            found[s].append(part)
    return torch.cat([part for parts in found for part in parts])


HALF_WIDTH = ["LlamaForCausalLM", "GPT2LMHeadModel", "Qwen2MoeForCausalLM"]


@pytest.mark.parametrize(
    ("variant", "dtype"),
    [(variant, "float32") for variant in VARIANTS]
    + [(variant, dtype) for variant in HALF_WIDTH for dtype in ("bfloat16", "float16")],
)
def test_logits_are_bit_equal_alone_and_in_company(make_folder, load, variant, dtype):
    folder, _ = make_folder(*VARIANTS[variant])
    options = {"attention": "paged", "deterministic": True, "dtype": dtype}
    assert torch.equal(alone(load(folder, **options)), in_company(load(folder, **options)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"attention": "batched"}, "attention `batched` depends on the step; set it to auto or paged"),
        ({"attention": "sdpa"}, "attention `sdpa` depends on the step"),
    ],
)
def test_what_is_not_deterministic_is_refused_by_name(make_folder, load, changes, message):
    folder, _ = make_folder(*VARIANTS["LlamaForCausalLM"])
    with pytest.raises(ValueError, match=message):
        load(folder, deterministic=True, **changes)


def test_torchs_operators_are_refused(make_folder, load):
    folder, _ = make_folder(*VARIANTS["LlamaForCausalLM"])
    with force_torch(), pytest.raises(ValueError, match="unset disable_custom_kernels"):
        load(folder, deterministic=True, attention="auto")
