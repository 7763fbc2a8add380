"""Time attention with SmolLM2-135M's heads (9 query, 3 kv, 64 wide): us, GB/s of cache read once, GFLOP/s.

Run with `python kernels/benches/bench_paged_attention.py`.
"""

import time

import torch

import forebay_kernels
from forebay_kernels.ops.paged_attention import paged_attention

BLOCK_SIZE = 16
CASES = [(1, 1, 128), (1, 1, 1024), (1, 1, 4096), (32, 1, 128), (32, 1, 1024), (1, 512, 512), (1, 512, 2048)]
"""(sequences, queries each, context each)."""


def time_case(num_sequences: int, num_queries: int, context: int, dtype: torch.dtype) -> float:
    """Return the best of some calls in seconds."""
    blocks_each = -(-context // BLOCK_SIZE)
    shape = (num_sequences * blocks_each, 3, BLOCK_SIZE, 64)
    key_cache, value_cache = torch.randn(shape).to(dtype), torch.randn(shape).to(dtype)
    tables_SB = torch.randperm(shape[0]).int().view(num_sequences, blocks_each)
    contexts_S = torch.full((num_sequences,), context, dtype=torch.int32)
    starts_S1 = torch.arange(num_sequences + 1, dtype=torch.int32) * num_queries
    q_THD = torch.randn(num_sequences * num_queries, 9, 64)
    best = float("inf")
    for _ in range(50):
        start = time.perf_counter()
        paged_attention(q_THD, key_cache, value_cache, tables_SB, contexts_S, starts_S1, 0.125)
        best = min(best, time.perf_counter() - start)
    return best


def main() -> None:
    """Print one line a case and cache dtype."""
    print(forebay_kernels.native_info())
    for dtype in (torch.float32, torch.bfloat16):
        for num_sequences, num_queries, context in CASES:
            seconds = time_case(num_sequences, num_queries, context, dtype)
            num_bytes = num_sequences * context * 3 * 64 * 2 * dtype.itemsize
            visible = num_queries * context - num_queries * (num_queries - 1) // 2
            flops = num_sequences * visible * 9 * 64 * 4
            print(
                f"{dtype!s:15s} {num_sequences:3d} x {num_queries:4d} queries at {context:5d}: "
                f"{seconds * 1e6:9.1f} us, {num_bytes / seconds / 1e9:6.1f} GB/s, {flops / seconds / 1e9:6.0f} GFLOP/s"
            )


if __name__ == "__main__":
    main()
