"""What most config.json files share: sizes of a decoder of Llama's shape, under the names that transformers uses."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from forebay_worker.models.hf_config import HfConfig
from forebay_worker.models.spec import DecoderSpec, ExpertsSpec, LayerSpec
from forebay_worker.weights.names import MLP_ROLES, WeightName, biases, divided_by_layer, hf_decoder_names

DENSE_MLP = "forebay_worker.layers.mlp:SwiGluMlp"
QUERY_KEY_VALUE = ("attention.query", "attention.key", "attention.value")


def hf_decoder(
    config: HfConfig,
    names: Mapping[str, WeightName],
    windows: Sequence[int] | None = None,
    default_theta: float = 10000.0,
    dense_layers: Collection[int] = (),
    **fields: Any,  # noqa: ANN401 (DecoderSpec's)
) -> DecoderSpec:
    """Describe a decoder; `windows`: of each layer, none if absent; `fields`: of DecoderSpec, in place of the usual.

    `dense_layers`: those of a model of experts that have none.
    Raises: ModelRefusedError for what is not built.
    """
    config.require("quantization_config")
    num_heads = config.integer("num_attention_heads")
    num_layers = config.integer("num_hidden_layers")
    head_dim = fields.get("head_dim") or config.integer("head_dim", config.integer("hidden_size") // num_heads)
    usual: dict[str, Any] = {
        "architecture": config.architecture(),
        "hidden_size": config.integer("hidden_size"),
        "intermediate_size": fields.get("intermediate_size") or config.integer("intermediate_size"),
        "num_heads": num_heads,
        "num_kv_heads": config.integer("num_key_value_heads", num_heads),
        "head_dim": head_dim,
        "vocab_size": config.integer("vocab_size"),
        "max_position_embeddings": config.integer("max_position_embeddings", 2048),
        "norm_eps": config.number("rms_norm_eps", 1e-6),
        "tied_head": config.flag("tie_word_embeddings", False),
        "names": divided_by_layer(names, num_layers, dense_layers) if "experts" in fields else names,
    }
    if "layers" not in fields:
        rope = config.rope(head_dim, default_theta)
        mlps = [DENSE_MLP if layer in dense_layers else None for layer in range(num_layers)]
        usual["layers"] = tuple(map(LayerSpec, [rope] * num_layers, windows or [0] * num_layers, mlps))
    return DecoderSpec(**{**usual, **fields})


def hf_names(config: HfConfig) -> dict[str, WeightName]:
    """Names of a decoder of Llama's shape, with the biases that `attention_bias` and `mlp_bias` announce."""
    names = hf_decoder_names()
    if config.flag("attention_bias", False):
        names |= biases(names, *QUERY_KEY_VALUE, "attention.output")
    if config.flag("mlp_bias", False):
        names |= biases(names, *MLP_ROLES)
    return names


def hf_experts(
    config: HfConfig, num_experts_key: str, width_key: str, routing: str, shared_width: int = 0
) -> ExpertsSpec:
    """The experts of a config.json. Raises: ModelRefusedError if a token were to pass more experts than there are."""
    num_experts = config.integer(num_experts_key)
    return ExpertsSpec(
        num_experts=num_experts,
        num_experts_per_token=config.integer("num_experts_per_tok", maximum=num_experts),
        intermediate_size=config.integer(width_key),
        routing=routing,
        shared_intermediate_size=shared_width,
    )
