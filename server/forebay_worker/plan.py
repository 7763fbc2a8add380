"""Step plans and results as plain data; `codec.py` is the only bridge to protobuf."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

U32 = npt.NDArray[np.uint32]
F32 = npt.NDArray[np.float32]


class RowFlag(enum.IntFlag):
    """Bits of `row_flags`, as in worker.proto."""

    SAMPLES = 1
    LAST_CHUNK = 2
    NEEDS_MASK = 4
    LOGPROBS = 8
    PROMPT_LOGPROBS = 16
    POOLED_OUTPUT = 32


class SequenceErrorKind(enum.IntEnum):
    """As in worker.proto."""

    UNSPECIFIED = 0
    """A row of a sequence whose last step failed as a whole, sent before the router knew of that."""
    UNSUPPORTED = 1
    NUMERICAL = 2
    GRAMMAR = 3


class StepErrorKind(enum.IntEnum):
    """As in worker.proto."""

    OUT_OF_MEMORY = 1


class PlanError(Exception):
    """A plan that no right router can send: the stream must break."""


@dataclasses.dataclass(frozen=True)
class SamplingParams:
    """How to choose among tokens; neutral values switch an option off. Fields as in worker.proto."""

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    typical_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    tgi_frequency_penalty: float = 0.0
    seed: int = 0
    processed_logprobs: bool = False
    num_top_logprobs: int = 0
    top_ties: bool = False
    num_prompt_logprobs: int = -1
    min_new_tokens: int = 0
    end_token_ids: tuple[int, ...] = ()
    logit_bias_ids: tuple[int, ...] = ()
    logit_bias_values: tuple[float, ...] = ()
    allowed_token_ids: tuple[int, ...] = ()
    bad_words: tuple[tuple[int, ...], ...] = ()
    """Runs of ids, none empty."""
    watermark: tuple[float, float] | None = None
    """Gamma and delta."""
    grammar_id: str = ""

    def named_ids(self) -> Iterator[tuple[str, int]]:
        """Every token id that an option names, with the option's name."""
        for name in ("end_token_ids", "logit_bias_ids", "allowed_token_ids"):
            yield from ((name, token_id) for token_id in getattr(self, name))
        yield from (("bad_words", token_id) for word in self.bad_words for token_id in word)


@dataclasses.dataclass(frozen=True)
class NewSequence:
    """A sequence's first appearance, or its return after a preemption or a restart."""

    slot: int
    epoch: int
    token_ids: U32
    num_prompt_tokens: int
    num_computed_tokens: int
    block_ids: U32
    sampling: SamplingParams
    unsupported: str | None = None
    """Names the sampling option that this worker does not have; the sequence is answered with an error."""


@dataclasses.dataclass(frozen=True)
class StepPlan:
    """One forward pass, whole. Applied in this order: released, new sequences, appends, rows."""

    step_id: int
    released_slots: U32
    released_epochs: U32
    new_sequences: list[NewSequence]
    append_slots: U32
    append_counts: U32
    append_blocks: U32
    num_decodes: int
    row_slots: U32
    row_epochs: U32
    row_num_tokens: U32
    row_flags: U32


@dataclasses.dataclass(frozen=True)
class PromptLogprobs:
    """Log-probabilities of prompt tokens first_position .. first_position + n - 1."""

    slot: int
    epoch: int
    first_position: int
    logprobs: F32
    ranks: U32
    top_counts: U32
    top_ids: U32
    top_logprobs: F32


@dataclasses.dataclass(frozen=True)
class SequenceError:
    """A failure of one sequence alone."""

    slot: int
    epoch: int
    kind: SequenceErrorKind
    message: str


@dataclasses.dataclass(frozen=True)
class StepError:
    """A failure of the whole step."""

    kind: StepErrorKind
    message: str


@dataclasses.dataclass(frozen=True)
class Timings:
    """Microseconds."""

    queued: int = 0
    prepare: int = 0
    forward: int = 0
    sample: int = 0


FEATURES = ("logprobs", "prompt_logprobs")
"""What every worker can do beyond the base."""
DETERMINISTIC = "deterministic"
"""The feature of a worker whose rows' results depend on nothing else in a step."""


@dataclasses.dataclass(frozen=True)
class Capabilities:
    """What the handshake tells the router: sizes in tokens unless named otherwise, fields as in worker.proto."""

    num_blocks: int
    """The minimum over ranks; block 0 is the null block."""
    block_size: int
    max_sequences: int
    max_plan_tokens: int
    vocab_size: int
    max_position_embeddings: int
    max_sequence_tokens: int
    """No sequence may be longer: the least of the operator's, the model's and the pool's bound. Not sent."""
    max_run_ahead: int = 3
    rank: int = 0
    world_size: int = 1
    dtype: str = "float32"
    device: str = "cpu"
    kv_cache_dtype: str = "float32"
    kv_cache_bytes: int = 0
    """Of this shard."""
    attention_backend: str = ""
    features: tuple[str, ...] = FEATURES


_NO_U32: U32 = np.empty(0, np.uint32)
_NO_F32: F32 = np.empty(0, np.float32)


@dataclasses.dataclass(frozen=True)
class StepResult:
    """What rank 0 reports; other ranks fill `step_id` alone. Arrays as in worker.proto."""

    step_id: int
    slots: U32 = dataclasses.field(default_factory=lambda: _NO_U32)
    epochs: U32 = dataclasses.field(default_factory=lambda: _NO_U32)
    num_tokens: U32 = dataclasses.field(default_factory=lambda: _NO_U32)
    token_ids: U32 = dataclasses.field(default_factory=lambda: _NO_U32)
    logprobs: F32 = dataclasses.field(default_factory=lambda: _NO_F32)
    top_counts: U32 = dataclasses.field(default_factory=lambda: _NO_U32)
    top_ids: U32 = dataclasses.field(default_factory=lambda: _NO_U32)
    top_logprobs: F32 = dataclasses.field(default_factory=lambda: _NO_F32)
    prompt_logprobs: list[PromptLogprobs] = dataclasses.field(default_factory=list)
    errors: list[SequenceError] = dataclasses.field(default_factory=list)
    step_error: StepError | None = None
    timings: Timings = dataclasses.field(default_factory=Timings)
