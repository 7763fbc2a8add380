"""What most GGUF files share: the sizes of a decoder of Llama's shape, under the names that llama.cpp uses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from forebay_worker.models.gguf_config import FACTORS, LONG_FACTORS, SHORT_FACTORS, GgufConfig
from forebay_worker.models.spec import DecoderSpec, ExpertsSpec, LayerSpec
from forebay_worker.weights.names import (
    WeightName,
    biases,
    divided_by_layer,
    named,
)

GGUF_HEAD_NORMS = {
    "attention.query_norm": "blk.{layer}.attn_q_norm.weight",
    "attention.key_norm": "blk.{layer}.attn_k_norm.weight",
}
GGUF_OUTPUT_NORMS = {
    "attention.output_norm": "blk.{layer}.post_attention_norm.weight",
    "mlp.output_norm": "blk.{layer}.post_ffw_norm.weight",
}


def gguf_decoder(
    config: GgufConfig,
    architecture: str,
    names: Mapping[str, WeightName],
    windows: Sequence[int] | None = None,
    **fields: Any,  # noqa: ANN401 (DecoderSpec's)
) -> DecoderSpec:
    """Describe a decoder; `windows`: of each layer, none if absent; `fields`: of DecoderSpec, in place of the usual.

    Raises: ModelRefusedError for a key or value that is not built.
    """
    if "layers" not in fields:
        rope = config.rope()
        fields["layers"] = tuple(LayerSpec(rope, window) for window in windows or [0] * config.num_layers)
    if "norm_eps" not in fields:
        fields["norm_eps"] = config.number("attention.layer_norm_rms_epsilon")
    vocab_size = config.file.metadata.get(f"{config.architecture}.vocab_size")
    spec = DecoderSpec(
        architecture=architecture,
        hidden_size=config.integer("embedding_length"),
        intermediate_size=config.integer("feed_forward_length", 0 if "experts" in fields else None),
        num_heads=config.num_heads,
        num_kv_heads=config.num_kv_heads,
        head_dim=config.head_dim,
        vocab_size=vocab_size if isinstance(vocab_size, int) else config.file.array_length("tokenizer.ggml.tokens"),
        max_position_embeddings=config.integer("context_length"),
        tied_head="output.weight" not in config.tensors,
        names=divided_by_layer(names, config.num_layers, ()) if "experts" in fields else names,
        ignored_names=(FACTORS, LONG_FACTORS, SHORT_FACTORS),
        **fields,
    )
    config.refuse_unread()
    return spec


def gguf_decoder_names(config: GgufConfig, *with_bias: str) -> dict[str, WeightName]:
    """Names of the tensors; `with_bias`: roles that have a bias, if the first layer has it."""
    layer = "blk.{layer}."
    names = named(
        {
            "embedding": "token_embd.weight",
            "attention.norm": layer + "attn_norm.weight",
            "attention.query": layer + "attn_q.weight",
            "attention.key": layer + "attn_k.weight",
            "attention.value": layer + "attn_v.weight",
            "attention.output": layer + "attn_output.weight",
            "mlp.norm": layer + "ffn_norm.weight",
            "mlp.gate": layer + "ffn_gate.weight",
            "mlp.up": layer + "ffn_up.weight",
            "mlp.down": layer + "ffn_down.weight",
            "norm": "output_norm.weight",
            "head": "output.weight",
        }
    )
    found = biases(names, *with_bias)
    return names | {role: name for role, name in found.items() if name.at(0) in config.tensors}


def gguf_expert_names(config: GgufConfig) -> dict[str, WeightName]:
    """Names of the router and of the experts."""
    stacked = config.integer("expert_count")
    names = {"experts.router": WeightName("blk.{layer}.ffn_gate_inp.weight")}
    for part in ("gate", "up", "down"):
        # Until April 2024 llama.cpp wrote each expert as a tensor of its own.
        if f"blk.0.ffn_{part}.0.weight" in config.tensors:
            names[f"experts.{part}"] = WeightName(f"blk.{{layer}}.ffn_{part}.{{expert}}.weight")
        else:
            names[f"experts.{part}"] = WeightName(f"blk.{{layer}}.ffn_{part}_exps.weight", num_stacked=stacked)
    return names


def gguf_experts(config: GgufConfig, width_key: str, routing: str, shared_width: int = 0) -> ExpertsSpec:
    """The experts of a GGUF file."""
    return ExpertsSpec(
        num_experts=config.integer("expert_count"),
        num_experts_per_token=config.integer("expert_used_count"),
        intermediate_size=config.integer(width_key),
        routing=routing,
        shared_intermediate_size=shared_width,
    )
