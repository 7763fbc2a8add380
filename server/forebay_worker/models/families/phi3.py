"""Phi-3 and 3.5: Llama's shape with merged projections, one sliding window, rotary stretched by lists of factors."""

from __future__ import annotations

from forebay_worker.models.gguf_config import GgufConfig
from forebay_worker.models.gguf_decoder import gguf_decoder, gguf_decoder_names
from forebay_worker.models.hf_config import HfConfig
from forebay_worker.models.hf_decoder import hf_decoder
from forebay_worker.models.rope_config import RopeParameters
from forebay_worker.models.spec import DecoderSpec, LayerSpec
from forebay_worker.weights.names import WeightName, hf_decoder_names, merged


def from_config(config: HfConfig) -> DecoderSpec:
    """Describe a model by its config.json. Raises: ModelRefusedError for what is not built."""
    config.require("hidden_act", "silu")
    num_heads = config.integer("num_attention_heads")
    head_dim = config.integer("head_dim", config.integer("hidden_size") // num_heads)
    num_kv_heads = config.integer("num_key_value_heads", num_heads)
    max_positions = config.integer("max_position_embeddings", 4096)
    fields = config.rope_fields()
    part = fields.get("partial_rotary_factor") or config.number("partial_rotary_factor", 1.0)
    # Phi-3's own name for it was once "yarn".
    if fields.get("rope_type", fields.get("type")) == "yarn":
        fields = {**fields, "rope_type": "longrope"}
    rope = RopeParameters(fields, config.path, max_positions).spec(
        int(head_dim * part), config.number("rope_theta", 10000.0)
    )
    names = hf_decoder_names() | merged_names(
        "model.layers.{layer}.self_attn.qkv_proj.weight",
        "model.layers.{layer}.mlp.gate_up_proj.weight",
        (num_heads * head_dim, num_kv_heads * head_dim, config.integer("intermediate_size")),
    )
    return hf_decoder(
        config,
        names,
        layers=(LayerSpec(rope, config.window()),) * config.integer("num_hidden_layers"),
        max_position_embeddings=max_positions,
        norm_eps=config.number("rms_norm_eps", 1e-5),
    )


def merged_names(qkv: str, gate_up: str, widths: tuple[int, int, int]) -> dict[str, WeightName]:
    """Names of the parts of merged tensors; `widths`: rows of queries, of keys, and of the gate."""
    query, key, gate = widths
    return merged(qkv, {"attention.query": query, "attention.key": key, "attention.value": key}) | merged(
        gate_up, {"mlp.gate": gate, "mlp.up": gate}
    )


def from_gguf(config: GgufConfig) -> DecoderSpec:
    """Describe a GGUF file of architecture `phi3`. Raises: ModelRefusedError for what is not built."""
    widths = (
        config.num_heads * config.head_dim,
        config.num_kv_heads * config.head_dim,
        config.integer("feed_forward_length"),
    )
    names = merged_names("blk.{layer}.attn_qkv.weight", "blk.{layer}.ffn_up.weight", widths)
    window = config.integer("attention.sliding_window", 0)
    return gguf_decoder(config, "Phi3ForCausalLM", gguf_decoder_names(config) | names, [window] * config.num_layers)
