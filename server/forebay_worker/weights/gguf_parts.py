"""Joins the parts into which llama.cpp's gguf-split cuts a model: `NAME-00001-of-0000N.gguf` and those beside it.

Source: https://github.com/ggml-org/llama.cpp/blob/master/tools/gguf-split/README.md; the keys are `split.count`,
`split.no` (from 0) and `split.tensors.count` (of all parts). Everything else is said by the first part alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from forebay_worker.weights.errors import ModelRefusedError
from forebay_worker.weights.gguf import GgufFile, GgufTensorInfo

PART_NAME = re.compile(r"(?P<prefix>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf", re.ASCII)


class GgufModel(GgufFile):
    """A model's metadata, which is the first part's, and the tensors of all parts; most models are one file."""

    def __init__(self, path: Path) -> None:
        """Map the file and, if it is the first of several parts, the others. Checks headers and tensor tables.

        Raises: ModelRefusedError naming the file and what is wrong, the part that is missing, or the one to name.
        """
        super().__init__(path)
        if (count := self.integer("split.count", 1)) > 1:
            self.infos = self._joined(count)

    def _joined(self, count: int) -> dict[str, GgufTensorInfo]:
        infos: dict[str, GgufTensorInfo] = {}
        for part in self._parts(count):
            if twice := infos.keys() & part.infos.keys():
                raise ModelRefusedError(f"tensor `{min(twice)}` of `{part.path}` is in an earlier part too")
            infos |= part.infos
        expected = self.integer("split.tensors.count")
        if len(infos) != expected:
            raise ModelRefusedError(
                f"the `{count}` parts of `{self.path}` have `{len(infos)}` tensors, "
                f"but its `split.tensors.count` is `{expected}`"
            )
        return infos

    def _parts(self, count: int) -> Iterator[GgufFile]:
        for index, name in enumerate(_names_of_parts(self.path, count)):
            path = self.path.with_name(name)
            if not path.is_file():
                raise ModelRefusedError(f"part `{name}` of `{self.path}` is missing: it must lie in the same folder")
            part = GgufFile(path) if index else self
            for key, expected in (("split.no", index), ("split.count", count)):
                if (value := part.integer(key)) != expected:
                    raise ModelRefusedError(f"`{key}` of `{path}` is `{value}`, expected `{expected}`")
            yield part


def gguf_models(names: Iterable[str]) -> dict[str, list[str]]:
    """Names of GGUF files -> the one that stands for each model (its first part, there or not) -> all its files."""
    models: dict[str, list[str]] = {}
    for name in names:
        matched = PART_NAME.fullmatch(name)
        if matched is None or not 1 <= int(matched["number"]) <= int(matched["count"]):
            models[name] = [name]
            continue
        prefix, count = matched["prefix"], int(matched["count"])
        if (first := _part_name(prefix, 1, count)) not in models:
            models[first] = _part_names(prefix, count)
    return models


def _names_of_parts(path: Path, count: int) -> list[str]:
    """Every part's name by the first one's. Raises: ModelRefusedError if `path` is not called the first of `count`."""
    matched = PART_NAME.fullmatch(path.name)
    if matched is None or int(matched["count"]) != count:
        raise ModelRefusedError(
            f"`split.count` of `{path}` is `{count}`: it is found with its other parts "
            f"only under a name that ends in `-00001-of-{count:05}.gguf`"
        )
    names = _part_names(matched["prefix"], count)
    if path.name != names[0]:
        number = int(matched["number"])
        raise ModelRefusedError(f"`{path}` is part `{number}` of `{count}`; name the first, `{names[0]}`")
    return names


def _part_names(prefix: str, count: int) -> list[str]:
    return [_part_name(prefix, number, count) for number in range(1, count + 1)]


def _part_name(prefix: str, number: int, count: int) -> str:
    return f"{prefix}-{number:05}-of-{count:05}.gguf"
