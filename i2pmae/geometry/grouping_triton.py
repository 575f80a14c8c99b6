"""Nearest neighbors as one GPU kernel: a program per query, its distances in registers."""

from typing import Any

import torch
import triton  # type: ignore[import-untyped]
import triton.language as tl  # type: ignore[import-untyped]
from torch import Tensor

from i2pmae.geometry.grouping_torch import nearest_neighbors_torch
from i2pmae.geometry.triton_launcher import can_launch

MAX_POINTS = 16384  # 16 keys per thread
_POINTS_PER_WARP = 512
_FARTHEST = tl.constexpr(0x7FFFFFFFFFFFFFFF)  # no key is as large


# An operator of its own: one step to torch.compile and to fake tensors.
@torch.library.custom_op("i2pmae::nearest_neighbors", mutates_args=())
def nearest_neighbors_triton(queries: Tensor, points: Tensor, k: int) -> Tensor:
    """`nearest_neighbors` in one kernel launch; in tensor operations where that cannot be.

    Both give the same indices: distances are rounded at every step, as in `farthest_points_triton`,
    and keys are the tensor version's, the bits of a distance followed by the index. The distances
    of all pairs, 17 million in a step of the paper's settings, are never in memory.

    Args:
        queries: (B, Q, 3) float32, finite.
        points: (B, N, 3) float32, finite.
        k: from 1 to N.

    Returns:
        (B, Q, k) int64 indices into `points`.
    """
    batch, n_queries, _ = queries.shape
    n_points = points.shape[1]
    if n_points > MAX_POINTS or not can_launch():
        return nearest_neighbors_torch(queries, points, k)
    found = torch.empty(batch, n_queries, k, dtype=torch.int64, device=points.device)
    with torch.cuda.device_of(points):
        _search[(n_queries, batch)](
            queries.contiguous(),
            points.contiguous(),
            found,
            n_queries,
            n_points,
            k,
            **_launch_options(n_points),
        )
    return found


@nearest_neighbors_triton.register_fake
def _(queries: Tensor, points: Tensor, k: int) -> Tensor:
    return points.new_empty((*queries.shape[:2], k), dtype=torch.int64)


@triton.jit  # type: ignore[untyped-decorator]
def _search(
    queries: tl.tensor,
    points: tl.tensor,
    found: tl.tensor,
    n_queries: tl.tensor,
    n_points: tl.tensor,
    k: tl.tensor,
    BLOCK: tl.constexpr,  # noqa: N803
) -> None:
    """Neighbors of query `program_id(0)` of cloud `program_id(1)`."""
    cloud = tl.program_id(1).to(tl.int64)
    query = cloud * n_queries + tl.program_id(0)
    points += cloud * n_points * 3
    index = tl.arange(0, BLOCK)
    is_point = index < n_points
    x = tl.load(points + 3 * index, mask=is_point, other=0.0)
    y = tl.load(points + 3 * index + 1, mask=is_point, other=0.0)
    z = tl.load(points + 3 * index + 2, mask=is_point, other=0.0)
    dx = tl.load(queries + 3 * query) - x
    dy = tl.load(queries + 3 * query + 1) - y
    dz = tl.load(queries + 3 * query + 2) - z
    bits = (dx * dx + dy * dy + dz * dz).to(tl.int32, bitcast=True)
    key = tl.where(is_point, (bits.to(tl.int64) << 32) | index, _FARTHEST)
    for step in range(k):
        nearest = tl.min(key, axis=0)
        tl.store(found + query * k + step, nearest & 0xFFFFFFFF)
        key = tl.where(key == nearest, _FARTHEST, key)


def _launch_options(n_points: int) -> dict[str, Any]:
    """Constants and compiler options of the kernel for clouds of this size."""
    block = triton.next_power_of_2(n_points)
    n_warps = min(max(block // _POINTS_PER_WARP, 1), 32)
    return {"BLOCK": block, "num_warps": n_warps, "enable_fp_fusion": False}
