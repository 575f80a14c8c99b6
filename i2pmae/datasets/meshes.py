"""Meshes in users' own folders: points sampled from their surfaces."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from i2pmae.datasets.own import OwnShapes
from i2pmae.datasets.source import Entry, Shape, shape_generator
from i2pmae.errors import DataError
from i2pmae.formats.collada import collada_up, read_collada
from i2pmae.formats.files import require_content, suffix
from i2pmae.formats.gltf import read_gltf
from i2pmae.formats.obj import read_obj
from i2pmae.formats.off import read_off
from i2pmae.formats.ply import read_ply
from i2pmae.formats.polygons import Mesh, blocks
from i2pmae.formats.step import read_step
from i2pmae.formats.stl import read_stl
from i2pmae.formats.three_mf import read_3mf
from i2pmae.geometry.coordinates import bounds, turned, unit_sphere_of

_READERS: dict[str, Callable[[Path], Mesh]] = {
    ".3mf": read_3mf,
    ".dae": read_collada,
    ".glb": read_gltf,
    ".gltf": read_gltf,
    ".obj": read_obj,
    ".off": read_off,
    ".ply": read_ply,
    ".step": read_step,
    ".stl": read_stl,
    ".stp": read_step,
}


class Meshes(OwnShapes):
    """One mesh per file: as many points as asked for, sampled uniformly from its surface.

    Each part of the surface gets points in proportion to its area, so triangulation does not
    matter; faces without area get none. The draw depends on seed and id alone. The points are
    then centered and scaled to the unit sphere. All parts of a scene count as one shape;
    materials are ignored. Classes and splits come from names, see `naming`.
    """

    layout = "meshes"
    kind = "mesh"

    def __init__(self, root: Path, **options: Any):
        super().__init__(root, **options)
        files = (entry.file for entry in self.entries if suffix(entry.file.name) == ".dae")
        if (first := next(files, None)) is not None:
            with contextlib.suppress(DataError):  # load() says what is wrong with the file
                self.stated_up = collada_up(first)

    def _count(self, entry: Entry) -> int:
        require_content(entry.file)
        return self.points

    @property
    def has_surfaces(self) -> bool:
        """Every shape is one."""
        return True

    def load_with_surface(self, index: int) -> tuple[Shape, Mesh]:
        """See `ShapeSource`."""
        entry = self.entries[index]
        drawn, mesh = self._draw(entry)
        try:
            shape = self._finish(entry, drawn, None)
            to_shape = unit_sphere_of(turned(drawn, self.up))
        except DataError as error:
            raise DataError(f"{self._where(entry)}: {error}") from None
        return shape, Mesh(to_shape(turned(mesh.vertices, self.up)), mesh.faces)

    def _read(self, entry: Entry) -> tuple[npt.NDArray[Any], None]:
        return self._draw(entry)[0], None

    def _draw(self, entry: Entry) -> tuple[npt.NDArray[np.float64], Mesh]:
        """Points drawn from a mesh, and the mesh."""
        generator = shape_generator(self.seed, entry.id)
        try:
            mesh = read_mesh(entry.file)
            return sample_surface(mesh, self.points, generator), mesh
        except DataError as error:
            if str(entry.file) in str(error):
                raise
            raise DataError(f"{self._where(entry)}: {error}") from None


def sample_surface(
    mesh: Mesh, n_points: int, generator: np.random.Generator
) -> npt.NDArray[np.float64]:
    """Sample points uniformly from a surface, in random order.

    Args:
        mesh: finite where it has faces; some may have no area.
        n_points: how many.
        generator: decides where.

    Returns:
        (n_points, 3) float64.

    Raises:
        DataError: if no face has an area.
    """
    vertices, faces = mesh
    # Sizes are relative, so that areas neither overflow nor vanish.
    is_used = np.zeros(len(vertices), np.bool_)
    is_used[faces] = True
    used = vertices if is_used.all() else vertices[is_used]
    low, high = (corner.astype(np.float64) for corner in bounds(used))
    extent = float((high / 2 - low / 2).max())
    center = high / 2 + low / 2

    def edges(some: npt.NDArray[np.int32]) -> tuple[npt.NDArray[np.float64], ...]:
        triangles = vertices.take(some, axis=0).astype(np.float64, copy=False)
        triangles -= center
        if extent > 0:
            triangles /= extent
        corner = triangles[:, 0]
        return corner, triangles[:, 1] - corner, triangles[:, 2] - corner

    cumulative = np.empty(len(faces))
    for rows in blocks(len(faces), 9):
        _, first, second = edges(faces[rows])
        cumulative[rows] = np.sqrt((np.cross(first, second) ** 2).sum(axis=1))
    np.cumsum(cumulative, out=cumulative)
    if not cumulative[-1] > 0:
        raise DataError(
            f"none of its {len(faces)} faces has an area. Export it again or remove it."
        )
    draws = generator.random((n_points, 3))
    places = draws[:, 0] * cumulative[-1]
    order = places.argsort()  # searches in order find what they need in the cache
    chosen = np.empty(n_points, np.int64)
    chosen[order] = np.searchsorted(cumulative, places[order], side="right")
    # Rounding may lead past the end, where the last faces may have no area.
    chosen = np.minimum(chosen, np.searchsorted(cumulative, cumulative[-1]))
    root = np.sqrt(draws[:, 1:2])  # without the root, points crowd at the first corner
    along = draws[:, 2:3]
    corner, first, second = edges(faces.take(chosen, axis=0))
    points = corner + root * ((1 - along) * first + along * second)
    return np.asarray(points * max(extent, 1e-300) + center, dtype=np.float64)


def read_mesh(file: Path) -> Mesh:
    """All faces of a mesh or scene, as triangles.

    Args:
        file: one of `MESH_SUFFIXES`.

    Returns:
        At least one face, corners finite, in the file's unit.

    Raises:
        DataError: if the file cannot be read, or has no faces or no finite ones.
    """
    mesh = _READERS[suffix(file.name)](file)
    if len(mesh.faces) == 0:
        remedy = (
            "read point clouds with --layout clouds"
            if suffix(file.name) == ".ply"
            else ("save its points as .ply, which is read as a cloud")
        )
        raise DataError(f"{file} has no faces. Export the surface too, or {remedy}.")
    if not np.isfinite(mesh.vertices).all():
        finite = np.isfinite(mesh.vertices).all(axis=1)
        wrong = sum(
            int((~finite[mesh.faces[r]]).any(axis=1).sum()) for r in blocks(len(mesh.faces), 3)
        )
        if wrong:
            raise DataError(
                f"{file}: {wrong} of {len(mesh.faces)} faces have corners that are not finite (NaN "
                "or infinite). Repair or remove it."
            )
    return mesh
