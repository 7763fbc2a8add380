"""Writes the bundled model's weights in other GGUF types, rounded by llama.cpp's own quantizer.

Usage: python tools/requantize_smollm2.py MIX OUT.gguf
       python tools/requantize_smollm2.py --rows OUT.gguf

MIX: a type (Q8_0, IQ4_NL, F16, …) or one of llama.cpp's mixtures (Q4_K_M, …). A model 576 wide has few rows that
blocks of 256 fit, so most tensors of a K-type fall back to another, as in the files that llama-quantize makes of it.
--rows: some rows of some tensors in every type that we read, named `TYPE/tensor`: the fixture of
kernels/tests/fixtures.
"""

from __future__ import annotations

import argparse
import ctypes
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import gguf
import numpy as np
import numpy.typing as npt
import xllamacpp
from gguf import GGMLQuantizationType as Type

from forebay_worker.hub import bundled_model
from forebay_worker.weights.stored import STORAGE_TYPES

Values = npt.NDArray[np.float32]
Raw = npt.NDArray[np.uint8]

FALLBACKS = {
    Type.Q2_K: Type.Q4_0,
    Type.Q3_K: Type.Q4_0,
    Type.Q4_K: Type.Q5_0,
    Type.Q5_K: Type.Q5_1,
    Type.Q6_K: Type.Q8_0,
    Type.IQ4_XS: Type.IQ4_NL,
}
"""For rows that are no whole blocks of 256. This and the mixtures: llama.cpp's llama-quant.cpp."""

MIXES: dict[str, tuple[Type, dict[str, Type]]] = {
    "Q2_K": (Type.Q2_K, dict.fromkeys(("attn_v", "attn_output", "ffn_down"), Type.Q3_K)),
    "Q3_K_M": (Type.Q3_K, dict.fromkeys(("attn_v", "attn_output", "ffn_down"), Type.Q4_K)),
    "Q4_K_M": (Type.Q4_K, dict.fromkeys(("attn_v", "ffn_down"), Type.Q6_K)),
    "Q5_K_M": (Type.Q5_K, dict.fromkeys(("attn_v", "ffn_down"), Type.Q6_K)),
}
"""Name -> type of most tensors, and of those that get more bits."""

MIXED_BY_LAYER = ("Q4_K_M", "Q5_K_M")
"""Here only layers at both ends, and a third of the others, get them."""

FIXTURE_ROWS = {"blk.2.ffn_down.weight": 1, "blk.21.ffn_down.weight": 1, "blk.9.attn_q.weight": 2}
"""Tensor -> how many of its first rows. 1536 columns, and 576, which only blocks of 32 divide."""


def main() -> None:
    """Write the file that was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("mix", nargs="?", choices=[*STORAGE_TYPES, *MIXES], metavar="MIX")
    parser.add_argument("--rows", action="store_true")
    parser.add_argument("out", type=Path, metavar="OUT.gguf")
    arguments = parser.parse_args()
    if arguments.rows == (arguments.mix is not None):
        parser.error("expected either MIX or --rows")
    reader = gguf.GGUFReader(bundled_model())
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    if arguments.rows:
        write(gguf.GGUFWriter(arguments.out, "llama"), fixture_tensors(reader))
        return
    writer = gguf.GGUFWriter(arguments.out, "llama")
    copy_metadata(reader, writer)
    write(writer, model_tensors(reader, arguments.mix))


def copy_metadata(reader: gguf.GGUFReader, writer: gguf.GGUFWriter) -> None:
    """Every key of the source but those that the writer writes itself."""
    for key, field in reader.fields.items():
        if key.startswith("GGUF.") or key == "general.architecture":
            continue
        if field.types[0] == gguf.GGUFValueType.ARRAY:
            writer.add_array(key, field.contents())
        else:
            writer.add_key_value(key, field.contents(), field.types[0])


def write(writer: gguf.GGUFWriter, tensors: Iterator[tuple[str, Raw, Type]]) -> None:
    """Add the tensors and write the file."""
    for name, raw, kind in tensors:
        writer.add_tensor(name, raw, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def model_tensors(reader: gguf.GGUFReader, mix: str) -> Iterator[tuple[str, Raw, Type]]:
    """All tensors of the model, matrices in the mixture's types."""
    num_layers = int(reader.fields["llama.block_count"].contents())

    def converted(tensor: gguf.ReaderTensor) -> tuple[str, Raw, Type]:
        values = decoded(tensor)
        kind = Type.F32 if values.ndim == 1 else type_of(tensor.name, values.shape[-1], mix, num_layers)
        return tensor.name, quantized(values, kind), kind

    # The library lets go of the interpreter's lock.
    with ThreadPoolExecutor() as threads:
        yield from threads.map(converted, reader.tensors)


