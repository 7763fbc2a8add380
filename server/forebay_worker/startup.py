"""From a configuration to a warmed executor: the group, the model, the KV pool, a first step.

Blocks until every rank of the group is there. Nothing here runs again after the handshake.
"""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path

import torch

from forebay_kernels import use_torch_alone
from forebay_worker.config import WorkerConfig
from forebay_worker.device import choose_device, usable_cuda_memory
from forebay_worker.distributed.groups import ProcessGroup, join
from forebay_worker.executor import Executor
from forebay_worker.grammar.store import GrammarStore, is_available
from forebay_worker.kv_cache import KvCache, block_bytes
from forebay_worker.loader import LoadedModel, load_model
from forebay_worker.memory import Room, available_memory, choose_num_blocks, cpu_room, cuda_room
from forebay_worker.plan import DETERMINISTIC, FEATURES, Capabilities
from forebay_worker.warm_up import cuda_workspace, warm

log = logging.getLogger(__name__)

# Yields to the router, whose work between two steps is short and late for everybody.
_NICENESS = 5


def set_up_process(config: WorkerConfig) -> None:
    """Take this rank's GPU; or, on CPU, yield to the router and take this rank's share of the cores. Once a process.

    Raises: ValueError for a device that cannot be had.
    """
    choice = choose_device(config)
    if config.device != choice.device.type:
        log.info("device `%s` is `%s`: %s", config.device, choice.device, choice.reason)
    use_torch_alone(not config.custom_kernels)
    if choice.device.type == "cuda":
        torch.cuda.set_device(choice.device)
        torch.cuda.set_per_process_memory_fraction(config.cuda_memory_fraction, choice.device)
        return
    if config.cuda_memory_fraction < 1:
        log.warning("cuda_memory_fraction `%s` has no effect on cpu", config.cuda_memory_fraction)
    os.nice(_NICENESS)
    torch.set_num_threads(config.num_threads or max(1, num_cores() // config.world_size))


def start_executor(config: WorkerConfig, grammars: GrammarStore | None = None) -> Executor:
    """Join the group, load, reserve, warm. `grammars`: where prepared ones will be found.

    Raises: ValueError naming what is refused and the limit.
    """
    started = time.monotonic()
    device = choose_device(config).device
    group = join(config.rank, config.world_size, config.rendezvous_path, device, ordered_sums=config.deterministic)
    loaded = load_model(config, group)
    num_blocks = choose_num_blocks(config, loaded.spec, loaded.kv_cache_dtype, _room(config, group, loaded))
    num_blocks = group.min_int(num_blocks)
    capabilities = _capabilities(config, group, loaded, num_blocks)
    kv_cache = _reserve(config, device, loaded, num_blocks, capabilities.kv_cache_bytes)
    log.info("loaded `%s` in %.1f s", config.model_path, time.monotonic() - started)
    # On a GPU the largest plan has run already. On CPU it would hold up every start by its own length, 0.3 s for the
    # bundled model and many for a large one, to save the first long prompt a tenth of that.
    warm(Executor(loaded.decoder, kv_cache, group, capabilities), config.block_size)
    log.info(
        "ready after %.1f s: %d blocks of %d tokens, %d KV bytes, dtype %s, attention %s",
        time.monotonic() - started,
        capabilities.num_blocks,
        capabilities.block_size,
        capabilities.kv_cache_bytes,
        capabilities.dtype,
        capabilities.attention_backend,
    )
    # A new one: the warm-up's epochs are no tenant's.
    return Executor(loaded.decoder, kv_cache, group, capabilities, grammars)


def _reserve(
    config: WorkerConfig, device: torch.device, loaded: LoadedModel, num_blocks: int, num_bytes: int
) -> KvCache:
    try:
        return KvCache.allocate(
            loaded.spec,
            num_blocks,
            config.block_size,
            loaded.kv_cache_dtype,
            device,
            num_shards=config.world_size,
        )
    except RuntimeError as error:  # torch has no narrower one on CPU
        raise ValueError(
            f"the KV cache's `{num_blocks}` blocks, `{num_bytes}` bytes, cannot be reserved: "
            f"{str(error).splitlines()[0]}; free memory, or lower kv_cache_bytes or kv_cache_tokens"
        ) from error


def _room(config: WorkerConfig, group: ProcessGroup, loaded: LoadedModel) -> Room:
    if group.device.type != "cuda":
        return cpu_room(config, available_memory())
    if config.num_blocks is not None:
        return Room(0, "an earlier life")
    enough_blocks = 1 + -(-loaded.max_position_embeddings // config.block_size)
    workspace = cuda_workspace(loaded, group, _capabilities(config, group, loaded, enough_blocks))
    usable = usable_cuda_memory(group.device, config.cuda_memory_fraction)
    log.info("`%s`: %d bytes are usable beside the weights, steps take %d", group.device, usable, workspace)
    return cuda_room(usable, workspace)


def _capabilities(config: WorkerConfig, group: ProcessGroup, loaded: LoadedModel, num_blocks: int) -> Capabilities:
    bounds = [loaded.max_position_embeddings, (num_blocks - 1) * config.block_size]
    if config.max_total_tokens is not None:
        bounds.append(config.max_total_tokens)
    return Capabilities(
        num_blocks=num_blocks,
        block_size=config.block_size,
        max_sequences=config.max_sequences,
        max_plan_tokens=config.max_plan_tokens,
        vocab_size=loaded.vocab_size,
        max_position_embeddings=loaded.max_position_embeddings,
        max_sequence_tokens=min(bounds),
        max_run_ahead=config.max_run_ahead,
        rank=group.rank,
        world_size=group.world_size,
        dtype=str(loaded.dtype).removeprefix("torch."),
        device=group.device.type,
        kv_cache_dtype=str(loaded.kv_cache_dtype).removeprefix("torch."),
        kv_cache_bytes=num_blocks
        * block_bytes(loaded.spec, config.block_size, loaded.kv_cache_dtype, config.world_size),
        attention_backend=loaded.decoder.backend.name,
        features=_features(config),
    )


def _features(config: WorkerConfig) -> tuple[str, ...]:
    chosen = (DETERMINISTIC,) if config.deterministic else ()
    return (*FEATURES, *chosen, "grammar") if is_available() else (*FEATURES, *chosen)


def num_cores(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Cores that this process may use: its affinity, and its cgroup's quota rounded up."""
    cores = len(os.sched_getaffinity(0))
    try:
        quota, period = (cgroup / "cpu.max").read_text().split()
    except (OSError, ValueError):
        return cores
    return cores if quota == "max" else max(1, min(cores, -(-int(quota) // int(period))))
