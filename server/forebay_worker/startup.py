"""From a configuration to a warmed executor: the group, the model, the KV pool, a first step.

Blocks until every rank of the group is there. Nothing here runs again after the handshake.
"""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path

import numpy as np
import torch

from forebay_worker.config import WorkerConfig
from forebay_worker.distributed.groups import ProcessGroup, join
from forebay_worker.executor import Executor
from forebay_worker.kv_cache import KvCache, block_bytes
from forebay_worker.loader import LoadedModel, load_model
from forebay_worker.memory import choose_num_blocks
from forebay_worker.plan import Capabilities, NewSequence, RowFlag, SamplingParams, StepPlan

log = logging.getLogger(__name__)

# Yields to the router, whose work between two steps is short and late for everybody.
_NICENESS = 5


def set_up_process(config: WorkerConfig) -> None:
    """On CPU, yield to the router and take this rank's share of the cores. Once a process."""
    if torch.device(config.device).type == "cpu":
        os.nice(_NICENESS)
        torch.set_num_threads(config.num_threads or max(1, num_cores() // config.world_size))


def start_executor(config: WorkerConfig) -> Executor:
    """Join the group, load, reserve, warm. Raises: ValueError naming what is refused and the limit."""
    started = time.monotonic()
    device = torch.device(config.device)
    group = join(config.rank, config.world_size, config.rendezvous_path, device)
    loaded = load_model(config, group)
    num_blocks = group.min_int(choose_num_blocks(config, loaded.spec, loaded.kv_cache_dtype))
    capabilities = _capabilities(config, group, loaded, num_blocks)
    kv_cache = _reserve(config, loaded, num_blocks, capabilities.kv_cache_bytes)
    log.info("loaded `%s` in %.1f s", config.model_path, time.monotonic() - started)
    # Streams wait for a later life, and that the largest plan fits is known from the first.
    num_tokens = config.max_plan_tokens if config.incarnation == 1 else config.block_size
    _warm(Executor(loaded.decoder, kv_cache, group, capabilities), num_tokens)
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
    return Executor(loaded.decoder, kv_cache, group, capabilities)


def _reserve(config: WorkerConfig, loaded: LoadedModel, num_blocks: int, num_bytes: int) -> KvCache:
    try:
        return KvCache.allocate(
            loaded.spec,
            num_blocks,
            config.block_size,
            loaded.kv_cache_dtype,
            config.device,
            num_shards=config.world_size,
        )
    except RuntimeError as error:  # torch has no narrower one on CPU
        raise ValueError(
            f"the KV cache's `{num_blocks}` blocks, `{num_bytes}` bytes, cannot be reserved: "
            f"{str(error).splitlines()[0]}; free memory, or lower kv_cache_bytes or kv_cache_tokens"
        ) from error


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
        device=torch.device(config.device).type,
        kv_cache_dtype=str(loaded.kv_cache_dtype).removeprefix("torch."),
        kv_cache_bytes=num_blocks
        * block_bytes(loaded.spec, config.block_size, loaded.kv_cache_dtype, config.world_size),
        attention_backend=loaded.decoder.backend.name,
    )


def _warm(executor: Executor, num_tokens: int) -> None:
    """Run a chunk of `num_tokens`, or as many as one may have, a decode and every sampler once.

    The largest chunk makes all workspaces, so that no first request pays for them.
    """
    capabilities = executor.capabilities
    num_tokens = max(1, min(num_tokens, capabilities.max_plan_tokens, capabilities.max_sequence_tokens - 1))
    num_blocks = min(-(-(num_tokens + 1) // capabilities.block_size), capabilities.num_blocks - 1)
    sampling = SamplingParams(
        temperature=1.0,
        top_k=50,
        top_p=0.9,
        typical_p=0.9,
        min_p=0.01,
        repetition_penalty=1.1,
        frequency_penalty=0.1,
        presence_penalty=0.1,
        tgi_frequency_penalty=0.1,
        processed_logprobs=True,
        num_top_logprobs=5,
    )
    new = NewSequence(
        slot=0,
        epoch=0,
        token_ids=np.zeros(num_tokens, np.uint32),
        num_prompt_tokens=num_tokens,
        num_computed_tokens=0,
        block_ids=np.arange(1, num_blocks + 1, dtype=np.uint32),
        sampling=sampling,
    )
    flags = RowFlag.SAMPLES | RowFlag.LAST_CHUNK | RowFlag.LOGPROBS
    executor.execute(_warm_plan(0, [new], num_tokens, flags))
    if num_tokens < min(capabilities.max_sequence_tokens, num_blocks * capabilities.block_size):
        executor.execute(_warm_plan(1, [], 1, RowFlag.SAMPLES | RowFlag.LOGPROBS))


def _warm_plan(step_id: int, new_sequences: list[NewSequence], num_tokens: int, flags: RowFlag) -> StepPlan:
    none = np.empty(0, np.uint32)
    return StepPlan(
        step_id=step_id,
        released_slots=none,
        released_epochs=none,
        new_sequences=new_sequences,
        append_slots=none,
        append_counts=none,
        append_blocks=none,
        num_decodes=0 if new_sequences else 1,
        row_slots=np.zeros(1, np.uint32),
        row_epochs=np.zeros(1, np.uint32),
        row_num_tokens=np.array([num_tokens], np.uint32),
        row_flags=np.array([flags], np.uint32),
    )


def num_cores(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Cores that this process may use: its affinity, and its cgroup's quota rounded up."""
    cores = len(os.sched_getaffinity(0))
    try:
        quota, period = (cgroup / "cpu.max").read_text().split()
    except (OSError, ValueError):
        return cores
    return cores if quota == "max" else max(1, min(cores, -(-int(quota) // int(period))))
