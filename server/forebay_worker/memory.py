"""How many KV blocks fit. Reads what the machine and its cgroup have available; allocates nothing."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch

from forebay_worker.config import WorkerConfig
from forebay_worker.kv_cache import block_bytes
from forebay_worker.models.spec import DecoderSpec

AVAILABLE_PERCENT = 40
"""Of a machine's available memory, all shards of all replicas together: activations and other programs need it."""

MAX_FULL_SEQUENCES = 32
"""On CPU, more cache than that many sequences of full length seldom helps, and reserving it can alarm an operator."""

CUDA_PERCENT = 90
"""Of what weights and the largest step leave of a GPU: memory gets scattered, and libraries take some later on."""


@dataclasses.dataclass(frozen=True)
class Room:
    """Memory that one shard's cache may take."""

    num_bytes: int
    origin: str
    max_full_sequences: int | None = None


def cpu_room(config: WorkerConfig, available_bytes: int) -> Room:
    """This shard's part of the machine's available memory."""
    shares = config.world_size * config.num_replicas
    return Room(available_bytes * AVAILABLE_PERCENT // 100 // shares, "available memory", MAX_FULL_SEQUENCES)


def cuda_room(usable_bytes: int, workspace_bytes: int) -> Room:
    """What is left of a GPU of one's own, once weights are loaded, beside what steps take.

    `usable_bytes`: see `device.usable_cuda_memory`; `workspace_bytes`: of the largest step, freed again.
    """
    left = max(0, usable_bytes - workspace_bytes)
    return Room(left * CUDA_PERCENT // 100, "the GPU's memory beside weights and steps")


def choose_num_blocks(config: WorkerConfig, spec: DecoderSpec, kv_cache_dtype: torch.dtype, room: Room) -> int:
    """Blocks for this shard's cache, the null block included; the group uses the least of its ranks' numbers.

    What the operator says goes before `room`; in a later life of the group it is the number of the first, whatever is
    available now: a request that filled the pool then must fit again. Without an operator's max_total_tokens a small
    machine gets shorter sequences rather than a refusal.
    Raises: ValueError naming the bytes needed and available, if not even one sequence fits.
    """
    if config.num_blocks is not None:
        return config.num_blocks
    one_block = block_bytes(spec, config.block_size, kv_cache_dtype, config.world_size)
    max_total_tokens = min(config.max_total_tokens or spec.max_position_embeddings, spec.max_position_embeddings)
    sequence_blocks = -(-max_total_tokens // config.block_size)
    if config.kv_cache_bytes is not None:
        budget, origin = config.kv_cache_bytes, "kv_cache_bytes"
        num_blocks = budget // one_block
    elif config.kv_cache_tokens is not None:
        num_blocks = 1 + -(-config.kv_cache_tokens // config.block_size)
        budget, origin = num_blocks * one_block, "kv_cache_tokens"
    else:
        budget, origin = room.num_bytes, room.origin
        num_blocks = budget // one_block
        if room.max_full_sequences is not None:
            num_blocks = min(num_blocks, room.max_full_sequences * sequence_blocks + 1)
    needed = 1 + (sequence_blocks if config.max_total_tokens is not None else 1)
    if num_blocks < needed:
        raise ValueError(
            f"the KV cache needs `{needed * one_block}` bytes a shard for one sequence, {origin} gives `{budget}`; "
            "lower max_total_tokens, or raise kv_cache_bytes or kv_cache_tokens"
        )
    return num_blocks


def available_memory() -> int:
    """Bytes that a new allocation can still get on this machine: the least of what it and the cgroup have."""
    return min(_machine_available(), *_cgroup_available())


def _machine_available() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    raise ValueError("`/proc/meminfo` has no MemAvailable; set kv_cache_bytes")


def _cgroup_available() -> list[int]:
    """Room left in this process's cgroup, version 2 or 1; page cache that it could drop counts as room."""
    rooms = [2**63]
    for limit, usage, stat in (
        ("memory.max", "memory.current", "memory.stat"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat"),
    ):
        root = Path("/sys/fs/cgroup")
        try:
            allowed, used = (root / limit).read_text().strip(), int((root / usage).read_text())
            reclaimable = _stat_value(root / stat, "inactive_file")
        except (OSError, ValueError):
            continue
        if allowed != "max":
            rooms.append(max(0, int(allowed) - used + reclaimable))
    return rooms


def _stat_value(path: Path, key: str) -> int:
    for line in path.read_text().splitlines():
        name, _, value = line.partition(" ")
        if name == key:
            return int(value)
    return 0
