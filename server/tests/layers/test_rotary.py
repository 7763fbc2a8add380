"""Rotary frequencies against those of transformers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from forebay_worker.layers import rotary
from forebay_worker.layers.rotary import RotaryEmbedding, rotary_frequencies
from forebay_worker.models.hf_config import HfConfig
from forebay_worker.models.spec import RopeSpec

HEAD_DIM, MAX_POSITIONS = 16, 256
FACTORS = {"short_factor": [1.0 + i / 8 for i in range(8)], "long_factor": [2.0 + i for i in range(8)]}

PARAMETERS = {
    "linear": {"rope_type": "linear", "factor": 2.5},
    "dynamic": {"rope_type": "dynamic", "factor": 4.0},
    "llama3": {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 32,
    },
    "yarn": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64},
    "yarn, ends of its own": {"rope_type": "yarn", "factor": 4.0, "beta_fast": 16.0, "beta_slow": 2.0},
    "yarn, not truncated": {"rope_type": "yarn", "factor": 4.0, "truncate": False},
    "yarn, attention factor": {"rope_type": "yarn", "factor": 4.0, "attention_factor": 0.7},
    "yarn, mscale": {"rope_type": "yarn", "factor": 40.0, "mscale": 1.2, "mscale_all_dim": 0.8},
    "longrope": {"rope_type": "longrope", **FACTORS, "original_max_position_embeddings": 64},
    "longrope, attention factor": {
        "rope_type": "longrope",
        **FACTORS,
        "attention_factor": 1.3,
        "original_max_position_embeddings": 64,
    },
}


@pytest.mark.parametrize("parameters", PARAMETERS.values(), ids=PARAMETERS)
@pytest.mark.parametrize("max_sequence_tokens", [60, MAX_POSITIONS])
def test_frequencies_are_those_of_transformers(parameters, max_sequence_tokens):
    fields = {
        "hidden_size": 64,
        "num_attention_heads": 4,
        "max_position_embeddings": MAX_POSITIONS,
        "rope_parameters": {"rope_theta": 10000.0, **parameters},
    }
    reference = ROPE_INIT_FUNCTIONS[parameters["rope_type"]]
    expected, factor = reference(LlamaConfig(**fields), torch.device("cpu"), seq_len=max_sequence_tokens)
    spec = HfConfig(fields, Path("config.json")).rope(HEAD_DIM)
    actual, actual_factor = rotary_frequencies(spec, max_sequence_tokens)
    torch.testing.assert_close(actual, expected, atol=0, rtol=1e-6)
    assert actual_factor == pytest.approx(factor)


def test_the_older_place_and_names_of_the_parameters_still_count():
    older = {"rope_theta": 5e5, "rope_scaling": {"type": "linear", "factor": 3.0}}
    newer = {"rope_parameters": {"rope_theta": 5e5, "rope_type": "linear", "factor": 3.0}}
    specs = [HfConfig(fields, Path("config.json")).rope(HEAD_DIM) for fields in (older, newer)]
    assert specs[0] == specs[1]


def test_the_table_is_computed_as_far_as_the_longest_context_and_no_further(monkeypatch):
    spec, cpu = RopeSpec(10000.0, HEAD_DIM), torch.device("cpu")
    whole = RotaryEmbedding(spec, MAX_POSITIONS, torch.float32, cpu).at(torch.tensor([0]), MAX_POSITIONS).table_PR
    monkeypatch.setattr(rotary, "STRETCH", 100)
    monkeypatch.setattr(torch, "empty", torch.zeros)
    growing = RotaryEmbedding(spec, MAX_POSITIONS, torch.float32, cpu)
    for length, num_computed in ((1, 100), (100, 100), (101, 200), (3, 200), (MAX_POSITIONS, MAX_POSITIONS)):
        table_PR = growing.at(torch.tensor([length - 1]), length).table_PR
        assert torch.equal(table_PR[:num_computed], whole[:num_computed])
        assert not table_PR[num_computed:].any()
