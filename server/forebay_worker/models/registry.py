"""Architecture names -> the family that describes them. A family's module is imported when it is asked for."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

from forebay_worker.models.gguf_config import GgufConfig
from forebay_worker.models.hf_config import HfConfig
from forebay_worker.models.spec import DecoderSpec
from forebay_worker.weights.errors import ModelRefusedError
from forebay_worker.weights.gguf import GgufFile

_HOME = "forebay_worker.models.families."

FAMILIES = {
    "CohereForCausalLM": _HOME + "cohere",
    "Cohere2ForCausalLM": _HOME + "cohere2",
    "FalconForCausalLM": _HOME + "falcon",
    "GPT2LMHeadModel": _HOME + "gpt2",
    "GPTNeoXForCausalLM": _HOME + "gpt_neox",
    "GemmaForCausalLM": _HOME + "gemma",
    "Gemma2ForCausalLM": _HOME + "gemma2",
    "Gemma3ForCausalLM": _HOME + "gemma3",
    "Gemma3ForConditionalGeneration": _HOME + "gemma3_multimodal",
    "Glm4ForCausalLM": _HOME + "glm4",
    "GraniteForCausalLM": _HOME + "granite",
    "LlamaForCausalLM": _HOME + "llama",
    "MistralForCausalLM": _HOME + "mistral",
    "MixtralForCausalLM": _HOME + "mixtral",
    "Olmo2ForCausalLM": _HOME + "olmo2",
    "PhiForCausalLM": _HOME + "phi",
    "Phi3ForCausalLM": _HOME + "phi3",
    "Qwen2ForCausalLM": _HOME + "qwen2",
    "Qwen2MoeForCausalLM": _HOME + "qwen2_moe",
    "Qwen3ForCausalLM": _HOME + "qwen3",
    "Qwen3MoeForCausalLM": _HOME + "qwen3_moe",
    "SmolLM3ForCausalLM": _HOME + "smollm3",
    "Starcoder2ForCausalLM": _HOME + "starcoder2",
}
"""`architectures` of config.json -> module with `from_config(HfConfig) -> DecoderSpec`."""

GGUF_FAMILIES = {
    "cohere2": _HOME + "cohere2",
    "command-r": _HOME + "cohere",
    "falcon": _HOME + "falcon",
    "gemma": _HOME + "gemma",
    "gemma2": _HOME + "gemma2",
    "gemma3": _HOME + "gemma3",
    "glm4": _HOME + "glm4",
    "gpt2": _HOME + "gpt2",
    "gptneox": _HOME + "gpt_neox",
    "granite": _HOME + "granite",
    "llama": _HOME + "llama",
    "olmo2": _HOME + "olmo2",
    "phi2": _HOME + "phi",
    "phi3": _HOME + "phi3",
    "qwen2": _HOME + "qwen2",
    "qwen2moe": _HOME + "qwen2_moe",
    "qwen3": _HOME + "qwen3",
    "qwen3moe": _HOME + "qwen3_moe",
    "smollm3": _HOME + "smollm3",
    "starcoder2": _HOME + "starcoder2",
}
"""`general.architecture` of a GGUF file -> module with `from_gguf(GgufConfig) -> DecoderSpec`."""


def spec_from_config(config: HfConfig) -> DecoderSpec:
    """Describe a folder's model. Raises: ModelRefusedError for an unknown architecture or an unsupported field."""
    spec: DecoderSpec = _family(FAMILIES, config.architecture(), config.path).from_config(config)
    return spec


def spec_from_gguf(file: GgufFile) -> DecoderSpec:
    """Describe a GGUF file's model. Raises: ModelRefusedError for an unknown architecture or an unsupported key."""
    config = GgufConfig(file)
    spec: DecoderSpec = _family(GGUF_FAMILIES, config.architecture, file.path).from_gguf(config)
    return spec


def _family(families: dict[str, str], architecture: str, path: Path) -> ModuleType:
    if architecture not in families:
        raise ModelRefusedError(
            f"architecture `{architecture}` of `{path}` is not supported; supported: {', '.join(sorted(families))}"
        )
    return importlib.import_module(families[architecture])
