"""Halves of layers in one kernel call, and all of them in one, against the same halves op by op."""

from __future__ import annotations

import pytest
import torch

from forebay_kernels.ops.quantize_blocks import quantize_blocks
from forebay_worker.layers import loading
from forebay_worker.layers.attention import GroupedQueryAttention, JointlyNormedAttention
from forebay_worker.layers.fused_sublayers import FusedAttention, FusedLayers, FusedMlp
from forebay_worker.layers.mlp import ExactGeluMlp, GeluMlp, SwiGluMlp
from forebay_worker.layers.sublayers import AttentionAfterNorm, MlpAfterNorm
from forebay_worker.models import blocks
from forebay_worker.quantization.gguf import GgufLinear
from forebay_worker.quantization.registry import linear_method
from forebay_worker.quantization.unquantized import float_tensor
from forebay_worker.weights.stored import STORAGE_TYPES, StoredTensor

from ..models.tiny_configs import TINY, TINY_CONFIGS  # noqa: TID252 (tests share configurations)

Q8_0 = STORAGE_TYPES["Q8_0"]
# Families with a half that has no fused form: layer norms, experts, norms after the halves, halves side by side.
NOT_FUSED = {
    "CohereForCausalLM": (GroupedQueryAttention, SwiGluMlp),
    "Cohere2ForCausalLM": (GroupedQueryAttention, SwiGluMlp),
    "PhiForCausalLM": (GroupedQueryAttention, GeluMlp),
    "FalconForCausalLM": (GroupedQueryAttention, ExactGeluMlp),
    "GPTNeoXForCausalLM": (GroupedQueryAttention, ExactGeluMlp),
    "GPT2LMHeadModel": (AttentionAfterNorm, MlpAfterNorm),
    "Olmo2ForCausalLM": (JointlyNormedAttention, SwiGluMlp),
    "Starcoder2ForCausalLM": (AttentionAfterNorm, MlpAfterNorm),
    "MixtralForCausalLM": (FusedAttention, MlpAfterNorm),
    "Qwen2MoeForCausalLM": (FusedAttention, MlpAfterNorm),
    "Qwen3MoeForCausalLM": (FusedAttention, MlpAfterNorm),
}
VARIANTS = {
    **{name: (name, fields) for name, fields in TINY_CONFIGS.items()},
    "biases": ("LlamaForCausalLM", {**TINY, "attention_bias": True, "mlp_bias": True}),
}
PROMPTS = [[5, 99, 3, 64, 27, 0, 100, 41, 8, 15], [7], [33, 2, 1, 88, 61, 17, 4]]


def quantized(segment: StoredTensor) -> StoredTensor:
    values = float_tensor(segment, torch.float32, torch.device("cpu"))
    blocks = quantize_blocks(values, Q8_0.name).numpy()
    return StoredTensor(segment.name, Q8_0, segment.num_columns, blocks)


@pytest.fixture
def quantize_on_load(monkeypatch):
    """Every float matrix whose rows divide into blocks is held in 8 bits: all families, without a file of each."""

    def method(segments, dtype, device, **options):
        if segments[0].num_columns % Q8_0.block_size:
            return linear_method(segments, dtype, device, **options)
        return GgufLinear([quantized(segment) for segment in segments], dtype, device)

    monkeypatch.setattr(loading, "linear_method", method)


def logits(stepper) -> torch.Tensor:
    """Prompts together, then decodes beside a chunk of one more."""
    first = stepper.step(list(enumerate(PROMPTS)))
    second = stepper.step([(0, [11]), (1, [50]), (3, PROMPTS[0])])
    return torch.cat((first, second, stepper.step([(2, [9])])))


@pytest.mark.parametrize("variant", VARIANTS)
def test_fused_halves_give_the_logits_of_single_ops_to_the_bit(
    make_folder, load, monkeypatch, quantize_on_load, variant
):
    architecture, fields = VARIANTS[variant]
    folder, _ = make_folder(architecture, fields)
    fused = load(folder, attention="paged")
    block = fused.model.decoder._blocks[0]
    assert (type(block._attention), type(block._mlp)) == NOT_FUSED.get(architecture, (FusedAttention, FusedMlp))
    # A bias of the last product is added outside of the kernel, and every fourth layer of SmolLM3 is not rotary.
    is_one_call = variant not in {*NOT_FUSED, "biases", "SmolLM3ForCausalLM"}
    assert isinstance(fused.model.decoder._layers, FusedLayers) == is_one_call
    monkeypatch.setattr(blocks, "attention_after", AttentionAfterNorm)
    monkeypatch.setattr(blocks, "mlp_after", MlpAfterNorm)
    single = load(folder, attention="paged")
    assert single.model.decoder._layers is None
    assert torch.equal(logits(fused), logits(single))


def test_the_reference_backend_and_half_precision_are_served_op_by_op(make_folder, load, quantize_on_load):
    folder, _ = make_folder("LlamaForCausalLM", TINY)
    for changes in ({"attention": "sdpa"}, {"attention": "paged", "dtype": "bfloat16"}):
        block = load(folder, **changes).model.decoder._blocks[0]
        assert type(block._attention) is AttentionAfterNorm
        assert (type(block._mlp) is MlpAfterNorm) == ("dtype" in changes)
