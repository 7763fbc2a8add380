"""How many blocks are chosen, and what is said when none fit."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from forebay_worker.kv_cache import KvCache, block_bytes
from forebay_worker.memory import available_memory, choose_num_blocks, cpu_room, cuda_room
from forebay_worker.models.spec import DecoderSpec, LayerSpec

from .stepper import worker_config

SPEC = DecoderSpec("X", (LayerSpec(None),) * 2, 64, 96, 4, 2, 16, 101, 256, 1e-5, False, {})
CONFIG = worker_config("")
BLOCK = block_bytes(SPEC, 16, torch.float32, 1)


def num_blocks(config, available_bytes):
    return choose_num_blocks(config, SPEC, torch.float32, cpu_room(config, available_bytes))


def test_a_block_holds_keys_and_values_of_all_layers():
    assert BLOCK == 2 * 2 * 16 * 2 * 16 * 4
    assert block_bytes(SPEC, 16, torch.float16, 2) == BLOCK // 4


def test_plenty_of_memory_gives_room_for_32_full_sequences():
    assert num_blocks(CONFIG, 10**12) == 32 * 16 + 1


def test_little_memory_gives_forty_percent_of_it():
    assert num_blocks(CONFIG, 100 * BLOCK) == 40


def test_shards_on_one_machine_share_its_memory():
    config = dataclasses.replace(CONFIG, world_size=2)
    half_block = block_bytes(SPEC, 16, torch.float32, 2)
    assert num_blocks(config, 100 * half_block) == 20


def test_replicas_on_one_machine_share_its_memory():
    config = dataclasses.replace(CONFIG, num_replicas=4)
    assert num_blocks(config, 100 * BLOCK) == 10


def test_kv_cache_bytes_overrides_what_is_available():
    config = dataclasses.replace(CONFIG, kv_cache_bytes=70 * BLOCK + 1)
    assert num_blocks(config, 10 * BLOCK) == 70


def test_a_cache_sized_in_tokens_has_blocks_for_them_beside_the_null_block():
    config = dataclasses.replace(CONFIG, kv_cache_tokens=5 * 16 + 1)
    assert num_blocks(config, 0) == 7
    with pytest.raises(ValueError, match="kv_cache_tokens gives"):
        num_blocks(dataclasses.replace(config, max_total_tokens=200), 0)
    with pytest.raises(ValueError, match="give one"):
        dataclasses.replace(config, kv_cache_bytes=1)


def test_another_life_of_a_group_gets_the_blocks_of_the_first():
    config = dataclasses.replace(CONFIG, kv_cache_tokens=5 * 16, num_blocks=99)
    assert choose_num_blocks(config, SPEC, torch.float32, 0) == 99
    with pytest.raises(ValueError, match="num_blocks is `1`, expected at least 2"):
        dataclasses.replace(config, num_blocks=1)


def test_an_operators_sequence_that_does_not_fit_is_refused_with_both_sizes():
    config = dataclasses.replace(CONFIG, max_total_tokens=200)
    message = rf"needs `{14 * BLOCK}` bytes .* available memory gives `{4 * BLOCK}`; lower max_total_tokens, or raise"
    with pytest.raises(ValueError, match=message):
        num_blocks(config, 10 * BLOCK)


def test_without_an_operators_bound_sequences_become_shorter():
    assert num_blocks(CONFIG, 10 * BLOCK) == 4
    with pytest.raises(ValueError, match="kv_cache_bytes"):
        num_blocks(CONFIG, 4 * BLOCK)


def test_a_gpu_gives_ninety_percent_of_what_weights_and_steps_leave():
    room = cuda_room(usable_bytes=1000 * BLOCK, workspace_bytes=100 * BLOCK)
    assert choose_num_blocks(CONFIG, SPEC, torch.float32, room) == 810
    config = dataclasses.replace(CONFIG, world_size=2, num_replicas=4)
    assert choose_num_blocks(config, SPEC, torch.float32, room) == 2 * 810


def test_a_gpu_without_room_beside_the_steps_is_refused_with_what_it_gives():
    room = cuda_room(usable_bytes=100 * BLOCK, workspace_bytes=101 * BLOCK)
    with pytest.raises(ValueError, match=r"the GPU's memory beside weights and steps gives `0`"):
        choose_num_blocks(CONFIG, SPEC, torch.float32, room)


def test_the_system_tells_what_is_available():
    assert 0 < available_memory() < 2**50


def test_a_shard_holds_its_own_heads_only():
    cache = KvCache.allocate(SPEC, 5, 16, torch.float16, "cpu", num_shards=2)
    assert [layer.key.shape for layer in cache.layers] == [(5, 1, 16, 16)] * 2
    assert cache.layers[0].value.dtype == torch.float16


def test_reserving_touches_no_memory():
    def resident() -> int:
        with open("/proc/self/statm") as file:  # noqa: PTH123 (no path of ours)
            return int(file.read().split()[1]) * 4096

    before = resident()
    cache = KvCache.allocate(SPEC, 2**16, 16, torch.float32, "cpu", num_shards=1)
    assert cache.layers[0].key.nbytes >= 2**27
    assert resident() - before < 2**24
