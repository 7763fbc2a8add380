"""The device that a worker computes on: chosen or refused before anything is read, and how host arrays get there."""

from __future__ import annotations

import dataclasses
import re
import warnings

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from forebay_worker.config import WorkerConfig

NAMES = ("auto", "cpu", "cuda")

MIN_DEVICE_BYTES = 2 << 30
"""Below it a device is no help: CUDA's context, torch's kernels and libraries' workspaces take about 1 GiB."""

_ARCHITECTURE = re.compile(r"(sm|compute)_(\d+)(\d)(a|f)?")


@dataclasses.dataclass(frozen=True)
class Choice:
    """A device, and in words why."""

    device: torch.device
    reason: str


def choose_device(config: WorkerConfig) -> Choice:
    """The device of this shard of this replica; every shard of every replica has a GPU of its own, by its number.

    `auto` is cuda where torch sees devices that it can use, else cpu. Every rank judges by the same facts, so that all
    come to the same answer.
    Raises: ValueError for an unknown name, for cuda without a usable device, and for more shards than devices.
    """
    if config.device not in NAMES:
        raise ValueError(f"device is `{config.device}`, expected one of {', '.join(NAMES)}")
    if config.device == "cpu":
        return Choice(torch.device("cpu"), "as configured")
    num_workers = config.world_size * config.num_replicas
    if (obstacle := cuda_obstacle()) is None:
        num_devices = torch.cuda.device_count()
        if num_workers > num_devices:
            raise ValueError(
                f"`{num_workers}` shards (num_shard `{config.world_size}` x replicas `{config.num_replicas}`) need a "
                f"CUDA device each, torch sees `{num_devices}`; lower num_shard or replicas, or set device to cpu"
            )
        obstacles = [_unusable(index) for index in range(num_workers)]
        obstacle = next((one for one in obstacles if one is not None), None)
    if obstacle is None:
        index = config.replica * config.world_size + config.rank
        return Choice(torch.device("cuda", index), f"torch sees `{torch.cuda.get_device_name(index)}`")
    if config.device == "cuda":
        raise ValueError(f"device is `cuda`, but {obstacle}; set it to cpu, or to auto")
    return Choice(torch.device("cpu"), obstacle)


def cuda_obstacle() -> str | None:
    """Why torch can use no CUDA device at all, in words; None if it sees one."""
    if torch.version.cuda is None and torch.version.hip is None:
        return f"this torch, `{torch.__version__}`, is built without CUDA"
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        num_devices = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if num_devices:
        return None
    words = "; ".join(str(warning.message).partition(" (Triggered")[0] for warning in said)
    return f"torch sees no CUDA device{f' ({words})' if words else ''}"


def _unusable(index: int) -> str | None:
    """What keeps torch from a device that it sees. Asks for facts that do not change, and makes no context."""
    properties = torch.cuda.get_device_properties(index)
    name = f"CUDA device `{index}`, `{properties.name}`,"
    if properties.total_memory < MIN_DEVICE_BYTES:
        return f"{name} has `{properties.total_memory}` bytes of memory, expected at least {MIN_DEVICE_BYTES}"
    architectures = torch.cuda.get_arch_list()
    if not _can_run(architectures, properties.major, properties.minor):
        return (
            f"{name} has compute capability `{properties.major}.{properties.minor}`, this torch has code for "
            f"{', '.join(architectures)}"
        )
    return None


def _can_run(architectures: list[str], major: int, minor: int) -> bool:
    """Machine code runs on its own generation from its own minor number on, PTX on everything newer.

    A list in another notation (ROCm's) says nothing, and torch's word is taken.
    """
    known = [matched for name in architectures if (matched := _ARCHITECTURE.fullmatch(name))]
    return not known or any(_runs(*matched.groups(), major=major, minor=minor) for matched in known)


def _runs(kind: str, of_major: str, of_minor: str, suffix: str | None, *, major: int, minor: int) -> bool:
    made_for = int(of_major), int(of_minor)
    if suffix == "a":
        return made_for == (major, minor)
    if kind == "sm" or suffix == "f":
        return made_for[0] == major and made_for[1] <= minor
    return made_for <= (major, minor)


def half_dtype(device: torch.device) -> str:
    """The type of half width that a GPU multiplies fast; bfloat16 where it can, for it never overflows."""
    with torch.cuda.device(device):
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float16"


def usable_cuda_memory(device: torch.device, fraction: float) -> int:
    """Bytes of a GPU that are free, less the part of its memory that this server is not to use."""
    free, total = torch.cuda.mem_get_info(device)
    return max(0, free - int((1.0 - fraction) * total))


def upload(array: npt.NDArray[np.generic], device: torch.device) -> Tensor:
    """An array as a tensor on `device`; on CPU a view of it, on a GPU a copy on its way while the host goes on."""
    tensor = torch.from_numpy(array)
    # Only from pinned memory is a copy asynchronous; torch keeps the memory until the copy is done.
    return tensor if device.type == "cpu" else tensor.pin_memory().to(device, non_blocking=True)
