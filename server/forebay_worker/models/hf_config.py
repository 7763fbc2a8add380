"""Reads config.json with types, and refuses by name and value what is not built."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from forebay_worker.models.spec import Llama3Scaling, RopeSpec
from forebay_worker.weights.errors import ModelRefusedError


class HfConfig:
    """A model's config.json."""

    def __init__(self, fields: Mapping[str, Any], path: Path) -> None:
        self.fields = fields
        self.path = path

    @staticmethod
    def load(folder: Path) -> HfConfig:
        """Read `folder`/config.json. Raises: ModelRefusedError if it is missing or no JSON object."""
        path = folder / "config.json"
        try:
            fields = json.loads(path.read_bytes())
        except FileNotFoundError as error:
            raise ModelRefusedError(f"`{folder}` has no config.json") from error
        except ValueError as error:
            raise ModelRefusedError(f"`{path}` is not JSON: {error}") from error
        if not isinstance(fields, dict):
            raise ModelRefusedError(f"`{path}` is not a JSON object")
        return HfConfig(fields, path)

    def architecture(self) -> str:
        """The first of `architectures`. Raises: ModelRefusedError if there is none."""
        names = self.fields.get("architectures")
        if not isinstance(names, list) or not names or not isinstance(names[0], str):
            raise ModelRefusedError(f"`architectures` of `{self.path}` is `{names}`, expected a list with a name")
        return names[0]

    def integer(self, key: str, default: int | None = None) -> int:
        """A positive integer; `default` when absent or null. Raises: ModelRefusedError naming key and value."""
        value = self.fields.get(key)
        value = default if value is None else value
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ModelRefusedError(f"`{key}` of `{self.path}` is `{value}`, expected a positive integer")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        """A number; `default` when absent or null. Raises: ModelRefusedError naming key and value."""
        return _number(self.fields, key, default, self.path)

    def flag(self, key: str, default: bool) -> bool:
        """A boolean. Raises: ModelRefusedError naming key and value."""
        value = self.fields.get(key, default)
        if not isinstance(value, bool):
            raise ModelRefusedError(f"`{key}` of `{self.path}` is `{value}`, expected true or false")
        return value

    def require(self, key: str, *supported: object) -> None:
        """Refuse a field that has a value other than `supported`; absent and null always pass."""
        value = self.fields.get(key)
        if value is not None and value not in supported:
            allowed = ", ".join(f"`{json.dumps(one)}`" for one in supported) or "only its absence"
            raise ModelRefusedError(
                f"`{key}` of `{self.path}` is `{json.dumps(value)}`, which is not supported; supported: {allowed}"
            )

    def rope(self, dim: int, default_theta: float = 10000.0) -> RopeSpec:
        """Rotary parameters, from `rope_parameters` or from the older `rope_theta` and `rope_scaling`.

        Raises: ModelRefusedError for a kind other than default and llama3.
        """
        self.require("partial_rotary_factor", 1, 1.0)
        parameters = self.fields.get("rope_parameters") or self.fields.get("rope_scaling") or {}
        if not isinstance(parameters, dict):
            raise ModelRefusedError(f"rotary parameters of `{self.path}` are `{parameters}`, expected an object")
        kind = parameters.get("rope_type", parameters.get("type", "default"))
        theta = _number(parameters, "rope_theta", self.number("rope_theta", default_theta), self.path)
        if kind == "default":
            return RopeSpec(theta, dim)
        if kind == "llama3":
            return RopeSpec(theta, dim, kind, self._llama3(parameters))
        raise ModelRefusedError(
            f"`rope_type` of `{self.path}` is `{kind}`, which is not supported; supported: `default`, `llama3`"
        )

    def _llama3(self, parameters: Mapping[str, Any]) -> Llama3Scaling:
        original = parameters.get("original_max_position_embeddings", self.fields.get("max_position_embeddings"))
        if isinstance(original, bool) or not isinstance(original, int) or original < 1:
            raise ModelRefusedError(
                f"`original_max_position_embeddings` of `{self.path}` is `{original}`, expected a positive integer"
            )
        return Llama3Scaling(
            factor=_number(parameters, "factor", None, self.path),
            low_freq_factor=_number(parameters, "low_freq_factor", None, self.path),
            high_freq_factor=_number(parameters, "high_freq_factor", None, self.path),
            original_max_position_embeddings=original,
        )


def _number(fields: Mapping[str, Any], key: str, default: float | None, path: Path) -> float:
    value = fields.get(key)
    value = default if value is None else value
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ModelRefusedError(f"`{key}` of `{path}` is `{value}`, expected a number")
    return float(value)
