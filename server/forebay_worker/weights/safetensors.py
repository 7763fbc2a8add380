"""Reads safetensors: one file or a sharded index. Checks the header; never unpickles anything.

Source: the format's own description, https://github.com/huggingface/safetensors (header, then one flat buffer).
"""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

from forebay_worker.weights.errors import ModelRefusedError
from forebay_worker.weights.stored import BF16, F16, F32, Bytes, StoredTensor, map_file, storage_bytes, stored_tensor

INDEX_NAME = "model.safetensors.index.json"
SINGLE_NAME = "model.safetensors"

MAX_HEADER_BYTES = 100_000_000
"""The reference implementation's own limit."""

FLOAT_TYPES = {"F32": F32, "F16": F16, "BF16": BF16}

ITEM_BYTES = {
    **{name: 8 for name in ("F64", "I64", "U64", "C64")},
    **{name: 4 for name in ("F32", "I32", "U32")},
    **{name: 2 for name in ("F16", "BF16", "I16", "U16")},
    **{name: 1 for name in ("I8", "U8", "BOOL", "F8_E4M3", "F8_E5M2", "F8_E8M0")},
}


@dataclasses.dataclass(frozen=True)
class Entry:
    """One tensor of a header; `start` and `stop` are bytes from the start of the file."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


class SafetensorsFolder:
    """All tensors of a folder's safetensors files, by name."""

    def __init__(self, folder: Path) -> None:
        """Map every file and check every header. Raises: ModelRefusedError naming the file and what is wrong."""
        self.path = folder
        self._entries: dict[str, tuple[Path, Bytes, Entry]] = {}
        for path in weight_files(folder):
            mapped = map_file(path)
            for name, entry in read_header(path, mapped).items():
                if name in self._entries:
                    raise ModelRefusedError(f"tensor `{name}` is in `{path}` and in `{self._entries[name][0].name}`")
                self._entries[name] = (path, mapped, entry)

    def names(self) -> list[str]:
        """Every tensor's name."""
        return list(self._entries)

    @property
    def num_parameters(self) -> int:
        """Elements of all tensors."""
        return sum(math.prod(entry.shape) for _, _, entry in self._entries.values())

    def dtype_of(self, name: str) -> str | None:
        """The header's name of a tensor's type, as "BF16"; None for no such tensor."""
        return self._entries[name][2].dtype if name in self._entries else None

    def read(self, name: str) -> StoredTensor:
        """A view of one tensor. Raises: KeyError; ModelRefusedError for a type other than F32, F16, BF16."""
        path, mapped, entry = self._entries[name]
        if entry.dtype not in FLOAT_TYPES:
            raise ModelRefusedError(
                f"tensor `{name}` in `{path}` has type `{entry.dtype}`; supported: {', '.join(FLOAT_TYPES)}"
            )
        return stored_tensor(name, FLOAT_TYPES[entry.dtype], entry.shape, mapped[entry.start : entry.stop])


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files that hold a folder's weights: those of the index, else `model.safetensors`, else all.

    Raises: ModelRefusedError if there is none, or if one that the index names is missing.
    """
    index = folder / INDEX_NAME
    if index.is_file():
        paths = [folder / name for name in sorted(set(_weight_map(index).values()))]
        if missing := [path.name for path in paths if not path.is_file()]:
            raise ModelRefusedError(f"`{index}` names files that are not there: {', '.join(missing)}")
        return paths
    if (folder / SINGLE_NAME).is_file():
        return [folder / SINGLE_NAME]
    if paths := sorted(folder.glob("*.safetensors")):
        return paths
    raise ModelRefusedError(f"`{folder}` holds no safetensors files")


def _weight_map(index: Path) -> dict[str, str]:
    try:
        weight_map = json.loads(index.read_bytes())["weight_map"]
    except (ValueError, KeyError, TypeError) as error:
        raise ModelRefusedError(f"`{index}` is no index of safetensors: {error!r}") from error
    names = set(weight_map.values()) if isinstance(weight_map, dict) else {None}
    if not all(isinstance(name, str) and Path(name).name == name for name in names):
        raise ModelRefusedError(f"`weight_map` of `{index}` must map tensor names to file names of the same folder")
    return dict(weight_map)


def read_header(path: Path, mapped: Bytes) -> dict[str, Entry]:
    """Parse and check a file's header: types, sizes, and that the tensors fill the buffer without holes or overlap.

    Raises: ModelRefusedError naming file, tensor and what is wrong.
    """
    if mapped.size < 8:
        raise ModelRefusedError(f"`{path}` is no safetensors file: it has `{mapped.size}` bytes")
    length = int.from_bytes(mapped[:8].tobytes(), "little")
    if length > min(MAX_HEADER_BYTES, mapped.size - 8):
        raise ModelRefusedError(
            f"`{path}` is no whole safetensors file: header of `{length}` bytes, file of `{mapped.size}`"
        )
    try:
        header = json.loads(mapped[8 : 8 + length].tobytes())
    except ValueError as error:
        raise ModelRefusedError(f"header of `{path}` is not JSON: {error}") from error
    if not isinstance(header, dict):
        raise ModelRefusedError(f"header of `{path}` is not a JSON object")
    header.pop("__metadata__", None)
    entries = {name: _entry(path, name, fields, 8 + length) for name, fields in header.items()}
    _check_coverage(path, entries, 8 + length, mapped.size)
    return entries


def _entry(path: Path, name: str, fields: Any, base: int) -> Entry:  # noqa: ANN401 (unchecked JSON)
    try:
        shape = tuple(int(size) for size in fields["shape"])
        start, stop = (int(offset) for offset in fields["data_offsets"])
        dtype = str(fields["dtype"])
    except (KeyError, TypeError, ValueError) as error:
        raise ModelRefusedError(f"tensor `{name}` in `{path}` has a broken header: {error!r}") from error
    if any(size < 0 for size in shape):
        raise ModelRefusedError(f"tensor `{name}` in `{path}` has shape `{list(shape)}`")
    storage = FLOAT_TYPES.get(dtype)
    expected = storage_bytes(storage, shape) if storage else math.prod(shape) * ITEM_BYTES.get(dtype, 0)
    if (storage or dtype in ITEM_BYTES) and stop - start != expected:
        raise ModelRefusedError(
            f"tensor `{name}` in `{path}` has `{stop - start}` bytes; {dtype} {list(shape)} needs `{expected}`"
        )
    return Entry(dtype, shape, base + start, base + stop)


def _check_coverage(path: Path, entries: dict[str, Entry], base: int, size: int) -> None:
    end = base
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].start, item[1].stop)):
        if entry.start != end or entry.stop < entry.start or entry.stop > size:
            raise ModelRefusedError(
                f"tensor `{name}` in `{path}` lies at bytes `{entry.start}` to `{entry.stop}`, "
                f"expected to start at `{end}` in a file of `{size}`"
            )
        end = entry.stop
    if end != size:
        raise ModelRefusedError(f"`{path}` has `{size}` bytes, its tensors end at `{end}`")
