"""Architecture names -> the family that describes them. A family's module is imported when it is asked for."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

from forebay_worker.models.hf_config import HfConfig
from forebay_worker.models.spec import DecoderSpec
from forebay_worker.weights.errors import ModelRefusedError
from forebay_worker.weights.gguf import GgufFile

FAMILIES = {
    "LlamaForCausalLM": "forebay_worker.models.families.llama",
    "MistralForCausalLM": "forebay_worker.models.families.mistral",
}
"""`architectures` of config.json -> module with `from_config(HfConfig) -> DecoderSpec`."""

GGUF_FAMILIES = {
    "llama": "forebay_worker.models.families.llama",
}
"""`general.architecture` of a GGUF file -> module with `from_gguf(GgufFile) -> DecoderSpec`."""


def spec_from_config(config: HfConfig) -> DecoderSpec:
    """Describe a folder's model. Raises: ModelRefusedError for an unknown architecture or an unsupported field."""
    spec: DecoderSpec = _family(FAMILIES, config.architecture(), config.path).from_config(config)
    return spec


def spec_from_gguf(file: GgufFile) -> DecoderSpec:
    """Describe a GGUF file's model. Raises: ModelRefusedError for an unknown architecture or an unsupported key."""
    if file.integer("split.count", 1) > 1:
        raise ModelRefusedError(f"`{file.path}` is one part of several (`split.count`); merge them with gguf-split")
    spec: DecoderSpec = _family(GGUF_FAMILIES, file.text("general.architecture"), file.path).from_gguf(file)
    return spec


def _family(families: dict[str, str], architecture: str, path: Path) -> ModuleType:
    if architecture not in families:
        raise ModelRefusedError(
            f"architecture `{architecture}` of `{path}` is not supported; supported: {', '.join(sorted(families))}"
        )
    return importlib.import_module(families[architecture])
