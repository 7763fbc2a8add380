"""The ranks that together run one model. With one rank nothing of torch.distributed is imported or started."""

from __future__ import annotations

import dataclasses
import datetime
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

JOIN_TIMEOUT = datetime.timedelta(minutes=10)
"""For the slowest rank to read its weights; a rank that dies is noticed by the launcher, not by this."""

BACKENDS = {"cpu": "gloo", "cuda": "nccl"}


@dataclasses.dataclass(frozen=True)
class ProcessGroup:
    """One rank's view of its group. Collectives are identities when `world_size` is 1."""

    rank: int = 0
    world_size: int = 1
    device: torch.device = dataclasses.field(default_factory=lambda: torch.device("cpu"))
    ordered_sums: bool = False
    """Whether sums are taken in rank order. Of three ranks and more gloo adds each part of a tensor in another order,
    so that a row's sum depends on how many rows there are."""

    def shard(self, num_units: int) -> range:
        """This rank's part of `num_units` equal units; one unit, shared by neighbours, if ranks outnumber units.

        The caller has checked that one number divides the other.
        """
        if num_units < self.world_size:
            unit = self.rank * num_units // self.world_size
            return range(unit, unit + 1)
        size = num_units // self.world_size
        assert size * self.world_size == num_units, f"{num_units} units over {self.world_size} ranks"
        return range(self.rank * size, (self.rank + 1) * size)

    def all_reduce(self, x: Tensor) -> Tensor:
        """Sum over ranks; may work in place, use what is returned."""
        if self.world_size == 1:
            return x
        from forebay_worker.distributed import collectives

        if self.ordered_sums and self.world_size > 2:
            return collectives.sum_in_rank_order(x, self.world_size)
        return collectives.all_reduce(x)

    def all_gather_last_dim(self, x: Tensor) -> Tensor:
        """Every rank's `x` (equal shapes), concatenated along the last dimension in rank order."""
        if self.world_size == 1:
            return x
        from forebay_worker.distributed import collectives

        return collectives.all_gather_last_dim(x, self.world_size)

    def broadcast(self, x: Tensor, src: int = 0) -> Tensor:
        """Rank `src`'s `x` on every rank; may work in place, use what is returned."""
        if self.world_size == 1:
            return x
        from forebay_worker.distributed import collectives

        return collectives.broadcast(x, src)

    def min_int(self, n: int) -> int:
        """The least `n` of all ranks."""
        if self.world_size == 1:
            return n
        from forebay_worker.distributed import collectives

        return collectives.min_int(n, self.device)

    def leave(self) -> None:
        """Let go of the group before a normal end of the process: gloo's threads, left running, abort it now and then.

        Not needed where the process is killed or ends by `os._exit`.
        """
        if self.world_size > 1:
            import torch.distributed as dist

            dist.destroy_process_group()


def join(
    rank: int, world_size: int, rendezvous_path: str, device: str | torch.device, *, ordered_sums: bool = False
) -> ProcessGroup:
    """Meet the other ranks through a file that no earlier group has used. Blocks until all are there.

    Raises: ValueError for a device without a collective backend, or for one that this torch lacks.
    """
    device = torch.device(device)
    if device.type not in BACKENDS:
        raise ValueError(f"device is `{device}`, expected one of {', '.join(BACKENDS)}")
    if world_size > 1:
        import torch.distributed as dist

        backend = BACKENDS[device.type]
        if not dist.is_backend_available(backend):
            raise ValueError(
                f"num_shard is `{world_size}`, but this torch has no `{backend}` for `{device}`; set it to 1"
            )
        dist.init_process_group(
            backend,
            init_method=f"file://{rendezvous_path}",
            rank=rank,
            world_size=world_size,
            timeout=JOIN_TIMEOUT,
            # Binds the rank to its GPU; gloo takes none.
            device_id=device if device.type == "cuda" else None,
        )
    return ProcessGroup(rank, world_size, device, ordered_sums)
