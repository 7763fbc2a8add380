"""GGUF files against float32 folders of the same values."""

from __future__ import annotations

import pytest
import torch
from gguf import GGMLQuantizationType as Type

from forebay_kernels import force_torch
from forebay_kernels.ops.quantized_linear import dequantize
from forebay_worker.distributed.groups import ProcessGroup
from forebay_worker.layers.sublayers import AttentionAfterNorm, MlpAfterNorm
from forebay_worker.loader import check_room_for_weights
from forebay_worker.models import blocks
from forebay_worker.models.source import open_model
from forebay_worker.quantization import dequantized, gguf
from forebay_worker.weights.stored import QUANTIZED_TYPES, STORAGE_TYPES

from .tiny_gguf import write_tiny_gguf

FLOATS = [Type.F32, Type.F16, Type.BF16]
QUANTIZED = [Type[storage.name] for storage in QUANTIZED_TYPES]
IDS = [5, 99, 3, 64, 27, 0, 100, 41, 8, 15]


@pytest.mark.parametrize("kind", FLOATS, ids=lambda kind: kind.name)
def test_float_weights_give_the_folders_logits(tmp_path, load, kind):
    path, folder = write_tiny_gguf(tmp_path, lambda name: kind)
    actual, expected = load(path).step([(0, IDS)]), load(folder).step([(0, IDS)])
    # Same values, same operations, float32 throughout.
    torch.testing.assert_close(actual, expected, atol=1e-4, rtol=0)


def scale_for(kind):
    """Widths of the tiny model that hold whole blocks."""
    return 4 if STORAGE_TYPES[kind.name].block_size == 256 else 1


@pytest.fixture
def exact_products(monkeypatch):
    """Products with the weights' exact values, so that what is tested is the way of every row into the right place."""
    monkeypatch.setattr(blocks, "attention_after", AttentionAfterNorm)
    monkeypatch.setattr(blocks, "mlp_after", MlpAfterNorm)
    monkeypatch.setattr(gguf, "quantized_linear", lambda x_TK, weight: x_TK @ dequantize(weight).T)


@pytest.mark.parametrize("kind", QUANTIZED, ids=lambda kind: kind.name)
def test_quantized_weights_lie_where_the_folders_do(tmp_path, load, exact_products, kind):
    path, folder = write_tiny_gguf(tmp_path, lambda name: kind, scale=scale_for(kind))
    actual, expected = load(path, kv_cache_dtype="float32").step([(0, IDS)]), load(folder).step([(0, IDS)])
    torch.testing.assert_close(actual, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("kind", QUANTIZED, ids=lambda kind: kind.name)
def test_quantized_products_give_nearly_the_folders_logits(tmp_path, load, kind):
    path, folder = write_tiny_gguf(tmp_path, lambda name: kind, scale=scale_for(kind))
    actual, expected = load(path).step([(0, IDS)]), load(folder).step([(0, IDS)])
    # Beside the activations' 16 bits, the cache's float16 (2^-11) is what differs; a few products in a row add up.
    assert (actual - expected).abs().mean() < 2e-3 * expected.abs().mean()


@pytest.mark.parametrize("kind", QUANTIZED, ids=lambda kind: kind.name)
def test_weights_dequantized_at_load_give_the_folders_logits(tmp_path, load, monkeypatch, kind):
    """What is done for a GPU, done on CPU: the file's values, plain, in few rows at once."""
    monkeypatch.setattr(dequantized, "_VALUES_AT_ONCE", 1000)
    path, folder = write_tiny_gguf(tmp_path, lambda name: kind, scale=scale_for(kind))
    with force_torch():
        stepper = load(path)
        actual = stepper.step([(0, IDS)])
    assert stepper.model.kv_cache_dtype == torch.float32
    torch.testing.assert_close(actual, load(folder).step([(0, IDS)]), atol=1e-4, rtol=0)


def test_a_merged_projection_of_several_types_is_dequantized_into_one_matrix(tmp_path, load):
    kinds = {"attn_q": Type.Q4_0, "attn_k": Type.Q8_0, "attn_v": Type.F16}
    path, folder = write_tiny_gguf(tmp_path, lambda name: kinds.get(name.split(".")[-2], Type.F32))
    with force_torch():
        stepper = load(path, dtype="bfloat16")
        logits = stepper.step([(0, IDS)])
    expected = load(folder, dtype="bfloat16").step([(0, IDS)])
    # Values are rounded to bfloat16 from float32 here and there; products and their order are the same.
    torch.testing.assert_close(logits, expected, atol=0.02, rtol=0.02)
    assert stepper.model.dtype == stepper.model.kv_cache_dtype == torch.bfloat16


def test_weights_that_a_gpu_cannot_hold_are_refused_with_both_sizes(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (50_000, 100_000))
    path, _ = write_tiny_gguf(tmp_path, lambda name: Type.Q4_0)
    source = open_model(path)
    group = ProcessGroup(0, 2, torch.device("cuda", 0))
    needed = source.tensors.num_parameters
    message = (
        rf"unpacked from the file's quantized .*, need `{needed}` bytes of `cuda:0` in bfloat16, of which `25000` are"
    )
    with pytest.raises(ValueError, match=message):
        check_room_for_weights(source, torch.bfloat16, group, 0.75)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (needed, needed))
    check_room_for_weights(source, torch.bfloat16, group, 1.0)


