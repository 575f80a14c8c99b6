"""Directions of the surface that points lie on."""

import torch
from torch import Tensor

from i2pmae.geometry.grouping import nearest_neighbors

NEIGHBORS = 12  # that tell the surface's direction


def surface_normals(points: Tensor) -> Tensor:
    """Direction of least spread of each point's nearest neighbors; its sign says nothing.

    Args:
        points: (B, N, 3) float, any unit.

    Returns:
        (B, N, 3) float32 of length 1; zeros where a cloud has fewer than 12 points.
    """
    points = points.float()
    if points.shape[1] < NEIGHBORS or not len(points):
        return torch.zeros_like(points)
    neighbors = nearest_neighbors(points, points, NEIGHBORS)
    found = []
    for cloud, index in zip(points, neighbors, strict=True):
        around = cloud[index].double()
        around -= around.mean(dim=1, keepdim=True)
        found.append(torch.linalg.eigh(around.transpose(1, 2) @ around).eigenvectors[..., 0])
    return torch.stack(found).float()
