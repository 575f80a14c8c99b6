"""Farthest point sampling in tensor operations, on any device."""

import torch
from torch import Tensor


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
