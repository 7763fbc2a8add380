"""Reads config.json with types, and refuses by name and value what is not built."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from forebay_worker.models.rope_config import RopeParameters
from forebay_worker.models.spec import RopeSpec
from forebay_worker.weights.errors import ModelRefusedError

FULL, SLIDING = "full_attention", "sliding_attention"
"""Of `layer_types`."""


class HfConfig:
    """A model's config.json, and the names of its tensors: some families have been saved under more than one set."""

    def __init__(self, fields: Mapping[str, Any], path: Path, tensors: Collection[str] = ()) -> None:
        self.fields = fields
        self.path = path
        self.tensors = tensors

    @staticmethod
    def load(folder: Path, tensors: Collection[str] = ()) -> HfConfig:
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
        return HfConfig(fields, path, tensors)

    def renamed(self, names: Mapping[str, str]) -> HfConfig:
        """The same, with fields of this family's names under the usual ones too."""
        present = {usual: self.fields[own] for own, usual in names.items() if own in self.fields}
        return self.replaced({**self.fields, **present})

    def replaced(self, fields: Mapping[str, Any]) -> HfConfig:
        """The same model with other fields."""
        return HfConfig(fields, self.path, self.tensors)

    def architecture(self) -> str:
        """The first of `architectures`. Raises: ModelRefusedError if there is none."""
        names = self.fields.get("architectures")
        if not isinstance(names, list) or not names or not isinstance(names[0], str):
            raise ModelRefusedError(f"`architectures` of `{self.path}` is `{names}`, expected a list with a name")
        return names[0]

    def integer(self, key: str, default: int | None = None, maximum: int | None = None, minimum: int = 1) -> int:
        """An integer from `minimum`; `default` when absent or null. Raises: ModelRefusedError naming key and value."""
        value = self.fields.get(key)
        value = default if value is None else value
        if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
            expected = "a positive integer" if minimum == 1 else f"an integer from {minimum}"
            raise ModelRefusedError(f"`{key}` of `{self.path}` is `{value}`, expected {expected}")
        if maximum is not None and value > maximum:
            raise ModelRefusedError(f"`{key}` of `{self.path}` is `{value}`, expected at most {maximum}")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        """A number; `default` when absent or null. Raises: ModelRefusedError naming key and value."""
        return _number(self.fields, key, default, self.path)

    def softcap(self, key: str, default: float) -> float:
        """A bound of scores or logits; `default` when absent, 0 (none) for null."""
        return self.number(key, default if key not in self.fields else 0.0)

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

    def integers(self, key: str, length: int | None = None) -> list[int]:
        """A list of integers, `length` of them; empty when absent or null.

        Raises: ModelRefusedError naming key and value.
        """
        value = self.fields.get(key) or []
        if not isinstance(value, list) or not all(isinstance(one, int) for one in value):
            raise ModelRefusedError(f"`{key}` of `{self.path}` is `{value}`, expected a list of integers")
        if value and length is not None and len(value) != length:
            raise ModelRefusedError(f"`{key}` of `{self.path}` has `{len(value)}` numbers, expected `{length}`")
        return value

    def rope(self, head_dim: int, default_theta: float = 10000.0) -> RopeSpec:
        """Rotary parameters of whole heads, from `rope_parameters` or from the older `rope_theta` and `rope_scaling`.

        Raises: ModelRefusedError for a kind that is not built, or a field that is missing or wrong.
        """
        self.require("partial_rotary_factor", 1, 1.0)
        fields = self.rope_fields()
        theta = self.number("rope_theta", default_theta)
        return RopeParameters(fields, self.path, self.integer("max_position_embeddings", 2048)).spec(head_dim, theta)

    def partial_rope(self, head_dim: int, default_part: float, default_theta: float = 10000.0) -> RopeSpec:
        """The same of the first elements of heads: of `partial_rotary_factor`, or `default_part`, of their width."""
        fields = self.rope_fields()
        part = fields.get("partial_rotary_factor") or self.number("partial_rotary_factor", default_part)
        theta = self.number("rope_theta", default_theta)
        max_positions = self.integer("max_position_embeddings", 2048)
        return RopeParameters(fields, self.path, max_positions).spec(int(head_dim * part), theta)

    def rope_fields(self) -> dict[str, Any]:
        """The object of rotary parameters; empty if there is none. Raises: ModelRefusedError if it is no object."""
        fields = self.fields.get("rope_parameters") or self.fields.get("rope_scaling") or {}
        if not isinstance(fields, dict):
            raise ModelRefusedError(f"rotary parameters of `{self.path}` are `{fields}`, expected an object")
        # Models that were stretched after training may say outside of the object from what.
        original = self.fields.get("original_max_position_embeddings")
        return {**fields, "original_max_position_embeddings": original} if original else fields

    def window(self, default: int | None = None) -> int:
        """A sliding window of all layers, `default` when absent; 0 for null, which means none."""
        absent = "sliding_window" not in self.fields
        if self.fields.get("sliding_window", default) is None:
            return 0
        return self.integer("sliding_window", default if absent else None)

    def windows(self, default_types: Sequence[str]) -> list[int]:
        """Each layer's sliding window, 0 for none: `sliding_window` where `layer_types` says so.

        Raises: ModelRefusedError for another type of layer, or another number of them.
        """
        types = self.fields.get("layer_types") or default_types
        if len(types) != self.integer("num_hidden_layers") or set(types) - {FULL, SLIDING}:
            raise ModelRefusedError(
                f"`layer_types` of `{self.path}` is `{types}`, expected `{FULL}` or `{SLIDING}` for each layer"
            )
        window = self.window(4096) if SLIDING in types else 0
        return [window if kind == SLIDING else 0 for kind in types]


def _number(fields: Mapping[str, Any], key: str, default: float | None, path: Path) -> float:
    value = fields.get(key)
    value = default if value is None else value
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ModelRefusedError(f"`{key}` of `{path}` is `{value}`, expected a number")
    return float(value)
