import importlib
import sys

import pytest
import torch

import forebay_kernels
from forebay_kernels import native


def test_info_names_the_set_in_use_and_follows_torchs_threads():
    info = forebay_kernels.native_info()
    assert info["instruction_set"] == info["available_instruction_sets"][0]
    assert info["available_instruction_sets"][-1] == "portable"
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        if info["thread_team"] == "gomp":
            assert forebay_kernels.native_info()["num_threads"] == 1
    finally:
        torch.set_num_threads(before)


def test_a_forced_set_holds_inside_the_block_only():
    best = forebay_kernels.native_info()["instruction_set"]
    with forebay_kernels.force_instruction_set("portable"):
        assert forebay_kernels.native_info()["instruction_set"] == "portable"
    assert forebay_kernels.native_info()["instruction_set"] == best
    with pytest.raises(ValueError, match="`mmx`"), forebay_kernels.force_instruction_set("mmx"):
        pass


def test_without_the_native_library_its_first_use_says_what_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "forebay_kernels._native", None)
    monkeypatch.delattr(forebay_kernels, "_native")
    try:
        importlib.reload(native)
        with pytest.raises(ImportError, match=r"`forebay_kernels\._native`.*install the wheel"):
            native.native_info()
    finally:
        monkeypatch.undo()
        importlib.reload(native)
    assert native.native_info()["num_threads"]


def test_torch_computes_in_place_of_the_native_library_inside_the_block_only():
    tensor = torch.zeros(1)
    assert native.runs_native(tensor) and native.native_serves(torch.device("cpu"))
    with forebay_kernels.force_torch():
        assert not native.runs_native(tensor) and not native.native_serves(torch.device("cpu"))
        with forebay_kernels.force_torch():
            pass
        assert not native.runs_native(tensor)
    assert native.runs_native(tensor)
    assert not native.runs_native(torch.zeros(1, device="meta"))
    assert not native.native_serves(torch.device("cuda", 1))
