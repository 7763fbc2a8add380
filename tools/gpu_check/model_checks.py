"""The whole model in float32 against transformers, or against this worker on CPU; bfloat16 against float32."""

from __future__ import annotations

import dataclasses
import importlib.util
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from forebay_kernels import force_torch
from forebay_worker.config import WorkerConfig
from forebay_worker.distributed.groups import ProcessGroup
from forebay_worker.kv_cache import KvCache
from forebay_worker.loader import load_model
from tools.gpu_check.op_checks import BLOCK_SIZE, Check, rows_metadata

NUM_GREEDY = 32
NEAR_TIE = 1e-3
"""Between a row's two best logits: nearer ones may change places by float32's rounding, in sums of another order."""

MAX_LOGIT_ERROR = 2e-3
"""Logits are about 1, the largest about 5; measured between two orders of sums on CPU: 1e-5 at 2 layers."""
MAX_MEAN_ERROR_BFLOAT16 = 0.1
"""bfloat16 keeps 8 bits of each of some hundred sums in a row."""


def config(folder: Path, **changes: object) -> WorkerConfig:
    """A configuration for the folder's model."""
    start = WorkerConfig(str(folder), socket_path="", rendezvous_path="", incarnation=1)
    return dataclasses.replace(start, block_size=BLOCK_SIZE, **changes)  # type: ignore[arg-type]  # fields by name


class Runner:
    """One sequence, step by step, on a model of its own."""

    def __init__(self, folder: Path, device: torch.device, dtype: str, attention: str, max_tokens: int) -> None:
        self.device = device
        loaded = load_model(config(folder, dtype=dtype, attention=attention), ProcessGroup(device=device))
        num_blocks = 1 + -(-max_tokens // BLOCK_SIZE)
        self.decoder = loaded.decoder
        self.cache = KvCache.allocate(loaded.spec, num_blocks, BLOCK_SIZE, loaded.kv_cache_dtype, device, num_shards=1)
        self.num_computed = 0

    @torch.inference_mode()
    def step(self, ids: list[int]) -> Tensor:
        """Logits after each of these ids, on CPU."""
        metadata = rows_metadata([(self.num_computed, len(ids))], self.device)
        positions = torch.arange(self.num_computed, self.num_computed + len(ids), device=self.device)
        hidden = self.decoder.forward(torch.tensor(ids, device=self.device), positions, self.cache, metadata)
        self.num_computed += len(ids)
        return self.decoder.logits(hidden).cpu()

    def run(self, prompt: list[int], chunk: int) -> tuple[Tensor, Tensor]:
        """(logits after each token of the prompt, logits that chose each of NUM_GREEDY tokens)."""
        parts = [self.step(prompt[start : start + chunk]) for start in range(0, len(prompt), chunk)]
        rows = [parts[-1][-1]]
        for _ in range(NUM_GREEDY - 1):
            rows.append(self.step([int(rows[-1].argmax())])[0])
        return torch.cat(parts), torch.stack(rows)


def model_checks(folder: Path, device: torch.device, prompt: list[int]) -> list[Check]:
    """Logits of a prompt in chunks, 32 greedy ids, and bfloat16's logits."""
    max_tokens = len(prompt) + NUM_GREEDY
    with force_torch():
        logits, rows = Runner(folder, device, "float32", "batched", max_tokens).run(prompt, chunk=len(prompt) // 3)
    name, expected, expected_rows = _reference(folder, device, prompt)
    checks = [
        Check(f"logits float32 (against {name})", float((logits - expected).abs().max()), MAX_LOGIT_ERROR),
        _greedy_check(name, rows, expected_rows),
    ]
    if device.type == "cuda":
        with force_torch():
            half, _ = Runner(folder, device, "bfloat16", "batched", max_tokens).run(prompt, chunk=len(prompt) // 3)
        agreement = float((half.argmax(-1) == logits.argmax(-1)).float().mean())
        error = float((half - logits).abs().mean())
        note = f"{agreement:.0%} of best tokens agree"
        checks.append(Check("logits bfloat16 (mean, against float32)", error, MAX_MEAN_ERROR_BFLOAT16, note))
    return checks


def _reference(folder: Path, device: torch.device, prompt: list[int]) -> tuple[str, Tensor, Tensor]:
    """(its name, logits of the prompt, logits of its greedy continuation)."""
    if importlib.util.find_spec("transformers") is None:
        runner = Runner(folder, torch.device("cpu"), "float32", "sdpa", len(prompt) + NUM_GREEDY)
        with force_torch():
            return "this worker on CPU, row by row: transformers is not installed", *runner.run(prompt, len(prompt))
    import transformers

    name = f"transformers {transformers.__version__}"
    model: Any = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    model = model.to(device).eval()
    ids = torch.tensor([prompt], device=device)
    with torch.inference_mode():
        logits = model(ids).logits[0].float().cpu()
        rows = [logits[-1]]
        for _ in range(NUM_GREEDY - 1):
            ids = torch.cat((ids, rows[-1].argmax().to(device).view(1, 1)), 1)
            rows.append(model(ids).logits[0, -1].float().cpu())
    return name, logits, torch.stack(rows)


def _greedy_check(name: str, rows: Tensor, expected_rows: Tensor) -> Check:
    """Ids that differ before the first near-tie; behind one the texts may part."""
    ids, expected = rows.argmax(-1), expected_rows.argmax(-1)
    best = expected_rows.topk(2, dim=-1).values
    ties = (best[:, 0] - best[:, 1] < NEAR_TIE).nonzero().flatten().tolist()
    judged = ties[0] if ties else NUM_GREEDY
    note = f"near-tie at token {ties[0]}: judged to there" if ties else ""
    return Check(f"{NUM_GREEDY} greedy ids (against {name})", float((ids != expected)[:judged].sum()), 0, note)
