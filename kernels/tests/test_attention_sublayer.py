import dataclasses

import pytest
import torch

from forebay_kernels.ops.attention_sublayer import (
    AttentionSublayer,
    AttentionWeights,
    attention_sublayer_reference,
)
from forebay_kernels.ops.paged_attention import paged_attention
from forebay_kernels.ops.quantize_blocks import quantize_blocks
from forebay_kernels.ops.quantized_linear import PackedWeight, pack, quantized_linear
from forebay_kernels.ops.rms_norm import rms_norm
from forebay_kernels.ops.rotary import rotary_write_kv

WIDTH, HEAD_DIM, NUM_HEADS, NUM_KV_HEADS = 256, 32, 6, 2
NUM_BLOCKS, BLOCK_SIZE, TABLE_BLOCKS = 64, 16, 20
EVERYTHING = {"with_bias": True, "with_head_norms": True, "window": 70, "softcap": 20.0}


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def packed(rows: torch.Tensor) -> PackedWeight:
    return pack([(quantize_blocks(rows, "Q8_0"), "Q8_0")], rows.shape[1])


def weights(
    *, with_bias: bool = False, with_head_norms: bool = False, window: int = 0, softcap: float = 0.0
) -> AttentionWeights:
    qkv_width = (NUM_HEADS + 2 * NUM_KV_HEADS) * HEAD_DIM
    return AttentionWeights(
        norm_weight_D=noise(WIDTH, seed=1),
        norm_eps=1e-5,
        qkv=packed(noise(qkv_width, WIDTH, seed=2) * 0.1),
        qkv_bias=noise(qkv_width, seed=3) if with_bias else None,
        head_norm_weights=(noise(HEAD_DIM, seed=4), noise(HEAD_DIM, seed=5)) if with_head_norms else None,
        output=packed(noise(WIDTH, NUM_HEADS * HEAD_DIM, seed=6) * 0.1),
        scale=0.2,
        window=window,
        softcap=softcap,
    )


