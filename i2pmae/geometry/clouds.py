"""Clouds as a caller has them, made what networks take."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from i2pmae.errors import DataError
from i2pmae.geometry.coordinates import finite_rows, to_unit_sphere, usable


def normalized_clouds(
    points: Any, least: int, device: torch.device | str = "cpu"
) -> tuple[Tensor, Tensor]:
    """Move and scale clouds to the unit sphere, without the points that are not finite.

    Args:
        points: (B, N, 3), or (N, 3) of one cloud, tensor or array, any unit.
        least: finite points that a cloud needs.
        device: where the result goes.

    Returns:
        (B, N, 3) float32 in the unit sphere, and (B, N), whether a point was finite. One that was
        not is the copy of another.

    Raises:
        DataError: if a cloud is none, has too few points that are finite, or not as many as others.
    """
    if isinstance(points, Tensor):
        points = points.detach().cpu().double().numpy()
    try:
        given = np.asarray(points)
    except ValueError:
        raise DataError(
            "the clouds differ in their number of points; pass clouds of one size at a time."
        ) from None
    given = given[None] if given.ndim == 2 else given
    if given.ndim != 3 or len(given) == 0 or given.dtype.kind not in "fiu":
        raise DataError(
            f"the clouds are {given.dtype} of shape {given.shape}; expected numbers of shape "
            "(B, N, 3), or (N, 3) of one cloud."
        )
    found = [_normalized(number, cloud, least) for number, cloud in enumerate(given)]
    clouds, finite = (
        torch.from_numpy(np.stack(each)).to(device) for each in zip(*found, strict=True)
    )
    return clouds, finite


def _normalized(
    number: int, cloud: NDArray[Any], least: int
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """A cloud (N, 3) in the unit sphere, and which of its points (N,) were finite."""
    try:
        finite = finite_rows(cloud)
        xyz = to_unit_sphere(usable(cloud[finite]))
        if len(xyz) < least:
            raise DataError(f"has {len(xyz)} finite points; the network needs {least} or more.")
    except DataError as error:
        raise DataError(f"cloud {number}: {error}") from None
    filled = np.empty((len(cloud), 3), np.float32)
    filled[finite], filled[~finite] = xyz, np.resize(xyz, (np.count_nonzero(~finite), 3))
    return filled, finite
