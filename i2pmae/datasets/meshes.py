"""Meshes in people's own folders: points drawn from their surfaces."""

from __future__ import annotations

import io
import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from i2pmae.datasets.files import parsing, read_bytes
from i2pmae.datasets.folders import MESH_SUFFIXES, entries_of, left_out, suffix, walk
from i2pmae.datasets.ply import check_corners, read_ply
from i2pmae.datasets.source import Entry, ShapeSource, shape_generator
from i2pmae.errors import DataError

# trimesh logs what it could not use; without a handler that would reach the terminal.
logging.getLogger("trimesh").addHandler(logging.NullHandler())

_MOST_FACES = 10_000_000
_MOST_NODES = 100_000
_DEEPEST = 256  # nodes within nodes
_COMPONENT_BYTES = {5120: 1, 5121: 1, 5122: 2, 5123: 2, 5125: 4, 5126: 4}
_COMPONENTS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4, "MAT2": 4, "MAT3": 9, "MAT4": 16}
_UNREADABLE = "Export it again, or as another of " + " ".join(MESH_SUFFIXES) + "."


class Meshes(ShapeSource):
    """One mesh a file: as many points as asked for, drawn evenly from its surface.

    Each part of the surface gets points in proportion to its area, so triangulation does not
    matter; faces without area get none. The draw depends on seed and id alone. The points are
    then centred and scaled to the unit sphere. All parts of a scene count as one shape;
    materials are ignored. Classes and splits come from folders, see `folders`.

    Raises:
        DataError: if there are no meshes, two share an id, or a class has none.
    """

    layout = "meshes"

    def __init__(self, root: Path, *, split: str, limit: int | None, points: int, seed: int):
        folder = walk(root)
        entries, class_names = entries_of(root, folder, MESH_SUFFIXES)
        super().__init__(
            root if root.is_dir() else root.parent,
            class_names,
            entries,
            split=split,
            limit=limit,
            points=points,
            seed=seed,
            notes=left_out(folder, MESH_SUFFIXES),
        )

    def _read(self, entry: Entry) -> tuple[npt.NDArray[Any], None]:
        generator = shape_generator(self.seed, entry.id)
        try:
            return sample_surface(read_triangles(entry.file), self.points, generator), None
        except DataError as error:
            if str(entry.file) in str(error):
                raise
            raise DataError(f"{self._where(entry)}: {error}") from None


def sample_surface(
    triangles: npt.NDArray[np.float64], n_points: int, generator: np.random.Generator
) -> npt.NDArray[np.float64]:
    """Draw points evenly from a surface, in random order.

    Args:
        triangles: (F, 3 corners, 3) finite; may include some without area.
        n_points: how many.
        generator: decides where.

    Returns:
        (n_points, 3) float64.

    Raises:
        DataError: if no triangle has an area.
    """
    # Sizes are relative, so that areas neither overflow nor vanish.
    low, high = triangles.min(axis=(0, 1)), triangles.max(axis=(0, 1))
    extent = float((high / 2 - low / 2).max())
    center = high / 2 + low / 2
    scaled = (triangles - center) / extent if extent > 0 else triangles - center
    corner = scaled[:, 0]
    edges = scaled[:, 1] - corner, scaled[:, 2] - corner
    cumulative = np.sqrt((np.cross(*edges) ** 2).sum(axis=1)).cumsum()
    if not cumulative[-1] > 0:
        raise DataError(
            f"none of its {len(triangles)} faces has an area. Export it again or remove it."
        )
    draws = generator.random((n_points, 3))
    chosen = np.searchsorted(cumulative, draws[:, 0] * cumulative[-1], side="right")
    # Rounding may lead past the end, where the last faces may have no area.
    chosen = np.minimum(chosen, np.searchsorted(cumulative, cumulative[-1]))
    root = np.sqrt(draws[:, 1:2])  # without the root, points crowd at the first corner
    along = draws[:, 2:3]
    points = corner[chosen] + root * ((1 - along) * edges[0][chosen] + along * edges[1][chosen])
    return np.asarray(points * max(extent, 1e-300) + center, dtype=np.float64)


def read_triangles(file: Path) -> npt.NDArray[np.float64]:
    """All triangles of a mesh or scene.

    Args:
        file: `.off`, `.obj`, `.ply`, `.stl` or `.glb`.

    Returns:
        (F, 3 corners, 3) float64, F >= 1, finite, in the file's unit.

    Raises:
        DataError: if the file cannot be read, or has no faces or no finite ones.
    """
    if suffix(file.name) == ".ply":
        vertices, faces = read_ply(file)
        found = [vertices[faces]]
    else:
        found = list(_load(file))
    triangles = np.concatenate([np.zeros((0, 3, 3)), *found])
    if len(triangles) == 0:
        raise DataError(
            f"{file} has no faces. Export the surface too, or read point clouds with --layout "
            "clouds."
        )
    finite = np.isfinite(triangles).all(axis=(1, 2))
    if not finite.all():
        raise DataError(
            f"{file}: {int((~finite).sum())} of {len(triangles)} faces have corners that are not "
            "finite (NaN or infinite). Mend or remove it."
        )
    return triangles


