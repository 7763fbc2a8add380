"""A tensor as it lies in a file: raw rows with a storage type. Slicing moves no bytes; nothing is decoded here."""

from __future__ import annotations

import dataclasses
import math
import mmap
from pathlib import Path

import numpy as np
import numpy.typing as npt

from forebay_worker.weights.errors import ModelRefusedError

Bytes = npt.NDArray[np.uint8]


@dataclasses.dataclass(frozen=True)
class StorageType:
    """How elements are packed: `block_size` neighbours of one row share `block_bytes` bytes."""

    name: str
    block_size: int
    block_bytes: int

    @property
    def is_quantized(self) -> bool:
        """Whether elements share a scale."""
        return self.block_size > 1


F32 = StorageType("F32", 1, 4)
F16 = StorageType("F16", 1, 2)
BF16 = StorageType("BF16", 1, 2)
Q4_0 = StorageType("Q4_0", 32, 18)
Q4_1 = StorageType("Q4_1", 32, 20)
Q5_0 = StorageType("Q5_0", 32, 22)
Q5_1 = StorageType("Q5_1", 32, 24)
Q8_0 = StorageType("Q8_0", 32, 34)
Q2_K = StorageType("Q2_K", 256, 84)
Q3_K = StorageType("Q3_K", 256, 110)
Q4_K = StorageType("Q4_K", 256, 144)
Q5_K = StorageType("Q5_K", 256, 176)
Q6_K = StorageType("Q6_K", 256, 210)
IQ4_NL = StorageType("IQ4_NL", 32, 18)
IQ4_XS = StorageType("IQ4_XS", 256, 136)

FLOAT_TYPES = (F32, F16, BF16)
QUANTIZED_TYPES = (Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K, Q3_K, Q4_K, Q5_K, Q6_K, IQ4_NL, IQ4_XS)
STORAGE_TYPES = {storage.name: storage for storage in FLOAT_TYPES + QUANTIZED_TYPES}


@dataclasses.dataclass(frozen=True)
class StoredTensor:
    """A matrix [num_rows, num_columns], or a vector as one row, still in its storage type.

    `data` is uint8 [num_rows, bytes of one row]: a view of the file unless a method says that it copies.
    """

    name: str
    storage: StorageType
    num_columns: int
    data: Bytes

    @property
    def num_rows(self) -> int:
        """Rows of the matrix."""
        return int(self.data.shape[0])

    def rows(self, start: int, stop: int) -> StoredTensor:
        """Rows `start` to `stop`. Rows past the end are zeros, which every storage type decodes as 0; those copy."""
        data = self.data[start:stop]
        if missing := stop - start - data.shape[0]:
            data = np.concatenate([data, np.zeros((missing, self.data.shape[1]), np.uint8)])
        return dataclasses.replace(self, data=data)

    def columns(self, start: int, stop: int) -> StoredTensor:
        """Columns `start` to `stop`, which must fall on block edges (checked before weights are read)."""
        size, width = self.storage.block_size, self.storage.block_bytes
        assert start % size == 0 and stop % size == 0, f"columns {start}:{stop} of {self.name} cut a block of {size}"
        data = self.data[:, start // size * width : stop // size * width]
        return dataclasses.replace(self, num_columns=stop - start, data=data)

    def reorder_rows(self, order: npt.NDArray[np.int64]) -> StoredTensor:
        """Row i of the result is row `order[i]`; those that `order` lacks are left out. Copies."""
        return dataclasses.replace(self, data=self.data[order])

    def transposed(self) -> StoredTensor:
        """Columns as rows. Copies. Raises: ModelRefusedError for quantized blocks, which lie along rows."""
        if self.storage.is_quantized:
            raise ModelRefusedError(
                f"tensor `{self.name}` has type `{self.storage.name}`, expected a float type: it must be transposed"
            )
        items = self.data.reshape(self.num_rows, self.num_columns, self.storage.block_bytes)
        data = np.ascontiguousarray(items.swapaxes(0, 1)).reshape(self.num_columns, -1)
        return dataclasses.replace(self, num_columns=self.num_rows, data=data)


def stored_tensor(name: str, storage: StorageType, shape: tuple[int, ...], raw: Bytes) -> StoredTensor:
    """Give raw bytes their shape (outermost first). The caller has checked that the sizes agree."""
    num_columns = shape[-1] if shape else 1
    num_rows = math.prod(shape[:-1])
    return StoredTensor(name, storage, num_columns, raw.reshape(num_rows, -1))


def storage_bytes(storage: StorageType, shape: tuple[int, ...]) -> int:
    """Bytes of a tensor of this shape (outermost first), whose rows are whole blocks."""
    return math.prod(shape) // storage.block_size * storage.block_bytes


def map_file(path: Path) -> Bytes:
    """Map a file into memory as uint8 [size]; copy-on-write, so that torch takes views of it without complaint.

    Raises: ModelRefusedError if the file is empty.
    """
    with path.open("rb") as file:
        if path.stat().st_size == 0:
            raise ModelRefusedError(f"`{path}` is empty")
        return np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY), np.uint8)
