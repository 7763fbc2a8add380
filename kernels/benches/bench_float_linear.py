"""Time float products beside torch's, in turn: us, and how many times faster.

Run with `python kernels/benches/bench_float_linear.py [rows ...]`.
"""

import itertools
import sys
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F

import forebay_kernels
from forebay_kernels.ops.float_linear import float_linear, pack_float

SHAPES = [(3072, 576), (576, 1536), (4096, 2048)]


def main() -> None:
    """Print a line a shape and number of rows; each figure is the best of 40 turns."""
    print(forebay_kernels.native_info())
    for dtype, (num_rows, num_columns) in itertools.product((torch.float32, torch.bfloat16), SHAPES):
        weight_NK = torch.randn(num_rows, num_columns).to(dtype)
        weight = pack_float(weight_NK)
        for num_tokens in [int(arg) for arg in sys.argv[1:]] or [1, 2, 8, 32, 512]:
            x_TK = torch.randn(num_tokens, num_columns).to(dtype)
            calls: list[Callable[[], object]] = [
                lambda x=x_TK, w=weight: float_linear(x, w),
                lambda x=x_TK, w=weight_NK: F.linear(x, w),
            ]
            times = [float("inf")] * 2
            for _ in range(40):
                for which, call in enumerate(calls):
                    start = time.perf_counter()
                    call()
                    times[which] = min(times[which], time.perf_counter() - start)
            ours, peer = times
            print(
                f"{dtype}, {num_rows} x {num_columns}, {num_tokens:4d} rows: "
                f"{ours * 1e6:9.1f} us, torch {peer * 1e6:9.1f} us, {peer / ours:5.2f} times"
            )


if __name__ == "__main__":
    main()
