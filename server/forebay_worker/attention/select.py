"""Chooses the attention backend: the only place that looks at device and dtype for it."""

from __future__ import annotations

import torch

from forebay_kernels.native import native_serves
from forebay_worker.attention.backend import AttentionBackend
from forebay_worker.attention.torch_batched import TorchBatched
from forebay_worker.attention.torch_sdpa import TorchSdpa

NAMES = ("auto", "paged", "batched", "sdpa")
KERNEL_DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def select_backend(wanted: str, device: torch.device, dtype: torch.dtype) -> AttentionBackend:
    """`wanted`: one of NAMES; `dtype`: of the activations.

    Raises: ValueError naming what `paged` lacks here, or the backends there are.
    """
    if wanted not in NAMES:
        raise ValueError(f"attention is `{wanted}`, expected auto, paged, batched or sdpa")
    obstacle = _paged_obstacle(device, dtype)
    if wanted == "paged" and obstacle:
        raise ValueError(f"attention is `paged`, but {obstacle}; use auto, batched or sdpa")
    if wanted == "sdpa":
        return TorchSdpa()
    if wanted == "batched" or obstacle:
        return TorchBatched()
    from forebay_worker.attention.cpu_paged import CpuPaged

    return CpuPaged()


def _paged_obstacle(device: torch.device, dtype: torch.dtype) -> str | None:
    if device.type != "cpu":
        return f"the kernel is for cpu and the device is `{device}`"
    if not native_serves(device):
        return "custom kernels are switched off"
    if dtype not in KERNEL_DTYPES:
        return f"the kernel takes no activations in `{dtype}`"
    return None
