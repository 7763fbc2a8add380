"""Reads GGUF: checks header and tensor table, hands out views of the mapped file. Decodes nothing.

Source: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md (little-endian, versions 2 and 3).
"""

from __future__ import annotations

import dataclasses
import math
import struct
from pathlib import Path

from forebay_worker.weights.errors import ModelRefusedError
from forebay_worker.weights.stored import (
    STORAGE_TYPES,
    Bytes,
    StorageType,
    StoredTensor,
    map_file,
    storage_bytes,
    stored_tensor,
)

MAGIC = b"GGUF"
MAX_DIMENSIONS = 4
DEFAULT_ALIGNMENT = 32

GGML_TYPE_NAMES = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 6: "Q5_0", 7: "Q5_1", 8: "Q8_0", 9: "Q8_1", 10: "Q2_K", 11: "Q3_K",
    12: "Q4_K", 13: "Q5_K", 14: "Q6_K", 15: "Q8_K", 16: "IQ2_XXS", 17: "IQ2_XS", 18: "IQ3_XXS", 19: "IQ1_S",
    20: "IQ4_NL", 21: "IQ3_S", 22: "IQ2_S", 23: "IQ4_XS", 24: "I8", 25: "I16", 26: "I32", 27: "I64", 28: "F64",
    29: "IQ1_M", 30: "BF16", 34: "TQ1_0", 35: "TQ2_0", 39: "MXFP4", 40: "NVFP4",
}  # fmt: skip

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9

Scalar = int | float | bool | str


@dataclasses.dataclass(frozen=True)
class GgufArray:
    """An array of the header, left where it is: vocabularies are long and seldom wanted here."""

    type_id: int
    length: int
    offset: int


@dataclasses.dataclass(frozen=True)
class GgufTensorInfo:
    """One line of the tensor table; `shape` outermost first, `raw` a view of the mapped file."""

    storage: StorageType
    shape: tuple[int, ...]
    raw: Bytes


class GgufFile:
    """A GGUF file's metadata and tensors."""

    def __init__(self, path: Path) -> None:
        """Map the file and check header and tensor table.

        Raises: ModelRefusedError naming file, tensor and what is wrong, or the unsupported type and the supported.
        """
        self.path = path
        self._mapped = map_file(path)
        cursor = _Cursor(path, self._mapped)
        if cursor.take(4) != MAGIC:
            raise ModelRefusedError(f"`{path}` is no GGUF file: it does not start with `GGUF`")
        self.version = cursor.scalar("I")
        if self.version not in (2, 3):
            raise ModelRefusedError(f"`{path}` is GGUF version `{self.version}`; supported: 2 and 3, little-endian")
        num_tensors, num_pairs = cursor.scalar("Q"), cursor.scalar("Q")
        self.metadata: dict[str, Scalar | GgufArray] = {}
        for _ in range(num_pairs):
            key = cursor.string()
            self.metadata[key] = cursor.value(cursor.scalar("I"))
        self.infos = self._tensor_table(cursor, num_tensors)

    def _tensor_table(self, cursor: _Cursor, num_tensors: int) -> dict[str, GgufTensorInfo]:
        raw = [(cursor.string(), cursor.shape(), cursor.scalar("I"), cursor.scalar("Q")) for _ in range(num_tensors)]
        alignment = self.integer("general.alignment", DEFAULT_ALIGNMENT)
        if alignment < 1 or alignment & (alignment - 1):
            raise ModelRefusedError(f"`general.alignment` of `{self.path}` is `{alignment}`, expected a power of two")
        base = -(-cursor.position // alignment) * alignment
        infos: dict[str, GgufTensorInfo] = {}
        for name, shape, type_id, offset in raw:
            if name in infos:
                raise ModelRefusedError(f"tensor `{name}` is twice in `{self.path}`")
            infos[name] = self._tensor_info(name, shape, type_id, base + offset)
        return infos

    def _tensor_info(self, name: str, shape: tuple[int, ...], type_id: int, offset: int) -> GgufTensorInfo:
        kind = GGML_TYPE_NAMES.get(type_id, str(type_id))
        storage = STORAGE_TYPES.get(kind)
        if storage is None:
            supported = ", ".join(STORAGE_TYPES)
            raise ModelRefusedError(f"tensor `{name}` in `{self.path}` has ggml type `{kind}`; supported: {supported}")
        if shape[-1] % storage.block_size:
            raise ModelRefusedError(
                f"tensor `{name}` in `{self.path}` has rows of `{shape[-1]}`, "
                f"expected a multiple of {storage.block_size} for {storage.name}"
            )
        end = offset + storage_bytes(storage, shape)
        if end > self._mapped.size:
            raise ModelRefusedError(
                f"tensor `{name}` ends at byte `{end}`, but `{self.path}` has `{self._mapped.size}`: is it whole?"
            )
        return GgufTensorInfo(storage, shape, self._mapped[offset:end])

    def names(self) -> list[str]:
        """Every tensor's name."""
        return list(self.infos)

    @property
    def num_parameters(self) -> int:
        """Elements of all tensors."""
        return sum(math.prod(info.shape) for info in self.infos.values())

    @property
    def storage_types(self) -> dict[str, int]:
        """Name of each storage type -> elements stored so."""
        counts: dict[str, int] = {}
        for info in self.infos.values():
            counts[info.storage.name] = counts.get(info.storage.name, 0) + math.prod(info.shape)
        return counts

    def read(self, name: str) -> StoredTensor:
        """A view of one tensor. Raises: KeyError."""
        info = self.infos[name]
        return stored_tensor(name, info.storage, info.shape, info.raw)

    def integer(self, key: str, default: int | None = None) -> int:
        """A metadata value that must be an integer. Raises: ModelRefusedError naming the key and its value."""
        value = self.metadata.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int):
            raise ModelRefusedError(f"`{key}` of `{self.path}` is `{value}`, expected an integer")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        """A metadata value that must be a number. Raises: ModelRefusedError naming the key and its value."""
        value = self.metadata.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ModelRefusedError(f"`{key}` of `{self.path}` is `{value}`, expected a number")
        return float(value)

    def text(self, key: str, default: str | None = None) -> str:
        """A metadata value that must be a string. Raises: ModelRefusedError naming the key and its value."""
        value = self.metadata.get(key, default)
        if not isinstance(value, str):
            raise ModelRefusedError(f"`{key}` of `{self.path}` is `{value}`, expected a string")
        return value

    def array_length(self, key: str) -> int:
        """Length of a metadata array. Raises: ModelRefusedError if it is absent or no array."""
        value = self.metadata.get(key)
        if not isinstance(value, GgufArray):
            raise ModelRefusedError(f"`{key}` of `{self.path}` is `{value}`, expected an array")
        return value.length


