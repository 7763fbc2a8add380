"""The kernel's backend against the reference, and the choice between them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from forebay_kernels import force_torch
from forebay_worker.attention import row_groups
from forebay_worker.attention.backend import AttentionMetadata, AttentionParameters, AttentionStep
from forebay_worker.attention.cpu_paged import CpuPaged
from forebay_worker.attention.rotation import Rotation
from forebay_worker.attention.row_groups import group_rows
from forebay_worker.attention.select import select_backend
from forebay_worker.attention.torch_batched import TorchBatched
from forebay_worker.attention.torch_sdpa import TorchSdpa, attend
from forebay_worker.kv_cache import LayerKvCache

BLOCK_SIZE, NUM_BLOCKS, HEAD_DIM = 4, 24, 16

# (tokens before this step, tokens in it) of each row: a whole prompt, a chunk, decodes.
ROWS = [(0, 9), (5, 7), (11, 1), (0, 1), (16, 4)]


def metadata(rows) -> AttentionMetadata:
    order = torch.randperm(NUM_BLOCKS - 1, generator=torch.Generator().manual_seed(1)) + 1
    widest = max(-(-(before + new) // BLOCK_SIZE) for before, new in rows)
    tables = torch.zeros(len(rows), widest, dtype=torch.int32)
    slots, taken = [], 0
    for row, (before, new) in enumerate(rows):
        count = -(-(before + new) // BLOCK_SIZE)
        tables[row, :count] = order[taken : taken + count]
        taken += count
        slots += [
            int(tables[row, position // BLOCK_SIZE]) * BLOCK_SIZE + position % BLOCK_SIZE
            for position in range(before, before + new)
        ]
    lens = torch.tensor([new for _, new in rows])
    return AttentionMetadata(
        block_tables_SB=tables,
        context_lens_S=torch.tensor([before + new for before, new in rows], dtype=torch.int32),
        cu_seqlens_q_S1=torch.cat((torch.zeros(1), lens.cumsum(0))).int(),
        slot_mapping_T=torch.tensor(slots),
        block_size=BLOCK_SIZE,
        host_query_lens_S=lens.numpy(),
        host_context_lens_S=np.array([before + new for before, new in rows]),
    )


PLAIN = AttentionParameters(scale=HEAD_DIM**-0.5)


def outputs(backends, num_kv_heads, cache_dtype, parameters, rotary_dim, rows=ROWS):
    """Each backend's output, and its cache; `rotary_dim` 0: no rotation."""
    generator = torch.Generator().manual_seed(0)
    shape = (NUM_BLOCKS, num_kv_heads, BLOCK_SIZE, HEAD_DIM)
    start = [torch.randn(shape, generator=generator).to(cache_dtype) for _ in range(2)]
    caches = [LayerKvCache(start[0].clone(), start[1].clone()) for _ in backends]
    step = metadata(rows)
    num_tokens = int(step.cu_seqlens_q_S1[-1])
    heads = torch.randn(num_tokens, 6 + 2 * num_kv_heads, HEAD_DIM, generator=generator)
    positions = torch.cat([torch.arange(before, before + new) for before, new in rows])
    angles = torch.arange(64.0)[:, None] * torch.rand(rotary_dim // 2, generator=generator)
    table = torch.cat((angles.cos(), angles.sin()), dim=1)
    rotation = Rotation(table, positions, torch.float32) if rotary_dim else None
    outs = []
    for backend, cache in zip(backends, caches, strict=True):
        q, k, v = heads.clone().split((6, num_kv_heads, num_kv_heads), dim=1)
        outs.append(backend.forward(q, k, v, cache, AttentionStep(rotation, step), parameters))
    return outs, caches


@pytest.mark.parametrize("cache_dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("num_kv_heads", [1, 2, 6])
@pytest.mark.parametrize("rotary_dim", [HEAD_DIM, HEAD_DIM // 4, 0])
@pytest.mark.parametrize("parameters", [PLAIN, AttentionParameters(0.25, window=5, softcap=1.5)])
def test_the_kernel_agrees_with_the_reference(num_kv_heads, cache_dtype, rotary_dim, parameters):
    outs, caches = outputs((CpuPaged(), TorchSdpa()), num_kv_heads, cache_dtype, parameters, rotary_dim)
    torch.testing.assert_close(caches[0].key, caches[1].key, atol=1e-6, rtol=torch.finfo(cache_dtype).eps)
    assert torch.equal(caches[0].value, caches[1].value)
    # Both work in float32; the order of sums differs, and a rotated key may round to its neighbour in the cache.
    torch.testing.assert_close(
        outs[0], outs[1], atol=2e-5 if cache_dtype == torch.float32 else torch.finfo(cache_dtype).eps, rtol=0
    )


# Batches that the batched backend makes of them: decodes alone, whole prompts alone, one of each, many of all.
MIXTURES = {
    "decodes": [(11, 1), (3, 1), (0, 1)],
    "prompts": [(0, 9), (0, 12), (0, 16)],
    "one prompt": [(0, 8)],
    "one chunk": [(6, 5)],
    "mixed": ROWS,
}


@pytest.mark.parametrize("rows", MIXTURES.values(), ids=MIXTURES)
@pytest.mark.parametrize("num_kv_heads", [1, 2, 6])
@pytest.mark.parametrize("rotary_dim", [HEAD_DIM, 0])
@pytest.mark.parametrize("window", [0, 1, 5, 30])
@pytest.mark.parametrize("softcap", [0.0, 1.5])
def test_batches_of_rows_agree_with_rows_one_by_one(rows, num_kv_heads, rotary_dim, window, softcap):
    parameters = AttentionParameters(0.25, window, softcap)
    backends = (TorchBatched(), TorchSdpa())
    outs, caches = outputs(backends, num_kv_heads, torch.float32, parameters, rotary_dim, rows)
    assert torch.equal(caches[0].key, caches[1].key) and torch.equal(caches[0].value, caches[1].value)
    torch.testing.assert_close(outs[0], outs[1], atol=2e-5, rtol=0)


@pytest.mark.parametrize("cache_dtype", [torch.float16, torch.bfloat16], ids=str)
def test_batches_of_rows_read_a_cache_of_half_precision(cache_dtype):
    outs, _ = outputs((TorchBatched(), TorchSdpa()), 2, cache_dtype, PLAIN, HEAD_DIM)
    torch.testing.assert_close(outs[0], outs[1], atol=2e-5, rtol=0)


def test_batches_of_rows_are_split_where_their_keys_would_take_too_much(monkeypatch):
    monkeypatch.setattr(row_groups, "MAX_GATHERED_TOKENS", 2 * 12)
    rows = [(11, 1), (3, 1), (0, 1), (9, 1), (10, 1)]
    groups = metadata(rows).row_groups
    assert [group.tokens_GQ.flatten().tolist() for group in groups] == [[0, 1], [2, 3], [4]]
    outs, _ = outputs((TorchBatched(), TorchSdpa()), 2, torch.float32, PLAIN, HEAD_DIM, rows)
    torch.testing.assert_close(outs[0], outs[1], atol=2e-5, rtol=0)


def test_rows_are_batched_with_rows_of_like_length():
    few, many = np.array([1, 1, 1, 2, 300, 9, 1]), np.array([200, 256, 257, 2, 300, 400, 500])
    tables = torch.zeros(few.size, 32, dtype=torch.int32)
    groups = group_rows(few, many, tables, 16)
    tokens = sorted(group.tokens_GQ.tolist() for group in groups)
    starts = np.cumsum(few) - few
    assert [[row[0] for row in group] for group in tokens] == [
        [starts[0], starts[1]], [starts[2], starts[6]], [starts[3]], [starts[4]], [starts[5]],
    ]  # fmt: skip
    assert [group.max_context_len for group in groups if group.starts_at_zero] == [2, 300]
    assert all(group.block_tables_GB.shape[1] == -(-group.max_context_len // 16) for group in groups)


def test_a_step_of_decodes_is_one_batch_as_it_lies():
    (group,) = metadata([(11, 1), (3, 1), (0, 1)]).row_groups
    assert group.is_whole and group.tokens_GQ.tolist() == [[0], [1], [2]]
    (group,) = metadata([(11, 2), (3, 2)]).row_groups
    assert group.is_whole and group.positions_GQ.tolist() == [[11, 12], [3, 4]]


@pytest.mark.parametrize("window", [0, 1, 4, 5, 30])
@pytest.mark.parametrize("softcap", [0.0, 1.5])
def test_the_reference_is_attention_written_out(window, softcap):
    generator = torch.Generator().manual_seed(2)
    heads, kv_heads, queries, context = 4, 2, 3, 11
    q_HQD = torch.randn(heads, queries, HEAD_DIM, generator=generator)
    k_KCD, v_KCD = torch.randn(2, kv_heads, context, HEAD_DIM, generator=generator)
    parameters = AttentionParameters(0.5, window, softcap)
    actual = attend(q_HQD, k_KCD, v_KCD, parameters)
    for head in range(heads):
        for query in range(queries):
            position = context - queries + query
            first = max(0, position - window + 1) if window else 0
            scores = 0.5 * k_KCD[head // 2, first : position + 1] @ q_HQD[head, query]
            scores = softcap * torch.tanh(scores / softcap) if softcap else scores
            expected = scores.softmax(0) @ v_KCD[head // 2, first : position + 1]
            torch.testing.assert_close(actual[head, query], expected, atol=1e-5, rtol=0)


def test_auto_takes_the_kernel_on_cpu_and_batches_by_torch_elsewhere():
    assert select_backend("auto", torch.device("cpu"), torch.float32).name == "paged"
    assert select_backend("auto", torch.device("cpu"), torch.float64).name == "batched"
    assert select_backend("auto", torch.device("cuda"), torch.bfloat16).name == "batched"
    assert select_backend("batched", torch.device("cpu"), torch.float32).name == "batched"
    assert select_backend("sdpa", torch.device("cpu"), torch.float32).name == "sdpa"
    with force_torch():
        assert select_backend("auto", torch.device("cpu"), torch.float32).name == "batched"


def test_a_backend_that_cannot_be_is_refused():
    with pytest.raises(ValueError, match=r"attention is `paged`, but the kernel is for cpu and the device is `cuda`"):
        select_backend("paged", torch.device("cuda"), torch.float32)
    with pytest.raises(ValueError, match=r"attention is `flash`, expected auto, paged, batched or sdpa"):
        select_backend("flash", torch.device("cpu"), torch.float32)
