"""`make gpu-check` on a tiny model on CPU: so that it works when there is a GPU to hand it to."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from forebay_kernels.ops.block_types import BLOCK_TYPES

ROOT = Path(__file__).resolve().parent.parent.parent

# Imports of torch and transformers, while other tests keep the cores busy.
pytestmark = pytest.mark.timeout(300)


def run(output: Path, *arguments: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "tools.gpu_check", "--shape", "tiny", "--output", str(output), *arguments]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    record: dict[str, Any] = json.loads(output.read_text())
    return record


@pytest.mark.parametrize("arguments", [[], ["--without-native"]], ids=["with kernels", "without kernels"])
def test_every_check_passes_and_every_load_is_timed(tmp_path: Path, arguments: list[str]):
    record = run(tmp_path / "record.json", "--device", "cpu", *arguments)
    assert record["machine"]["device"] == "cpu"
    assert record["machine"]["native_kernels"] is not bool(arguments)
    failed = [check for check in record["checks"] if not check["passed"]]
    assert not failed
    names = {check["name"].split(" (")[0] for check in record["checks"]}
    assert names >= {"gumbel_argmax", "logits float32", "32 greedy ids", "attention mixed bfloat16"}
    assert names >= {f"dequantize {name}" for name in BLOCK_TYPES}
    speed = record["speed"]
    assert speed["attention_backend"] == "batched"
    assert set(speed["decode"]) == {"1", "8", "8 sampled"}
    for figures in [speed["prefill"], *speed["decode"].values()]:
        assert figures["tokens_per_s"] > 0
    assert all(0 < figures["host_ms"] <= figures["step_ms"] * 1.5 for figures in speed["decode"].values())


def test_a_device_that_is_not_there_is_refused(tmp_path: Path):
    command = [sys.executable, "-m", "tools.gpu_check", "--device", "tpu", "--shape", "tiny"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (1, "device is `tpu`, expected one of auto, cpu, cuda\n")
