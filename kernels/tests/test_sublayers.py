"""Whole layers in one call against their halves one by one, and against the references."""

import pytest
import torch

from forebay_kernels import _native
from forebay_kernels.ops.attention_sublayer import AttentionSublayer, AttentionWeights
from forebay_kernels.ops.mlp_sublayer import MlpSublayer, MlpWeights
from forebay_kernels.ops.quantize_blocks import quantize_blocks
from forebay_kernels.ops.quantized_linear import PackedWeight, pack
from forebay_kernels.ops.rms_norm import rms_norm
from forebay_kernels.ops.sublayers import AttentionMemory, Half, OutputNorm, Sublayers, sublayers_reference

WIDTH, INNER, HEAD_DIM, NUM_HEADS, NUM_KV_HEADS = 256, 384, 32, 6, 2
NUM_LAYERS, NUM_BLOCKS, BLOCK_SIZE = 3, 64, 16


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def packed(num_rows: int, num_columns: int, seed: int) -> PackedWeight:
    return pack([(quantize_blocks(noise(num_rows, num_columns, seed=seed) * 0.1, "Q8_0"), "Q8_0")], num_columns)


def layers(output_step: OutputNorm | float | None) -> list[Half]:
    halves = []
    for layer in range(NUM_LAYERS):
        seed = 10 * layer
        attention = AttentionWeights(
            norm_weight_D=noise(WIDTH, seed=seed + 1),
            norm_eps=1e-5,
            qkv=packed((NUM_HEADS + 2 * NUM_KV_HEADS) * HEAD_DIM, WIDTH, seed + 2),
            qkv_bias=None,
            head_norm_weights=None,
            output=packed(WIDTH, NUM_HEADS * HEAD_DIM, seed + 3),
            scale=0.2,
            window=70 * (layer % 2),
        )
        mlp = MlpWeights(
            norm_weight_D=noise(WIDTH, seed=seed + 4),
            norm_eps=1e-5,
            gate_up=packed(2 * INNER, WIDTH, seed + 5),
            gate_up_bias=None,
            kind="silu",
            down=packed(WIDTH, INNER, seed + 6),
        )
        halves += [Half(AttentionSublayer(attention), output_step), Half(MlpSublayer(mlp), output_step)]
    return halves


class Step:
    """Two sequences, the first of them far on; a cache and a table of angles a layer."""

    def __init__(self) -> None:
        self.positions_T = torch.tensor([200, 0, 1, 2])
        self.tables_SB = torch.arange(32, dtype=torch.int32).view(2, 16)
        self.slots_T = torch.tensor([12 * 16 + 8, 256, 257, 258])
        self.context_lens_S = torch.tensor([201, 3], dtype=torch.int32)
        self.cu_seqlens_S1 = torch.tensor([0, 1, 4], dtype=torch.int32)
        self.x_TD, self.residual_TD = noise(4, WIDTH, seed=100), noise(4, WIDTH, seed=101)
        shape = (NUM_BLOCKS, NUM_KV_HEADS, BLOCK_SIZE, HEAD_DIM)
        self.memory = [
            AttentionMemory(noise(256, HEAD_DIM, seed=50 + layer), noise(*shape, seed=60), noise(*shape, seed=70))
            for layer in range(NUM_LAYERS)
        ]

    def rows(self) -> tuple[torch.Tensor, ...]:
        return (self.tables_SB, self.context_lens_S, self.cu_seqlens_S1)

    def places(self) -> tuple[torch.Tensor, ...]:
        return (self.positions_T, self.slots_T, *self.rows())


STEPS = {"plain": None, "norm": OutputNorm(noise(WIDTH, seed=99), 1e-6), "scale": 0.22}


@pytest.mark.parametrize("with_residual", [False, True])
@pytest.mark.parametrize("output_step", STEPS.values(), ids=STEPS)
def test_one_call_equals_its_halves_one_by_one_to_the_bit(instruction_set, output_step, with_residual):
    halves, fused, single = layers(output_step), Step(), Step()
    residual_TD = fused.residual_TD if with_residual else None
    got = Sublayers(halves)(fused.x_TD, residual_TD, *fused.places(), fused.memory)
    out_TD, sum_TD, memory = single.x_TD, residual_TD, iter(single.memory)
    for half in halves:
        if isinstance(half.kernel, AttentionSublayer):
            of_layer = next(memory)
            places = (of_layer.cos_sin_cache_PR, single.positions_T, of_layer.key_cache, of_layer.value_cache)
            out_TD, sum_TD = half.kernel(out_TD, sum_TD, *places, single.slots_T, *single.rows())
        else:
            out_TD, sum_TD = half.kernel(out_TD, sum_TD)
        if isinstance(output_step, OutputNorm):
            out_TD, _ = rms_norm(out_TD, output_step.weight_D, output_step.eps)
        elif output_step is not None:
            out_TD = out_TD * output_step
    assert torch.equal(got[0], out_TD)
    assert torch.equal(got[1], sum_TD)
    for of_fused, of_single in zip(fused.memory, single.memory, strict=True):
        assert torch.equal(of_fused.key_cache, of_single.key_cache)
        assert torch.equal(of_fused.value_cache, of_single.value_cache)


def test_it_matches_the_references(instruction_set):
    halves, fused, plain = layers(STEPS["norm"]), Step(), Step()
    got = Sublayers(halves)(fused.x_TD, None, *fused.places(), fused.memory)
    expected = sublayers_reference(plain.x_TD, None, *plain.places(), plain.memory, halves)
    # Activations are rounded to 16 bits, of values that differ by float32 sums; six halves add it up.
    torch.testing.assert_close(got, expected, rtol=5e-3, atol=2e-2)


def test_results_do_not_depend_on_threads():
    halves, before = layers(None), torch.get_num_threads()
    expected = Sublayers(halves)(Step().x_TD, None, *Step().places(), Step().memory)
    torch.set_num_threads(1)
    try:
        got = Sublayers(halves)(Step().x_TD, None, *Step().places(), Step().memory)
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(*pair) for pair in zip(got, expected, strict=True))


def test_wrong_arguments_are_refused_by_name():
    halves, step = layers(None), Step()
    kernel = Sublayers(halves)
    with pytest.raises(ValueError, match="`memory` has 2 entries, expected 3"):
        kernel(step.x_TD, None, *step.places(), step.memory[:2])
    # Tensors are compared in the order of their addresses, which is the allocator's to choose.
    with pytest.raises(ValueError, match=r"`(key|value)_cache` and `\1_cache` share memory"):
        kernel(step.x_TD, None, *step.places(), [step.memory[0]] * 3)
    with pytest.raises(ValueError, match="`output_norm` has 255 entries, expected 256"):
        Sublayers([Half(halves[1].kernel, OutputNorm(noise(WIDTH - 1), 1e-6))])(step.x_TD, None, *step.places(), [])
    with pytest.raises(ValueError, match="`sublayers` has 0 entries"):
        Sublayers([])(step.x_TD, None, *step.places(), [])
    with pytest.raises(TypeError, match="expected AttentionSublayer or MlpSublayer"):
        _native.Sublayers([(kernel, None, 0.0, None)])  # type: ignore[list-item]
