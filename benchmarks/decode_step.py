"""Where a decode step's time goes: the worker's executor in this process, fed with plans as the router encodes them.

Prints a line a part and number of rows: median and least microseconds, and each part's share of the step. Usage:
    python benchmarks/decode_step.py [--rows 1,8,32] [--context 150] [--steps 100] [--sampling greedy] [--model FILE]

What lies between two steps (gRPC, the router, threads that wait) is not in it: `--server http://127.0.0.1:3000` sends
streams to a running server instead, and prints what its steps took from end to end beside the worker's own clock.
"""

from __future__ import annotations

import argparse
import functools
import re
import statistics
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from forebay_worker.codec import decode_plan, encode_result
from forebay_worker.config import WorkerConfig
from forebay_worker.pb import worker_pb2 as pb
from loads import Generator, Load, closed, output_tokens_per_s
from peers import IGNORE_EOS, bundled_model

if TYPE_CHECKING:
    from forebay_worker.executor import Executor

BLOCK_SIZE = 16
SECONDS_A_LOAD = 5.0
SAMPLING = {"greedy": (0.0, 1.0), "top-p": (1.0, 0.95)}
"""Temperature and top_p."""
INSIDE = ("embed", "layers", "last norm", "head", "sample")
"""Parts of what the executor does."""

T = TypeVar("T")


class Stopwatch:
    """Microseconds of each part, a step each."""

    def __init__(self) -> None:
        self.times: dict[str, list[float]] = {}

    def time(self, name: str, call: Callable[[], T]) -> T:
        """Call, and add what it took to a part's times."""
        started = time.perf_counter()
        result = call()
        self.times.setdefault(name, []).append((time.perf_counter() - started) * 1e6)
        return result

    def timed(self, name: str, function: Callable[..., T]) -> Callable[..., T]:
        """The same function, timed."""
        return lambda *arguments: self.time(name, lambda: function(*arguments))


def main() -> None:
    """Profile here, or ask a server."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default="1,8,32", help="numbers of rows, or of streams")
    parser.add_argument("--context", type=int, default=150, help="tokens before the first decode")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--sampling", choices=SAMPLING, default="greedy")
    parser.add_argument(
        "--model", type=Path, default=None, help="a GGUF file or folder; the bundled model unless given"
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--server", default=None, help="address of a running server to ask instead")
    arguments = parser.parse_args()
    row_counts = [int(count) for count in arguments.rows.split(",")]
    if arguments.server is not None:
        for num_streams in row_counts:
            ask_server(arguments.server, num_streams)
        return
    executor = load(arguments.model or bundled_model(), arguments.threads)
    for num_rows in row_counts:
        times = profile(executor, num_rows, arguments)
        print_table(f"{num_rows} rows, context {arguments.context}, {arguments.sampling}", times)


def load(model: Path, num_threads: int) -> Executor:
    """An executor as the worker makes it."""
    from forebay_worker.startup import set_up_process, start_executor

    config = WorkerConfig(
        model_path=str(model),
        socket_path="",
        rendezvous_path="",
        incarnation=1,
        num_threads=num_threads,
        kv_cache_tokens=131_072,
    )
    set_up_process(config)
    return start_executor(config)


def profile(loaded: Executor, num_rows: int, arguments: argparse.Namespace) -> dict[str, list[float]]:
    """Run prompts, then decodes of all rows, and time the parts of the latter."""
    from forebay_worker.executor import Executor

    # A new one: its slots are free.
    executor = Executor(loaded._model, loaded._kv_cache, loaded._group, loaded.capabilities)
    plans = Plans(num_rows, arguments.context, arguments.steps, SAMPLING[arguments.sampling])
    for message in plans.prompts():
        executor.execute(decode_plan(message))
    watch = Stopwatch()

    def step(data: bytes) -> None:
        plan = watch.time("decode the plan", lambda: decode_plan(pb.StepPlan.FromString(data)))
        result = watch.time("the executor", lambda: executor.execute(plan))
        watch.time("encode the result", lambda: encode_result(result).SerializeToString())

    with timed_parts(executor, watch):
        for data in [message.SerializeToString() for message in plans.decodes()]:
            watch.time("the step", functools.partial(step, data))
    times = watch.times
    columns = zip(times.pop("the executor"), *(times[name] for name in INSIDE), strict=True)
    times["the executor's rest"] = [whole - sum(parts) for whole, *parts in columns]
    return times


class Plans:
    """Plans of one batch of sequences, as messages."""

    def __init__(self, num_rows: int, context: int, num_steps: int, sampling: tuple[float, float]) -> None:
        self._slots = range(num_rows)
        self._context, self._num_steps, self._sampling = context, num_steps, sampling
        self._blocks_each = -(-(context + num_steps + 1) // BLOCK_SIZE)
        self._step_id = -1

    def prompts(self) -> Iterator[pb.StepPlan]:
        """The sequences' prompts, each in chunks of 256."""
        temperature, top_p = self._sampling
        ids = np.random.default_rng(0).integers(0, 1000, (len(self._slots), self._context))
        for slot in self._slots:
            first_block = 1 + slot * self._blocks_each
            new = pb.NewSequence(
                slot=slot,
                epoch=1,
                token_ids=words(ids[slot]),
                num_prompt_tokens=self._context,
                block_ids=words(range(first_block, first_block + self._blocks_each)),
                sampling=pb.SamplingParams(temperature=temperature, top_p=top_p, repetition_penalty=1.0),
            )
            for start in range(0, self._context, 256):
                size = min(256, self._context - start)
                flags = 3 if start + size == self._context else 0
                begin = pb.StepPlan(new_sequences=[new] if start == 0 else [])
                yield self._plan([slot], size, flags, begin)

    def decodes(self) -> Iterator[pb.StepPlan]:
        """A token of every sequence each."""
        for _ in range(self._num_steps):
            yield self._plan(self._slots, 1, 1, pb.StepPlan(num_decodes=len(self._slots)))

    def _plan(self, slots: Sequence[int], num_tokens: int, flags: int, rest: pb.StepPlan) -> pb.StepPlan:
        self._step_id += 1
        plan = pb.StepPlan(
            step_id=self._step_id,
            row_slots=words(slots),
            row_epochs=words([1] * len(slots)),
            row_num_tokens=words([num_tokens] * len(slots)),
            row_flags=words([flags] * len(slots)),
        )
        plan.MergeFrom(rest)
        return plan


