"""A packed-step driver for decoders: what the executor does, without plans and sampling."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from forebay_worker.attention.backend import AttentionMetadata
from forebay_worker.config import WorkerConfig
from forebay_worker.distributed.groups import ProcessGroup
from forebay_worker.kv_cache import KvCache
from forebay_worker.loader import LoadedModel, load_model

BLOCK_SIZE = 16


def worker_config(path: Path, **changes: Any) -> WorkerConfig:
    """A configuration for a model on disk; the reference attention unless told otherwise."""
    fields = {"model_path": str(path), "socket_path": "", "rendezvous_path": "", "incarnation": 1, "attention": "sdpa"}
    return WorkerConfig(**{**fields, **changes})


@dataclasses.dataclass
class Stepper:
    """Runs packed steps on a decoder, each sequence in blocks of its own."""

    model: LoadedModel
    group: ProcessGroup = dataclasses.field(default_factory=ProcessGroup)
    max_sequences: int = 8
    max_len: int = 128

    def __post_init__(self) -> None:
        self.blocks_each = self.max_len // BLOCK_SIZE
        self.cache = KvCache.allocate(
            self.model.spec,
            1 + self.max_sequences * self.blocks_each,
            BLOCK_SIZE,
            self.model.kv_cache_dtype,
            "cpu",
            num_shards=self.group.world_size,
        )
        self.lens = [0] * self.max_sequences

    def table(self, sequence: int) -> list[int]:
        """Blocks in reverse, so that order in memory is not order in the sequence."""
        first = 1 + sequence * self.blocks_each
        return list(range(first, first + self.blocks_each))[::-1]

    def step(self, rows: Sequence[tuple[int, Sequence[int]]]) -> torch.Tensor:
        """rows: (sequence, new ids). Returns the logits of every token."""
        positions = [self.lens[s] + i for s, ids in rows for i in range(len(ids))]
        slots = [
            self.table(s)[p // BLOCK_SIZE] * BLOCK_SIZE + p % BLOCK_SIZE
            for s, ids in rows
            for p in range(self.lens[s], self.lens[s] + len(ids))
        ]
        for s, ids in rows:
            self.lens[s] += len(ids)
        lens = [len(ids) for _, ids in rows]
        metadata = AttentionMetadata(
            block_tables_SB=torch.tensor([self.table(s) for s, _ in rows], dtype=torch.int32),
            context_lens_S=torch.tensor([self.lens[s] for s, _ in rows], dtype=torch.int32),
            cu_seqlens_q_S1=torch.tensor([0, *torch.tensor(lens).cumsum(0).tolist()], dtype=torch.int32),
            slot_mapping_T=torch.tensor(slots),
            block_size=BLOCK_SIZE,
            host_query_lens_S=np.array(lens),
            host_context_lens_S=np.array([self.lens[s] for s, _ in rows]),
        )
        ids_T = torch.tensor([token for _, ids in rows for token in ids])
        with torch.inference_mode():
            hidden = self.model.decoder.forward(ids_T, torch.tensor(positions), self.cache, metadata)
            return self.model.decoder.logits(hidden)

    def greedy(self, prompt: Sequence[int], num_tokens: int, sequence: int = 0) -> list[int]:
        """The best tokens after a prompt."""
        ids = [int(self.step([(sequence, prompt)])[-1].argmax())]
        while len(ids) < num_tokens:
            ids.append(int(self.step([(sequence, ids[-1:])])[-1].argmax()))
        return ids


def load(path: Path, group: ProcessGroup | None = None, **changes: Any) -> Stepper:
    """Load a model and wrap it for stepping."""
    group = group or ProcessGroup()
    config = worker_config(path, rank=group.rank, world_size=group.world_size, **changes)
    return Stepper(load_model(config, group), group)
