"""Which device is chosen, on machines that are made up: no GPU is needed."""

from __future__ import annotations

import types
import warnings

import numpy as np
import pytest
import torch

from forebay_worker.device import choose_device, upload, usable_cuda_memory

from .stepper import worker_config

H100 = types.SimpleNamespace(name="H100", major=9, minor=0, total_memory=80 << 30)
ARCHITECTURES = ["sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "compute_120"]


@pytest.fixture
def machine(monkeypatch):
    """(devices) -> a machine that has them, under a torch that is built with CUDA."""

    def set_up(*devices, architectures=ARCHITECTURES):
        monkeypatch.setattr(torch.version, "cuda", "13.0")
        monkeypatch.setattr(torch.cuda, "is_available", lambda: bool(devices))
        monkeypatch.setattr(torch.cuda, "device_count", lambda: len(devices))
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: devices[index])
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: devices[index].name)
        monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: architectures)

    return set_up


def choose(device, **changes):
    return choose_device(worker_config("", device=device, **changes))


def device(**changes):
    return types.SimpleNamespace(**{**vars(H100), **changes})


def test_cpu_asks_nothing_of_cuda(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: pytest.fail("asked"))
    assert choose("cpu").device == torch.device("cpu")


def test_auto_takes_a_gpu_where_there_is_one_and_says_which(machine):
    machine(H100)
    choice = choose("auto")
    assert (choice.device, choice.reason) == (torch.device("cuda", 0), "torch sees `H100`")
    assert choose("cuda") == choice


def test_auto_takes_the_cpu_where_there_is_no_gpu_and_says_why(machine, monkeypatch):
    machine()
    choice = choose("auto")
    assert (choice.device, choice.reason) == (torch.device("cpu"), "torch sees no CUDA device")
    monkeypatch.setattr(torch.version, "cuda", None)
    assert "is built without CUDA" in choose("auto").reason


def test_cuda_without_a_gpu_is_refused_with_the_drivers_words(machine, monkeypatch):
    machine()

    def no_driver():
        warnings.warn("CUDA initialization: the driver is too old (Triggered internally at x.cpp:7.)", stacklevel=1)
        return False

    monkeypatch.setattr(torch.cuda, "is_available", no_driver)
    message = (
        r"device is `cuda`, but torch sees no CUDA device \(CUDA initialization: the driver is too old\); set it to"
    )
    with pytest.raises(ValueError, match=message):
        choose("cuda")


def test_every_shard_of_every_replica_has_a_gpu_of_its_own(machine):
    machine(*[H100] * 4)
    sizes = {"world_size": 2, "num_replicas": 2}
    taken = [choose("auto", rank=rank, replica=replica, **sizes).device.index for replica in (0, 1) for rank in (0, 1)]
    assert taken == [0, 1, 2, 3]


@pytest.mark.parametrize("name", ["auto", "cuda"])
def test_more_shards_than_gpus_are_refused(machine, name):
    machine(H100, H100)
    message = r"`6` shards \(num_shard `3` x replicas `2`\) need a CUDA device each, torch sees `2`; lower num_shard"
    with pytest.raises(ValueError, match=message):
        choose(name, world_size=3, num_replicas=2)


@pytest.mark.parametrize(
    ("major", "minor", "can_run"),
    [(7, 0, False), (7, 5, True), (8, 9, True), (9, 0, True), (11, 0, False), (12, 1, True)],
)
def test_a_gpu_is_usable_if_torch_has_code_for_it(machine, major, minor, can_run):
    machine(device(major=major, minor=minor))
    choice = choose("auto")
    assert (choice.device.type == "cuda") is can_run
    if not can_run:
        assert f"`0`, `H100`, has compute capability `{major}.{minor}`, this torch has code for sm_75" in choice.reason


def test_code_for_one_chip_alone_runs_on_no_other(machine):
    machine(H100, architectures=["sm_90a"])
    assert choose("auto").device.type == "cuda"
    machine(device(major=9, minor=1), architectures=["sm_90a"])
    assert choose("auto").device.type == "cpu"
    machine(H100, architectures=["gfx942"])
    assert choose("auto").device.type == "cuda"


def test_a_gpu_that_is_too_small_is_none(machine):
    machine(device(total_memory=1 << 30))
    with pytest.raises(ValueError, match=r"has `1073741824` bytes of memory, expected at least 2147483648; set it to"):
        choose("cuda")


def test_all_ranks_judge_alike_when_one_of_their_gpus_is_unusable(machine):
    machine(H100, device(major=7, minor=0))
    assert {choose("auto", world_size=2, rank=rank).device.type for rank in (0, 1)} == {"cpu"}


def test_an_unknown_device_is_refused():
    with pytest.raises(ValueError, match="device is `tpu`, expected one of auto, cpu, cuda"):
        choose("tpu")


def test_a_fraction_of_a_gpus_memory_counts_what_others_hold(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (60, 100))
    assert [usable_cuda_memory(torch.device("cuda"), fraction) for fraction in (1.0, 0.75, 0.25)] == [60, 35, 0]


def test_on_cpu_an_array_is_uploaded_by_looking_at_it():
    array = np.arange(3)
    tensor = upload(array, torch.device("cpu"))
    array[0] = 7
    assert tensor.tolist() == [7, 1, 2]