def words(values: Sequence[int] | np.ndarray) -> bytes:
    """Packed as in worker.proto."""
    return np.array(values, "<u4").tobytes()


@contextmanager
def timed_parts(executor: Executor, watch: Stopwatch) -> Iterator[None]:
    """Time the decoder's parts and the sampler inside a `with` block."""
    from forebay_worker import executor as module

    decoder: Any = executor._model
    if decoder._layers is None:
        raise SystemExit("the layers of this model are not one call; their ops are timed by `kernels/benches/`")
    parts = [(decoder, "_embedding"), (decoder, "_layers"), (decoder, "_norm"), (decoder, "_head"), (module, "sample")]
    before = [getattr(owner, attribute) for owner, attribute in parts]
    for (owner, attribute), name, function in zip(parts, INSIDE, before, strict=True):
        setattr(owner, attribute, watch.timed(name, function))
    try:
        yield
    finally:
        for (owner, attribute), function in zip(parts, before, strict=True):
            setattr(owner, attribute, function)


def print_table(title: str, times: dict[str, list[float]]) -> None:
    """A line a part; the kernels' are those of the model and the sampler's."""
    whole = statistics.median(times["the step"])
    print(f"{title}: {whole:.0f} us a step")
    for name, values in times.items():
        median = statistics.median(values)
        print(f"  {name:22s}{median:9.0f} us, least {min(values):9.0f} us, {100 * median / whole:5.1f}%")
    outside = [
        statistics.median(times[name]) for name in times if name.startswith(("decode", "encode", "the executor"))
    ]
    print(f"  {'not kernels':22s}{sum(outside):9.0f} us{100 * sum(outside) / whole:31.1f}%")


def ask_server(address: str, num_streams: int) -> None:
    """What decode steps of a running server took, by the router's clock and by the worker's."""
    before = sums(address)
    load = Load(f"{num_streams} streams", "output tokens/s", closed(num_streams, 16, 256), output_tokens_per_s)
    run = Generator(address, IGNORE_EOS, SECONDS_A_LOAD, num_streams).run(load)
    after = sums(address)
    steps, forward = (
        tuple(now - then for now, then in zip(after[name], before[name], strict=True))
        for name in ("tgi_batch_inference_duration", "tgi_batch_forward_duration")
    )
    period, inside = 1e6 * steps[0] / steps[1], 1e6 * forward[0] / forward[1]
    print(
        f"{num_streams} streams: {load.figure(run):.0f} tokens/s; a decode step took {period:.0f} us, "
        f"of which {inside:.0f} us are the worker's forward pass and {100 * (1 - inside / period):.1f}% all else"
    )


def sums(address: str) -> dict[str, tuple[float, float]]:
    """(sum, count) of each histogram or summary of decode steps."""
    with urllib.request.urlopen(f"{address}/metrics") as response:
        text = response.read().decode()
    found: dict[str, dict[str, float]] = {}
    for name, kind, value in re.findall(r'^(\w+)_(sum|count)\{[^}]*method="decode"[^}]*\} (\S+)$', text, re.MULTILINE):
        found.setdefault(name, {})[kind] = float(value)
    return {name: (values.get("sum", 0.0), values.get("count", 0.0)) for name, values in found.items()}


if __name__ == "__main__":
    main()
