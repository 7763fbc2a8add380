"""Op by op: what runs on the device, by torch's operators, against what runs on CPU, natively where the kernels are."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from forebay_kernels import force_torch, native_info
from forebay_kernels.ops import activation, block_types, rms_norm, rotary, sampling_noise, truncation
from forebay_kernels.ops.quantize_blocks import quantize_blocks
from forebay_worker.attention.backend import AttentionMetadata, AttentionParameters, AttentionStep
from forebay_worker.attention.torch_batched import TorchBatched
from forebay_worker.attention.torch_sdpa import TorchSdpa
from forebay_worker.kv_cache import LayerKvCache

BLOCK_SIZE = 16


@dataclasses.dataclass
class Check:
    """One comparison: the worst error, and what it may be."""

    name: str
    error: float
    limit: float
    note: str = ""

    @property
    def passed(self) -> bool:
        """NaN passes nothing."""
        return self.error <= self.limit


def random(*sizes: int, seed: int = 0) -> Tensor:
    """float32 on CPU, from a seed."""
    return torch.randn(*sizes, generator=torch.Generator().manual_seed(seed))


def compare(name: str, run: Callable[..., Any], tensors: Sequence[Tensor], device: torch.device, limit: float) -> Check:
    """Run an op on CPU (natively, where the kernels are) and on the device by torch; `limit` 0: equal."""
    with force_torch() if not has_native() else nullcontext():
        expected = run(*[tensor.clone() for tensor in tensors])
    with force_torch():
        actual = run(*[tensor.clone().to(device) for tensor in tensors])
    pairs = zip(_flat(expected), _flat(actual), strict=True)
    return Check(name, max(_error(a.cpu(), b) for b, a in pairs), limit)


def _flat(result: Any) -> list[Tensor]:  # noqa: ANN401 (a tensor or several)
    return [result] if isinstance(result, Tensor) else list(result)


def _error(actual: Tensor, expected: Tensor) -> float:
    if not expected.is_floating_point():
        return float((actual != expected).sum())
    same = actual == expected  # equal infinities, whose difference is NaN
    return float((actual.double() - expected.double()).abs().masked_fill(same, 0).max())


def has_native() -> bool:
    """Whether the CPU kernels can be loaded here."""
    try:
        native_info()
    except ImportError:
        return False
    return True


def op_checks(device: torch.device) -> Iterator[Check]:
    """Every op over dtypes, some over shapes."""
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        name, eps = str(dtype).removeprefix("torch."), torch.finfo(dtype).eps
        for width in (64, 2048):
            x, weight, residual = (random(33, width, seed=seed).to(dtype) for seed in (1, 2, 3))
            # Values up to about 16, rounded once: two units of the last place there.
            yield compare(
                f"rms_norm {name} {width}",
                lambda x, weight, residual: rms_norm.rms_norm(x, weight[0], 1e-5, residual),
                (x, weight, residual), device, 32 * eps,
            )  # fmt: skip
        for kind in ("silu", "gelu", "gelu_tanh"):
            gated: Callable[..., Any] = lambda x, kind=kind: activation.gated_activation(x, kind)  # noqa: E731
            yield compare(f"gated {kind} {name}", gated, (random(33, 512).to(dtype),), device, 32 * eps)
        yield compare(f"rotary_write_kv {name}", _rotary, _rotary_tensors(dtype), device, 8 * eps)
        for rows_name, rows in ROWS.items():
            yield attention_check(f"attention {rows_name} {name}", rows, dtype, device)
    logits_RV, seeds_R = random(24, 50_000, seed=4) * 4, torch.arange(24) * 1_000_003
    yield compare("gumbel_argmax (ids)", sampling_noise.gumbel_argmax, (logits_RV, seeds_R, seeds_R % 97), device, 0)
    yield compare("token_logprobs", sampling_noise.token_logprobs, (logits_RV, seeds_R % 50_000), device, 1e-4)
    yield compare("kth_largest", truncation.kth_largest, (logits_RV, torch.arange(24) * 3), device, 0)
    floors_R, shares_R = torch.full((24,), -torch.inf), torch.linspace(0.1, 1.0, 24)
    window = (logits_RV, floors_R, torch.full((24,), torch.inf), shares_R)
    # A sum that meets its share within the sum's rounding may be cut one token later.
    yield compare("mass_window (tokens)", _kept, window, device, 2)
    yield compare("mean_logit", truncation.mean_logit, (logits_RV, floors_R), device, 1e-4)
    for type_name in block_types.BLOCK_TYPES:
        blocks = quantize_blocks(random(16, 512), type_name)
        dequantize: Callable[..., Any] = lambda b, name=type_name: block_types.dequantize_blocks(b, name)  # noqa: E731
        yield compare(f"dequantize {type_name}", dequantize, (blocks,), device, 0)


def _kept(logits_RV: Tensor, *arguments: Tensor) -> Tensor:
    low_R, high_R = truncation.mass_window(logits_RV, *arguments)
    return (logits_RV >= low_R[:, None]) & (logits_RV <= high_R[:, None])


def _rotary_tensors(dtype: torch.dtype) -> tuple[Tensor, ...]:
    heads = [random(20, count, 64, seed=count).to(dtype) for count in (8, 2, 2)]
    angles = torch.arange(64.0)[:, None] * torch.rand(32, generator=torch.Generator().manual_seed(5))
    caches = [torch.zeros(4, 2, 16, 64, dtype=dtype) for _ in range(2)]
    return *heads, torch.cat((angles.cos(), angles.sin()), 1), torch.arange(20) * 3, *caches, torch.arange(20) + 9


def _rotary(*tensors: Tensor) -> list[Tensor]:
    rotary.rotary_write_kv(*tensors)
    return [tensors[i] for i in (0, 1, 5, 6)]


ROWS = {
    "decodes": [(n * 37 + 5, 1) for n in range(24)],
    "prompts": [(0, 100), (0, 128), (0, 70)],
    "mixed": [(300, 1), (3, 1), (0, 128), (64, 33), (0, 1), (511, 1)],
}
"""Tokens before the step and in it, a row."""


def attention_check(name: str, rows: Sequence[tuple[int, int]], dtype: torch.dtype, device: torch.device) -> Check:
    """The batched backend on the device against the reference, row by row in float32 on CPU."""
    metadata = rows_metadata(rows)
    num_tokens, num_blocks = int(metadata.cu_seqlens_q_S1[-1]), int(metadata.block_tables_SB.max()) + 1
    q, k, v = (random(num_tokens, heads, 64, seed=heads).to(dtype) for heads in (8, 2, 3))
    caches = random(2, num_blocks, 2, BLOCK_SIZE, 64, seed=9).to(dtype)
    parameters = AttentionParameters(scale=0.125)
    wide = LayerKvCache(*caches.float())
    v = v[:, :2]
    expected = TorchSdpa().forward(q.float(), k.float(), v.float(), wide, AttentionStep(None, metadata), parameters)
    step = AttentionStep(None, rows_metadata(rows, device))
    there = LayerKvCache(*caches.to(device))
    actual = TorchBatched().forward(q.to(device), k.to(device), v.to(device), there, step, parameters)
    # Weighted means of values of about 1, rounded to the dtype, as are the weights inside torch's kernels; in float32
    # sums of another order.
    return Check(name, _error(actual.float().cpu(), expected), max(2e-5, 16 * torch.finfo(dtype).eps))


def rows_metadata(rows: Sequence[tuple[int, int]], device: torch.device | None = None) -> AttentionMetadata:
    """Rows one after another in the cache, from block 1 on."""
    lens, contexts = np.array([new for _, new in rows]), np.array([before + new for before, new in rows])
    counts = -(-contexts // BLOCK_SIZE)
    tables = np.zeros((len(rows), counts.max()), np.int32)
    slots = []
    for row, (before, new) in enumerate(rows):
        first = 1 + int(counts[:row].sum())
        tables[row, : counts[row]] = np.arange(first, first + counts[row])
        slots.append(first * BLOCK_SIZE + np.arange(before, before + new))
    starts = np.concatenate(([0], lens.cumsum())).astype(np.int32)

    def there(array: npt.NDArray[np.generic]) -> Tensor:
        return torch.from_numpy(array).to(device or "cpu")

    return AttentionMetadata(
        block_tables_SB=there(tables),
        context_lens_S=there(contexts.astype(np.int32)),
        cu_seqlens_q_S1=there(starts),
        slot_mapping_T=there(np.concatenate(slots)),
        block_size=BLOCK_SIZE,
        host_query_lens_S=lens,
        host_context_lens_S=contexts,
    )
