from collections.abc import Sequence
from typing import TypedDict, final

from torch import Tensor

__all__ = [
    "AttentionSublayer",
    "FloatWeight",
    "MlpSublayer",
    "PackedWeight",
    "Sublayers",
    "activation",
    "argmax",
    "dequantize",
    "float_embedding",
    "float_linear",
    "force_instruction_set",
    "gated_activation",
    "grouped_linear",
    "gumbel_argmax",
    "keep_window",
    "kth_largest",
    "mass_window",
    "mean_logit",
    "multiplies_bf16",
    "native_info",
    "pack",
    "pack_float",
    "paged_attention",
    "quantized_embedding",
    "quantized_linear",
    "rms_norm",
    "rotary_write_kv",
    "token_logprobs",
    "write_kv_cache",
]

class _NativeInfo(TypedDict):
    instruction_set: str
    available_instruction_sets: list[str]
    num_threads: int
    thread_team: str

@final
class PackedWeight:
    @property
    def num_rows(self) -> int: ...
    @property
    def num_columns(self) -> int: ...
    @property
    def num_bytes(self) -> int: ...

@final
class FloatWeight:
    @property
    def num_rows(self) -> int: ...
    @property
    def num_columns(self) -> int: ...

@final
class MlpSublayer:
    def __new__(
        cls,
        norm_weight: Tensor,
        norm_eps: float,
        gate_up: PackedWeight,
        gate_up_bias: Tensor | None,
        kind: str,
        down: PackedWeight,
    ) -> MlpSublayer: ...
    def __call__(self, x: Tensor, residual: Tensor | None) -> tuple[Tensor, Tensor]: ...

@final
class AttentionSublayer:
    def __new__(
        cls,
        norm_weight: Tensor,
        norm_eps: float,
        qkv: PackedWeight,
        qkv_bias: Tensor | None,
        query_norm_weight: Tensor | None,
        key_norm_weight: Tensor | None,
        output: PackedWeight,
        scale: float,
        window: int,
        softcap: float,
    ) -> AttentionSublayer: ...
    def __call__(
        self,
        x: Tensor,
        residual: Tensor | None,
        cos_sin_cache: Tensor,
        positions: Tensor,
        key_cache: Tensor,
        value_cache: Tensor,
        slot_mapping: Tensor,
        block_tables: Tensor,
        context_lens: Tensor,
        cu_seqlens_q: Tensor,
    ) -> tuple[Tensor, Tensor]: ...

@final
class Sublayers:
    def __new__(
        cls, halves: Sequence[tuple[AttentionSublayer | MlpSublayer, Tensor | None, float, float | None]]
    ) -> Sublayers: ...
    def __call__(
        self,
        x: Tensor,
        residual: Tensor | None,
        positions: Tensor,
        slot_mapping: Tensor,
        block_tables: Tensor,
        context_lens: Tensor,
        cu_seqlens_q: Tensor,
        memory: Sequence[tuple[Tensor, Tensor, Tensor]],
    ) -> tuple[Tensor, Tensor]: ...

def native_info() -> _NativeInfo: ...
def force_instruction_set(name: str | None) -> str | None: ...
def pack(segments: Sequence[tuple[Tensor, str]], num_columns: int) -> PackedWeight: ...
def quantized_linear(x: Tensor, weight: PackedWeight, out: Tensor | None) -> Tensor: ...
def grouped_linear(x: Tensor, weights: Sequence[PackedWeight], ends: Tensor) -> Tensor: ...
def dequantize(weight: PackedWeight) -> Tensor: ...
def quantized_embedding(ids: Tensor, weight: PackedWeight) -> Tensor: ...
def pack_float(weight: Tensor) -> FloatWeight: ...
def float_linear(x: Tensor, weight: FloatWeight) -> Tensor: ...
def float_embedding(ids: Tensor, weight: FloatWeight) -> Tensor: ...
def multiplies_bf16() -> bool: ...
def paged_attention(
    q: Tensor,
    key_cache: Tensor,
    value_cache: Tensor,
    block_tables: Tensor,
    context_lens: Tensor,
    cu_seqlens_q: Tensor,
    scale: float,
    window: int,
    softcap: float,
) -> Tensor: ...
def write_kv_cache(
    key: Tensor, value: Tensor, key_cache: Tensor, value_cache: Tensor, slot_mapping: Tensor
) -> None: ...
def gumbel_argmax(logits: Tensor, seeds: Tensor, positions: Tensor) -> Tensor: ...
def argmax(logits: Tensor) -> Tensor: ...
def token_logprobs(logits: Tensor, ids: Tensor) -> Tensor: ...
def kth_largest(logits: Tensor, ks: Tensor) -> Tensor: ...
def mass_window(logits: Tensor, floors: Tensor, centres: Tensor, shares: Tensor) -> Tensor: ...
def keep_window(logits: Tensor, lows: Tensor, highs: Tensor) -> None: ...
def mean_logit(logits: Tensor, floors: Tensor) -> Tensor: ...
def rms_norm(x: Tensor, weight: Tensor, eps: float, residual: Tensor | None) -> tuple[Tensor, Tensor]: ...
def activation(x: Tensor, kind: str) -> Tensor: ...
def gated_activation(gate_up: Tensor, kind: str) -> Tensor: ...
def rotary_write_kv(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cos_sin_cache: Tensor,
    positions: Tensor,
    key_cache: Tensor,
    value_cache: Tensor,
    slot_mapping: Tensor,
) -> None: ...
