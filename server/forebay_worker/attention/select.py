"""Chooses the attention backend: the only place that looks at device and dtype for it."""

from __future__ import annotations

import torch

from forebay_worker.attention.backend import AttentionBackend
from forebay_worker.attention.torch_sdpa import TorchSdpa

KERNEL_DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def select_backend(wanted: str, device: torch.device, dtype: torch.dtype) -> AttentionBackend:
    """`wanted`: auto, paged or sdpa; `dtype`: of the activations.

    Raises: ValueError naming what `paged` lacks here, or the backends there are.
    """
    if wanted not in ("auto", "paged", "sdpa"):
        raise ValueError(f"attention is `{wanted}`, expected auto, paged or sdpa")
    obstacle = _paged_obstacle(device, dtype)
    if wanted == "paged" and obstacle:
        raise ValueError(f"attention is `paged`, but {obstacle}; use auto or sdpa")
    if wanted == "sdpa" or obstacle:
        return TorchSdpa()
    from forebay_worker.attention.cpu_paged import CpuPaged

    return CpuPaged()


def _paged_obstacle(device: torch.device, dtype: torch.dtype) -> str | None:
    if device.type != "cpu":
        return f"the kernel is for cpu and the device is `{device}`"
    if dtype not in KERNEL_DTYPES:
        return f"the kernel takes no activations in `{dtype}`"
    return None
