"""The GGUF reader against files that the gguf package writes, and against damage."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType as Type

from forebay_worker.weights.gguf import GgufArray, GgufFile


@pytest.fixture
def path(tmp_path):
    """A small file: metadata of several kinds, a float vector and a quantized matrix."""
    path = tmp_path / "small.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_uint32("a.number", 7)
    writer.add_float32("a.float", 0.5)
    writer.add_bool("a.flag", True)
    writer.add_array("a.strings", ["x", "longer", "é"])
    writer.add_array("a.integers", [1, 2, 3])
    writer.add_string("z.last", "end")
    writer.add_tensor("vector", np.arange(5, dtype=np.float32))
    matrix = np.random.default_rng(0).normal(size=(3, 64)).astype(np.float32)
    writer.add_tensor("matrix", gguf.quants.quantize(matrix, Type.Q4_1), raw_dtype=Type.Q4_1)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_metadata_is_read_past_long_arrays(path):
    file = GgufFile(path)
    assert (file.integer("a.number"), file.number("a.float"), file.metadata["a.flag"]) == (7, 0.5, True)
    assert file.array_length("a.strings") == 3
    assert isinstance(file.metadata["a.integers"], GgufArray)
    assert file.text("z.last") == "end"


def test_tensors_are_rows_of_raw_blocks(path):
    reference = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
    matrix, vector = GgufFile(path).read("matrix"), GgufFile(path).read("vector")
    assert (matrix.storage.name, matrix.num_rows, matrix.num_columns) == ("Q4_1", 3, 64)
    assert np.array_equal(matrix.data, reference["matrix"].data)
    assert (vector.num_rows, vector.num_columns) == (1, 5)
    assert np.array_equal(vector.data.view(np.float32)[0], np.arange(5))


def test_a_value_of_another_kind_is_refused_by_key(path):
    with pytest.raises(ValueError, match=r"`a.flag` of .* is `True`, expected an integer"):
        GgufFile(path).integer("a.flag")
    with pytest.raises(ValueError, match=r"`absent` of .* is `None`, expected a string"):
        GgufFile(path).text("absent")


@pytest.mark.parametrize("size", [0, 3, 10, 40, 150, 300])
def test_a_file_cut_anywhere_is_refused(path, size):
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(ValueError, match=str(path)):
        GgufFile(path)


def test_a_file_cut_in_its_tensors_is_refused_by_tensor(path):
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(ValueError, match=r"tensor `matrix` ends at byte .*: is it whole\?"):
        GgufFile(path)


def test_an_absurd_count_ends_as_an_error_not_as_memory(path):
    raw = bytearray(path.read_bytes())
    raw[16:24] = (2**60).to_bytes(8, "little")
    path.write_bytes(raw)
    with pytest.raises(ValueError, match=r"ends inside its header|is unknown|is not UTF-8"):
        GgufFile(path)


def test_another_version_and_another_format_are_refused(path):
    raw = bytearray(path.read_bytes())
    path.write_bytes(raw[:4] + b"\x01" + raw[5:])
    with pytest.raises(ValueError, match=r"GGUF version `1`; supported: 2 and 3"):
        GgufFile(path)
    path.write_bytes(b"GGML" + raw[4:])
    with pytest.raises(ValueError, match=r"is no GGUF file"):
        GgufFile(path)
