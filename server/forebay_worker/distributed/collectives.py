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


def sum_in_rank_order(x: Tensor, world_size: int) -> Tensor:
    """Sum `x` over ranks, element by element in rank order; returns the sum."""
    total, *others = _of_all_ranks(x, world_size)
    for part in others:
        total += part
    return total


def all_gather_last_dim(x: Tensor, world_size: int) -> Tensor:
    """Concatenate every rank's `x` (equal shapes) along the last dimension, in rank order."""
    return torch.cat(_of_all_ranks(x, world_size), dim=-1)


def _of_all_ranks(x: Tensor, world_size: int) -> list[Tensor]:
    parts = [torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(world_size)]
    dist.all_gather(parts, x.contiguous())
    return parts


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