class _Cursor:
    """Walks the header; every read is checked against the file's end."""

    def __init__(self, path: Path, mapped: Bytes) -> None:
        self.path = path
        self.position = 0
        self._view = memoryview(mapped)  # type: ignore[arg-type]  # numpy's stub hides the buffer protocol

    def take(self, count: int) -> bytes:
        start = self._advance(count)
        return bytes(self._view[start : self.position])

    def _advance(self, count: int) -> int:
        start = self.position
        if count > len(self._view) - start:
            raise ModelRefusedError(
                f"`{self.path}` ends inside its header: byte `{start + count}` of `{len(self._view)}` wanted"
            )
        self.position = start + count
        return start

    def scalar(self, code: str) -> int:
        """A number by its struct code; floats and bools too, typed as int for the many integer readers."""
        layout = "<" + code
        value: int = struct.unpack_from(layout, self._view, self._advance(struct.calcsize(layout)))[0]
        return value

    def string(self) -> str:
        try:
            return self.take(self.scalar("Q")).decode()
        except UnicodeDecodeError as error:
            raise ModelRefusedError(f"a string before byte {self.position} of `{self.path}` is not UTF-8") from error

    def shape(self) -> tuple[int, ...]:
        count = self.scalar("I")
        if not 1 <= count <= MAX_DIMENSIONS:
            raise ModelRefusedError(f"a tensor of `{self.path}` has `{count}` dimensions, expected 1 to 4")
        return tuple(self.scalar("Q") for _ in range(count))[::-1]

    def value(self, type_id: int) -> Scalar | GgufArray:
        if type_id in _SCALARS:
            return self.scalar(_SCALARS[type_id])
        if type_id == _STRING:
            return self.string()
        if type_id == _ARRAY:
            return self._skip_array()
        raise ModelRefusedError(f"metadata type `{type_id}` before byte {self.position} of `{self.path}` is unknown")

    def _skip_array(self) -> GgufArray:
        type_id, length = self.scalar("I"), self.scalar("Q")
        array = GgufArray(type_id, length, self.position)
        if type_id in _SCALARS:
            self._advance(length * struct.calcsize("<" + _SCALARS[type_id]))
        elif type_id == _STRING:
            for _ in range(length):
                self._advance(self.scalar("Q"))
        else:
            raise ModelRefusedError(f"an array of type `{type_id}` in `{self.path}` is not supported")
        return array