class Step:
    """Sequences of (computed before, new) tokens, their cache filled with noise."""

    def __init__(self, *sequences: tuple[int, int], cache_dtype: torch.dtype = torch.float16) -> None:
        tables = torch.randperm(NUM_BLOCKS, generator=torch.Generator().manual_seed(7))[: TABLE_BLOCKS * len(sequences)]
        self.tables_SB = tables.view(len(sequences), -1).int()
        pasts, news = (torch.tensor(column) for column in zip(*sequences, strict=True))
        self.context_lens_S = (pasts + news).int()
        self.cu_seqlens_S1 = torch.cat((torch.zeros(1), news.cumsum(0))).int()
        positions = [torch.arange(past, past + new) for past, new in sequences]
        self.positions_T = torch.cat(positions)
        slots = [
            table[position // BLOCK_SIZE].long() * BLOCK_SIZE + position % BLOCK_SIZE
            for table, position in zip(self.tables_SB, positions, strict=True)
        ]
        self.slots_T = torch.cat(slots)
        shape = (NUM_BLOCKS, NUM_KV_HEADS, BLOCK_SIZE, HEAD_DIM)
        self.caches = [noise(*shape, seed=seed).to(cache_dtype) for seed in (8, 9)]
        self.cos_sin_PR = noise(TABLE_BLOCKS * BLOCK_SIZE, HEAD_DIM, seed=10)
        self.x_TD = noise(self.positions_T.numel(), WIDTH, seed=11)
        self.residual_TD = noise(self.positions_T.numel(), WIDTH, seed=12)

    def arguments(self, *, with_residual: bool = True) -> tuple[torch.Tensor | None, ...]:
        residual_TD = self.residual_TD if with_residual else None
        rotary = (self.cos_sin_PR, self.positions_T, *self.caches, self.slots_T)
        return (self.x_TD, residual_TD, *rotary, self.tables_SB, self.context_lens_S, self.cu_seqlens_S1)


def one_after_another(step: Step, residual_TD: torch.Tensor | None, of: AttentionWeights) -> torch.Tensor:
    normed_TD, _ = rms_norm(step.x_TD, of.norm_weight_D, of.norm_eps, residual_TD)
    qkv = quantized_linear(normed_TD, of.qkv)
    if of.qkv_bias is not None:
        qkv += of.qkv_bias
    heads = qkv.unflatten(1, (-1, HEAD_DIM))
    q, k, v = heads.split((NUM_HEADS, NUM_KV_HEADS, NUM_KV_HEADS), dim=1)
    if of.head_norm_weights is not None:
        q, k = (
            rms_norm(part, weight, of.norm_eps)[0] for part, weight in zip((q, k), of.head_norm_weights, strict=True)
        )
    rotary_write_kv(q, k, v, step.cos_sin_PR, step.positions_T, *step.caches, step.slots_T)
    rows = (step.tables_SB, step.context_lens_S, step.cu_seqlens_S1)
    attended = paged_attention(q, *step.caches, *rows, of.scale, window=of.window, softcap=of.softcap)
    return quantized_linear(attended.flatten(1), of.output)


@pytest.mark.parametrize("cache_dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("options", [{}, EVERYTHING])
@pytest.mark.parametrize("sequences", [[(250, 1)], [(0, 90)], [(17, 1)] * 3, [(250, 1), (60, 30), (0, 1)]])
def test_it_equals_its_ops_to_the_bit(instruction_set, cache_dtype, options, sequences):
    of = weights(**options)
    fused, plain = (Step(*sequences, cache_dtype=cache_dtype) for _ in range(2))
    with_residual = not options
    expected = one_after_another(plain, plain.residual_TD if with_residual else None, of)
    out_TD, sum_TD = AttentionSublayer(of)(*fused.arguments(with_residual=with_residual))
    assert torch.equal(out_TD, expected)
    assert torch.equal(sum_TD, plain.x_TD + plain.residual_TD if with_residual else plain.x_TD)
    for got, wanted in zip(fused.caches, plain.caches, strict=True):
        assert torch.equal(got, wanted)


@pytest.mark.parametrize("options", [{}, EVERYTHING])
def test_it_matches_the_references(instruction_set, options):
    of = weights(**options)
    fused, plain = (Step((250, 1), (60, 30), (0, 1), cache_dtype=torch.float32) for _ in range(2))
    out_TD, sum_TD = AttentionSublayer(of)(*fused.arguments())
    expected_TD, expected_sum_TD = attention_sublayer_reference(*plain.arguments(), of)
    # Activations are rounded to 16 bits twice, of values that differ by float32 sums: an ulp of 16 bits here and there.
    torch.testing.assert_close(out_TD, expected_TD, rtol=1e-3, atol=2e-3)
    assert torch.equal(sum_TD, expected_sum_TD)
    for got, wanted in zip(fused.caches, plain.caches, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4)


def test_results_do_not_depend_on_threads_or_neighbours(instruction_set):
    kernel = AttentionSublayer(weights(**EVERYTHING))
    together = Step((250, 1), (60, 30), (0, 1))
    out_TD, _ = kernel(*together.arguments())
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        assert torch.equal(kernel(*Step((250, 1), (60, 30), (0, 1)).arguments())[0], out_TD)
    finally:
        torch.set_num_threads(before)
    alone = Step((250, 1), (60, 30), (0, 1))
    rows = (alone.tables_SB[:1], alone.context_lens_S[:1], alone.cu_seqlens_S1[:2])
    first = (alone.x_TD[:1], alone.residual_TD[:1], alone.cos_sin_PR, alone.positions_T[:1])
    assert torch.equal(kernel(*first, *alone.caches, alone.slots_T[:1], *rows)[0], out_TD[:1])


def test_wrong_arguments_are_refused_by_name():
    of, step = weights(), Step((3, 1))
    with pytest.raises(ValueError, match="`window`"):
        AttentionSublayer(dataclasses.replace(of, window=-1))
    kernel = AttentionSublayer(of)
    with pytest.raises(ValueError, match="`x`"):
        kernel(noise(1, WIDTH - 32), None, *step.arguments()[2:])
    with pytest.raises(TypeError, match="`x` is bfloat16"):
        kernel(step.x_TD.bfloat16(), None, *step.arguments()[2:])
    step.slots_T[0] = NUM_BLOCKS * BLOCK_SIZE
    with pytest.raises(ValueError, match=r"`slot_mapping\[0\]` is `1024`"):
        kernel(*step.arguments())
    step = Step((3, 1))
    step.caches[1] = step.caches[0]
    with pytest.raises(ValueError, match="share memory"):
        kernel(*step.arguments())
    step = Step((3, 1))
    step.positions_T = torch.tensor([3, 4])
    with pytest.raises(ValueError, match=r"`x` .*expected 2"):
        kernel(*step.arguments())
