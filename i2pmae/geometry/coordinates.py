"""Coordinates as files have them: checked, turned, centered and scaled."""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from i2pmae.errors import DataError

Up = Literal["x", "y", "z"]

_MOST_COLUMNS = 256  # of a point; a row of more is rather one coordinate of many points
# Of fewer rows than these, with more columns than so many each, the columns are the points.
_FEW_ROWS = ((10, 2), (20, 10))


def usable(coordinates: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return the x, y, z columns of a cloud that can be rendered and grouped.

    Args:
        coordinates: (n, 3 or more) numbers.

    Returns:
        (n, 3) float32 or float64.

    Raises:
        DataError: if there are no points, no three columns, values that are not finite, or no
            extent along any axis.
    """
    if coordinates.ndim == 3 and coordinates.shape[2] >= 3:
        raise DataError(
            f"holds {coordinates.shape[0]} clouds of {coordinates.shape[1]} points; expected one. "
            "Save each in a file of its own; a scan of rows and columns as (points, 3)."
        )
    if coordinates.ndim != 2 or coordinates.shape[1] < 3:
        raise DataError(
            f"holds an array of shape {coordinates.shape}; expected (points, 3 or more columns). "
            "Store one point a row."
        )
    rows, columns = coordinates.shape
    if rows < columns > next((n * rows for few, n in _FEW_ROWS if 3 <= rows < few), _MOST_COLUMNS):
        raise DataError(
            f"holds an array of shape {coordinates.shape}; expected one point a row: (points, 3 or "
            "more columns). Transpose it, as numpy.save(FILE, numpy.load(FILE).T) does."
        )
    if coordinates.dtype.kind not in "fiu":
        raise DataError(f"holds {coordinates.dtype} values; expected numbers. Convert it to float.")
    if len(coordinates) == 0:
        raise DataError("holds no points. Remove it or replace it.")
    xyz = coordinates[:, :3]
    if xyz.dtype not in (np.float32, np.float64):
        xyz = xyz.astype(np.float64)
    finite = np.isfinite(xyz)
    if not finite.all():
        finite = finite.all(axis=1)
        raise DataError(
            f"{int((~finite).sum())} of {len(xyz)} points are not finite (NaN or infinite), "
            f"the first in row {int(finite.argmin())}. Remove them or replace the file."
        )
    if (xyz == xyz[0]).all():
        raise DataError(f"all {len(xyz)} points coincide. Remove it or replace it.")
    return xyz


def finite_rows(coordinates: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Which rows (n,) of (n, 3 or more) numbers are finite points; scanners mark gaps by NaN.

    Raises:
        DataError: if there are rows, and none of them is.
    """
    finite: npt.NDArray[np.bool_] = np.isfinite(coordinates[:, :3]).all(axis=1)
    if len(finite) and not finite.any():
        raise DataError(f"none of its {len(finite)} points is finite. Remove it or replace it.")
    return finite


def bounds(points: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """The lowest and highest corner (3,) of points (n, 3), column by column.

    The same as minima and maxima along axis 0, for a tenth of the time.
    """
    columns = [points[:, axis] for axis in range(3)]
    return np.stack([c.min() for c in columns]), np.stack([c.max() for c in columns])


def turned(points: npt.NDArray[Any], up: Up) -> npt.NDArray[Any]:
    """Rotate points so that an axis points along y, which is up everywhere else.

    Args:
        points: (..., 3).
        up: the axis that points up; y leaves the points as they are.

    Returns:
        (..., 3) of the same type: rotated by a quarter, never mirrored.
    """
    if up == "z":
        return np.stack([points[..., 0], points[..., 2], -points[..., 1]], axis=-1)
    if up == "x":
        return np.stack([-points[..., 1], points[..., 0], points[..., 2]], axis=-1)
    return points


def to_unit_sphere(points: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Move the mean to the origin and scale the farthest point to distance 1.

    Args:
        points: (n, 3) finite, not all equal, any unit.

    Returns:
        (n, 3) float64.

    Raises:
        DataError: if the chosen points coincide or their extent cannot be computed.
    """
    return unit_sphere_of(points)(points)


class UnitSphere(NamedTuple):
    """The sphere around a cloud; called with points of the same space, it moves and scales them."""

    unit: float
    center: npt.NDArray[np.float64]  # (3,), divided by that unit
    radius: float

    def __call__(self, points: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
        """Points (n, 3) in the coordinates in which the sphere is the unit sphere."""
        with np.errstate(over="ignore", invalid="ignore"):
            scaled = points.astype(np.float64) / self.unit
            return np.asarray((scaled - self.center) / self.radius, dtype=np.float64)


def unit_sphere_of(points: npt.NDArray[Any]) -> UnitSphere:
    """What `to_unit_sphere` does to a cloud; arguments and errors as there."""
    with np.errstate(over="ignore", invalid="ignore"):
        # Dividing first keeps means and squares of far-away coordinates from overflowing.
        unit = max(float(np.abs(points).max()), 1e-300)
        scaled = points.astype(np.float64) / unit
        center = scaled.T.copy().mean(axis=1)  # along the memory: four times as fast
        centered = scaled - center
        radius = math.sqrt(np.einsum("ij,ij->i", centered, centered).max())
    if not np.isfinite(radius) or radius <= 1e-12:
        raise DataError(
            "its points are too close together, compared with their distance from the origin, "
            "to be scaled. Move it to the origin or remove it."
        )
    return UnitSphere(unit, center, radius)


def in_unit_sphere(points: npt.NDArray[Any]) -> bool:
    """Whether the farthest of some points (n, 3) lies at distance 1 from the origin, within 1%."""
    with np.errstate(over="ignore"):
        return bool(abs(np.linalg.norm(points, axis=1).max() - 1) <= 0.01)
