"""Prefill and decode through the executor: the memory rule, plans, sampling and results as when serving."""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import Any

import torch

from forebay_kernels import force_torch
from forebay_worker.plan import SamplingParams
from forebay_worker.startup import start_executor
from tools.gpu_check.driver import Driver
from tools.gpu_check.model_checks import config
from tools.gpu_check.random_llama import Shape, random_ids

GREEDY = SamplingParams()
SAMPLED = SamplingParams(temperature=0.8, top_p=0.95, seed=7)
PROMPT_TOKENS = 64
NUM_UNCOUNTED = 3
NUM_PREFILLS = 3


def measure(folder: Path, device: torch.device, shape: Shape) -> dict[str, Any]:
    """Figures by name; a step's host time is what the Python thread spends before the device's answer is awaited."""
    worker = config(
        folder,
        device=device.type,
        dtype="bfloat16" if device.type == "cuda" else "float32",
        max_sequences=max(shape.decode_rows),
        max_plan_tokens=shape.prefill_tokens,
        max_total_tokens=2 * shape.prefill_tokens,
    )
    started = time.perf_counter()
    with force_torch():
        executor = start_executor(worker)
        driver = Driver(executor)
        figures: dict[str, Any] = {"start_s": time.perf_counter() - started}
        for name in ("dtype", "kv_cache_dtype", "attention_backend", "num_blocks", "kv_cache_bytes"):
            figures[name] = getattr(executor.capabilities, name)
        figures["prefill"] = _prefill(driver, shape)
        figures["decode"] = {str(rows): _decode(driver, shape, rows, GREEDY) for rows in shape.decode_rows}
        rows = min(32, max(shape.decode_rows))
        figures["decode"][f"{rows} sampled"] = _decode(driver, shape, rows, SAMPLED)
    return figures


def _prefill(driver: Driver, shape: Shape) -> dict[str, float]:
    times = []
    for n in range(NUM_PREFILLS + 1):
        prompt = random_ids(shape, shape.prefill_tokens, n)
        started = time.perf_counter()
        driver.prefill([prompt], 0, GREEDY)
        times.append(time.perf_counter() - started)
    seconds = statistics.median(times[1:])
    return {"tokens": shape.prefill_tokens, "tokens_per_s": shape.prefill_tokens / seconds, "ms": seconds * 1e3}


def _decode(driver: Driver, shape: Shape, rows: int, sampling: SamplingParams) -> dict[str, float]:
    """One token of each row a step, after prompts of PROMPT_TOKENS; medians over steps."""
    prompts = [random_ids(shape, PROMPT_TOKENS, 100 + row) for row in range(rows)]
    driver.prefill(prompts, NUM_UNCOUNTED + shape.decode_steps + 1, sampling)
    times, host_times = [], []
    for _ in range(NUM_UNCOUNTED + shape.decode_steps):
        started = time.perf_counter()
        result = driver.decode()
        times.append(time.perf_counter() - started)
        host_times.append((result.timings.prepare + result.timings.forward) / 1e3)
    step_ms = statistics.median(times[NUM_UNCOUNTED:]) * 1e3
    host_ms = statistics.median(host_times[NUM_UNCOUNTED:])
    return {"tokens_per_s": rows / step_ms * 1e3, "step_ms": step_ms, "host_ms": host_ms}
