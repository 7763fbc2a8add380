"""Check that answers do not depend, to the bit, on what else the server does: ids and log-probabilities as sent.

Each prompt is asked alone, then again in each situation of SITUATIONS through a real server of its own: among others,
in small and large chunks, after a hit in the prefix tree, after preemptions, after a death of the worker, and all of
these at once. Prompts are real texts of 1 to 900 tokens; greedy and seeded sampling, penalties, truncations and
alternatives are mixed; every ninth wants the log-probabilities of its prompt.

    python -m tools.check_determinism [--model gguf|float32|bfloat16|PATH] [--prompts N] [--only SITUATION…]
                                       [--report-only] [-- FLAGS OF forebay serve]

Exits 1 if an answer differs, unless it is told to report only.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import dataclasses
import sys
import time
from typing import Any

from tools.real_server import RealServer, float32_folder, real_texts, serving

NUM_TOKENS = 32
"""Generated after each prompt."""
KV_CACHE_TOKENS = 16384
SMALL_KV_CACHE_TOKENS = 1040
"""So few that running sequences cannot all grow."""

Answer = dict[str, Any]
"""The parts of `details` that must be equal: ids, and log-probabilities as they were sent."""


@dataclasses.dataclass(frozen=True)
class Situation:
    """What the server does beside answering one prompt after the other."""

    name: str
    streams: int = 32
    """Requests at a time."""
    chunk: int = 512
    """Tokens that a step may compute."""
    kv_cache_tokens: int = KV_CACHE_TOKENS
    is_repeated: bool = False
    """Whether a prompt is asked after its first half, and after itself."""
    num_deaths: int = 0
    """How often the worker is killed."""
    proofs: tuple[str, ...] = ()
    """Metrics that tell that the situation arose."""


ALONE = Situation("alone", streams=1)
SITUATIONS = [
    Situation("alone again", streams=1),
    Situation("among 8", streams=8),
    Situation("among 32"),
    Situation("chunks of 64", chunk=64),
    Situation("chunks of 2048", chunk=2048),
    Situation("prefix hit", streams=8, is_repeated=True, proofs=("forebay_prefix_hit_tokens_total",)),
    Situation("preemption", kv_cache_tokens=SMALL_KV_CACHE_TOKENS, proofs=("forebay_preemptions_total",)),
    Situation("restart", num_deaths=3, proofs=("forebay_worker_group_losses_total", "forebay_resumptions_total")),
    Situation(
        "all at once",
        chunk=64,
        kv_cache_tokens=SMALL_KV_CACHE_TOKENS,
        is_repeated=True,
        num_deaths=1,
        proofs=("forebay_prefix_hit_tokens_total", "forebay_preemptions_total", "forebay_resumptions_total"),
    ),
]

OPTIONS: list[dict[str, Any]] = [
    {},
    {"do_sample": True, "top_p": 0.95},
    {"top_n_tokens": 5},
    {"do_sample": True, "temperature": 0.7, "top_k": 50, "repetition_penalty": 1.1},
    {"do_sample": True, "temperature": 1.3, "typical_p": 0.9, "top_n_tokens": 3},
]
"""Taken in turn, each with a seed."""


def prompts(count: int) -> list[str]:
    """Cut texts of many lengths out of the real ones, no two with the same beginning."""
    whole = "\n\n".join(real_texts())
    stride = len(whole) // count
    lengths = [5 + 37 * i % 400 for i in range(count)]
    # Prompts longer than a chunk of 64, and than several of attention's segments.
    lengths[5::12] = [1200 + i % 200 for i in range(len(lengths[5::12]))]
    lengths[9::50] = [1400] * len(lengths[9::50])
    doubled = whole + whole
    return [doubled[i * stride : i * stride + length] for i, length in enumerate(lengths)]


def ask(server: RealServer, prompt: str, number: int, *, is_repeated: bool) -> list[Answer]:
    """Ask for one prompt's answer, or two of them if it is to be repeated."""
    parameters = {
        "seed": number,
        "max_new_tokens": NUM_TOKENS,
        "decoder_input_details": number % 9 == 4,
        **OPTIONS[number % len(OPTIONS)],
    }
    if is_repeated:
        server.generate(prompt[: len(prompt) // 2 + 1], {"max_new_tokens": 1})
    found = [server.generate(prompt, parameters) for _ in range(1 + is_repeated)]
    return [
        {name: details[name] for name in ("prefill", "tokens", "top_tokens") if name in details} for details in found
    ]


def answers(situation: Situation, count: int, arguments: list[str]) -> list[list[Answer]]:
    """Serve all prompts in a situation; exits if it did not arise."""
    # Small blocks: a newcomer is let in when everyone running could grow by one, so that large ones prevent preemption.
    flags = [
        "--max-batch-prefill-tokens", str(situation.chunk), "--max-batch-size", "32",
        "--kv-cache-tokens", str(situation.kv_cache_tokens), "--max-total-tokens", "1024", "--block-size", "4",
    ]  # fmt: skip
    with serving(*flags, *arguments) as server:
        with concurrent.futures.ThreadPoolExecutor(situation.streams) as pool:
            futures = [
                pool.submit(ask, server, prompt, number, is_repeated=situation.is_repeated)
                for number, prompt in enumerate(prompts(count))
            ]
            # Each while requests are left that must go on after it.
            deaths = {count // 8 + count * death // situation.num_deaths for death in range(situation.num_deaths)}
            for done, _ in enumerate(concurrent.futures.as_completed(futures)):
                if done in deaths:
                    server.kill_children()
        for metric in situation.proofs:
            if not server.metric(metric):
                sys.exit(f"`{situation.name}` did not arise: `{metric}` is 0")
    return [future.result() for future in futures]


def ids(answer: Answer) -> list[int]:
    """Take the generated ids."""
    return [token["id"] for token in answer["tokens"]]


def compare(alone: list[Answer], found: list[list[Answer]]) -> tuple[str, int]:
    """Return a line of the table, and how many prompts were not answered as they were alone."""
    pairs = [(i, one, other) for i, (one, others) in enumerate(zip(alone, found, strict=True)) for other in others]
    different = sorted({i for i, one, other in pairs if one != other})
    other_texts = {i for i, one, other in pairs if ids(one) != ids(other)}
    line = f"texts {len(alone) - len(other_texts)}/{len(alone)} equal, with all log-probabilities "
    line += f"{len(alone) - len(different)}/{len(alone)}"
    if different:
        line += f"; different: {', '.join(map(str, different[:8]))}{' …' if len(different) > 8 else ''}"
    return line, len(different)


def model_arguments(model: str) -> list[str]:
    """Name the model to `forebay serve`."""
    if model == "gguf":
        return []
    if model in ("float32", "bfloat16"):
        return ["--model-id", str(float32_folder()), "--dtype", model]
    return ["--model-id", model]


def parse() -> argparse.Namespace:
    """Read the command line; what follows `--` is for the server."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [situation.name for situation in SITUATIONS]
    parser.add_argument("--model", default="gguf", help="the bundled file, its values in another dtype, or a path")
    parser.add_argument("--prompts", type=int, default=500, metavar="N")
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="SITUATION", help=", ".join(names))
    parser.add_argument("--report-only", action="store_true", help="exit 0 whatever differs")
    parser.add_argument("serve", nargs="*", help="flags of `forebay serve`, after `--`")
    return parser.parse_args()


def main() -> int:
    """Compare every situation with serving each prompt alone."""
    arguments = parse()
    flags = [*model_arguments(arguments.model), *arguments.serve]
    started = time.monotonic()
    alone = [first for first, *_ in answers(ALONE, arguments.prompts, flags)]
    print(f"{arguments.model}, {arguments.prompts} prompts alone: {time.monotonic() - started:.0f} s", flush=True)
    failures = 0
    for situation in SITUATIONS:
        if situation.name not in arguments.only:
            continue
        started = time.monotonic()
        line, different = compare(alone, answers(situation, arguments.prompts, flags))
        print(f"  {situation.name:15} {line} ({time.monotonic() - started:.0f} s)", flush=True)
        failures += different
    return 1 if failures and not arguments.report_only else 0


if __name__ == "__main__":
    sys.exit(main())
