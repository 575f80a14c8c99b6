"""Farthest point sampling as one GPU kernel: a program per cloud, its points in registers."""

from typing import Any

import torch
import triton  # type: ignore[import-untyped]
import triton.language as tl  # type: ignore[import-untyped]
from torch import Tensor

from i2pmae.geometry.sampling_torch import farthest_points_torch
from i2pmae.geometry.triton_launcher import can_launch

MAX_POINTS = 16384  # 16 points per thread; up to 8192 everything stays in registers
_POINTS_PER_WARP = 256


# An operator of its own: one step to torch.compile and to fake tensors, no loop to unroll.
@torch.library.custom_op("i2pmae::farthest_points", mutates_args=())
def farthest_points_triton(points: Tensor, n_centers: int) -> Tensor:
    """`farthest_points` in one kernel launch; in tensor operations where that cannot be.

    Both give the same indices. Distances are the tensor version's to the last bit: float32
    differences, each squared, added in the order x, y, z, every step rounded. A GPU compiler would
    by default fuse products and sums into multiply-adds that round once instead of twice. Then a
    point and its mirror image, (a, b, c) and (b, a, c), are no longer equally far from the origin,
    and the choice among them, and all that follow it, would depend on the hardware. Fusing is
    switched off.

    Args:
        points: (B, N, 3) float32, finite.
        n_centers: G, from 1 to N.

    Returns:
        (B, G) int64 indices into `points`.
    """
    batch, n_points, _ = points.shape
    if n_points > MAX_POINTS or not can_launch():
        return farthest_points_torch(points, n_centers)
    chosen = torch.empty(batch, n_centers, dtype=torch.int64, device=points.device)
    with torch.cuda.device_of(points):
        _sample[(batch,)](
            points.contiguous(), chosen, n_points, n_centers, **_launch_options(n_points)
        )
    return chosen


@farthest_points_triton.register_fake
def _(points: Tensor, n_centers: int) -> Tensor:
    return points.new_empty((len(points), n_centers), dtype=torch.int64)


@triton.jit  # type: ignore[untyped-decorator]
def _sample(
    points: tl.tensor,
    chosen: tl.tensor,
    n_points: tl.tensor,
    n_centers: tl.tensor,
    BLOCK: tl.constexpr,  # noqa: N803
) -> None:
    """Farthest points of cloud `program_id(0)`."""
    cloud = tl.program_id(0).to(tl.int64)
    points += cloud * n_points * 3
    chosen += cloud * n_centers
    index = tl.arange(0, BLOCK)
    is_point = index < n_points
    x = tl.load(points + 3 * index, mask=is_point, other=0.0)
    y = tl.load(points + 3 * index + 1, mask=is_point, other=0.0)
    z = tl.load(points + 3 * index + 2, mask=is_point, other=0.0)
    nearest = tl.where(is_point, float("inf"), -1.0)  # padding is never farthest
    last = tl.zeros((), tl.int32)
    tl.store(chosen, last)
    for step in range(1, n_centers):
        dx = x - tl.load(points + 3 * last)
        dy = y - tl.load(points + 3 * last + 1)
        dz = z - tl.load(points + 3 * last + 2)
        nearest = tl.minimum(nearest, dx * dx + dy * dy + dz * dz)
        last = tl.argmax(nearest, axis=0, tie_break_left=True)
        tl.store(chosen + step, last)


def _launch_options(n_points: int) -> dict[str, Any]:
    """Constants and compiler options of the kernel for clouds of this size."""
    block = triton.next_power_of_2(n_points)
    n_warps = min(max(block // _POINTS_PER_WARP, 1), 32)
    return {"BLOCK": block, "num_warps": n_warps, "enable_fp_fusion": False}
