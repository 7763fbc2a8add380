"""Time the small ops of a SmolLM2-135M step: us a call, best of many.

Run with `python kernels/benches/bench_small_ops.py`.
"""

import time
from collections.abc import Callable

import torch

import forebay_kernels
from forebay_kernels.ops.activation import gated_activation
from forebay_kernels.ops.kv_cache import write_kv_cache
from forebay_kernels.ops.quantized_linear import pack, quantized_embedding, quantized_linear
from forebay_kernels.ops.rms_norm import rms_norm
from forebay_kernels.ops.rotary import rotary_write_kv
from forebay_kernels.ops.sampling_noise import gumbel_argmax, token_logprobs


def best_us(call: Callable[[], object]) -> float:
    """Return the shortest of 300 calls in microseconds."""
    times = []
    for _ in range(300):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times) * 1e6


def cases(num_tokens: int) -> dict[str, Callable[[], object]]:
    """Return the calls of a step with that many tokens."""
    x, residual, weight = torch.randn(num_tokens, 576), torch.randn(num_tokens, 576), torch.randn(576)
    qkv, gate_up = torch.randn(num_tokens, 960), torch.randn(num_tokens, 3072)
    q, k, v = (part.view(num_tokens, -1, 64) for part in qkv.split([576, 192, 192], dim=1))
    caches = [torch.zeros(256, 3, 16, 64) for _ in range(2)]
    slots, positions, table = torch.arange(num_tokens), torch.arange(num_tokens), torch.randn(2048, 64)
    logits = torch.randn(num_tokens, 49152) * 3
    tiny = pack([(torch.zeros(16, 18, dtype=torch.uint8), "Q4_0")], 32)
    embedding = pack([(torch.zeros(1024, 18 * 34, dtype=torch.uint8), "Q8_0")], 576)
    return {
        "quantized_linear 16x32": lambda: quantized_linear(x[:, :32], tiny),
        "quantized_embedding": lambda: quantized_embedding(slots, embedding),
        "rms_norm": lambda: rms_norm(x, weight, 1e-5),
        "rms_norm + residual": lambda: rms_norm(x, weight, 1e-5, residual),
        "gated silu": lambda: gated_activation(gate_up, "silu"),
        "gated gelu": lambda: gated_activation(gate_up, "gelu"),
        "gated gelu_tanh": lambda: gated_activation(gate_up, "gelu_tanh"),
        "write_kv_cache": lambda: write_kv_cache(k, v, *caches, slots),
        "rotary_write_kv": lambda: rotary_write_kv(q, k, v, table, positions, *caches, slots),
        "gumbel_argmax": lambda: gumbel_argmax(logits, slots, positions),
        "gumbel_argmax, flat": lambda: gumbel_argmax(torch.zeros_like(logits), slots, positions),
        "token_logprobs": lambda: token_logprobs(logits, slots),
    }


def main() -> None:
    """Print a line an op, a column a number of tokens."""
    print(forebay_kernels.native_info())
    columns = {count: {name: best_us(call) for name, call in cases(count).items()} for count in (1, 8, 32, 256)}
    print(f"{'tokens':24s}" + "".join(f"{num_tokens:10d}" for num_tokens in columns))
    for name in columns[1]:
        print(f"{name:24s}" + "".join(f"{times[name]:10.1f}" for times in columns.values()))


if __name__ == "__main__":
    main()
