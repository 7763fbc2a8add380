"""Two ranks over gloo against one."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest
import torch
from gguf import GGMLQuantizationType as Type

from forebay_worker.distributed.groups import ProcessGroup, join

from ..models.tiny_configs import TINY, TINY_CONFIGS  # noqa: TID252 (tests share configurations)
from ..models.tiny_gguf import write_tiny_gguf  # noqa: TID252
from .shard import PROMPT

VARIANTS = {
    **{name: (name, fields) for name, fields in TINY_CONFIGS.items()},
    "one key-value head, held by both": ("LlamaForCausalLM", {**TINY, "num_key_value_heads": 1}),
    "one key-value head, held by both, in a norm over all": (
        "Olmo2ForCausalLM",
        {**TINY_CONFIGS["Olmo2ForCausalLM"], "num_key_value_heads": 1},
    ),
    "tied head": ("LlamaForCausalLM", {**TINY, "tie_word_embeddings": True}),
    "biases": ("LlamaForCausalLM", {**TINY, "attention_bias": True, "mlp_bias": True}),
}
QUANTIZED = ["quantized", "blocks of 256"]


@pytest.fixture(scope="module")
def models(make_folder, tmp_path_factory) -> dict[str, Path]:
    paths = {name: make_folder(*variant)[0] for name, variant in VARIANTS.items()}
    paths["quantized"] = write_tiny_gguf(tmp_path_factory.mktemp("gguf"), lambda name: Type.Q4_1)[0]
    paths["blocks of 256"] = write_tiny_gguf(
        tmp_path_factory.mktemp("gguf"), lambda name: Type.Q6_K if "ffn" in name else Type.Q5_0, scale=4
    )[0]
    return paths


def run_ranks(folder: Path, world_size: int, paths: Iterable[Path]) -> list[dict[str, object]]:
    """What each of some processes computes."""
    outs = [folder / f"rank{rank}.json" for rank in range(world_size)]
    command = [sys.executable, str(Path(__file__).with_name("shard.py"))]
    processes = [
        subprocess.Popen([*command, str(rank), str(world_size), str(folder / "rendezvous"), str(out), *map(str, paths)])
        for rank, out in enumerate(outs)
    ]
    assert [process.wait() for process in processes] == [0] * world_size
    return [json.loads(out.read_text()) for out in outs]


@pytest.fixture(scope="module")
def ranks(models, tmp_path_factory) -> list[dict[str, object]]:
    return run_ranks(tmp_path_factory.mktemp("ranks"), 2, models.values())


# Two more processes import torch; on a busy machine that alone takes half a minute.
pytestmark = pytest.mark.timeout(300)


@pytest.mark.parametrize("variant", [*VARIANTS, *QUANTIZED])
def test_two_ranks_compute_what_one_does(models, ranks, load, variant):
    path = models[variant]
    expected = load(path).step([(0, PROMPT)])
    for rank in ranks:
        actual = torch.tensor(rank[str(path)]["logits"])
        # Sums over inputs are split in two. Beside quantized weights the KV cache is float16, activations are rounded:
        # a sum that differs in its last bit may round to the neighbour, up to 2^-11 away.
        tolerance = 1e-3 if variant in QUANTIZED else 1e-4
        torch.testing.assert_close(actual, expected, atol=tolerance, rtol=0)


@pytest.mark.parametrize("variant", [*VARIANTS, *QUANTIZED])
def test_two_ranks_choose_the_tokens_of_one(models, ranks, load, variant):
    path = models[variant]
    expected = load(path).greedy(PROMPT, 16)
    assert [rank[str(path)]["greedy"] for rank in ranks] == [expected, expected]


def test_collectives_of_two_ranks(ranks):
    expected = {
        "all_reduce": [[1.0, 20.0]],
        "all_gather_last_dim": [[0.0, 10.0, 1.0, 10.0]],
        "broadcast": [8],
        "min_int": 99,
        "half": [2.0, 2.0, 2.0],
    }
    assert [rank["collectives"] for rank in ranks] == [expected, expected]


def test_a_rows_sum_over_three_ranks_does_not_depend_on_the_other_rows(tmp_path):
    for rank in run_ranks(tmp_path, 3, []):
        assert rank["rows"] == rank["whole"]


def test_collectives_of_one_rank_are_identities():
    group, x = join(0, 1, "", "cpu"), torch.ones(2, 3)
    assert group.all_reduce(x) is x and group.all_gather_last_dim(x) is x and group.broadcast(x) is x
    assert group.min_int(4) == 4


def test_units_are_divided_or_shared_by_neighbours():
    assert [ProcessGroup(rank, 3).shard(9) for rank in range(3)] == [range(3), range(3, 6), range(6, 9)]
    assert [ProcessGroup(rank, 4).shard(2) for rank in range(4)] == [range(1), range(1), range(1, 2), range(1, 2)]


def test_a_device_without_collectives_is_refused():
    with pytest.raises(ValueError, match="device is `meta`, expected one of cpu, cuda"):
        join(0, 1, "", "meta")


def test_a_backend_that_torch_lacks_is_refused(monkeypatch):
    monkeypatch.setattr(torch.distributed, "is_backend_available", lambda backend: backend != "nccl")
    with pytest.raises(ValueError, match="num_shard is `2`, but this torch has no `nccl` for `cuda:1`; set it to 1"):
        join(1, 2, "", torch.device("cuda", 1))
