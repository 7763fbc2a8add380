"""A GGUF model in parts against the same model whole, and parts that do not fit together."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Type
from gguf import GGUFReader

from forebay_worker.models.source import open_model
from forebay_worker.weights.gguf_parts import GgufModel, gguf_models

from .tiny_gguf import split_gguf, write_tiny_gguf

IDS = [5, 99, 3, 64, 27, 0, 100, 41, 8, 15]


@pytest.fixture
def whole(tmp_path):
    """A tiny model of 21 tensors in one file."""
    return write_tiny_gguf(tmp_path, lambda name: Type.Q8_0 if "attn" in name else Type.Q4_1)[0]


@pytest.fixture
def parts(whole):
    """The same model in three files."""
    return split_gguf(whole, 8)


def set_key(path, key, value):
    """Overwrite a number of the header in place."""
    reader = GGUFReader(path, "r+")
    reader.fields[key].parts[-1][0] = value
    reader.data.flush()


@pytest.mark.parametrize(("tensors_in_first", "num_parts"), [(True, 3), (False, 4)])
def test_parts_give_the_tensors_and_logits_of_the_whole(whole, load, tensors_in_first, num_parts):
    parts = split_gguf(whole, 8, tensors_in_first=tensors_in_first)
    assert len(parts) == num_parts
    joined, single = GgufModel(parts[0]), GgufModel(whole)
    assert sorted(joined.names()) == sorted(single.names())
    for name in single.names():
        actual, expected = joined.read(name), single.read(name)
        assert (actual.storage, actual.num_columns) == (expected.storage, expected.num_columns)
        assert np.array_equal(actual.data, expected.data)
    assert joined.num_parameters == single.num_parameters
    assert joined.storage_types == single.storage_types
    assert torch.equal(load(parts[0]).step([(0, IDS)]), load(whole).step([(0, IDS)]))


def test_another_part_than_the_first_is_refused_with_the_one_to_name(parts):
    with pytest.raises(ValueError, match=r"is part `2` of `3`; name the first, `tiny-00001-of-00003.gguf`"):
        open_model(parts[1])


def test_a_missing_part_is_named(parts):
    parts[2].unlink()
    with pytest.raises(ValueError, match=r"part `tiny-00003-of-00003.gguf` of .* is missing"):
        open_model(parts[0])


@pytest.mark.parametrize("name", ["renamed.gguf", "tiny-00001-of-00002.gguf"])
def test_a_first_part_under_another_name_is_refused_with_the_right_ending(parts, name):
    renamed = parts[0].rename(parts[0].with_name(name))
    with pytest.raises(ValueError, match=r"`split.count` .* is `3`: .* ends in `-00001-of-00003.gguf`"):
        open_model(renamed)


@pytest.mark.parametrize(
    ("index", "key", "value", "message"),
    [
        (0, "split.no", 1, r"`split.no` of `.*00001-of-00003.gguf` is `1`, expected `0`"),
        (2, "split.no", 1, r"`split.no` of `.*00003-of-00003.gguf` is `1`, expected `2`"),
        (1, "split.count", 4, r"`split.count` of `.*00002-of-00003.gguf` is `4`, expected `3`"),
        (0, "split.tensors.count", 22, r"the `3` parts of .* have `21` tensors, but its `.*` is `22`"),
    ],
)
def test_parts_that_contradict_each_other_are_refused(parts, index, key, value, message):
    set_key(parts[index], key, value)
    with pytest.raises(ValueError, match=message):
        open_model(parts[0])


def test_a_tensor_in_two_parts_is_refused_by_name(parts):
    shutil.copy(parts[0], parts[1])
    set_key(parts[1], "split.no", 1)
    with pytest.raises(ValueError, match=r"tensor `blk.0.* of `.*00002-of-00003.gguf` is in an earlier part too"):
        open_model(parts[0])


def test_a_part_cut_short_is_named(parts):
    parts[1].write_bytes(parts[1].read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"ends at byte .*00002-of-00003.gguf` has .*: is it whole\?"):
        open_model(parts[0])


def test_a_whole_file_may_have_the_name_of_a_part(whole):
    renamed = whole.rename(whole.with_name("tiny-00001-of-00001.gguf"))
    assert open_model(renamed).tensors.num_parameters == GgufModel(renamed).num_parameters > 0


def test_files_are_grouped_into_models_by_name():
    parts = ["a-00001-of-00002.gguf", "a-00002-of-00002.gguf"]
    assert gguf_models(["b.gguf", *parts]) == {"b.gguf": ["b.gguf"], parts[0]: parts}
    assert gguf_models(parts[1:]) == {parts[0]: parts}
    assert gguf_models(["a-00003-of-00002.gguf"]) == {"a-00003-of-00002.gguf": ["a-00003-of-00002.gguf"]}
