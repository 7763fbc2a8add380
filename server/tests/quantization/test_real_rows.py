"""Every storage type from a real file to a product: rows of SmolLM2, read by our reader, held by the type's scheme."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest
import torch

from forebay_worker.quantization.registry import linear_method
from forebay_worker.weights.gguf import GgufFile
from forebay_worker.weights.stored import STORAGE_TYPES

PATH = Path(__file__).parents[3] / "kernels/tests/fixtures/smollm2_rows.gguf"
NAMES = GgufFile(PATH).names()
CPU = torch.device("cpu")


def expected_values(name: str) -> torch.Tensor:
    """What the gguf package reads, float32 [N, K]."""
    tensor = next(tensor for tensor in gguf.GGUFReader(PATH).tensors if tensor.name == name)
    return torch.from_numpy(np.array(gguf.quants.dequantize(tensor.data, tensor.tensor_type)))


def test_the_file_has_rows_of_every_storage_type():
    assert {GgufFile(PATH).read(name).storage.name for name in NAMES} == set(STORAGE_TYPES)


@pytest.mark.parametrize("name", NAMES)
def test_rows_are_what_the_gguf_package_reads_to_the_bit(name):
    stored = GgufFile(PATH).read(name)
    method = linear_method([stored], torch.float32, CPU)
    assert torch.equal(method.embed(torch.arange(stored.num_rows)), expected_values(name))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_products_are_those_of_the_values(name, dtype):
    method = linear_method([GgufFile(PATH).read(name)], dtype, CPU)
    values_NK = expected_values(name)
    x_TK = torch.randn(5, values_NK.shape[1], generator=torch.Generator().manual_seed(3)).to(dtype)
    expected_TN = x_TK.double() @ values_NK.double().T
    actual_TN = method.apply(x_TK)
    assert actual_TN.dtype == dtype
    # float32: activations of 16 bits, half a step of amax / 32512. bfloat16: results, and weights that are held in it,
    # are off by up to 2^-9.
    tolerance = 1e-4 if dtype == torch.float32 else 2**-8
    assert (actual_TN - expected_TN).norm() < tolerance * expected_TN.norm()
