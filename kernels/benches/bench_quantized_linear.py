"""Time all matrix products of SmolLM2-135M (Q4_1 layers, Q8_0 head): ms, GB/s of weights, GFLOP/s, tokens/s.

Run with `python kernels/benches/bench_quantized_linear.py [rows ...]`.
"""

import sys
import time

import torch

import forebay_kernels
from forebay_kernels.ops.quantized_linear import PackedWeight, pack, quantized_linear

NUM_LAYERS = 30
LAYER_SHAPES = [(960, 576), (576, 576), (3072, 576), (576, 1536)]
HEAD_SHAPE = (49152, 576)


def random_weight(shape: tuple[int, int], type_name: str, block_bytes: int) -> PackedWeight:
    """Pack random blocks: times do not depend on the values."""
    num_rows, num_columns = shape
    blocks = torch.randint(0, 100, (num_rows, num_columns // 32 * block_bytes), dtype=torch.uint8)
    return pack([(blocks, type_name)], num_columns)


def main() -> None:
    """Print one line a batch size, for the whole model and for its layers alone."""
    layers = [random_weight(shape, "Q4_1", 20) for _ in range(NUM_LAYERS) for shape in LAYER_SHAPES]
    head = random_weight(HEAD_SHAPE, "Q8_0", 34)
    print(forebay_kernels.native_info())
    for num_rows in [int(arg) for arg in sys.argv[1:]] or [1, 2, 4, 8, 16, 32, 64, 128, 512]:
        for what, weights in (("layers + head", [*layers, head]), ("layers", layers)):
            inputs = {k: torch.randn(num_rows, k) for k in (576, 1536)}
            outputs = {w.num_rows: torch.empty(num_rows, w.num_rows) for w in weights}
            times = []
            for _ in range(max(4, 40 // num_rows) + 1):
                start = time.perf_counter()
                for weight in weights:
                    quantized_linear(inputs[weight.num_columns], weight, outputs[weight.num_rows])
                times.append(time.perf_counter() - start)
            best, median = min(times), sorted(times)[len(times) // 2]
            pairs = num_rows * sum(w.num_rows * w.num_columns for w in weights)
            num_bytes = sum(w.num_bytes for w in weights)
            print(
                f"{num_rows:4d} rows, {what:13s}: best {best * 1e3:7.2f} ms, median {median * 1e3:7.2f} ms, "
                f"{num_bytes / best / 1e9:5.1f} GB/s, {2 * pairs / best / 1e9:6.0f} GFLOP/s, "
                f"{num_rows / best:6.0f} tokens/s"
            )


if __name__ == "__main__":
    main()
