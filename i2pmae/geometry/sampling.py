"""Farthest point sampling."""

from importlib.util import find_spec

import fpsample
import numpy as np
import torch
from torch import Tensor

from i2pmae.device import is_exporting
from i2pmae.geometry.sampling_torch import farthest_points_exported, farthest_points_torch
from i2pmae.geometry.shapes import require_shape

HAS_TRITON = find_spec("triton") is not None
_WORTH_BUCKETS = 256  # points
_TREE_HEIGHT = 5  # the fastest of 3, 5, 7 and 9 at 1,000 to 8,000 points


def farthest_points(points: Tensor, n_centers: int) -> Tensor:
    """Choose well-spread points: each is the farthest from those already chosen.

    Starts at point 0, so the result depends on point order, never on chance. Distances are sums
    of squared float32 differences; of equally far points the first is taken.

    Args:
        points: (B, N, 3) float, finite, any unit.
        n_centers: G, at most N.

    Returns:
        (B, G) int64 indices into `points`.

    Raises:
        ValueError: if `n_centers` is not between 1 and N, or `points` has another shape.

    Source: PointNet++, section 3.2.
    Differs: the released CUDA kernel never picks points within 0.032 of the origin; here every
    point can be picked.
    """
    require_shape("points", points, "B", "N", 3)
    n_points = points.shape[1]
    if not 1 <= n_centers <= n_points:
        raise ValueError(f"{n_centers} centers asked for, the clouds have {n_points} points")
    points = points.detach().float()
    if is_exporting():
        return farthest_points_exported(points, n_centers)
    if points.device.type == "cpu":
        found: Tensor = _farthest_points_native(points, n_centers)
        return found
    if points.device.type == "cuda" and HAS_TRITON:
        from i2pmae.geometry.sampling_triton import farthest_points_triton

        chosen: Tensor = farthest_points_triton(points, n_centers)
        return chosen
    return farthest_points_torch(points, n_centers)


def spread_points(points: Tensor, n_points: int) -> Tensor:
    """Choose well-spread points as `farthest_points` does, wherever the first one lies.

    On a CPU a tree of buckets finds them in a tenth of the time, from a first point of its own;
    coinciding points may then be chosen twice. Depends on the points and their order alone.

    Args:
        points: (B, N, 3) float, finite, any unit.
        n_points: M, at most N.

    Returns:
        (B, M) int64 indices into `points`, each farthest from those before it.

    Source: QuickFPS, as `fpsample` has it.
    """
    if points.device.type != "cpu" or points.shape[1] < _WORTH_BUCKETS:
        return farthest_points(points, n_points)
    clouds = points.detach().float().numpy()
    chosen = [
        fpsample.bucket_fps_kdline_sampling(cloud, n_points, h=_TREE_HEIGHT, start_idx=0)
        for cloud in clouds
    ]
    return torch.from_numpy(np.stack(chosen).astype(np.int64))


# An operator of its own: one step to torch.compile.
@torch.library.custom_op("i2pmae::farthest_points_native", mutates_args=())
def _farthest_points_native(points: Tensor, n_centers: int) -> Tensor:
    """The same by `fpsample`'s compiled loop, cloud by cloud: half the time on a CPU."""
    last = points.shape[1] - 1
    # Of equally far points fpsample takes the last: it gets the clouds backwards.
    clouds = points.flip(1).numpy()
    chosen = [fpsample.fps_sampling(cloud, n_centers, start_idx=last) for cloud in clouds]
    return last - torch.from_numpy(np.stack(chosen).astype(np.int64))


@_farthest_points_native.register_fake
def _(points: Tensor, n_centers: int) -> Tensor:
    return points.new_empty((len(points), n_centers), dtype=torch.int64)
