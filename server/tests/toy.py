"""A toy decoder whose next token is a hash of the whole context as the cache holds it, and a maker of plans.

Any wrong block, position, length or input changes the text.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import torch

from forebay_worker.attention.backend import AttentionMetadata
from forebay_worker.distributed.groups import ProcessGroup
from forebay_worker.executor import Executor
from forebay_worker.plan import Capabilities, NewSequence, RowFlag, SamplingParams, StepPlan

VOCAB = 96
LAST = RowFlag.SAMPLES | RowFlag.LAST_CHUNK
CAPABILITIES = Capabilities(
    num_blocks=64,
    block_size=4,
    max_sequences=40,
    max_plan_tokens=256,
    vocab_size=VOCAB,
    max_position_embeddings=128,
    max_sequence_tokens=64,
)


@dataclasses.dataclass
class ToyCache:
    """One int64 a token: what was computed at its place."""

    entries: torch.Tensor = dataclasses.field(
        default_factory=lambda: torch.full((CAPABILITIES.num_blocks * CAPABILITIES.block_size,), 999_983)
    )


class ToyModel:
    """Hidden state [T, 1]: the hash of a token and all before it."""

    def __init__(self, poison: int | None = None):
        self.poison = poison
        self.fail_with: list[Exception] = []

    def forward(
        self, input_ids_T: torch.Tensor, positions_T: torch.Tensor, kv_cache: Any, metadata: AttentionMetadata
    ) -> torch.Tensor:
        if self.fail_with:
            raise self.fail_with.pop(0)
        kv_cache.entries[metadata.slot_mapping_T] = input_ids_T * 1000 + positions_T
        cu = metadata.cu_seqlens_q_S1.tolist()
        hidden: list[int] = []
        for row, length in enumerate(metadata.context_lens_S.tolist()):
            blocks = metadata.block_tables_SB[row].long()
            places = (blocks[:, None] * CAPABILITIES.block_size + torch.arange(CAPABILITIES.block_size)).flatten()
            value, chain = 7, []
            for entry in kv_cache.entries[places[:length]].tolist():
                value = (value * 1_000_003 + entry) % 2**31
                chain.append(-1 if self.poison == entry // 1000 or (chain and chain[-1] == -1) else value)
            hidden += chain[length - (cu[row + 1] - cu[row]) :]
        return torch.tensor(hidden)[:, None]

    def logits(self, hidden_RD: torch.Tensor) -> torch.Tensor:
        rows = [
            np.full(VOCAB, np.nan) if h < 0 else np.random.default_rng(h).normal(0, 2, VOCAB)
            for h in hidden_RD[:, 0].tolist()
        ]
        return torch.from_numpy(np.stack(rows).astype(np.float32))


def make_executor(model: ToyModel | None = None, group: ProcessGroup | None = None) -> Executor:
    capabilities = dataclasses.replace(CAPABILITIES, rank=group.rank, world_size=group.world_size) if group else None
    return Executor(model or ToyModel(), ToyCache(), group or ProcessGroup(), capabilities or CAPABILITIES)  # type: ignore[arg-type]


def u32(values: Any) -> Any:
    return np.array(list(values), np.uint32)


class Plans:
    """Makes plans with ids that count up. Rows are (slot, epoch, flags) or (slot, epoch, num_tokens, flags)."""

    def __init__(self) -> None:
        self.step_id = 0

    def __call__(
        self,
        new: list[NewSequence] | None = None,
        decodes: list[tuple[int, int, int]] | None = None,
        chunks: list[tuple[int, int, int, int]] | None = None,
        released: list[tuple[int, int]] | None = None,
        appends: dict[int, list[int]] | None = None,
    ) -> StepPlan:
        decodes, chunks, released, appends = decodes or [], chunks or [], released or [], appends or {}
        rows = [(slot, epoch, 1, flags) for slot, epoch, flags in decodes] + chunks
        self.step_id += 1
        return StepPlan(
            step_id=self.step_id - 1,
            released_slots=u32(slot for slot, _ in released),
            released_epochs=u32(epoch for _, epoch in released),
            new_sequences=new or [],
            append_slots=u32(appends),
            append_counts=u32(len(blocks) for blocks in appends.values()),
            append_blocks=u32(block for blocks in appends.values() for block in blocks),
            num_decodes=len(decodes),
            row_slots=u32(row[0] for row in rows),
            row_epochs=u32(row[1] for row in rows),
            row_num_tokens=u32(row[2] for row in rows),
            row_flags=u32(row[3] for row in rows),
        )


def new_sequence(slot: int, ids: list[int], blocks: list[int], **fields: Any) -> NewSequence:
    epoch = fields.pop("epoch", 1)
    num_prompt = fields.pop("num_prompt_tokens", len(ids))
    num_computed = fields.pop("num_computed_tokens", 0)
    unsupported = fields.pop("unsupported", None)
    return NewSequence(
        slot, epoch, u32(ids), num_prompt, num_computed, u32(blocks), SamplingParams(**fields), unsupported
    )


def generate(ids: list[int], num_new: int, **sampling: Any) -> list[int]:
    """The text of one sequence, alone, in one chunk."""
    executor, plans = make_executor(), Plans()
    new = new_sequence(0, ids, list(range(1, 17)), **sampling)
    results = [executor.execute(plans(new=[new], chunks=[(0, 1, len(ids), LAST)]))]
    results += [executor.execute(plans(decodes=[(0, 1, RowFlag.SAMPLES)])) for _ in range(num_new - 1)]
    return [int(result.token_ids[0]) for result in results]
