from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class RowFlag(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ROW_FLAG_NONE: _ClassVar[RowFlag]
    ROW_FLAG_SAMPLES: _ClassVar[RowFlag]
    ROW_FLAG_LAST_CHUNK: _ClassVar[RowFlag]
    ROW_FLAG_NEEDS_MASK: _ClassVar[RowFlag]
    ROW_FLAG_LOGPROBS: _ClassVar[RowFlag]
    ROW_FLAG_PROMPT_LOGPROBS: _ClassVar[RowFlag]
    ROW_FLAG_POOLED_OUTPUT: _ClassVar[RowFlag]

class LogprobsKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    LOGPROBS_KIND_RAW: _ClassVar[LogprobsKind]
    LOGPROBS_KIND_PROCESSED: _ClassVar[LogprobsKind]

class SequenceErrorKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SEQUENCE_ERROR_KIND_UNSPECIFIED: _ClassVar[SequenceErrorKind]
    SEQUENCE_ERROR_KIND_UNSUPPORTED: _ClassVar[SequenceErrorKind]
    SEQUENCE_ERROR_KIND_NUMERICAL: _ClassVar[SequenceErrorKind]
    SEQUENCE_ERROR_KIND_GRAMMAR: _ClassVar[SequenceErrorKind]

class StepErrorKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    STEP_ERROR_KIND_UNSPECIFIED: _ClassVar[StepErrorKind]
    STEP_ERROR_KIND_OUT_OF_MEMORY: _ClassVar[StepErrorKind]
ROW_FLAG_NONE: RowFlag
ROW_FLAG_SAMPLES: RowFlag
ROW_FLAG_LAST_CHUNK: RowFlag
ROW_FLAG_NEEDS_MASK: RowFlag
ROW_FLAG_LOGPROBS: RowFlag
ROW_FLAG_PROMPT_LOGPROBS: RowFlag
ROW_FLAG_POOLED_OUTPUT: RowFlag
LOGPROBS_KIND_RAW: LogprobsKind
LOGPROBS_KIND_PROCESSED: LogprobsKind
SEQUENCE_ERROR_KIND_UNSPECIFIED: SequenceErrorKind
SEQUENCE_ERROR_KIND_UNSUPPORTED: SequenceErrorKind
SEQUENCE_ERROR_KIND_NUMERICAL: SequenceErrorKind
SEQUENCE_ERROR_KIND_GRAMMAR: SequenceErrorKind
STEP_ERROR_KIND_UNSPECIFIED: StepErrorKind
STEP_ERROR_KIND_OUT_OF_MEMORY: StepErrorKind

class HandshakeRequest(_message.Message):
    __slots__ = ("protocol", "incarnation", "token_table")
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    TOKEN_TABLE_FIELD_NUMBER: _ClassVar[int]
    protocol: int
    incarnation: int
    token_table: TokenTable
    def __init__(self, protocol: _Optional[int] = ..., incarnation: _Optional[int] = ..., token_table: _Optional[_Union[TokenTable, _Mapping]] = ...) -> None: ...

class TokenTable(_message.Message):
    __slots__ = ("token_bytes", "token_lengths", "special_token_ids", "end_token_ids")
    TOKEN_BYTES_FIELD_NUMBER: _ClassVar[int]
    TOKEN_LENGTHS_FIELD_NUMBER: _ClassVar[int]
    SPECIAL_TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    END_TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    token_bytes: bytes
    token_lengths: bytes
    special_token_ids: bytes
    end_token_ids: bytes
    def __init__(self, token_bytes: _Optional[bytes] = ..., token_lengths: _Optional[bytes] = ..., special_token_ids: _Optional[bytes] = ..., end_token_ids: _Optional[bytes] = ...) -> None: ...

class HandshakeResponse(_message.Message):
    __slots__ = ("protocol", "incarnation", "rank", "world_size", "num_blocks", "block_size", "max_sequences", "max_plan_tokens", "max_run_ahead", "vocab_size", "max_position_embeddings", "dtype", "device", "features", "kv_cache_dtype", "kv_cache_bytes", "attention_backend", "worker_version")
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    RANK_FIELD_NUMBER: _ClassVar[int]
    WORLD_SIZE_FIELD_NUMBER: _ClassVar[int]
    NUM_BLOCKS_FIELD_NUMBER: _ClassVar[int]
    BLOCK_SIZE_FIELD_NUMBER: _ClassVar[int]
    MAX_SEQUENCES_FIELD_NUMBER: _ClassVar[int]
    MAX_PLAN_TOKENS_FIELD_NUMBER: _ClassVar[int]
    MAX_RUN_AHEAD_FIELD_NUMBER: _ClassVar[int]
    VOCAB_SIZE_FIELD_NUMBER: _ClassVar[int]
    MAX_POSITION_EMBEDDINGS_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    KV_CACHE_DTYPE_FIELD_NUMBER: _ClassVar[int]
    KV_CACHE_BYTES_FIELD_NUMBER: _ClassVar[int]
    ATTENTION_BACKEND_FIELD_NUMBER: _ClassVar[int]
    WORKER_VERSION_FIELD_NUMBER: _ClassVar[int]
    protocol: int
    incarnation: int
    rank: int
    world_size: int
    num_blocks: int
    block_size: int
    max_sequences: int
    max_plan_tokens: int
    max_run_ahead: int
    vocab_size: int
    max_position_embeddings: int
    dtype: str
    device: str
    features: _containers.RepeatedScalarFieldContainer[str]
    kv_cache_dtype: str
    kv_cache_bytes: int
    attention_backend: str
    worker_version: str
    def __init__(self, protocol: _Optional[int] = ..., incarnation: _Optional[int] = ..., rank: _Optional[int] = ..., world_size: _Optional[int] = ..., num_blocks: _Optional[int] = ..., block_size: _Optional[int] = ..., max_sequences: _Optional[int] = ..., max_plan_tokens: _Optional[int] = ..., max_run_ahead: _Optional[int] = ..., vocab_size: _Optional[int] = ..., max_position_embeddings: _Optional[int] = ..., dtype: _Optional[str] = ..., device: _Optional[str] = ..., features: _Optional[_Iterable[str]] = ..., kv_cache_dtype: _Optional[str] = ..., kv_cache_bytes: _Optional[int] = ..., attention_backend: _Optional[str] = ..., worker_version: _Optional[str] = ...) -> None: ...

class StepPlan(_message.Message):
    __slots__ = ("step_id", "released_slots", "released_epochs", "new_sequences", "append_slots", "append_counts", "append_blocks", "num_decodes", "row_slots", "row_epochs", "row_num_tokens", "row_flags")
    STEP_ID_FIELD_NUMBER: _ClassVar[int]
    RELEASED_SLOTS_FIELD_NUMBER: _ClassVar[int]
    RELEASED_EPOCHS_FIELD_NUMBER: _ClassVar[int]
    NEW_SEQUENCES_FIELD_NUMBER: _ClassVar[int]
    APPEND_SLOTS_FIELD_NUMBER: _ClassVar[int]
    APPEND_COUNTS_FIELD_NUMBER: _ClassVar[int]
    APPEND_BLOCKS_FIELD_NUMBER: _ClassVar[int]
    NUM_DECODES_FIELD_NUMBER: _ClassVar[int]
    ROW_SLOTS_FIELD_NUMBER: _ClassVar[int]
    ROW_EPOCHS_FIELD_NUMBER: _ClassVar[int]
    ROW_NUM_TOKENS_FIELD_NUMBER: _ClassVar[int]
    ROW_FLAGS_FIELD_NUMBER: _ClassVar[int]
    step_id: int
    released_slots: bytes
    released_epochs: bytes
    new_sequences: _containers.RepeatedCompositeFieldContainer[NewSequence]
    append_slots: bytes
    append_counts: bytes
    append_blocks: bytes
    num_decodes: int
    row_slots: bytes
    row_epochs: bytes
    row_num_tokens: bytes
    row_flags: bytes
    def __init__(self, step_id: _Optional[int] = ..., released_slots: _Optional[bytes] = ..., released_epochs: _Optional[bytes] = ..., new_sequences: _Optional[_Iterable[_Union[NewSequence, _Mapping]]] = ..., append_slots: _Optional[bytes] = ..., append_counts: _Optional[bytes] = ..., append_blocks: _Optional[bytes] = ..., num_decodes: _Optional[int] = ..., row_slots: _Optional[bytes] = ..., row_epochs: _Optional[bytes] = ..., row_num_tokens: _Optional[bytes] = ..., row_flags: _Optional[bytes] = ...) -> None: ...

class NewSequence(_message.Message):
    __slots__ = ("slot", "epoch", "token_ids", "num_prompt_tokens", "num_computed_tokens", "block_ids", "sampling")
    SLOT_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    NUM_PROMPT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    NUM_COMPUTED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    BLOCK_IDS_FIELD_NUMBER: _ClassVar[int]
    SAMPLING_FIELD_NUMBER: _ClassVar[int]
    slot: int
    epoch: int
    token_ids: bytes
    num_prompt_tokens: int
    num_computed_tokens: int
    block_ids: bytes
    sampling: SamplingParams
    def __init__(self, slot: _Optional[int] = ..., epoch: _Optional[int] = ..., token_ids: _Optional[bytes] = ..., num_prompt_tokens: _Optional[int] = ..., num_computed_tokens: _Optional[int] = ..., block_ids: _Optional[bytes] = ..., sampling: _Optional[_Union[SamplingParams, _Mapping]] = ...) -> None: ...

class SamplingParams(_message.Message):
    __slots__ = ("temperature", "top_k", "top_p", "typical_p", "min_p", "repetition_penalty", "frequency_penalty", "presence_penalty", "seed", "logit_bias_ids", "logit_bias_values", "allowed_token_ids", "min_new_tokens", "end_token_ids", "bad_words", "logprobs_kind", "num_top_logprobs", "top_ties", "num_prompt_logprobs", "grammar_id", "watermark", "tgi_frequency_penalty")
    TEMPERATURE_FIELD_NUMBER: _ClassVar[int]
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    TOP_P_FIELD_NUMBER: _ClassVar[int]
    TYPICAL_P_FIELD_NUMBER: _ClassVar[int]
    MIN_P_FIELD_NUMBER: _ClassVar[int]
    REPETITION_PENALTY_FIELD_NUMBER: _ClassVar[int]
    FREQUENCY_PENALTY_FIELD_NUMBER: _ClassVar[int]
    PRESENCE_PENALTY_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    LOGIT_BIAS_IDS_FIELD_NUMBER: _ClassVar[int]
    LOGIT_BIAS_VALUES_FIELD_NUMBER: _ClassVar[int]
    ALLOWED_TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    MIN_NEW_TOKENS_FIELD_NUMBER: _ClassVar[int]
    END_TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    BAD_WORDS_FIELD_NUMBER: _ClassVar[int]
    LOGPROBS_KIND_FIELD_NUMBER: _ClassVar[int]
    NUM_TOP_LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    TOP_TIES_FIELD_NUMBER: _ClassVar[int]
    NUM_PROMPT_LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    GRAMMAR_ID_FIELD_NUMBER: _ClassVar[int]
    WATERMARK_FIELD_NUMBER: _ClassVar[int]
    TGI_FREQUENCY_PENALTY_FIELD_NUMBER: _ClassVar[int]
    temperature: float
    top_k: int
    top_p: float
    typical_p: float
    min_p: float
    repetition_penalty: float
    frequency_penalty: float
    presence_penalty: float
    seed: int
    logit_bias_ids: bytes
    logit_bias_values: bytes
    allowed_token_ids: bytes
    min_new_tokens: int
    end_token_ids: bytes
    bad_words: bytes
    logprobs_kind: LogprobsKind
    num_top_logprobs: int
    top_ties: bool
    num_prompt_logprobs: int
    grammar_id: str
    watermark: Watermark
    tgi_frequency_penalty: float
    def __init__(self, temperature: _Optional[float] = ..., top_k: _Optional[int] = ..., top_p: _Optional[float] = ..., typical_p: _Optional[float] = ..., min_p: _Optional[float] = ..., repetition_penalty: _Optional[float] = ..., frequency_penalty: _Optional[float] = ..., presence_penalty: _Optional[float] = ..., seed: _Optional[int] = ..., logit_bias_ids: _Optional[bytes] = ..., logit_bias_values: _Optional[bytes] = ..., allowed_token_ids: _Optional[bytes] = ..., min_new_tokens: _Optional[int] = ..., end_token_ids: _Optional[bytes] = ..., bad_words: _Optional[bytes] = ..., logprobs_kind: _Optional[_Union[LogprobsKind, str]] = ..., num_top_logprobs: _Optional[int] = ..., top_ties: _Optional[bool] = ..., num_prompt_logprobs: _Optional[int] = ..., grammar_id: _Optional[str] = ..., watermark: _Optional[_Union[Watermark, _Mapping]] = ..., tgi_frequency_penalty: _Optional[float] = ...) -> None: ...

class Watermark(_message.Message):
    __slots__ = ("gamma", "delta")
    GAMMA_FIELD_NUMBER: _ClassVar[int]
    DELTA_FIELD_NUMBER: _ClassVar[int]
    gamma: float
    delta: float
    def __init__(self, gamma: _Optional[float] = ..., delta: _Optional[float] = ...) -> None: ...

class StepResult(_message.Message):
    __slots__ = ("step_id", "slots", "epochs", "num_tokens", "token_ids", "logprobs", "top_counts", "top_ids", "top_logprobs", "prompt_logprobs", "errors", "step_error", "grammar_ended_slots", "timings")
    STEP_ID_FIELD_NUMBER: _ClassVar[int]
    SLOTS_FIELD_NUMBER: _ClassVar[int]
    EPOCHS_FIELD_NUMBER: _ClassVar[int]
    NUM_TOKENS_FIELD_NUMBER: _ClassVar[int]
    TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    TOP_COUNTS_FIELD_NUMBER: _ClassVar[int]
    TOP_IDS_FIELD_NUMBER: _ClassVar[int]
    TOP_LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    PROMPT_LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    ERRORS_FIELD_NUMBER: _ClassVar[int]
    STEP_ERROR_FIELD_NUMBER: _ClassVar[int]
    GRAMMAR_ENDED_SLOTS_FIELD_NUMBER: _ClassVar[int]
    TIMINGS_FIELD_NUMBER: _ClassVar[int]
    step_id: int
    slots: bytes
    epochs: bytes
    num_tokens: bytes
    token_ids: bytes
    logprobs: bytes
    top_counts: bytes
    top_ids: bytes
    top_logprobs: bytes
    prompt_logprobs: _containers.RepeatedCompositeFieldContainer[PromptLogprobs]
    errors: _containers.RepeatedCompositeFieldContainer[SequenceError]
    step_error: StepError
    grammar_ended_slots: bytes
    timings: Timings
    def __init__(self, step_id: _Optional[int] = ..., slots: _Optional[bytes] = ..., epochs: _Optional[bytes] = ..., num_tokens: _Optional[bytes] = ..., token_ids: _Optional[bytes] = ..., logprobs: _Optional[bytes] = ..., top_counts: _Optional[bytes] = ..., top_ids: _Optional[bytes] = ..., top_logprobs: _Optional[bytes] = ..., prompt_logprobs: _Optional[_Iterable[_Union[PromptLogprobs, _Mapping]]] = ..., errors: _Optional[_Iterable[_Union[SequenceError, _Mapping]]] = ..., step_error: _Optional[_Union[StepError, _Mapping]] = ..., grammar_ended_slots: _Optional[bytes] = ..., timings: _Optional[_Union[Timings, _Mapping]] = ...) -> None: ...

class PromptLogprobs(_message.Message):
    __slots__ = ("slot", "epoch", "first_position", "logprobs", "top_counts", "top_ids", "top_logprobs", "ranks")
    SLOT_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    FIRST_POSITION_FIELD_NUMBER: _ClassVar[int]
    LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    TOP_COUNTS_FIELD_NUMBER: _ClassVar[int]
    TOP_IDS_FIELD_NUMBER: _ClassVar[int]
    TOP_LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    RANKS_FIELD_NUMBER: _ClassVar[int]
    slot: int
    epoch: int
    first_position: int
    logprobs: bytes
    top_counts: bytes
    top_ids: bytes
    top_logprobs: bytes
    ranks: bytes
    def __init__(self, slot: _Optional[int] = ..., epoch: _Optional[int] = ..., first_position: _Optional[int] = ..., logprobs: _Optional[bytes] = ..., top_counts: _Optional[bytes] = ..., top_ids: _Optional[bytes] = ..., top_logprobs: _Optional[bytes] = ..., ranks: _Optional[bytes] = ...) -> None: ...

class SequenceError(_message.Message):
    __slots__ = ("slot", "epoch", "kind", "message")
    SLOT_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    slot: int
    epoch: int
    kind: SequenceErrorKind
    message: str
    def __init__(self, slot: _Optional[int] = ..., epoch: _Optional[int] = ..., kind: _Optional[_Union[SequenceErrorKind, str]] = ..., message: _Optional[str] = ...) -> None: ...

class StepError(_message.Message):
    __slots__ = ("kind", "message")
    KIND_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    kind: StepErrorKind
    message: str
    def __init__(self, kind: _Optional[_Union[StepErrorKind, str]] = ..., message: _Optional[str] = ...) -> None: ...

class Timings(_message.Message):
    __slots__ = ("queued", "prepare", "forward", "sample")
    QUEUED_FIELD_NUMBER: _ClassVar[int]
    PREPARE_FIELD_NUMBER: _ClassVar[int]
    FORWARD_FIELD_NUMBER: _ClassVar[int]
    SAMPLE_FIELD_NUMBER: _ClassVar[int]
    queued: int
    prepare: int
    forward: int
    sample: int
    def __init__(self, queued: _Optional[int] = ..., prepare: _Optional[int] = ..., forward: _Optional[int] = ..., sample: _Optional[int] = ...) -> None: ...

class PrepareRequest(_message.Message):
    __slots__ = ("grammar_id", "json_schema", "regex", "lark", "choices", "deadline_ms", "dropped_grammar_ids")
    GRAMMAR_ID_FIELD_NUMBER: _ClassVar[int]
    JSON_SCHEMA_FIELD_NUMBER: _ClassVar[int]
    REGEX_FIELD_NUMBER: _ClassVar[int]
    LARK_FIELD_NUMBER: _ClassVar[int]
    CHOICES_FIELD_NUMBER: _ClassVar[int]
    DEADLINE_MS_FIELD_NUMBER: _ClassVar[int]
    DROPPED_GRAMMAR_IDS_FIELD_NUMBER: _ClassVar[int]
    grammar_id: str
    json_schema: str
    regex: str
    lark: str
    choices: str
    deadline_ms: int
    dropped_grammar_ids: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, grammar_id: _Optional[str] = ..., json_schema: _Optional[str] = ..., regex: _Optional[str] = ..., lark: _Optional[str] = ..., choices: _Optional[str] = ..., deadline_ms: _Optional[int] = ..., dropped_grammar_ids: _Optional[_Iterable[str]] = ...) -> None: ...

class PrepareResponse(_message.Message):
    __slots__ = ("error",)
    ERROR_FIELD_NUMBER: _ClassVar[int]
    error: str
    def __init__(self, error: _Optional[str] = ...) -> None: ...

class HeartbeatRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class HeartbeatResponse(_message.Message):
    __slots__ = ("incarnation", "last_step_id", "any_step")
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    LAST_STEP_ID_FIELD_NUMBER: _ClassVar[int]
    ANY_STEP_FIELD_NUMBER: _ClassVar[int]
    incarnation: int
    last_step_id: int
    any_step: bool
    def __init__(self, incarnation: _Optional[int] = ..., last_step_id: _Optional[int] = ..., any_step: _Optional[bool] = ...) -> None: ...
