"""Farthest point sampling."""

from importlib.util import find_spec

import fpsample
import numpy as np
import torch
from torch import Tensor

HAS_TRITON = find_spec("triton") is not None


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
        ValueError: if `n_centers` is not between 1 and N.

    Source: PointNet++, section 3.2.
    Differs: the released CUDA kernel never picks points within .032 of the origin; here every
    point can be picked.
    """
    n_points = points.shape[1]
    if not 1 <= n_centers <= n_points:
        raise ValueError(f"{n_centers} centers asked for, the clouds have {n_points} points")
    points = points.detach().float()
    if torch.compiler.is_exporting():
        return farthest_points_exported(points, n_centers)
    if points.device.type == "cpu":
        return _farthest_points_native(points, n_centers)
    if points.device.type == "cuda" and HAS_TRITON:
        from i2pmae.geometry.sampling_triton import farthest_points_triton

        chosen: Tensor = farthest_points_triton(points, n_centers)
        return chosen
    return farthest_points_torch(points, n_centers)


def farthest_points_torch(points: Tensor, n_centers: int) -> Tensor:
    """`farthest_points` in tensor operations: all clouds at once, on any device."""
    batch, n_points, _ = points.shape
    x, y, z = points.unbind(dim=2)
    nearest = points.new_full((batch, n_points), torch.inf)
    chosen = torch.zeros(batch, n_centers, dtype=torch.int64, device=points.device)
    for step in range(1, n_centers):
        last = chosen[:, step - 1 : step]
        distance = (x - x.gather(1, last)) ** 2
        distance += (y - y.gather(1, last)) ** 2
        distance += (z - z.gather(1, last)) ** 2
        nearest = torch.minimum(nearest, distance)
        chosen[:, step] = nearest.argmax(dim=1)
    return chosen


def farthest_points_exported(points: Tensor, n_centers: int) -> Tensor:
    """`farthest_points` with a loop that `torch.export` keeps as one, whatever it runs on later."""
    batch, n_points, _ = points.shape
    columns = torch.arange(n_centers, device=points.device)

    def more(step: Tensor, *_: Tensor) -> Tensor:
        return step < n_centers

    def choose(
        step: Tensor, last: Tensor, nearest: Tensor, chosen: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        offsets = (points - points.gather(1, last[..., None].expand(-1, -1, 3))).square()
        nearest = torch.minimum(nearest, offsets[..., 0] + offsets[..., 1] + offsets[..., 2])
        last = nearest.argmax(dim=1, keepdim=True)
        return step + 1, last, nearest, torch.where(columns == step, last, chosen)

    start = (
        torch.ones((), dtype=torch.int64, device=points.device),
        points.new_zeros(batch, 1, dtype=torch.int64),
        points.new_full((batch, n_points), torch.inf),
        points.new_zeros(batch, n_centers, dtype=torch.int64),
    )
    chosen: Tensor = torch.while_loop(more, choose, start)[3]
    return chosen


def _farthest_points_native(points: Tensor, n_centers: int) -> Tensor:
    """The same by `fpsample`'s compiled loop, cloud by cloud: half the time on a CPU."""
    last = points.shape[1] - 1
    # Of equally far points fpsample takes the last: it gets the clouds backwards.
    clouds = points.flip(1).numpy()
    chosen = [fpsample.fps_sampling(cloud, n_centers, start_idx=last) for cloud in clouds]
    return last - torch.from_numpy(np.stack(chosen).astype(np.int64))
