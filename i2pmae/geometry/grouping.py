"""Centers and their neighborhoods, level by level (section 3.1 of the paper)."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from i2pmae.device import is_exporting
from i2pmae.geometry.grouping_torch import nearest_neighbors_torch
from i2pmae.geometry.sampling import HAS_TRITON, farthest_points


class Grouping(NamedTuple):
    """Groups of every level, fine to coarse; level 0 groups points, level i centers of i-1."""

    center_indices: list[Tensor]  # (B, G_i) int64 into the previous level
    centers: list[Tensor]  # (B, G_i, 3)
    neighbor_indices: list[Tensor]  # (B, G_i, K_i) int64 into the previous level
    neighborhoods: list[Tensor]  # (B, G_i, K_i, 3) coordinates relative to the center


def gather_rows(values: Tensor, indices: Tensor) -> Tensor:
    """Rows of each cloud by index.

    Args:
        values: (B, N, C).
        indices: (B, ...) int64 into N.

    Returns:
        (B, ..., C).
    """
    batch, length, width = values.shape
    first = torch.arange(batch, device=values.device) * length
    flat = indices.reshape(batch, -1) + first[:, None]
    found = values.reshape(batch * length, width).index_select(0, flat.reshape(-1))
    return found.view(*indices.shape, width)


def nearest_neighbors(queries: Tensor, points: Tensor, k: int) -> Tensor:
    """The k points nearest to each query, nearest first, ties to the lower index.

    Distances are sums of squared float32 differences: |a|^2 + |b|^2 - 2ab would lose the digits
    that decide between close neighbors.

    Args:
        queries: (B, Q, 3) float.
        points: (B, N, 3) float, same unit.
        k: at most N.

    Returns:
        (B, Q, k) int64 indices into `points`.

    Raises:
        ValueError: if `k` is not between 1 and N.
    """
    n_points = points.shape[1]
    if not 1 <= k <= n_points:
        raise ValueError(f"{k} neighbors asked for, the clouds have {n_points} points")
    queries, points = queries.detach().float(), points.detach().float()
    if points.device.type == "cuda" and HAS_TRITON and not is_exporting():
        from i2pmae.geometry.grouping_triton import nearest_neighbors_triton

        found: Tensor = nearest_neighbors_triton(queries, points, k)
        return found
    return nearest_neighbors_torch(queries, points, k)


def group(points: Tensor, n_centers: Sequence[int], group_sizes: Sequence[int]) -> Grouping:
    """Farthest points as centers and their nearest neighbors, level by level.

    Args:
        points: (B, N, 3) float, finite, any unit.
        n_centers: G per level, fine to coarse; at most N, not growing.
        group_sizes: K per level; at most as many as the previous level has.

    Returns:
        The groups of every level.

    Raises:
        ValueError: if a level asks for more centers or neighbors than the previous one has.

    Source: Point-M2AE, section 3.1.
    """
    previous, previous_indices = points, None
    grouping = Grouping([], [], [], [])
    for n, k in zip(n_centers, group_sizes, strict=True):
        if previous_indices is None:
            indices = farthest_points(previous, n)
        else:
            indices = _first_chosen(previous_indices, n)
        centers = gather_rows(previous, indices)
        neighbors = nearest_neighbors(centers, previous, k)
        grouping.center_indices.append(indices)
        grouping.centers.append(centers)
        grouping.neighbor_indices.append(neighbors)
        grouping.neighborhoods.append(gather_rows(previous, neighbors) - centers[:, :, None])
        previous, previous_indices = centers, indices
    return grouping


def point_indices(grouping: Grouping, level: int) -> Tensor:
    """Index of every center of a level in the cloud itself, (B, G) int64."""
    indices = grouping.center_indices[0]
    for chosen in grouping.center_indices[1 : level + 1]:
        indices = indices.gather(1, chosen)
    return indices


def _first_chosen(chosen: Tensor, n_centers: int) -> Tensor:
    """Farthest points among farthest points: sampling repeats its own first choices.

    Only when a cloud has run out of distinct points does sampling return to index 0.
    """
    if n_centers > chosen.shape[1]:
        raise ValueError(f"{n_centers} centers asked for, the previous level has {chosen.shape[1]}")
    order = torch.arange(n_centers, device=chosen.device)
    return torch.where(chosen[:, :n_centers] == 0, 0, order)
