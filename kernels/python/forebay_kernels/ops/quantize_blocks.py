"""Rounds floats into GGUF's quantized blocks: each group by its extremes, without a search for better scales.

For tests and tools; a file made by llama.cpp's quantizer loses less. Shapes as in `block_types`; G = groups of a block.
"""

import torch
from torch import Tensor

from forebay_kernels.ops.block_types import BLOCK_TYPES, TABLE, BlockType

__all__ = ["quantize_blocks"]

_GROUPS_OF_16 = ("Q2_K", "Q3_K", "Q6_K")
_LARGEST_SCALE = {"Q2_K": 15, "Q3_K": 31, "Q4_K": 63, "Q5_K": 63, "Q6_K": 127, "IQ4_XS": 31}


def quantize_blocks(values_NK: Tensor, type_name: str) -> Tensor:
    """Round to the nearest value that the type can hold, given scales from each group's extremes.

    Args:
        values_NK: float32 [N, K], K a multiple of the type's block, finite. Not modified.
        type_name: a key of BLOCK_TYPES.

    Returns:
        uint8 [N, B * bytes of a block], as in a GGUF file.
    """
    kind = BLOCK_TYPES[type_name]
    values_NBC = values_NK.reshape(len(values_NK), -1, kind.num_columns)
    values_NBGc = values_NBC.view(*values_NBC.shape[:2], -1, 16 if type_name in _GROUPS_OF_16 else 32)
    blocks_NBx = torch.zeros(*values_NBC.shape[:2], kind.num_bytes, dtype=torch.uint8)
    wanted = _wanted_factors(kind, values_NBGc)
    factors = []
    integers = []
    for at, factor_NBG in zip(kind.halves, wanted, strict=True):
        largest = _LARGEST_SCALE.get(type_name, 1)
        half_NB1 = (factor_NBG.amax(-1, keepdim=True) / largest).half() if kind.scales else factor_NBG.half()
        blocks_NBx[..., at : at + 2] = half_NB1.contiguous().view(torch.uint8)
        divisor = half_NB1.float().masked_fill(half_NB1 == 0, 1)
        integers.append((factor_NBG / divisor).round().clamp(0, largest).to(torch.uint8))
        factors.append(half_NB1.float() * integers[-1] if kind.scales else half_NB1.float())
    if kind.scales is not None:
        _write_scales(type_name, integers, blocks_NBx)
    if len(factors) == 2:
        sign = 1 if kind.scales is None else -1
        values_NBGc = values_NBGc - sign * factors[1][..., None]
    scale_NBG1 = factors[0][..., None]
    _write_quants(kind, (values_NBGc / scale_NBG1.masked_fill(scale_NBG1 == 0, 1)).flatten(2), blocks_NBx)
    return blocks_NBx.flatten(1)


def _wanted_factors(kind: BlockType, values_NBGc: Tensor) -> list[Tensor]:
    """The scale, and the minimum where there is one: taken away in blocks of 256 (so positive), added in others."""
    if len(kind.halves) == 2:
        low_NBG = values_NBGc.amin(-1).clamp(max=0)
        scale_NBG = (values_NBGc.amax(-1) - low_NBG) / (2 ** sum(plane.bits for plane in kind.planes) - 1)
        return [scale_NBG, low_NBG if kind.scales is None else -low_NBG]
    return [values_NBGc.abs().amax(-1) / (kind.offset - 1 if kind.offset else 127)]


def _write_scales(type_name: str, integers: list[Tensor], blocks_NBx: Tensor) -> None:
    scale = integers[0]
    if type_name == "Q2_K":
        blocks_NBx[..., :16] = scale | integers[1] << 4
    elif type_name == "Q6_K":
        blocks_NBx[..., 192:208] = scale
    elif type_name == "Q3_K":
        low, high = (scale + 32) & 15, (scale + 32) >> 4
        blocks_NBx[..., 96:104] = low[..., :8] | low[..., 8:] << 4
        blocks_NBx[..., 104:108] = high[..., :4] | high[..., 4:8] << 2 | high[..., 8:12] << 4 | high[..., 12:] << 6
    elif type_name == "IQ4_XS":
        low, high = (scale + 32) & 15, ((scale + 32) >> 4).view(*scale.shape[:2], 2, 4)
        blocks_NBx[..., 2:4] = high[..., 0] | high[..., 1] << 2 | high[..., 2] << 4 | high[..., 3] << 6
        blocks_NBx[..., 4:8] = low[..., 0::2] | low[..., 1::2] << 4
    else:
        minimum = integers[1]
        blocks_NBx[..., 4:8] = scale[..., :4] | scale[..., 4:] >> 4 << 6
        blocks_NBx[..., 8:12] = minimum[..., :4] | minimum[..., 4:] >> 4 << 6
        blocks_NBx[..., 12:16] = scale[..., 4:] & 15 | (minimum[..., 4:] & 15) << 4


def _write_quants(kind: BlockType, scaled_NBC: Tensor, blocks_NBx: Tensor) -> None:
    """`scaled_NBC`: the values by their scales."""
    if kind.has_table:
        quants_NBC = (scaled_NBC[..., None] - torch.tensor(TABLE, dtype=torch.float32)).abs().argmin(-1)
    elif kind.is_signed:
        quants_NBC = scaled_NBC.round().int() & 255
    else:
        largest = 2 ** sum(plane.bits for plane in kind.planes) - 1
        quants_NBC = (scaled_NBC.round() + kind.offset).clamp(0, largest).int()
    for plane in kind.planes:
        runs = quants_NBC.view(*quants_NBC.shape[:2], -1, 8 // plane.bits, plane.run)
        part = runs >> plane.position & ((1 << plane.bits) - 1)
        shifts = torch.arange(0, 8, plane.bits)[:, None]
        blocks_NBx[..., plane.start : plane.stop] = (part << shifts).sum(-2).flatten(2).to(torch.uint8)