def _load(file: Path) -> Iterator[npt.NDArray[np.float64]]:
    """Triangles of each part of a scene."""
    import trimesh

    kind = suffix(file.name)[1:]
    data = read_bytes(file)
    with parsing(file, _UNREADABLE):
        if kind == "glb":
            _check_glb(data, file)
        elif kind != "stl" or not _is_binary_stl(data, file):
            # Comments in other encodings than UTF-8 must not matter.
            data = data.decode("utf-8", "replace").encode()
        if kind == "off":
            _check_off(data, file)
        # A stream, not a path: nothing beside the file is opened, whatever it refers to.
        scene = trimesh.load_scene(
            io.BytesIO(data), file_type=kind, process=False, skip_materials=True
        )
        n_faces = 0
        for node in scene.graph.nodes_geometry:
            transform, name = scene.graph[node]
            part = scene.geometry[name]
            faces = np.asarray(getattr(part, "faces", ()), np.int64)
            n_faces += len(faces)
            if n_faces > _MOST_FACES:
                raise DataError(
                    f"{file} has more than {_MOST_FACES} faces with all copies of its parts. "
                    "Simplify it."
                )
            if len(faces):
                vertices = np.asarray(part.vertices, np.float64)
                check_corners(faces, len(vertices), file)
                placed = vertices @ transform[:3, :3].T + transform[:3, 3]
                yield placed[faces]


def _is_binary_stl(data: bytes, file: Path) -> bool:
    """Whether the file's size is that of its faces; a text file otherwise."""
    n_faces = int.from_bytes(data[80:84], "little")
    if len(data) == 84 + 50 * n_faces:
        return True
    if b"facet" not in data[:4096]:
        raise DataError(
            f"{file} is neither text nor {84 + 50 * n_faces} bytes long, as its header promises: "
            f"it is cut short or damaged. {_UNREADABLE}"
        )
    return False


def _check_off(data: bytes, file: Path) -> None:
    """Refuse a file cut short, which trimesh would read as far as it goes."""
    text = re.sub(r"#.*", "", data.decode())
    head = re.match(r"\s*[A-Z0-9]*?OFF\s*(\d+)\s+(\d+)", text)
    if head is None:
        raise DataError(f"{file} has no header of an .off file. {_UNREADABLE}")
    n_rows = sum(map(int, head.groups()))
    body = text[head.end() :].partition("\n")[2]
    n_found = sum(not line.isspace() and line != "" for line in body.split("\n"))
    if n_found < n_rows:
        raise DataError(
            f"{file} holds {n_found} lines of vertices and faces, its header promises {n_rows}: "
            f"it is cut short. {_UNREADABLE}"
        )


def _check_glb(data: bytes, file: Path) -> None:
    """Refuse a scene that refers to other files or would unfold to far more than its size."""
    length = int.from_bytes(data[12:16], "little")
    if data[:4] != b"glTF" or length > len(data) - 20:
        raise DataError(f"{file} is no .glb file or is cut short. {_UNREADABLE}")
    scene = json.loads(data[20 : 20 + length])
    required = set(scene.get("extensionsRequired", ()))
    packed = required & {"KHR_draco_mesh_compression", "EXT_meshopt_compression"}
    if packed:
        raise DataError(f"{file} is compressed ({packed.pop()}). Export it without compression.")
    for buffer in scene.get("buffers", ()):
        if not str(buffer.get("uri", "data:")).startswith("data:"):
            raise DataError(f"{file} keeps its data in another file. Export it as one .glb.")
    accessors = scene.get("accessors", ())
    sizes = [
        int(a["count"]) * _COMPONENT_BYTES[a["componentType"]] * _COMPONENTS[a["type"]]
        for a in accessors
    ]
    views = [int(view["byteLength"]) for view in scene.get("bufferViews", ())]
    corners = sum(
        int(accessors[index]["count"])
        for mesh in scene.get("meshes", ())
        for primitive in mesh["primitives"]
        for index in (primitive["attributes"]["POSITION"], primitive.get("indices"))
        if index is not None
    )
    nodes = scene.get("nodes", ())
    if (
        min([0, *sizes, *views]) < 0
        or sum(sizes) > 16 * len(data)
        or sum(views) > 16 * len(data)
        or corners > 3 * _MOST_FACES
        or len(nodes) > _MOST_NODES
        or _depth(nodes) > _DEEPEST
    ):
        raise DataError(
            f"{file} unfolds to far more than its {len(data)} bytes: it is damaged or made to "
            f"harm. {_UNREADABLE}"
        )


def _depth(nodes: list[dict[str, Any]]) -> int:
    """How deep nodes lie within nodes; more than allowed for loops."""
    inner = {child for node in nodes for child in node.get("children", ())}
    level = [index for index in range(len(nodes)) if index not in inner]
    reached = 0
    depth = 0
    while level and depth <= _DEEPEST:
        reached += len(level)
        if reached > 2 * _MOST_NODES:
            return _DEEPEST + 1
        level = [child for index in level for child in nodes[index].get("children", ())]
        depth += 1
    return depth
