"""Surfaces as vertices and triangles, and polygons cut into triangles."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from i2pmae.errors import DataError

Array = npt.NDArray[Any]

MOST_FACES = 10_000_000  # of a scene, with all copies
_BLOCK = 1 << 18  # corners looked at together, so that memory stays small beside the mesh's own
_TOLERANCE = 1e-9  # share of a polygon's area that rounding may turn over
_MOST_CORNERS = 1_000_000  # of a polygon
# Of all concave polygons of a file, the squares of their numbers of corners: what cutting them
# takes where they cross themselves as often as can be, 20 s.
_MOST_CUTS = 200_000_000


class Mesh(NamedTuple):
    """A surface; corners may be shared or not."""

    vertices: npt.NDArray[np.floating[Any]]  # (V, 3)
    faces: npt.NDArray[np.int32]  # (F, 3) indices into vertices


def blocks(n_rows: int, width: int) -> Iterator[slice]:
    """Slices that cover `n_rows` rows, each of a limited number of entries."""
    step = max(_BLOCK // width, 1)
    for first in range(0, n_rows, step):
        yield slice(first, first + step)


def narrow(corners: Array) -> npt.NDArray[np.int32]:
    """Indices in half the memory; those beyond stay beyond what any file has as vertices."""
    if corners.dtype.itemsize < 4 or corners.dtype == np.int32:
        return corners.astype(np.int32)
    return np.clip(corners, -(2**31) if corners.dtype.kind == "i" else 0, 2**31 - 1).astype(
        np.int32
    )


def check_corners(corners: Array, n_vertices: int, file: Path) -> None:
    """Refuse faces whose corners are no vertices.

    Raises:
        DataError: naming the first such corner.
    """
    if len(corners) and (corners.min() < 0 or corners.max() >= n_vertices):
        wrong = corners[(corners < 0) | (corners >= n_vertices)].flat[0]
        raise DataError(
            f"{file}: a face names vertex {wrong}; expected 0 to {n_vertices - 1}. Export it again."
        )


def triangulate(vertices: Array, polygons: Sequence[Array], file: Path) -> npt.NDArray[np.int32]:
    """Cut polygons into triangles that cover the same surface, concave ones too.

    A polygon becomes a fan around its first corner where that covers it, as all convex ones; else
    its ears are cut off, as seen along its mean normal. Fewer than three corners are no surface.

    Args:
        vertices: (V, 3).
        polygons: one (F, n) array of indices for each number of corners n.
        file: named in errors.

    Returns:
        (F, 3) int32 indices.

    Raises:
        DataError: if a corner is no vertex, or a concave polygon has too many.
    """
    triangles = [np.zeros((0, 3), np.int32)]
    cutter = _EarCutter(file)
    for group in polygons:
        n = group.shape[1]
        if n < 3:
            continue
        check_corners(group, len(vertices), file)
        if n > _MOST_CORNERS:
            raise DataError(
                f"{file} holds a polygon of {n} corners; at most {_MOST_CORNERS} are read. "
                "Triangulate it."
            )
        group = group.astype(np.int32, copy=False)
        triangles.append(group if n == 3 else _cut(vertices, group, cutter))
    return np.concatenate(triangles)


def _cut(
    vertices: Array, group: npt.NDArray[np.int32], cutter: _EarCutter
) -> npt.NDArray[np.int32]:
    n = group.shape[1]
    second = np.arange(1, n - 1)
    fan = np.stack([np.zeros_like(second), second, second + 1], axis=1)
    triangles = np.empty((len(group), n - 2, 3), np.int32)
    for rows in blocks(len(group), n):
        block = group[rows]
        points = vertices[block].astype(np.float64)
        with np.errstate(all="ignore"):  # corners that are not finite are refused later
            points -= points[:, :1]
            points /= max(float(np.abs(points).max()), np.finfo(float).tiny)
            crosses = np.cross(points[:, 1:-1], points[:, 2:])
            normals = crosses.sum(axis=1)
            areas = np.einsum("fic,fc->fi", crosses, normals)
            turned = areas.min(axis=1) < -_TOLERANCE * (normals**2).sum(axis=1)
        cut = block[:, fan]
        if n == 4:  # one diagonal lies inside
            cut[turned] = block[turned][:, [[1, 2, 3], [1, 3, 0]]]
        else:
            for row in np.flatnonzero(turned):
                cut[row] = block[row][cutter.cut(points[row], normals[row])]
        triangles[rows] = cut
    return triangles.reshape(-1, 3)


def used_vertices(
    faces: Array, n_vertices: int, file: Path
) -> tuple[Array | slice, npt.NDArray[np.int32]]:
    """The vertices that faces use, and the faces by these; parts may share all vertices.

    Raises:
        DataError: if a corner is no vertex.
    """
    check_corners(faces, n_vertices, file)
    if n_vertices <= faces.size:
        return slice(None), faces.astype(np.int32)
    used, places = np.unique(faces, return_inverse=True)
    return used, places.reshape(-1, 3).astype(np.int32)


class _EarCutter:
    """Cuts concave polygons of a file, as long as they are not too many."""

    def __init__(self, file: Path):
        self._file = file
        self._cuts = 0

    def cut(self, points: Array, normal: Array) -> Array:
        """Triangles (n - 2, 3) of one polygon; repeated corners where fewer suffice."""
        import mapbox_earcut

        n = len(points)
        self._cuts += n * n
        if self._cuts > _MOST_CUTS:
            raise DataError(
                f"{self._file} holds too many and too large concave polygons, the last of {n} "
                "corners. Triangulate them."
            )
        flat = np.delete(points, np.abs(normal).argmax(), axis=1)
        found = mapbox_earcut.triangulate_float64(flat, np.array([n], np.uint32))
        triangles = np.zeros((n - 2, 3), np.int64)
        triangles[: len(found) // 3] = found.reshape(-1, 3)[: n - 2]
        return triangles


class MeshBuilder:
    """Parts of a scene put together; copies of parts may come to far more than a file holds."""

    def __init__(self, file: Path):
        self._file = file
        self._vertices: list[Array] = [np.zeros((0, 3))]
        self._faces: list[Array] = [np.zeros((0, 3), np.int32)]
        self._n_vertices = self._n_faces = 0

    def check(self, n_faces: int, n_vertices: int) -> None:
        """Refuse parts that would be too many, before they are made.

        Raises:
            DataError: naming the limit.
        """
        if self._n_faces + n_faces > MOST_FACES or self._n_vertices + n_vertices > 3 * MOST_FACES:
            raise DataError(
                f"{self._file} has more than {MOST_FACES} faces with all copies of its parts. "
                "Simplify it."
            )

    def add(self, vertices: Array, faces: npt.NDArray[np.int32]) -> None:
        """Add one part, whose corners count from its own first vertex.

        Raises:
            DataError: if there are too many.
        """
        self.check(len(faces), len(vertices))
        self._vertices.append(vertices)
        self._faces.append(faces + np.int32(self._n_vertices))
        self._n_vertices += len(vertices)
        self._n_faces += len(faces)

    def mesh(self) -> Mesh:
        """All parts as one; the builder is empty afterwards."""
        faces = _joined(self._faces, self._n_faces)
        vertices = _joined(self._vertices, self._n_vertices)
        return Mesh(vertices, faces)


def _joined(parts: list[Array], n_rows: int) -> Array:
    """All rows; each part is given up as soon as it is copied."""
    joined = np.empty((n_rows, 3), parts[0].dtype)
    while parts:
        part = parts.pop()
        joined[n_rows - len(part) : n_rows] = part
        n_rows -= len(part)
    return joined
