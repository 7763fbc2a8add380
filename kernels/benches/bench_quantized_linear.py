"""Time all matrix products of SmolLM2-135M (Q4_1 layers, Q8_0 head): ms, GB/s of weights, GFLOP/s, tokens/s.

Run with `python kernels/benches/bench_quantized_linear.py [types] [rows ...]`; `types` compares all types and
instruction sets instead.
"""

import sys
import time

import torch
from torch import Tensor

import forebay_kernels
from forebay_kernels.ops.block_types import BLOCK_TYPES
from forebay_kernels.ops.quantized_linear import PackedWeight, pack, quantized_linear

NUM_LAYERS = 30
LAYER_SHAPES = [(960, 576), (576, 576), (3072, 576), (576, 1536)]
HEAD_SHAPE = (49152, 576)
COMPARED_SHAPE = (1536, 512)


def random_weight(shape: tuple[int, int], type_name: str) -> PackedWeight:
    """Pack random blocks: times do not depend on the values."""
    num_rows, num_columns = shape
    block = BLOCK_TYPES[type_name]
    row_bytes = num_columns // block.num_columns * block.num_bytes
    return pack([(torch.randint(0, 60, (num_rows, row_bytes), dtype=torch.uint8), type_name)], num_columns)


def main() -> None:
    """Print one line a batch size, for the whole model and for its layers alone; or the table of all types."""
    arguments = sys.argv[1:]
    if arguments[:1] == ["types"]:
        return compare_types([int(arg) for arg in arguments[1:]] or [1, 8, 32])
    layers = [random_weight(shape, "Q4_1") for _ in range(NUM_LAYERS) for shape in LAYER_SHAPES]
    head = random_weight(HEAD_SHAPE, "Q8_0")
    print(forebay_kernels.native_info())
    for num_rows in [int(arg) for arg in arguments] or [1, 2, 4, 8, 16, 32, 64, 128, 512]:
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


def compare_types(row_counts: list[int]) -> None:
    """Print a line a type and instruction set: us a call of one weight, best of half a second."""
    num_rows, num_columns = COMPARED_SHAPE
    print(f"{num_rows} x {num_columns}, us" + "".join(f"{count:10d}" for count in row_counts))
    for type_name in BLOCK_TYPES:
        weight = random_weight(COMPARED_SHAPE, type_name)
        for name in forebay_kernels.native_info()["available_instruction_sets"]:
            with forebay_kernels.force_instruction_set(name):
                times = [best_us(torch.randn(count, num_columns), weight) for count in row_counts]
            print(f"{type_name:7s}{name:10s}" + "".join(f"{time:10.1f}" for time in times))


def best_us(x_TK: Tensor, weight: PackedWeight) -> float:
    """Return the shortest of the calls that fit into half a second, in microseconds."""
    best, stop = float("inf"), time.perf_counter() + 0.5
    while time.perf_counter() < stop:
        start = time.perf_counter()
        quantized_linear(x_TK, weight)
        best = min(best, time.perf_counter() - start)
    return best * 1e6


if __name__ == "__main__":
    main()
