"""The kernel's backend against the reference, and the choice between them."""

from __future__ import annotations

import pytest
import torch

from forebay_worker.attention.backend import AttentionMetadata, AttentionParameters, AttentionStep
from forebay_worker.attention.cpu_paged import CpuPaged
from forebay_worker.attention.rotation import Rotation
from forebay_worker.attention.select import select_backend
from forebay_worker.attention.torch_sdpa import TorchSdpa, attend
from forebay_worker.kv_cache import LayerKvCache

BLOCK_SIZE, NUM_BLOCKS, HEAD_DIM = 4, 24, 16

# (tokens before this step, tokens in it) of each row: a whole prompt, a chunk, decodes.
ROWS = [(0, 9), (5, 7), (11, 1), (0, 1), (16, 4)]


def metadata() -> AttentionMetadata:
    order = torch.randperm(NUM_BLOCKS - 1, generator=torch.Generator().manual_seed(1)) + 1
    widest = max(-(-(before + new) // BLOCK_SIZE) for before, new in ROWS)
    tables = torch.zeros(len(ROWS), widest, dtype=torch.int32)
    slots, taken = [], 0
    for row, (before, new) in enumerate(ROWS):
        count = -(-(before + new) // BLOCK_SIZE)
        tables[row, :count] = order[taken : taken + count]
        taken += count
        slots += [
            int(tables[row, position // BLOCK_SIZE]) * BLOCK_SIZE + position % BLOCK_SIZE
            for position in range(before, before + new)
        ]
    lens = torch.tensor([new for _, new in ROWS])
    return AttentionMetadata(
        block_tables_SB=tables,
        context_lens_S=torch.tensor([before + new for before, new in ROWS], dtype=torch.int32),
        cu_seqlens_q_S1=torch.cat((torch.zeros(1), lens.cumsum(0))).int(),
        slot_mapping_T=torch.tensor(slots),
        max_query_len=int(lens.max()),
        max_context_len=max(before + new for before, new in ROWS),
    )


PLAIN = AttentionParameters(scale=HEAD_DIM**-0.5)


def both_backends(num_kv_heads, cache_dtype, parameters, rotary_dim):
    """(the kernel's output, the reference's), and their caches; `rotary_dim` 0: no rotation."""
    generator = torch.Generator().manual_seed(0)
    shape = (NUM_BLOCKS, num_kv_heads, BLOCK_SIZE, HEAD_DIM)
    start = [torch.randn(shape, generator=generator).to(cache_dtype) for _ in range(2)]
    caches = [LayerKvCache(start[0].clone(), start[1].clone()) for _ in range(2)]
    step = metadata()
    num_tokens = int(step.cu_seqlens_q_S1[-1])
    heads = torch.randn(num_tokens, 6 + 2 * num_kv_heads, HEAD_DIM, generator=generator)
    positions = torch.cat([torch.arange(before, before + new) for before, new in ROWS])
    angles = torch.arange(64.0)[:, None] * torch.rand(rotary_dim // 2, generator=generator)
    table = torch.cat((angles.cos(), angles.sin()), dim=1)
    rotation = Rotation(table, positions, torch.float32) if rotary_dim else None
    outs = []
    for backend, cache in zip((CpuPaged(), TorchSdpa()), caches, strict=True):
        q, k, v = heads.clone().split((6, num_kv_heads, num_kv_heads), dim=1)
        outs.append(backend.forward(q, k, v, cache, AttentionStep(rotation, step), parameters))
    return outs, caches


@pytest.mark.parametrize("cache_dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("num_kv_heads", [1, 2, 6])
@pytest.mark.parametrize("rotary_dim", [HEAD_DIM, HEAD_DIM // 4, 0])
@pytest.mark.parametrize("parameters", [PLAIN, AttentionParameters(0.25, window=5, softcap=1.5)])
def test_the_kernel_agrees_with_the_reference(num_kv_heads, cache_dtype, rotary_dim, parameters):
    outs, caches = both_backends(num_kv_heads, cache_dtype, parameters, rotary_dim)
    torch.testing.assert_close(caches[0].key, caches[1].key, atol=1e-6, rtol=torch.finfo(cache_dtype).eps)
    assert torch.equal(caches[0].value, caches[1].value)
    # Both work in float32; the order of sums differs, and a rotated key may round to its neighbour in the cache.
    torch.testing.assert_close(
        outs[0], outs[1], atol=2e-5 if cache_dtype == torch.float32 else torch.finfo(cache_dtype).eps, rtol=0
    )


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


def test_auto_takes_the_kernel_on_cpu_and_the_reference_elsewhere():
    assert select_backend("auto", torch.device("cpu"), torch.float32).name == "paged"
    assert select_backend("auto", torch.device("cpu"), torch.float64).name == "sdpa"
    assert select_backend("auto", torch.device("cuda"), torch.bfloat16).name == "sdpa"
    assert select_backend("sdpa", torch.device("cpu"), torch.float32).name == "sdpa"


def test_a_backend_that_cannot_be_is_refused():
    with pytest.raises(ValueError, match=r"attention is `paged`, but the kernel is for cpu and the device is `cuda`"):
        select_backend("paged", torch.device("cuda"), torch.float32)
    with pytest.raises(ValueError, match=r"attention is `flash`, expected auto, paged or sdpa"):
        select_backend("flash", torch.device("cpu"), torch.float32)
