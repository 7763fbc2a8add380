import pytest
import torch

from forebay_kernels.ops.rotary import rotary_write_kv, rotary_write_kv_reference


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def table(num_positions: int, rotary_dim: int) -> torch.Tensor:
    frequencies = 10000.0 ** (-torch.arange(0, rotary_dim, 2) / rotary_dim)
    angles = torch.arange(num_positions)[:, None] * frequencies
    return torch.cat((angles.cos(), angles.sin()), dim=1)


def fused(num_tokens: int, dtype: torch.dtype) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """A fused projection of 9 query heads and 3 kv heads, and its parts as views."""
    whole = noise(num_tokens, 15 * 64).to(dtype)
    q, k, v = whole.split([9 * 64, 3 * 64, 3 * 64], dim=1)
    return whole, [q.view(-1, 9, 64), k.view(-1, 3, 64), v.view(-1, 3, 64)]


@pytest.mark.parametrize("cache_dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 0.0), (torch.float16, 0.0)])
@pytest.mark.parametrize(("num_tokens", "rotary_dim"), [(1, 64), (37, 64), (300, 64), (5, 32)])
def test_parts_of_a_fused_projection_turn_in_place_and_reach_their_slots(
    instruction_set, num_tokens, rotary_dim, dtype, tolerance, cache_dtype
):
    positions_T = torch.randint(0, 500, (num_tokens,), generator=torch.Generator().manual_seed(1))
    slots_T = torch.randperm(40 * 16, generator=torch.Generator().manual_seed(2))[:num_tokens]
    slots_T[-1] = -1
    results = []
    for op in (rotary_write_kv, rotary_write_kv_reference):
        whole, parts = fused(num_tokens, dtype)
        caches = [torch.zeros(40, 3, 16, 64, dtype=cache_dtype) for _ in range(2)]
        op(*parts, table(500, rotary_dim), positions_T, *caches, slots_T)
        results.append((whole, *caches))
    # Two products and a sum: torch may fuse them. In half precision a last bit may then round the other way.
    for got, expected in zip(*results, strict=True):
        spacing = 2 * torch.finfo(got.dtype).eps
        torch.testing.assert_close(got, expected, rtol=max(tolerance, spacing), atol=1e-6)


def test_parts_that_overlap_are_refused():
    whole, (q, k, v) = fused(4, torch.float32)
    caches = [torch.zeros(4, 3, 16, 64) for _ in range(2)]
    rest = (table(10, 64), torch.arange(4), *caches, torch.arange(4))
    with pytest.raises(ValueError, match="`q` and `k` share memory"):
        rotary_write_kv(q, whole[:, 64 : 4 * 64].view(-1, 3, 64), v, *rest)
    with pytest.raises(ValueError, match="share memory"):
        rotary_write_kv(q, k, v, table(10, 64), torch.arange(4), caches[0], caches[0], torch.arange(4))
    with pytest.raises(ValueError, match=r"positions\[3\]"):
        rotary_write_kv(q, k, v, table(3, 64), torch.arange(4), *caches, torch.arange(4))
    with pytest.raises(ValueError, match="`cos_sin_cache`"):
        rotary_write_kv(q, k, v, table(10, 66), torch.arange(4), *caches, torch.arange(4))
