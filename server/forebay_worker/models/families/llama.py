"""Llama 1 to 3.x and what shares their shape (SmolLM): pre-norm blocks, grouped queries, SwiGLU, full rotary."""

from __future__ import annotations

from forebay_worker.models.hf_config import HfConfig
from forebay_worker.models.spec import DecoderSpec, RopeSpec
from forebay_worker.weights.errors import ModelRefusedError
from forebay_worker.weights.gguf import GgufFile
from forebay_worker.weights.names import WeightName, gguf_decoder_names, hf_decoder_names, undo_adjacent_rotary


def from_config(config: HfConfig) -> DecoderSpec:
    """Describe a model by its config.json. Raises: ModelRefusedError for what is not built."""
    config.require("hidden_act", "silu")
    config.require("attention_bias", False)
    config.require("mlp_bias", False)
    config.require("quantization_config")
    num_heads = config.integer("num_attention_heads")
    head_dim = config.integer("head_dim", config.integer("hidden_size") // num_heads)
    return DecoderSpec(
        architecture=config.architecture(),
        num_layers=config.integer("num_hidden_layers"),
        hidden_size=config.integer("hidden_size"),
        intermediate_size=config.integer("intermediate_size"),
        num_heads=num_heads,
        num_kv_heads=config.integer("num_key_value_heads", num_heads),
        head_dim=head_dim,
        vocab_size=config.integer("vocab_size"),
        max_position_embeddings=config.integer("max_position_embeddings", 2048),
        norm_eps=config.number("rms_norm_eps", 1e-6),
        rope=config.rope(head_dim),
        tied_head=config.flag("tie_word_embeddings", False),
        names=hf_decoder_names(),
    )


def from_gguf(file: GgufFile) -> DecoderSpec:
    """Describe a GGUF file of architecture `llama`. Raises: ModelRefusedError for what is not built."""
    if experts := file.integer("llama.expert_count", 0):
        raise ModelRefusedError(f"`llama.expert_count` of `{file.path}` is `{experts}`; experts are not supported")
    num_heads = file.integer("llama.attention.head_count")
    head_dim = file.integer("llama.attention.key_length", file.integer("llama.embedding_length") // num_heads)
    _refuse_unless(file, "llama.attention.value_length", head_dim)
    _refuse_unless(file, "llama.rope.dimension_count", head_dim)
    scaling = file.text("llama.rope.scaling.type", "none")
    if scaling != "none":
        raise ModelRefusedError(f"`llama.rope.scaling.type` of `{file.path}` is `{scaling}`; supported: `none`")
    tensors = frozenset(file.names())
    vocab_size = file.metadata.get("llama.vocab_size")
    return DecoderSpec(
        architecture="LlamaForCausalLM",
        num_layers=file.integer("llama.block_count"),
        hidden_size=file.integer("llama.embedding_length"),
        intermediate_size=file.integer("llama.feed_forward_length"),
        num_heads=num_heads,
        num_kv_heads=file.integer("llama.attention.head_count_kv", num_heads),
        head_dim=head_dim,
        vocab_size=vocab_size if isinstance(vocab_size, int) else file.array_length("tokenizer.ggml.tokens"),
        max_position_embeddings=file.integer("llama.context_length"),
        norm_eps=file.number("llama.attention.layer_norm_rms_epsilon"),
        rope=RopeSpec(
            theta=file.number("llama.rope.freq_base", 10000.0),
            dim=head_dim,
            kind="factors" if "rope_freqs.weight" in tensors else "default",
        ),
        tied_head="output.weight" not in tensors,
        names=_gguf_names(head_dim),
    )


def _gguf_names(head_dim: int) -> dict[str, WeightName]:
    names = gguf_decoder_names()
    for role in ("attention.query", "attention.key"):
        names[role] = WeightName(names[role].template, undo_adjacent_rotary(head_dim))
    return names


def _refuse_unless(file: GgufFile, key: str, supported: int) -> None:
    value = file.integer(key, supported)
    if value != supported:
        raise ModelRefusedError(
            f"`{key}` of `{file.path}` is `{value}`, which is not supported; supported: `{supported}`"
        )
