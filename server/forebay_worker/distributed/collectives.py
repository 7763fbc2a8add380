"""The exchanges that tensor parallelism needs, over torch.distributed's default group. Every rank must call each."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor


def all_reduce(x: Tensor) -> Tensor:
    """Sum `x` over ranks, in place; returns it."""
    x = x.contiguous()
    dist.all_reduce(x)
    return x


def all_gather_last_dim(x: Tensor, world_size: int) -> Tensor:
    """Concatenate every rank's `x` (equal shapes) along the last dimension, in rank order."""
    parts = [torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(world_size)]
    dist.all_gather(parts, x.contiguous())
    return torch.cat(parts, dim=-1)


def broadcast(x: Tensor, src: int) -> Tensor:
    """Rank `src`'s `x` on every rank, in place; returns it."""
    x = x.contiguous()
    dist.broadcast(x, src)
    return x


def min_int(n: int, device: torch.device) -> int:
    """The least `n` of all ranks."""
    value = torch.tensor([n], dtype=torch.int64, device=device)
    dist.all_reduce(value, op=dist.ReduceOp.MIN)
    return int(value.item())
