"""GPT-NeoX (Pythia): attention and feed-forward side by side behind norms of their own, heads partly rotated."""

from __future__ import annotations

from typing import Any

from forebay_worker.models.gguf_config import GgufConfig
from forebay_worker.models.gguf_decoder import gguf_decoder, gguf_decoder_names
from forebay_worker.models.hf_config import HfConfig
from forebay_worker.models.hf_decoder import QUERY_KEY_VALUE, hf_decoder
from forebay_worker.models.spec import DecoderSpec, LayerSpec
from forebay_worker.weights.names import WeightName, biases, merged, merged_by_group, named, without

COMPONENTS: dict[str, Any] = {"norm": "forebay_worker.layers.norm:LayerNorm"}
MLPS = {
    "gelu": "forebay_worker.layers.mlp:ExactGeluMlp",
    **dict.fromkeys(("gelu_new", "gelu_pytorch_tanh"), "forebay_worker.layers.mlp:GeluMlp"),
}
BLOCKS = {
    True: "forebay_worker.models.blocks:TwoNormParallelBlock",
    False: "forebay_worker.models.blocks:PreNormBlock",
}
"""By `use_parallel_residual`."""
BESIDE_QKV = ("attention.norm", "mlp.norm", "norm", "attention.output", "mlp.up", "mlp.down")


def from_config(config: HfConfig) -> DecoderSpec:
    """Describe a model by its config.json. Raises: ModelRefusedError for what is not built."""
    config.require("hidden_act", *MLPS)
    config.require("attention_bias", True)
    config = config.renamed({"rotary_pct": "partial_rotary_factor", "rotary_emb_base": "rope_theta"})
    num_heads = config.integer("num_attention_heads")
    head_dim = config.integer("hidden_size") // num_heads
    rope = config.partial_rope(head_dim, default_part=0.25)
    return hf_decoder(
        config,
        _names(config, head_dim),
        **COMPONENTS,
        block=BLOCKS[config.flag("use_parallel_residual", True)],
        mlp=MLPS[config.fields.get("hidden_act") or "gelu"],
        layers=(LayerSpec(rope),) * config.integer("num_hidden_layers"),
        num_kv_heads=num_heads,
        norm_eps=config.number("layer_norm_eps", 1e-5),
        # Causal masks and frequencies, which old checkpoints carry.
        ignored_names=(".attention.bias", ".attention.masked_bias", ".rotary_emb.inv_freq"),
    )


def _names(config: HfConfig, head_dim: int) -> dict[str, WeightName]:
    layer = "gpt_neox.layers.{layer}."
    names = named(
        {
            "embedding": "gpt_neox.embed_in.weight",
            "attention.norm": layer + "input_layernorm.weight",
            "attention.output": layer + "attention.dense.weight",
            "mlp.norm": layer + "post_attention_layernorm.weight",
            "mlp.up": layer + "mlp.dense_h_to_4h.weight",
            "mlp.down": layer + "mlp.dense_4h_to_h.weight",
            "norm": "gpt_neox.final_layer_norm.weight",
            "head": "embed_out.weight" if "embed_out.weight" in config.tensors else "lm_head.weight",
        }
    )
    names |= biases(names, *BESIDE_QKV)
    return names | merged_by_group(layer + "attention.query_key_value.weight", 1, head_dim, has_bias=True)


def from_gguf(config: GgufConfig) -> DecoderSpec:
    """Describe a GGUF file of architecture `gptneox`. Raises: ModelRefusedError for what is not built."""
    names = without(gguf_decoder_names(config), "mlp.gate")
    names |= biases(names, *BESIDE_QKV)
    qkv = dict.fromkeys(QUERY_KEY_VALUE, config.integer("embedding_length"))
    return gguf_decoder(
        config,
        "GPTNeoXForCausalLM",
        names | merged("blk.{layer}.attn_qkv.weight", qkv, has_bias=True),
        **COMPONENTS,
        block=BLOCKS[config.flag("use_parallel_residual", True)],
        mlp=MLPS["gelu"],
        norm_eps=config.number("attention.layer_norm_epsilon"),
    )
