"""What is not built is refused by name and value, before any weight is read."""

from __future__ import annotations

import json

import numpy as np
import pytest
import safetensors.numpy
from gguf import GGMLQuantizationType as Type

from forebay_worker.models.source import open_model

from .tiny_configs import TINY
from .tiny_gguf import write_tiny_gguf


def folder_with(tmp_path, **fields):
    safetensors.numpy.save_file({"x": np.zeros(1, np.float32)}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"], **TINY, **fields}))
    return tmp_path


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"attention_bias": "yes"}, r"`attention_bias` of .* is `yes`, expected true or false"),
        ({"mlp_bias": 1}, r"`mlp_bias` of .* is `1`, expected true or false"),
        ({"hidden_act": "gelu"}, r'`hidden_act` of .* is `"gelu"`, which is not supported; supported: `"silu"`'),
        ({"quantization_config": {"quant_method": "gptq"}}, r"`quantization_config` of .* is .*gptq"),
        ({"rope_scaling": {"type": "ntk"}}, r"`rope_type` of .* is `ntk`.*`default`, `dynamic`, `linear`, `llama3`"),
        ({"rope_scaling": {"type": "linear"}}, r"`factor` of .* is `None`, expected a number"),
        ({"rope_parameters": [1]}, r"rotary parameters of .* are `\[1\]`, expected an object"),
        (
            {"rope_parameters": {"rope_type": "longrope", "short_factor": [1.0]}},
            r"`short_factor` of .* is `\[1.0\]`, expected a list of `8` numbers",
        ),
        ({"partial_rotary_factor": 0.5}, r"`partial_rotary_factor` of .* is `0.5`"),
        ({"num_hidden_layers": 0}, r"`num_hidden_layers` of .* is `0`, expected a positive integer"),
        ({"vocab_size": "many"}, r"`vocab_size` of .* is `many`"),
        (
            {"architectures": ["BertForMaskedLM"]},
            r"`BertForMaskedLM` .*supported: Cohere2ForCausalLM, ",
        ),
        ({"architectures": []}, r"`architectures` of .* is `\[\]`"),
        ({"architectures": ["MistralForCausalLM"], "sliding_window": "far"}, r"`sliding_window` of .* is `far`"),
        (
            {"architectures": ["Qwen2ForCausalLM"], "use_sliding_window": True, "layer_types": ["chunked"] * 2},
            r"`layer_types` of .* is `\['chunked', 'chunked'\]`, expected `full_attention` or `sliding_attention`",
        ),
        (
            {"architectures": ["Qwen3MoeForCausalLM"], "mlp_only_layers": ["first"]},
            r"`mlp_only_layers` of .* is `\['first'\]`, expected a list of integers",
        ),
        (
            {"architectures": ["MixtralForCausalLM"], "num_local_experts": 2, "num_experts_per_tok": 3},
            r"`num_experts_per_tok` of .* is `3`, expected at most 2",
        ),
        (
            {"architectures": ["GPT2LMHeadModel"], "scale_attn_by_inverse_layer_idx": True},
            r"`scale_attn_by_inverse_layer_idx` of .* is `true`",
        ),
        (
            {"architectures": ["Gemma3ForConditionalGeneration"], "text_config": 3},
            r"`text_config` of .* is `3`, expected an object",
        ),
        (
            {"architectures": ["Gemma2ForCausalLM"], "use_bidirectional_attention": True},
            r"`use_bidirectional_attention` of .* is `true`",
        ),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_configuration_that_is_not_built_is_refused(tmp_path, fields, message):
    with pytest.raises(ValueError, match=message):
        open_model(folder_with(tmp_path, **fields))


def test_pickles_are_never_loaded(tmp_path):
    folder_with(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"only as `pytorch_model.bin`: pickles can run code and are never loaded"):
        open_model(tmp_path)


@pytest.mark.parametrize(("name", "message"), [("nothing", "does not exist"), ("model.txt", "neither a folder nor")])
def test_a_path_that_is_no_model_is_refused(tmp_path, name, message):
    (tmp_path / "model.txt").write_text("")
    with pytest.raises(ValueError, match=message):
        open_model(tmp_path / name)


def test_a_missing_weight_is_named(make_folder):
    folder, _ = make_folder("LlamaForCausalLM", TINY)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 3}))
    with pytest.raises(ValueError, match=r"no tensor `model.layers.2.input_layernorm.weight`"):
        open_model(folder)


def test_a_weight_without_a_place_is_named(make_folder, load):
    folder, _ = make_folder("LlamaForCausalLM", TINY)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 1}))
    with pytest.raises(ValueError, match=r"tensor `model.layers.1.input_layernorm.weight` of .* has no place"):
        load(folder)


def test_a_weight_of_another_shape_is_named(make_folder, load):
    folder, _ = make_folder("LlamaForCausalLM", TINY)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "intermediate_size": 128}))
    with pytest.raises(ValueError, match=r"`.*gate_proj.weight` is \[96, 64\], the configuration says \[128, 64\]"):
        load(folder)


@pytest.mark.parametrize(
    ("num_shards", "message"),
    [
        (0, r"num_shard is `0`, expected at least 1"),
        (3, r"num_shard is `3`: the `4` query heads of `blk.0.attn_q.weight` do not divide; what works: 1, 2"),
        (4, r"the `64` columns of `blk.0.attn_output.weight` do not divide into whole blocks of 32.*what works: 1, 2"),
    ],
)
def test_shards_that_would_cut_heads_or_blocks_are_refused(tmp_path, num_shards, message):
    path, _ = write_tiny_gguf(tmp_path, lambda name: Type.Q4_0)
    with pytest.raises(ValueError, match=message):
        open_model(path).check_num_shards(num_shards)


def test_shards_that_would_cut_a_block_of_256_are_refused(tmp_path):
    path, _ = write_tiny_gguf(tmp_path, lambda name: Type.Q6_K if "ffn_down" in name else Type.Q4_0, scale=4)
    open_model(path).check_num_shards(2)
    message = r"the `512` columns of `blk.0.ffn_down.weight` do not divide into whole blocks of 256.*what works: 1, 2$"
    with pytest.raises(ValueError, match=message):
        open_model(path).check_num_shards(4)


def test_shards_of_plain_floats_may_be_of_any_width(tmp_path):
    path, _ = write_tiny_gguf(tmp_path, lambda name: Type.F16)
    open_model(path).check_num_shards(4)
