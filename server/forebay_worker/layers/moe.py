"""Feed-forward layers made of experts.

T = tokens, D = model width, E = experts, K = experts of one token, P = T * K pairs of a token and an expert, sorted by
expert.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from forebay_kernels.ops.activation import gated_activation
from forebay_worker.layers.loading import LayerLoader
from forebay_worker.models.spec import DecoderSpec, ExpertsSpec, resolve
from forebay_worker.quantization.method import LinearMethod


def top_k_of_softmax(logits_TE: Tensor, num_chosen: int) -> tuple[Tensor, Tensor]:
    """(float32 weights [T, K], experts [T, K]): the largest probabilities as they are, so that they add up to less."""
    weights_TK, experts_TK = logits_TE.float().softmax(dim=-1).topk(num_chosen, dim=-1)
    return weights_TK, experts_TK


def renormalized_top_k_of_softmax(logits_TE: Tensor, num_chosen: int) -> tuple[Tensor, Tensor]:
    """(float32 weights [T, K], experts [T, K]): the largest probabilities, divided by their sum."""
    weights_TK, experts_TK = top_k_of_softmax(logits_TE, num_chosen)
    return weights_TK / weights_TK.sum(dim=-1, keepdim=True), experts_TK


class SwiGluExpert:
    """One rank's neurons of one expert; its output is this rank's share of a sum over ranks."""

    def __init__(self, loader: LayerLoader, prefix: str, hidden_size: int, width: int) -> None:
        """Read the neurons of the roles `prefix`.gate, .up and .down."""
        own = loader.group.shard(width)
        gate = loader.matrix(prefix + ".gate", width, hidden_size).rows(own.start, own.stop)
        up = loader.matrix(prefix + ".up", width, hidden_size).rows(own.start, own.stop)
        down = loader.matrix(prefix + ".down", hidden_size, width).columns(own.start, own.stop)
        self.gate_up = loader.linear([gate, up])
        self.down = loader.linear([down])

    def __call__(self, x_TD: Tensor) -> Tensor:
        """[T, D], to be summed over ranks."""
        return self.down.apply(gated_activation(self.gate_up.apply(x_TD), "silu"))


class Experts(Protocol):
    """What computes all experts of a layer."""

    def __call__(self, x_PD: Tensor, ends_E: Tensor) -> Tensor:
        """[P, D]: rows of `x_PD` up to `ends_E[e]` pass expert e. To be summed over ranks."""
        ...


class ExpertsInTurn:
    """One expert after the other, however its weights are held."""

    def __init__(self, experts: Sequence[SwiGluExpert]) -> None:
        self._experts = experts

    def __call__(self, x_PD: Tensor, ends_E: Tensor) -> Tensor:
        """See Experts."""
        counts = torch.diff(ends_E, prepend=ends_E.new_zeros(1)).tolist()
        parts = zip(self._experts, torch.split(x_PD, counts), strict=True)
        return torch.cat([expert(part_PD) for expert, part_PD in parts if len(part_PD)])


def gathered(experts: Sequence[SwiGluExpert]) -> Experts:
    """The experts of a layer as one: in one product where every weight is packed."""
    gate_up = [expert.gate_up.packed for expert in experts]
    down = [expert.down.packed for expert in experts]
    if any(weight is None for weight in (*gate_up, *down)):
        return ExpertsInTurn(experts)
    from forebay_worker.layers.packed_experts import PackedExperts

    return PackedExperts([one for one in gate_up if one is not None], [one for one in down if one is not None])


class ExpertsMlp:
    """Each token passes the experts that its router chose. Source: arXiv 2401.04088."""

    def __init__(self, spec: DecoderSpec, loader: LayerLoader) -> None:
        """Read the router, whole, and this rank's neurons of every expert."""
        assert spec.experts is not None
        experts: ExpertsSpec = spec.experts
        self._group = loader.group
        self._routing = resolve(experts.routing)
        self._num_chosen = experts.num_experts_per_token
        router = loader.matrix("experts.router", experts.num_experts, spec.hidden_size)
        self._router: LinearMethod = loader.linear([router])
        self._num_experts = experts.num_experts
        width = experts.intermediate_size
        self._experts = gathered(
            [
                SwiGluExpert(loader.of_expert(expert), "experts", spec.hidden_size, width)
                for expert in range(experts.num_experts)
            ]
        )

    def __call__(self, x_TD: Tensor) -> Tensor:
        """[T, D], whole on every rank."""
        return self._group.all_reduce(self._share(x_TD))

    def _share(self, x_TD: Tensor) -> Tensor:
        """This rank's share of the sum. A token's experts are added in their own order, whoever else is in the step."""
        weights_TK, experts_TK = self._routing(self._router.apply(x_TD), self._num_chosen)
        experts_TK, choices_TK = experts_TK.sort(dim=-1)
        experts_P, order_P = experts_TK.flatten().sort(stable=True)
        ends_E = experts_P.bincount(minlength=self._num_experts).cumsum(0)
        share_PD = self._experts(x_TD[order_P // self._num_chosen], ends_E)
        shares_TKD = torch.empty_like(share_PD).index_copy_(0, order_P, share_PD).view(*experts_TK.shape, -1)
        weighted_TKD: Tensor = shares_TKD * weights_TK.gather(1, choices_TK)[..., None]
        return weighted_TKD.sum(dim=1).to(x_TD.dtype)


class SharedExpertMlp(ExpertsMlp):
    """The same with one more expert that every token passes, behind a gate of its own: Qwen2-MoE's."""

    def __init__(self, spec: DecoderSpec, loader: LayerLoader) -> None:
        """Read the router, the gate, and this rank's neurons of every expert."""
        super().__init__(spec, loader)
        assert spec.experts is not None
        width = spec.experts.shared_intermediate_size
        self._shared = SwiGluExpert(loader, "shared_expert", spec.hidden_size, width)
        self._gate: LinearMethod = loader.linear([loader.matrix("shared_expert.router", 1, spec.hidden_size)])

    def __call__(self, x_TD: Tensor) -> Tensor:
        """[T, D], whole on every rank."""
        return self._group.all_reduce(self._share(x_TD) + self._opening(x_TD) * self._shared(x_TD))

    def _opening(self, x_TD: Tensor) -> Tensor:
        """How far each token's gate is open, [T, 1]: a sigmoid, as the softmax against zero that it is.

        torch computes the last elements of a sigmoid by another formula, so that a token's would depend on its place.
        """
        scores_T1 = self._gate.apply(x_TD)
        return torch.cat((scores_T1, torch.zeros_like(scores_T1)), dim=1).softmax(dim=1)[:, :1]
