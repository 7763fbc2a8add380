"""Falcon: attention and feed-forward side by side, LayerNorm, exact gelu, no biases of matrices, rotary positions."""

from __future__ import annotations

from typing import Any

from forebay_worker.models.gguf_config import GgufConfig
from forebay_worker.models.gguf_decoder import gguf_decoder, gguf_decoder_names
from forebay_worker.models.hf_config import HfConfig
from forebay_worker.models.hf_decoder import hf_decoder
from forebay_worker.models.spec import DecoderSpec
from forebay_worker.weights.names import WeightName, biases, merged, merged_by_group, named, without

COMPONENTS: dict[str, Any] = {
    "mlp": "forebay_worker.layers.mlp:ExactGeluMlp",
    "norm": "forebay_worker.layers.norm:LayerNorm",
}
ONE_NORM = "forebay_worker.models.blocks:ParallelBlock"
TWO_NORMS = "forebay_worker.models.blocks:TwoNormParallelBlock"
NORMS = ("attention.norm", "mlp.norm", "norm")


def from_config(config: HfConfig) -> DecoderSpec:
    """Describe a model by its config.json. Raises: ModelRefusedError for what is not built."""
    for key, supported in (("alibi", False), ("bias", False), ("parallel_attn", True), ("activation", "gelu")):
        config.require(key, supported)
    config = config.renamed({"n_embed": "hidden_size", "n_head": "num_attention_heads", "n_layer": "num_hidden_layers"})
    width, num_heads = config.integer("hidden_size"), config.integer("num_attention_heads")
    is_new = config.flag("new_decoder_architecture", False)
    has_two_norms = config.integer("num_ln_in_parallel_attn", 2 if is_new else 1, maximum=2) == 2
    num_kv_heads = 1 if config.flag("multi_query", True) else num_heads
    if is_new:
        num_kv_heads = config.integer("num_kv_heads", num_heads)
    qkv = "transformer.h.{layer}.self_attention.query_key_value.weight"
    names = _names(has_two_norms) | merged_by_group(qkv, num_heads // num_kv_heads, width // num_heads)
    return hf_decoder(
        config,
        names,
        **COMPONENTS,
        block=TWO_NORMS if has_two_norms else ONE_NORM,
        intermediate_size=config.integer("ffn_hidden_size", 4 * width),
        num_kv_heads=num_kv_heads,
        norm_eps=config.number("layer_norm_epsilon", 1e-5),
        tied_head=config.flag("tie_word_embeddings", True),
    )


def _names(has_two_norms: bool) -> dict[str, WeightName]:
    layer = "transformer.h.{layer}."
    names = named(
        {
            "embedding": "transformer.word_embeddings.weight",
            "attention.norm": layer + ("ln_attn.weight" if has_two_norms else "input_layernorm.weight"),
            "attention.output": layer + "self_attention.dense.weight",
            **({"mlp.norm": layer + "ln_mlp.weight"} if has_two_norms else {}),
            "mlp.up": layer + "mlp.dense_h_to_4h.weight",
            "mlp.down": layer + "mlp.dense_4h_to_h.weight",
            "norm": "transformer.ln_f.weight",
            "head": "lm_head.weight",
        }
    )
    return names | biases(names, *(role for role in NORMS if role in names))


def from_gguf(config: GgufConfig) -> DecoderSpec:
    """Describe a GGUF file of architecture `falcon`. Raises: ModelRefusedError for what is not built."""
    names, block = without(gguf_decoder_names(config), "mlp.gate", "mlp.norm"), ONE_NORM
    if "blk.0.attn_norm_2.weight" in config.tensors:
        # Files keep the feed-forward's norm where others have the attention's.
        names |= {"mlp.norm": names["attention.norm"]} | named({"attention.norm": "blk.{layer}.attn_norm_2.weight"})
        block = TWO_NORMS
    names |= biases(names, *(role for role in NORMS if role in names))
    rows = {"attention.query": config.num_heads * config.head_dim}
    rows |= dict.fromkeys(("attention.key", "attention.value"), config.num_kv_heads * config.head_dim)
    names |= merged("blk.{layer}.attn_qkv.weight", rows)
    epsilon = config.number("attention.layer_norm_epsilon")
    return gguf_decoder(config, "FalconForCausalLM", names, **COMPONENTS, block=block, norm_eps=epsilon)
