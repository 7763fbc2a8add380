"""Whether a model can be split over a number of shards; judged from its description, before any weight is read."""

from __future__ import annotations

from collections.abc import Callable

from forebay_worker.models.spec import DecoderSpec
from forebay_worker.weights.errors import ModelRefusedError
from forebay_worker.weights.stored import StorageType

StorageOf = Callable[[str], StorageType]
"""Name of a tensor -> how it is stored."""


def check_num_shards(spec: DecoderSpec, num_shards: int, storage_of: StorageOf) -> None:
    """Refuse a number of shards that does not divide heads, or that would cut a block of a row-parallel weight.

    Raises: ModelRefusedError naming tensor, width, block and the numbers of shards that work.
    """
    if num_shards < 1:
        raise ModelRefusedError(f"num_shard is `{num_shards}`, expected at least 1")
    if problem := _problem(spec, num_shards, storage_of):
        working = [str(n) for n in range(1, spec.num_heads + 1) if _problem(spec, n, storage_of) is None]
        raise ModelRefusedError(f"num_shard is `{num_shards}`: {problem}; what works: {', '.join(working)}")


def _problem(spec: DecoderSpec, num_shards: int, storage_of: StorageOf) -> str | None:
    if num_shards == 1:
        return None
    if spec.num_heads % num_shards:
        name = spec.names["attention.query"].at(0)
        return f"the `{spec.num_heads}` query heads of `{name}` do not divide"
    if spec.num_kv_heads % num_shards and num_shards % spec.num_kv_heads:
        name = spec.names["attention.key"].at(0)
        return f"the `{spec.num_kv_heads}` key-value heads of `{name}` neither divide nor repeat evenly"
    for role, width in _row_parallel_widths(spec).items():
        if problem := _width_problem(spec, role, width, num_shards, storage_of):
            return problem
    return None


def _row_parallel_widths(spec: DecoderSpec) -> dict[str, int]:
    """Roles of the weights whose columns are divided -> how many they have."""
    widths = {"attention.output": spec.num_heads * spec.head_dim, "mlp.down": spec.intermediate_size}
    if spec.experts:
        widths["experts.down"] = spec.experts.intermediate_size
        widths["shared_expert.down"] = spec.experts.shared_intermediate_size
    return {role: width for role, width in widths.items() if role in spec.names}


def _width_problem(spec: DecoderSpec, role: str, width: int, num_shards: int, storage_of: StorageOf) -> str | None:
    for layer in spec.names[role].among(spec.num_layers):
        name = spec.names[role].at(layer, 0)
        block = storage_of(name).block_size
        if width % (num_shards * block):
            unit = f"whole blocks of {block}" if block > 1 else "whole columns"
            return f"the `{width}` columns of `{name}` do not divide into {unit} for each shard"
    return None


def num_local_kv_heads(spec: DecoderSpec, num_shards: int) -> int:
    """Key-value heads that one shard holds; each at least one, so shards may hold the same."""
    return max(1, spec.num_kv_heads // num_shards)
