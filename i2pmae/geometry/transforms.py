"""Changes of a cloud: normalization, random augmentation, random subsets."""

import math

import torch
from torch import Generator, Tensor

from i2pmae.geometry.draws import integers, uniform


def normalize_to_unit_sphere(points: Tensor) -> Tensor:
    """Move each cloud's centroid to the origin and scale its farthest point to distance 1.

    Args:
        points: (B, N, 3) float, any unit, N at least 1.

    Returns:
        (B, N, 3), same dtype; all zeros for a cloud whose points coincide.

    Source: PointNet's preparation of ModelNet40, and every release since.
    """
    center, radius = unit_sphere(points)
    return (points - center) / radius


def unit_sphere(points: Tensor) -> tuple[Tensor, Tensor]:
    """Centroids (B, 1, 3) of clouds (B, N, 3), and farthest distances from them (B, 1, 1).

    The distance is 1 where all points coincide.
    """
    center = points.mean(dim=1, keepdim=True)
    radius = (points - center).norm(dim=2).amax(dim=1)
    return center, torch.where(radius > 0, radius, 1.0)[:, None, None]


def augment(
    points: Tensor,
    scale: tuple[float, float] = (1.0, 1.0),
    scale_per_axis: bool = True,
    shift: float = 0.0,
    rotation: float = 0.0,
    generator: Generator | None = None,
) -> Tensor:
    """Scale, turn and shift each cloud at random, in this order.

    A step at its neutral value draws nothing, so it changes neither points nor later draws.

    Args:
        points: (B, N, 3) float.
        scale: least and largest factor, drawn uniformly.
        scale_per_axis: one factor per axis, or one per cloud.
        shift: largest translation along each axis, in the unit of the points.
        rotation: largest angle about the y axis, either way, in degrees.
        generator: where the randomness comes from; on the CPU or on the points' device.

    Returns:
        (B, N, 3), same dtype.

    Source: the fine-tuning recipes of Point-M2AE and I2P-MAE.
    Differs: the releases draw one angle per batch; here each cloud has its own.
    """
    if tuple(scale) != (1.0, 1.0):
        points = points * _uniform(points, 3 if scale_per_axis else 1, *scale, generator)
    if rotation > 0:
        points = _turn_about_y(points, _uniform(points, 1, -rotation, rotation, generator))
    if shift > 0:
        points = points + _uniform(points, 3, -shift, shift, generator)
    return points


def random_subset(points: Tensor, n_points: int, generator: Generator | None = None) -> Tensor:
    """Choose some points of each cloud, every subset equally likely, without replacement.

    Args:
        points: (B, N, 3).
        n_points: M, at most N.
        generator: where the randomness comes from; on the CPU or on the points' device.

    Returns:
        (B, M) int64 indices into `points`, in random order.

    Raises:
        ValueError: if `n_points` exceeds N.
    """
    batch, available, _ = points.shape
    if n_points > available:
        raise ValueError(f"cannot choose {n_points} of {available} points without replacement")
    keys = integers(2**62, (batch, available), generator, points.device)
    return keys.argsort(dim=1)[:, :n_points].to(points.device)


def _uniform(
    points: Tensor, n_values: int, low: float, high: float, generator: Generator | None
) -> Tensor:
    """(B, 1, n_values) uniform numbers, one set per cloud."""
    unit = uniform((len(points), 1, n_values), generator, points.device)
    return (low + (high - low) * unit).to(points)


def _turn_about_y(points: Tensor, degrees: Tensor) -> Tensor:
    """Each cloud turned by its angle (B, 1, 1), counterclockwise seen from above."""
    angle = degrees.squeeze(-1) * (math.pi / 180)
    x, y, z = points.unbind(dim=-1)
    sine, cosine = angle.sin(), angle.cos()
    return torch.stack([cosine * x + sine * z, y, cosine * z - sine * x], dim=-1)
