"""What a worker is told at its start: one JSON line on stdin, checked once. Nothing else reads the environment."""

from __future__ import annotations

import dataclasses
import json
from typing import Any


@dataclasses.dataclass(frozen=True)
class WorkerConfig:
    """One shard's configuration, as the launcher writes it.

    Sizes are in tokens unless named otherwise; `None` means that the worker chooses.
    """

    model_path: str
    """A folder of safetensors with `config.json`, or a `.gguf` file."""
    socket_path: str
    """Unix socket to serve on, inside the run's own 0700 folder."""
    rendezvous_path: str
    """File through which the ranks of a group find each other; unused with one rank."""
    incarnation: int
    rank: int = 0
    world_size: int = 1
    replica: int = 0
    num_replicas: int = 1
    """Groups on this machine; they share what memory is available."""
    num_threads: int | None = None
    """Threads for kernels; None: cores available to the process divided by world_size, at least 1."""
    dtype: str | None = None
    """float32, bfloat16 or float16; None: the checkpoint's own; of a GGUF file's activations float32 on CPU, on a GPU
    bfloat16 (float16 before Ampere)."""
    kv_cache_dtype: str | None = None
    """float32, bfloat16 or float16; None: float16 beside quantized weights on CPU, else `dtype`."""
    device: str = "cpu"
    """auto, cpu or cuda; `device.py` says what auto means."""
    custom_kernels: bool = True
    """False: torch's operators in place of the CPU kernels; quantized weights are then held in `dtype`."""
    cuda_memory_fraction: float = 1.0
    """Of each GPU's memory, the part that this server may use."""
    block_size: int = 16
    max_sequences: int = 128
    max_plan_tokens: int = 512
    max_total_tokens: int | None = None
    """The operator's bound on one sequence; the model's max_position_embeddings bounds it too."""
    kv_cache_bytes: int | None = None
    """Of this shard; None: on CPU min(its part of 40% of available memory, room for 32 x max_total_tokens), on a GPU
    90% of what weights and the largest step leave."""
    kv_cache_tokens: int | None = None
    """The cache's size in tokens, in place of bytes; rounded up to whole blocks."""
    num_blocks: int | None = None
    """In later lives of the group: the blocks of its first, the null block included. Wins over the other two."""
    max_run_ahead: int = 3
    attention: str = "auto"
    """auto, paged (the CPU kernel), batched (by torch, everywhere) or sdpa (its reference)."""
    deterministic: bool = False
    """True: a row's result may depend on nothing else in its step; what cannot promise it is refused."""
    log_level: str = "info"

    def __post_init__(self) -> None:
        """Check what cannot be right. Raises: ValueError naming the field, its value and the limit."""
        if not 0 <= self.rank < self.world_size:
            raise ValueError(f"rank is `{self.rank}`, expected 0 to {self.world_size - 1}")
        if not 0 <= self.replica < self.num_replicas:
            raise ValueError(f"replica is `{self.replica}`, expected 0 to {self.num_replicas - 1}")
        if not 0 < self.cuda_memory_fraction <= 1:
            raise ValueError(f"cuda_memory_fraction is `{self.cuda_memory_fraction}`, expected more than 0, at most 1")
        if not 0 <= self.max_run_ahead <= 3:
            raise ValueError(f"max_run_ahead is `{self.max_run_ahead}`, expected 0 to 3")
        for name in ("block_size", "max_sequences", "max_plan_tokens", "world_size", "num_replicas"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is `{getattr(self, name)}`, expected at least 1")
        if self.kv_cache_bytes is not None and self.kv_cache_tokens is not None:
            raise ValueError("both kv_cache_bytes and kv_cache_tokens are given: give one")
        if self.num_blocks is not None and self.num_blocks < 2:
            raise ValueError(f"num_blocks is `{self.num_blocks}`, expected at least 2")
        if self.max_plan_tokens < self.max_sequences:
            raise ValueError(
                f"max_plan_tokens is `{self.max_plan_tokens}`, expected at least max_sequences `{self.max_sequences}`"
            )

    @staticmethod
    def from_json(line: str) -> WorkerConfig:
        """Parse the launcher's line. Raises: ValueError on what is not JSON, and on unknown or missing fields."""
        fields: Any = json.loads(line)
        if not isinstance(fields, dict):
            raise ValueError(f"the configuration is {type(fields).__name__}, expected a JSON object on one line")
        known = {field.name for field in dataclasses.fields(WorkerConfig)}
        if unknown := sorted(fields.keys() - known):
            raise ValueError(f"unknown configuration fields {unknown}")
        try:
            return WorkerConfig(**fields)
        except TypeError as error:
            raise ValueError(str(error)) from error
