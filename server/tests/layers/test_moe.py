"""Layers of experts against the definition, whatever holds the weights."""

from __future__ import annotations

import types
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from forebay_kernels.ops.activation import gated_activation
from forebay_kernels.ops.quantize_blocks import quantize_blocks
from forebay_kernels.ops.quantized_linear import PackedWeight, pack, quantized_linear
from forebay_worker.distributed.groups import ProcessGroup
from forebay_worker.layers.moe import ExpertsInTurn, ExpertsMlp, SwiGluExpert, renormalized_top_k_of_softmax
from forebay_worker.layers.packed_experts import PackedExperts

NUM_EXPERTS, NUM_CHOSEN, WIDTH, INNER = 8, 2, 64, 96


class Packed:
    """A LinearMethod over a packed weight."""

    def __init__(self, num_rows: int, num_columns: int, seed: int) -> None:
        values = torch.randn(num_rows, num_columns, generator=torch.Generator().manual_seed(seed)) * 0.1
        self.packed: PackedWeight = pack([(quantize_blocks(values, "Q4_0"), "Q4_0")], num_columns)

    def apply(self, x_TK: Tensor) -> Tensor:
        return quantized_linear(x_TK, self.packed)


def layer(held: str) -> tuple[ExpertsMlp, Sequence[SwiGluExpert]]:
    experts = []
    for seed in range(NUM_EXPERTS):
        expert = SwiGluExpert.__new__(SwiGluExpert)
        expert.gate_up, expert.down = Packed(2 * INNER, WIDTH, seed), Packed(WIDTH, INNER, seed + 100)
        experts.append(expert)
    mlp = ExpertsMlp.__new__(ExpertsMlp)
    mlp._group, mlp._routing, mlp._num_chosen = ProcessGroup(), renormalized_top_k_of_softmax, NUM_CHOSEN
    mlp._router, mlp._num_experts = Packed(NUM_EXPERTS, WIDTH, 7), NUM_EXPERTS
    packed = PackedExperts([one.gate_up.packed for one in experts], [one.down.packed for one in experts])
    mlp._experts = packed if held == "packed" else ExpertsInTurn(experts)
    return mlp, experts


def tokens(count: int) -> Tensor:
    return torch.randn(count, WIDTH, generator=torch.Generator().manual_seed(5)) * 10


@pytest.mark.parametrize("held", ["packed", "in turn"])
@pytest.mark.parametrize("num_tokens", [1, 2, 33])
def test_each_token_is_the_weighted_sum_of_its_experts(held, num_tokens):
    mlp, experts = layer(held)
    x_TD = tokens(num_tokens)
    weights_TK, experts_TK = mlp._routing(mlp._router.apply(x_TD), NUM_CHOSEN)
    for t in range(num_tokens):
        x_1D = x_TD[t : t + 1]
        expected = sum(
            experts[expert].down.apply(gated_activation(experts[expert].gate_up.apply(x_1D), "silu")) * weight
            for expert, weight in zip(experts_TK[t].tolist(), weights_TK[t], strict=True)
        )
        # float32: a sum of two in either order.
        assert torch.allclose(mlp(x_TD)[t : t + 1], expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("held", ["packed", "in turn"])
def test_a_token_is_bit_equal_alone_and_among_others(held):
    mlp, _ = layer(held)
    x_TD = tokens(40)
    together_TD = mlp(x_TD)
    for t in range(40):
        assert torch.equal(mlp(x_TD[t : t + 1])[0], together_TD[t])


def test_experts_are_gathered_only_where_all_weights_are_packed():
    from forebay_worker.layers.moe import gathered

    _, experts = layer("packed")
    assert isinstance(gathered(experts), PackedExperts)
    experts[3].down = types.SimpleNamespace(packed=None)
    assert isinstance(gathered(experts), ExpertsInTurn)
