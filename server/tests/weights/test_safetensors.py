"""The safetensors reader against files that the safetensors package writes, and against damage."""

from __future__ import annotations

import json

import numpy as np
import pytest
import safetensors.torch
import torch

from forebay_worker.quantization.unquantized import float_tensor
from forebay_worker.weights.safetensors import INDEX_NAME, SINGLE_NAME, SafetensorsFolder


def tensors() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "f32": torch.randn(3, 4, generator=generator),
        "f16": torch.randn(2, 5, generator=generator).half(),
        "bf16": torch.randn(7, generator=generator).bfloat16(),
        "empty": torch.empty(0, 4),
    }


def header_and_data(path):
    raw = path.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    return json.loads(raw[8 : 8 + length]), raw[8 + length :]


def rewrite(path, header, data):
    encoded = json.dumps(header).encode()
    path.write_bytes(len(encoded).to_bytes(8, "little") + encoded + data)


@pytest.fixture
def folder(tmp_path):
    safetensors.torch.save_file(tensors(), tmp_path / SINGLE_NAME)
    return tmp_path


def test_every_float_type_is_read_exactly(folder):
    reader = SafetensorsFolder(folder)
    assert sorted(reader.names()) == sorted(tensors())
    assert reader.num_parameters == 12 + 10 + 7
    for name, expected in tensors().items():
        if expected.numel():
            actual = float_tensor(reader.read(name), expected.dtype, torch.device("cpu"))
            assert torch.equal(actual.reshape(expected.shape), expected)


def test_shards_are_found_through_the_index(tmp_path):
    weight_map = {}
    for number, (name, tensor) in enumerate(tensors().items()):
        file = f"model-{number:05}-of-00004.safetensors"
        safetensors.torch.save_file({name: tensor}, tmp_path / file)
        weight_map[name] = file
    (tmp_path / "consolidated.safetensors").write_bytes(b"not asked for")
    (tmp_path / INDEX_NAME).write_text(json.dumps({"weight_map": weight_map}))
    assert sorted(SafetensorsFolder(tmp_path).names()) == sorted(tensors())


def test_a_missing_shard_is_named(tmp_path):
    (tmp_path / INDEX_NAME).write_text(json.dumps({"weight_map": {"a": "model-1-of-1.safetensors"}}))
    with pytest.raises(ValueError, match=r"names files that are not there: model-1-of-1.safetensors"):
        SafetensorsFolder(tmp_path)


def test_an_index_cannot_reach_out_of_its_folder(tmp_path):
    (tmp_path / INDEX_NAME).write_text(json.dumps({"weight_map": {"a": "../elsewhere.safetensors"}}))
    with pytest.raises(ValueError, match=r"file names of the same folder"):
        SafetensorsFolder(tmp_path)


def test_other_types_are_refused_when_they_are_asked_for(tmp_path):
    safetensors.torch.save_file({"mask": torch.ones(2, dtype=torch.int8)}, tmp_path / SINGLE_NAME)
    with pytest.raises(ValueError, match=r"`mask` in .* has type `I8`; supported: F32, F16, BF16"):
        SafetensorsFolder(tmp_path).read("mask")


def test_a_truncated_file_is_refused(folder):
    path = folder / SINGLE_NAME
    raw = path.read_bytes()
    for size in (0, 5, 60, len(raw) - 1):
        path.write_bytes(raw[:size])
        with pytest.raises(ValueError, match=str(path)):
            SafetensorsFolder(folder)


def damage_size(header):
    header["f32"]["shape"] = [3, 5]


def damage_overlap(header):
    header["f32"]["data_offsets"] = [0, 48]
    header["f16"]["data_offsets"] = [4, 24]


def damage_offsets(header):
    header["f32"]["data_offsets"] = "here"


def damage_outside(header):
    start, stop = header["f32"]["data_offsets"]
    header["f32"]["data_offsets"] = [start + 10**6, stop + 10**6]


@pytest.mark.parametrize("damage", [damage_size, damage_overlap, damage_offsets, damage_outside])
def test_a_header_that_contradicts_itself_is_refused(folder, damage):
    path = folder / SINGLE_NAME
    header, data = header_and_data(path)
    damage(header)
    rewrite(path, header, data)
    with pytest.raises(ValueError, match=r"tensor `.*` in "):
        SafetensorsFolder(folder)


def test_reading_maps_the_file_and_copies_nothing(folder):
    reader = SafetensorsFolder(folder)
    assert np.shares_memory(reader.read("f32").data, reader.read("f32").data)
