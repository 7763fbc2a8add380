"""GPT-2: learned positions, LayerNorm, biases everywhere, one merged projection stored as inputs by outputs."""

from __future__ import annotations

from typing import Any

from forebay_worker.models.gguf_config import GgufConfig
from forebay_worker.models.gguf_decoder import gguf_decoder
from forebay_worker.models.hf_config import HfConfig
from forebay_worker.models.spec import DecoderSpec, LayerSpec
from forebay_worker.weights.names import Arrangement, WeightName, elements, rows, transposed_rows

COMPONENTS: dict[str, Any] = {
    "embedding": "forebay_worker.layers.embedding:PositionedTokenEmbedding",
    "mlp": "forebay_worker.layers.mlp:GeluMlp",
    "norm": "forebay_worker.layers.norm:LayerNorm",
}


def from_config(config: HfConfig) -> DecoderSpec:
    """Describe a model by its config.json. Raises: ModelRefusedError for what is not built."""
    config.require("activation_function", "gelu_new", "gelu_pytorch_tanh")
    config.require("scale_attn_weights", True)
    config.require("scale_attn_by_inverse_layer_idx", False)
    config.require("add_cross_attention", False)
    config.require("quantization_config")
    width, num_heads = config.integer("n_embd"), config.integer("n_head")
    inner = config.integer("n_inner", 4 * width)
    return DecoderSpec(
        architecture=config.architecture(),
        layers=(LayerSpec(None),) * config.integer("n_layer"),
        hidden_size=width,
        intermediate_size=inner,
        num_heads=num_heads,
        num_kv_heads=num_heads,
        head_dim=width // num_heads,
        vocab_size=config.integer("vocab_size"),
        max_position_embeddings=config.integer("n_positions", 1024),
        norm_eps=config.number("layer_norm_epsilon", 1e-5),
        tied_head=config.flag("tie_word_embeddings", True),
        names=_names(width, inner),
        # Causal masks, which old checkpoints carry.
        ignored_names=(".attn.bias", ".attn.masked_bias"),
        **COMPONENTS,
    )


def _names(width: int, inner: int) -> dict[str, WeightName]:
    layer = "transformer.h.{layer}."
    return {
        "embedding": WeightName("transformer.wte.weight"),
        "positions": WeightName("transformer.wpe.weight"),
        "head": WeightName("lm_head.weight"),
        **_norm("attention.norm", layer + "ln_1"),
        **_norm("mlp.norm", layer + "ln_2"),
        **_norm("norm", "transformer.ln_f"),
        **_merged(layer + "attn.c_attn", width, transposed_rows),
        **_linear("attention.output", layer + "attn.c_proj", transposed_rows(0, width)),
        **_linear("mlp.up", layer + "mlp.c_fc", transposed_rows(0, inner)),
        **_linear("mlp.down", layer + "mlp.c_proj", transposed_rows(0, width)),
    }


def _norm(role: str, name: str) -> dict[str, WeightName]:
    return {role: WeightName(name + ".weight"), role + ".bias": WeightName(name + ".bias")}


def _linear(role: str, name: str, arrange: Arrangement | None = None) -> dict[str, WeightName]:
    return {role: WeightName(name + ".weight", arrange), role + ".bias": WeightName(name + ".bias")}


def _merged(name: str, width: int, part_of: Any) -> dict[str, WeightName]:  # noqa: ANN401 (see names.rows)
    names = {}
    for number, role in enumerate(("attention.query", "attention.key", "attention.value")):
        start, stop = number * width, (number + 1) * width
        names[role] = WeightName(name + ".weight", part_of(start, stop))
        names[role + ".bias"] = WeightName(name + ".bias", elements(start, stop))
    return names


def from_gguf(config: GgufConfig) -> DecoderSpec:
    """Describe a GGUF file of architecture `gpt2`, whose matrices lie as outputs by inputs."""
    layer = "blk.{layer}."
    names = {
        "embedding": WeightName("token_embd.weight"),
        "positions": WeightName("position_embd.weight"),
        "head": WeightName("output.weight"),
        **_norm("attention.norm", layer + "attn_norm"),
        **_norm("mlp.norm", layer + "ffn_norm"),
        **_norm("norm", "output_norm"),
        **_merged(layer + "attn_qkv", config.integer("embedding_length"), rows),
        **_linear("attention.output", layer + "attn_output"),
        **_linear("mlp.up", layer + "ffn_up"),
        **_linear("mlp.down", layer + "ffn_down"),
    }
    return gguf_decoder(
        config,
        "GPT2LMHeadModel",
        names,
        **COMPONENTS,
        layers=(LayerSpec(None),) * config.num_layers,
        norm_eps=config.number("attention.layer_norm_epsilon"),
    )
