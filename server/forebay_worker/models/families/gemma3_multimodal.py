"""The text part of a Gemma 3 that takes images; requests with images are refused before they come here."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from forebay_worker.models.families import gemma3
from forebay_worker.models.hf_config import HfConfig
from forebay_worker.models.spec import DecoderSpec
from forebay_worker.weights.errors import ModelRefusedError
from forebay_worker.weights.names import WeightName

DEFAULTS = {"vocab_size": 262208, "num_attention_heads": 8}
"""transformers' `Gemma3TextConfig`, on which the files of the release rely."""
OTHER_PARTS = tuple(
    f"{prefix}{part}." for prefix in ("", "model.") for part in ("vision_tower", "multi_modal_projector")
)


def from_config(config: HfConfig) -> DecoderSpec:
    """Describe a model by its config.json. Raises: ModelRefusedError for what is not built."""
    text = config.fields.get("text_config")
    if not isinstance(text, Mapping):
        raise ModelRefusedError(f"`text_config` of `{config.path}` is `{text}`, expected an object")
    spec = gemma3.from_config(config.replaced({**DEFAULTS, **text, "architectures": [config.architecture()]}))
    # transformers has had the prefixes in either order.
    prefix = (
        "language_model.model." if "language_model.model.norm.weight" in config.tensors else "model.language_model."
    )
    names = {
        role: dataclasses.replace(name, template=prefix + name.template.removeprefix("model."))
        for role, name in spec.names.items()
        if role != "head"
    }
    names["head"] = WeightName(prefix.partition("model.")[0] + "lm_head.weight")
    return dataclasses.replace(spec, names=names, ignored_prefixes=OTHER_PARTS)
