"""Whether the worker computes rightly on this machine's GPU, and how fast: one command, no network, nothing built.

It makes a seeded random Llama on the spot, holds torch's operators on the device against the CPU, op by op, and the
model's logits and greedy ids in float32 against transformers (where that is not installed: against this worker on CPU,
row by row), then times prefill and decode through the executor. Prints a table, writes JSON, exits 1 if a check fails.

    python -m tools.gpu_check [--device auto|cpu|cuda] [--shape 1b|tiny] [--output gpu-check.json] [--without-native]

Run it in the repository's root, with torch 2.11 or newer and numpy. On CPU it runs what a GPU would run.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(ROOT / "server"), str(ROOT / "kernels/python")]


def main() -> int:
    """Run everything. Returns: the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--shape", choices=("1b", "tiny"), default="1b")
    parser.add_argument("--output", type=Path, default=None, help="where to write JSON")
    parser.add_argument("--without-native", action="store_true", help="as on a machine that lacks the native kernels")
    arguments = parser.parse_args()
    if arguments.without_native:
        sys.modules["forebay_kernels._native"] = None  # type: ignore[assignment]  # an import of it fails
    try:
        record = check(arguments.device, arguments.shape)
    except ValueError as error:
        sys.exit(str(error))
    show(record)
    if arguments.output:
        arguments.output.write_text(json.dumps(record, indent=2) + "\n")
    return 0 if all(one["passed"] for one in record["checks"]) else 1


def check(device_name: str, shape_name: str) -> dict[str, Any]:
    """Everything that was found out. Raises: ValueError for a device that cannot be had."""
    from forebay_worker.device import choose_device
    from tools.gpu_check.model_checks import config, model_checks
    from tools.gpu_check.op_checks import has_native, op_checks
    from tools.gpu_check.random_llama import SHAPES, random_ids, write_model
    from tools.gpu_check.speed import measure

    started = time.perf_counter()
    choice = choose_device(config(Path(), device=device_name))
    device, shape = choice.device, SHAPES[shape_name]
    if device.type == "cpu" and shape_name == "tiny":
        # Such small tensors gain nothing from threads, and on a busy machine each waits for the last.
        torch.set_num_threads(1)
    checks = list(op_checks(device))
    with tempfile.TemporaryDirectory() as folder:
        write_model(Path(folder), shape, device)
        checks += model_checks(Path(folder), device, random_ids(shape, shape.prompt_tokens, seed=1))
        if device.type == "cuda":
            torch.cuda.empty_cache()
        speed = measure(Path(folder), device, shape)
    return {
        "machine": _machine(device, choice.reason, has_native()),
        "shape": {"name": shape_name, **shape.config},
        "checks": [
            {"name": one.name, "error": one.error, "limit": one.limit, "note": one.note, "passed": one.passed}
            for one in checks
        ],
        "speed": speed,
        "seconds": time.perf_counter() - started,
    }


def _machine(device: torch.device, reason: str, has_native: bool) -> dict[str, Any]:
    facts = {"device": device.type, "reason": reason, "native_kernels": has_native}
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        facts |= {
            "name": properties.name,
            "capability": f"{properties.major}.{properties.minor}",
            "memory_bytes": properties.total_memory,
            "cuda": torch.version.cuda or torch.version.hip,
        }
    return {
        **facts,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "cpu_threads": torch.get_num_threads(),
    }


def show(record: dict[str, Any]) -> None:
    """Print the table."""
    for name, value in record["machine"].items():
        print(f"{name}: {value}")
    print(f"\n{'check':64}{'error':>11}{'limit':>11}")
    for one in record["checks"]:
        verdict = "" if one["passed"] else "  FAILED"
        note = f"  ({one['note']})" if one["note"] else ""
        print(f"{one['name']:64}{one['error']:11.2g}{one['limit']:11.2g}{verdict}{note}")
    speed = record["speed"]
    print(
        f"\n{record['shape']['name']} in {speed['dtype']}, attention {speed['attention_backend']}: "
        f"KV cache of {speed['kv_cache_bytes']} bytes, {speed['num_blocks']} blocks"
    )
    prefill = speed["prefill"]
    print(f"prefill of {prefill['tokens']} tokens: {prefill['tokens_per_s']:.0f} tokens/s ({prefill['ms']:.1f} ms)")
    print(f"{'decode rows':14}{'tokens/s':>10}{'ms a step':>11}{'host ms':>9}")
    for rows, figures in speed["decode"].items():
        print(f"{rows:14}{figures['tokens_per_s']:10.0f}{figures['step_ms']:11.2f}{figures['host_ms']:9.2f}")
    failed = [one["name"] for one in record["checks"] if not one["passed"]]
    print(f"\n{len(record['checks'])} checks, {len(failed)} failed; {record['seconds']:.0f} s")


if __name__ == "__main__":
    sys.exit(main())
