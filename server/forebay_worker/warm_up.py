"""Steps of nobody before the first request: so that none pays for workspaces, and to learn what steps take of a GPU."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch

from forebay_worker.distributed.groups import ProcessGroup
from forebay_worker.executor import Executor
from forebay_worker.kv_cache import KvCache
from forebay_worker.loader import LoadedModel
from forebay_worker.plan import U32, Capabilities, NewSequence, RowFlag, SamplingParams, StepPlan

_ALL_SAMPLERS = SamplingParams(
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
_SAMPLES = RowFlag.SAMPLES | RowFlag.LOGPROBS


def warm(executor: Executor, num_tokens: int) -> None:
    """Run a chunk of `num_tokens`, or as many as one may have, a decode and every sampler once.

    So threads run, workspaces exist and what is imported late is there. The executor is not to be used again.
    """
    capabilities = executor.capabilities
    num_tokens = max(1, min(num_tokens, capabilities.max_plan_tokens, capabilities.max_sequence_tokens - 1))
    num_blocks = min(-(-(num_tokens + 1) // capabilities.block_size), capabilities.num_blocks - 1)
    new = _sequence(0, num_tokens, 0, np.arange(1, num_blocks + 1, dtype=np.uint32))
    executor.execute(_plan(0, [new], [num_tokens]))
    if num_tokens < min(capabilities.max_sequence_tokens, num_blocks * capabilities.block_size):
        executor.execute(_plan(1, [], [1]))


def cuda_workspace(loaded: LoadedModel, group: ProcessGroup, capabilities: Capabilities) -> int:
    """Bytes of the GPU that the largest steps take beside weights and cache, by taking them.

    Raises: ValueError naming the steps if they do not fit.
    """
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(group.device)
    before = torch.cuda.memory_reserved(group.device)
    run_largest_steps(loaded, group, capabilities)
    torch.cuda.synchronize(group.device)
    workspace: int = torch.cuda.max_memory_reserved(group.device) - before
    torch.cuda.empty_cache()
    return workspace


def run_largest_steps(loaded: LoadedModel, group: ProcessGroup, capabilities: Capabilities) -> None:
    """Run the end of the longest prompt, and the last token of as many as can run at once, with every sampler.

    All their blocks are one and the same, so that hardly any cache is needed: what they read makes no sense.
    `capabilities`: how many and how long; its number of blocks does not count.
    Raises: ValueError naming the steps if they do not fit into memory.
    """
    capabilities = dataclasses.replace(capabilities, num_blocks=2)
    cache = KvCache.allocate(
        loaded.spec, 2, capabilities.block_size, loaded.kv_cache_dtype, group.device, num_shards=group.world_size
    )
    for layer in cache.layers:
        layer.key.zero_()
        layer.value.zero_()
    longest, num_rows = capabilities.max_sequence_tokens, capabilities.max_sequences
    chunk = min(capabilities.max_plan_tokens, longest)
    blocks = np.ones(-(-longest // capabilities.block_size), np.uint32)
    plans = (
        _plan(0, [_sequence(0, longest, longest - chunk, blocks)], [chunk]),
        _plan(0, [_sequence(slot, longest, longest - 1, blocks) for slot in range(num_rows)], [1] * num_rows),
    )
    try:
        results = [Executor(loaded.decoder, cache, group, capabilities).execute(plan) for plan in plans]
    except torch.OutOfMemoryError:
        results = []
    if not results or any(result.step_error for result in results):
        raise ValueError(
            f"steps of `{chunk}` tokens of a prompt and of `{num_rows}` sequences, `{longest}` tokens long, do not fit "
            f"into the memory of `{group.device}` beside the weights; lower "
            "--max-batch-prefill-tokens, --max-batch-size or --max-total-tokens"
        )


def _sequence(slot: int, num_tokens: int, num_computed: int, block_ids: U32) -> NewSequence:
    return NewSequence(
        slot=slot,
        epoch=0,
        token_ids=np.zeros(num_tokens, np.uint32),
        num_prompt_tokens=num_tokens,
        num_computed_tokens=num_computed,
        block_ids=block_ids,
        sampling=_ALL_SAMPLERS,
    )


def _plan(step_id: int, new_sequences: list[NewSequence], num_tokens: list[int]) -> StepPlan:
    """Rows of the slots from 0 on; without new sequences, decodes."""
    none = np.empty(0, np.uint32)
    last = RowFlag.LAST_CHUNK if new_sequences else RowFlag(0)
    return StepPlan(
        step_id=step_id,
        released_slots=none,
        released_epochs=none,
        new_sequences=new_sequences,
        append_slots=none,
        append_counts=none,
        append_blocks=none,
        num_decodes=0 if new_sequences else len(num_tokens),
        row_slots=np.arange(len(num_tokens), dtype=np.uint32),
        row_epochs=np.zeros(len(num_tokens), np.uint32),
        row_num_tokens=np.array(num_tokens, np.uint32),
        row_flags=np.full(len(num_tokens), _SAMPLES | last, np.uint32),
    )
