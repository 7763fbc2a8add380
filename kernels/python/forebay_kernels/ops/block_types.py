"""GGUF's quantized blocks in torch, on any device: the reference of the packed kernels, and what runs without them.

Shapes: N = rows, B = blocks of a row, C = columns of a block (32 or 256), K = B * C.
"""

import dataclasses
from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["BLOCK_TYPES", "TABLE", "BlockType", "dequantize_blocks"]

TABLE = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113]
"""Values of the non-linear formats (IQ4_NL, IQ4_XS)."""


@dataclasses.dataclass(frozen=True)
class _Plane:
    """Some bits of the quants: `run` bytes hold those of `run` columns lowest, the next `run` columns' above them."""

    start: int
    stop: int
    run: int
    bits: int
    position: int = 0


@dataclasses.dataclass(frozen=True)
class BlockType:
    """A format: a value is `scale * (quant - offset) + minimum`. `halves`: bytes of the float16 scale and minimum.

    `scales` makes of the blocks [N, B, num_bytes] the integers [N, B, groups] that multiply the float16s.
    """

    num_columns: int
    num_bytes: int
    planes: tuple[_Plane, ...]
    halves: tuple[int, ...] = (0,)
    offset: int = 0
    is_signed: bool = False
    has_table: bool = False
    scales: Callable[[Tensor], tuple[Tensor, ...]] | None = None


def _q2_k_scales(blocks_NBx: Tensor) -> tuple[Tensor, ...]:
    return blocks_NBx[..., :16] & 15, blocks_NBx[..., :16] >> 4


def _q3_k_scales(blocks_NBx: Tensor) -> tuple[Tensor, ...]:
    low, high = blocks_NBx[..., 96:104], blocks_NBx[..., 104:108]
    low_bits = torch.cat([low & 15, low >> 4], -1)
    high_bits = torch.cat([high >> shift & 3 for shift in (0, 2, 4, 6)], -1)
    return ((low_bits | high_bits << 4).to(torch.int8) - 32,)


def _six_bit_scales(blocks_NBx: Tensor) -> tuple[Tensor, ...]:
    """Of Q4_K and Q5_K: eight scales and eight minimums in twelve bytes."""
    scale, minimum, low = (blocks_NBx[..., start : start + 4] for start in (4, 8, 12))
    scales = torch.cat([scale & 63, low & 15 | scale >> 6 << 4], -1)
    return scales, torch.cat([minimum & 63, low >> 4 | minimum >> 6 << 4], -1)


def _q6_k_scales(blocks_NBx: Tensor) -> tuple[Tensor, ...]:
    return (blocks_NBx[..., 192:208].view(torch.int8),)


def _iq4_xs_scales(blocks_NBx: Tensor) -> tuple[Tensor, ...]:
    high, low = blocks_NBx[..., 2:4], blocks_NBx[..., 4:8]
    low_bits = torch.stack([low & 15, low >> 4], -1).flatten(-2)
    high_bits = torch.stack([high >> shift & 3 for shift in (0, 2, 4, 6)], -1).flatten(-2)
    return ((low_bits | high_bits << 4).to(torch.int8) - 32,)


BLOCK_TYPES = {
    "Q4_0": BlockType(32, 18, (_Plane(2, 18, 16, 4),), offset=8),
    "Q4_1": BlockType(32, 20, (_Plane(4, 20, 16, 4),), (0, 2)),
    "Q5_0": BlockType(32, 22, (_Plane(6, 22, 16, 4), _Plane(2, 6, 1, 1, 4)), offset=16),
    "Q5_1": BlockType(32, 24, (_Plane(8, 24, 16, 4), _Plane(4, 8, 1, 1, 4)), (0, 2)),
    "Q8_0": BlockType(32, 34, (_Plane(2, 34, 32, 8),), is_signed=True),
    "Q2_K": BlockType(256, 84, (_Plane(16, 80, 32, 2),), (80, 82), scales=_q2_k_scales),
    "Q3_K": BlockType(256, 110, (_Plane(32, 96, 32, 2), _Plane(0, 32, 32, 1, 2)), (108,), 4, scales=_q3_k_scales),
    "Q4_K": BlockType(256, 144, (_Plane(16, 144, 32, 4),), (0, 2), scales=_six_bit_scales),
    "Q5_K": BlockType(256, 176, (_Plane(48, 176, 32, 4), _Plane(16, 48, 32, 1, 4)), (0, 2), scales=_six_bit_scales),
    "Q6_K": BlockType(256, 210, (_Plane(0, 128, 64, 4), _Plane(128, 192, 32, 2, 4)), (208,), 32, scales=_q6_k_scales),
    "IQ4_NL": BlockType(32, 18, (_Plane(2, 18, 16, 4),), has_table=True),
    "IQ4_XS": BlockType(256, 136, (_Plane(8, 136, 16, 4),), has_table=True, scales=_iq4_xs_scales),
}
"""By ggml name. Source: ggml-common.h and ggml-quants.c."""


def dequantize_blocks(blocks: Tensor, type_name: str) -> Tensor:
    """Return the values of rows of blocks, exactly as the file's format defines them.

    Args:
        blocks: uint8 [N, B * bytes of a block], contiguous, on any device. Not modified.
        type_name: a key of BLOCK_TYPES.

    Returns:
        float32 [N, K] on the same device. Scale times quant is exact in float32; adding a minimum rounds once.
    """
    kind = BLOCK_TYPES[type_name]
    blocks_NBx = blocks.view(len(blocks), -1, kind.num_bytes)
    quants_NBC = _quants(kind, blocks_NBx)
    factors = [blocks_NBx[..., at : at + 2].contiguous().view(torch.float16).float() for at in kind.halves]
    if kind.scales is not None:
        factors = [half * scale.float() for half, scale in zip(factors, kind.scales(blocks_NBx), strict=True)]
    quants_NBGc = quants_NBC.view(*factors[0].shape, -1)
    values_NBGc = factors[0][..., None] * quants_NBGc
    if len(factors) == 2:
        sign = 1 if kind.scales is None else -1
        values_NBGc = values_NBGc + sign * factors[1][..., None]
    return values_NBGc.flatten(1)


def _quants(kind: BlockType, blocks_NBx: Tensor) -> Tensor:
    """What the scale multiplies, float32 [N, B, C]."""
    quants_NBC = torch.zeros(*blocks_NBx.shape[:2], kind.num_columns, dtype=torch.uint8, device=blocks_NBx.device)
    for plane in kind.planes:
        runs = blocks_NBx[..., plane.start : plane.stop].reshape(*blocks_NBx.shape[:2], -1, 1, plane.run)
        shifts = torch.arange(0, 8, plane.bits, dtype=torch.uint8, device=runs.device)[:, None]
        quants_NBC |= (runs >> shifts & ((1 << plane.bits) - 1)).flatten(2) << plane.position
    if kind.has_table:
        return torch.tensor(TABLE, dtype=torch.float32, device=quants_NBC.device)[quants_NBC.int()]
    if kind.is_signed:
        return quants_NBC.view(torch.int8).float()
    return quants_NBC.float() - kind.offset
