import itertools

import pytest
import torch

from forebay_kernels.ops.kv_cache import write_kv_cache, write_kv_cache_reference
from forebay_kernels.ops.paged_attention import paged_attention, paged_attention_reference

BLOCK_SIZE = 16


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def batch(lengths: list[tuple[int, int]], num_blocks: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Block tables, context lengths and query offsets of sequences given as (queries, context)."""
    free = torch.randperm(num_blocks, generator=torch.Generator().manual_seed(1)).int()
    widest = max(-(-context // BLOCK_SIZE) for _, context in lengths)
    tables_SB = torch.full((len(lengths), widest), -1, dtype=torch.int32)
    for s, (_, context) in enumerate(lengths):
        used = -(-context // BLOCK_SIZE)
        tables_SB[s, :used], free = free[:used], free[used:]
    starts = torch.tensor([0] + [queries for queries, _ in lengths]).cumsum(0).int()
    return tables_SB, torch.tensor([context for _, context in lengths], dtype=torch.int32), starts


def caches(num_kv_heads: int, head_dim: int, dtype: torch.dtype, num_blocks: int = 128) -> list[torch.Tensor]:
    shape = (num_blocks, num_kv_heads, BLOCK_SIZE, head_dim)
    return [noise(*shape, seed=seed).to(dtype) for seed in (2, 3)]


MIXED = [(1, 1), (1, 300), (5, 5), (70, 70), (33, 200), (1, 64), (64, 128), (1, 65)]


@pytest.mark.parametrize("cache_dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("heads", [(9, 3, 64), (4, 4, 32), (8, 1, 80), (2, 1, 128), (40, 1, 24), (6, 2, 20)])
def test_chunks_and_decodes_in_one_call_match_the_reference(instruction_set, heads, cache_dtype):
    num_heads, num_kv_heads, head_dim = heads
    key_cache, value_cache = caches(num_kv_heads, head_dim, cache_dtype)
    tables_SB, contexts_S, starts_S1 = batch(MIXED, 128)
    q_THD = noise(int(starts_S1[-1]), num_heads, head_dim, seed=4)
    args = (q_THD, key_cache, value_cache, tables_SB, contexts_S, starts_S1, head_dim**-0.5)
    # Both compute in float32 from the same cache values; only the order of sums and exp's last bits differ.
    torch.testing.assert_close(paged_attention(*args), paged_attention_reference(*args), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("window", "softcap"), [(1, 0.0), (16, 0.0), (100, 0.0), (4096, 30.0), (37, 2.0)])
@pytest.mark.parametrize("head_dim", [64, 20])
def test_windows_and_soft_caps_match_the_reference(instruction_set, window, softcap, head_dim):
    key_cache, value_cache = caches(3, head_dim, torch.float32)
    tables_SB, contexts_S, starts_S1 = batch(MIXED, 128)
    q_THD = noise(int(starts_S1[-1]), 6, head_dim, seed=4)
    args = (q_THD, key_cache, value_cache, tables_SB, contexts_S, starts_S1, 0.3)
    got_THD = paged_attention(*args, window=window, softcap=softcap)
    expected_THD = paged_attention_reference(*args, window=window, softcap=softcap)
    # As above; tanh's last bits are scaled by the cap.
    torch.testing.assert_close(got_THD, expected_THD, rtol=1e-5, atol=2e-5)


def test_blocks_before_the_window_are_not_read(instruction_set):
    key_cache, value_cache = caches(1, 64, torch.bfloat16, num_blocks=25)
    tables_SB = torch.arange(25, dtype=torch.int32)[None]
    args = (torch.tensor([400]).int(), torch.tensor([0, 3]).int(), 0.125)
    q_THD = noise(3, 2, 64)
    before_THD = paged_attention(q_THD, key_cache, value_cache, tables_SB, *args, window=20)
    # The first query, at 397, sees from 378 on, which lies in block 23.
    tables_SB[0, :23] = -1
    key_cache[:23], value_cache[:23] = float("nan"), float("nan")
    assert torch.equal(paged_attention(q_THD, key_cache, value_cache, tables_SB, *args, window=20), before_THD)
    reference_THD = paged_attention_reference(q_THD, key_cache, value_cache, tables_SB, *args, window=20)
    torch.testing.assert_close(reference_THD, before_THD, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_queries_give_the_rounded_float32_result(instruction_set, dtype):
    key_cache, value_cache = caches(3, 64, dtype)
    metadata = batch(MIXED, 128)
    q_THD = noise(int(metadata[2][-1]), 9, 64, seed=4).to(dtype)
    out_THD = paged_attention(q_THD, key_cache, value_cache, *metadata, 0.125)
    assert out_THD.dtype == dtype
    exact_THD = paged_attention(q_THD.float(), key_cache, value_cache, *metadata, 0.125)
    assert torch.equal(out_THD, exact_THD.to(dtype))


@pytest.mark.parametrize("options", [{}, {"window": 90, "softcap": 20.0}])
def test_a_chunked_prompt_is_bit_equal_to_a_whole_one(instruction_set, options):
    key_cache, value_cache = caches(3, 64, torch.bfloat16)
    q_THD = noise(600, 9, 64, seed=4)
    tables_SB, _, _ = batch([(600, 600)], 128)

    def part(start: int, end: int) -> torch.Tensor:
        contexts_S, starts_S1 = torch.tensor([end]).int(), torch.tensor([0, end - start]).int()
        metadata = (tables_SB, contexts_S, starts_S1)
        return paged_attention(q_THD[start:end], key_cache, value_cache, *metadata, 0.125, **options)

    whole_THD = part(0, 600)
    cuts = [0, 1, 2, 63, 64, 65, 250, 257, 512, 599, 600]
    chunks_THD = torch.cat([part(start, end) for start, end in itertools.pairwise(cuts)])
    assert torch.equal(whole_THD, chunks_THD)


def test_a_sequence_is_bit_equal_alone_and_among_others(instruction_set):
    key_cache, value_cache = caches(3, 64, torch.float32)
    tables_SB, contexts_S, starts_S1 = batch(MIXED, 128)
    q_THD = noise(int(starts_S1[-1]), 9, 64, seed=4)
    together_THD = paged_attention(q_THD, key_cache, value_cache, tables_SB, contexts_S, starts_S1, 0.125)
    for s in range(len(MIXED)):
        start, end = int(starts_S1[s]), int(starts_S1[s + 1])
        offsets_2 = torch.tensor([0, end - start]).int()
        alone_THD = paged_attention(
            q_THD[start:end], key_cache, value_cache, tables_SB[s : s + 1], contexts_S[s : s + 1], offsets_2, 0.125
        )
        assert torch.equal(alone_THD, together_THD[start:end])


def test_queries_may_be_part_of_a_fused_projection(instruction_set):
    key_cache, value_cache = caches(3, 64, torch.float32)
    metadata = batch([(7, 40)], 128)
    fused_TX = noise(7, 15 * 64, seed=5)
    q_THD = fused_TX[:, : 9 * 64].view(7, 9, 64)
    out_THD = paged_attention(q_THD, key_cache, value_cache, *metadata, 0.125)
    assert torch.equal(out_THD, paged_attention(q_THD.contiguous(), key_cache, value_cache, *metadata, 0.125))


def test_cache_beyond_the_context_is_not_seen(instruction_set):
    key_cache, value_cache = caches(1, 64, torch.float32, num_blocks=4)
    tables_SB = torch.tensor([[2, 0]], dtype=torch.int32)
    contexts_S, starts_S1 = torch.tensor([20]).int(), torch.tensor([0, 20]).int()
    q_THD = noise(20, 2, 64)
    expected_THD = paged_attention(q_THD, key_cache, value_cache, tables_SB, contexts_S, starts_S1, 0.1)
    for cache in (key_cache, value_cache):
        cache[0, :, 4:] = float("nan")
        cache[[1, 3]] = float("nan")
    assert torch.equal(
        paged_attention(q_THD, key_cache, value_cache, tables_SB, contexts_S, starts_S1, 0.1), expected_THD
    )


def test_wrong_arguments_are_refused_by_name():
    key_cache, value_cache = caches(2, 64, torch.float32, num_blocks=4)
    tables_SB, contexts_S, starts_S1 = batch([(3, 30)], 4)
    q_THD = noise(3, 4, 64)

    def call(**changed: torch.Tensor) -> None:
        args = {"q": q_THD, "tables": tables_SB, "contexts": contexts_S, "starts": starts_S1, "keys": key_cache}
        args.update(changed)
        paged_attention(args["q"], args["keys"], value_cache, args["tables"], args["contexts"], args["starts"], 0.125)

    for message, changed in {
        "`block_tables": {"tables": tables_SB + 4},
        "`block_tables` has 1": {"tables": tables_SB[:, :1]},
        "`context_lens`": {"contexts": torch.tensor([2]).int()},
        "`cu_seqlens_q`": {"starts": torch.tensor([0, 2]).int()},
        "`q` has": {"q": noise(3, 3, 64)},
        "`value_cache`": {"keys": key_cache[:2]},
        "`key_cache` of shape": {"keys": key_cache.transpose(0, 1).contiguous().transpose(0, 1)},
    }.items():
        with pytest.raises(ValueError, match=message):
            call(**changed)
    for options, message in (({"window": -1}, "`window` is `-1`"), ({"softcap": -2.0}, "`softcap` is `-2`")):
        with pytest.raises(ValueError, match=message):
            paged_attention(q_THD, key_cache, value_cache, tables_SB, contexts_S, starts_S1, 0.125, **options)
    with pytest.raises(TypeError, match="`context_lens` is int64"):
        call(contexts=contexts_S.long())


@pytest.mark.parametrize("cache_dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_keys_and_values_are_written_as_the_reference_writes_them(instruction_set, dtype, cache_dtype):
    key_TKD, value_TKD = noise(40, 3, 64, seed=6).to(dtype), noise(40, 3, 64, seed=7).to(dtype)
    key_TKD[0, 0, :4] = torch.tensor([float("nan"), float("inf"), 1e-40, 3e38])
    slots_T = torch.randperm(128 * BLOCK_SIZE, generator=torch.Generator().manual_seed(8))[:40]
    slots_T[5] = -1
    got, expected = caches(3, 64, cache_dtype), caches(3, 64, cache_dtype)
    write_kv_cache(key_TKD, value_TKD, *got, slots_T)
    write_kv_cache_reference(key_TKD, value_TKD, *expected, slots_T)
    for got_cache, expected_cache in zip(got, expected, strict=True):
        torch.testing.assert_close(got_cache, expected_cache, rtol=0, atol=0, equal_nan=True)


def test_a_slot_outside_the_cache_is_refused():
    key_cache, value_cache = caches(1, 8, torch.float32, num_blocks=2)
    with pytest.raises(ValueError, match=r"slot_mapping\[0\].*`32`"):
        write_kv_cache(noise(1, 1, 8), noise(1, 1, 8), key_cache, value_cache, torch.tensor([32]))
    with pytest.raises(ValueError, match="share memory"):
        write_kv_cache(noise(1, 1, 8), noise(1, 1, 8), key_cache, key_cache, torch.tensor([3]))