def fixture_tensors(reader: gguf.GGUFReader) -> Iterator[tuple[str, Raw, Type]]:
    """Rows of real weights, as float32 and in every type whose blocks divide them."""
    for tensor in reader.tensors:
        if tensor.name in FIXTURE_ROWS:
            values = decoded(tensor)[: FIXTURE_ROWS[tensor.name]]
            for storage in STORAGE_TYPES.values():
                if values.shape[-1] % storage.block_size == 0:
                    kind = Type[storage.name]
                    yield f"{storage.name}/{tensor.name}", quantized(values, kind), kind


def type_of(name: str, num_columns: int, mix: str, num_layers: int) -> Type:
    """The type that llama.cpp would choose for a matrix of a model without an output tensor."""
    kind, raised = MIXES.get(mix) or (Type[mix], {})
    is_k_type = STORAGE_TYPES[kind.name].block_size == 256
    if name == "token_embd.weight":
        kind = Type.Q6_K if is_k_type else kind
    else:
        _, layer, role, _ = name.split(".")
        if role in raised and (mix not in MIXED_BY_LAYER or has_more_bits(int(layer), num_layers)):
            kind = raised[role]
    return kind if num_columns % STORAGE_TYPES[kind.name].block_size == 0 else FALLBACKS[kind]


def has_more_bits(layer: int, num_layers: int) -> bool:
    """llama.cpp's `use_more_bits`."""
    eighth = num_layers // 8
    return layer < eighth or layer >= 7 * num_layers // 8 or (layer - eighth) % 3 == 2


def decoded(tensor: gguf.ReaderTensor) -> Values:
    """A tensor's float32 values."""
    return np.ascontiguousarray(gguf.quants.dequantize(tensor.data, tensor.tensor_type), np.float32)


def quantized(values: Values, kind: Type) -> Raw:
    """Rows in the type's bytes: floats by the gguf package, blocks by llama.cpp's library, which xllamacpp carries."""
    if not STORAGE_TYPES[kind.name].is_quantized:
        raw: Raw = gguf.quants.quantize(values, kind)
        return raw
    num_rows, num_columns = values.shape
    storage = STORAGE_TYPES[kind.name]
    out = np.empty((num_rows, num_columns // storage.block_size * storage.block_bytes), np.uint8)
    written = ggml_quantize_chunk()(kind, values.ctypes.data, out.ctypes.data, 0, num_rows, num_columns, None)
    assert written == out.nbytes
    return out


def ggml_quantize_chunk() -> ctypes._NamedFuncPointer:
    """The library's own: (type, float32 values, out, first element, rows, columns, importance) -> bytes written."""
    function = ctypes.CDLL(xllamacpp.xllamacpp.__file__).ggml_quantize_chunk
    pointer, number = ctypes.c_void_p, ctypes.c_int64
    function.argtypes = [ctypes.c_int, pointer, pointer, number, number, number, pointer]
    function.restype = ctypes.c_size_t
    return function


if __name__ == "__main__":
    main()