def test_types_may_differ_within_a_merged_projection(tmp_path, load, exact_products):
    kinds = {"attn_q": Type.Q4_0, "attn_k": Type.Q8_0, "attn_v": Type.F16, "ffn_gate": Type.Q4_1, "ffn_up": Type.BF16}

    def type_of(name):
        return kinds.get(name.split(".")[-2], Type.F32)

    path, folder = write_tiny_gguf(tmp_path, type_of)
    actual, expected = load(path, kv_cache_dtype="float32").step([(0, IDS)]), load(folder).step([(0, IDS)])
    torch.testing.assert_close(actual, expected, atol=1e-4, rtol=0)


def test_k_types_are_mixed_as_llama_cpp_mixes_them(tmp_path, load):
    kinds = {"attn_v": Type.Q6_K, "ffn_down": Type.Q6_K, "output": Type.Q6_K, "token_embd": Type.Q4_K}
    kinds |= {"attn_k": Type.Q5_0, "attn_output": Type.IQ4_XS, "ffn_up": Type.IQ4_NL, "ffn_gate": Type.Q3_K}

    def type_of(name):
        return kinds.get(name.split(".")[-2], Type.Q4_K)

    path, folder = write_tiny_gguf(tmp_path, type_of, scale=4)
    actual, expected = load(path, kv_cache_dtype="float32").step([(0, IDS)]), load(folder).step([(0, IDS)])
    # The activations' 16 bits (half a step of 1/32512 of a block's largest), through two layers.
    assert (actual - expected).abs().mean() < 5e-4 * expected.abs().mean()
    assert torch.equal(actual.argmax(-1), expected.argmax(-1))


@pytest.mark.parametrize("kind", [Type.F32, Type.Q8_0], ids=lambda kind: kind.name)
def test_a_file_without_an_output_tensor_has_a_tied_head(tmp_path, load, exact_products, kind):
    path, folder = write_tiny_gguf(tmp_path, lambda name: kind, tied=True)
    stepper = load(path, kv_cache_dtype="float32")
    assert stepper.model.spec.tied_head
    torch.testing.assert_close(stepper.step([(0, IDS)]), load(folder).step([(0, IDS)]), atol=1e-4, rtol=0)


def test_rope_factors_are_llama3_scaling(tmp_path, load):
    path, folder = write_tiny_gguf(tmp_path, lambda name: Type.F32, rope_factors=True)
    long = (IDS * 10)[:90]
    # The two ways to divide frequencies differ in the last bit, which position 90 magnifies.
    torch.testing.assert_close(load(path).step([(0, long)]), load(folder).step([(0, long)]), atol=1e-3, rtol=0)


def test_quantized_weights_take_float32_activations_and_a_float16_cache(tmp_path, load):
    path, _ = write_tiny_gguf(tmp_path, lambda name: Type.Q4_1)
    model = load(path).model
    assert (model.dtype, model.kv_cache_dtype) == (torch.float32, torch.float16)


def test_a_key_without_a_meaning_here_is_refused_by_name(tmp_path, load):
    path, _ = write_tiny_gguf(tmp_path, lambda name: Type.F32, extra={"llama.attention.sliding_window": 8})
    with pytest.raises(ValueError, match=r"`llama.attention.sliding_window` of .* is `8`, which is not supported"):
        load(path)


def test_a_type_without_a_kernel_is_refused_with_tensor_type_and_the_supported(tmp_path, load):
    path, _ = write_tiny_gguf(tmp_path, lambda name: Type.MXFP4 if "ffn_down" in name else Type.F32)
    with pytest.raises(ValueError, match=r"blk.0.ffn_down.weight.*`MXFP4`; supported: F32, F16, BF16, Q4_0, .*IQ4_XS"):
        load(path)
