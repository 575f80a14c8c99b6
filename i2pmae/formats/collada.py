"""Surfaces in `.dae` files (COLLADA 1.4 and 1.5): a scene as it stands when it is opened.

No library is used: pycollada makes fans of concave polygons, takes negative corners for others, and
stops at skins.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from i2pmae.errors import one_line
from i2pmae.formats.files import open_parsing, parsing, read_bytes
from i2pmae.formats.polygons import (
    Array,
    Mesh,
    MeshBuilder,
    blocks,
    narrow,
    triangulate,
    used_vertices,
)
from i2pmae.formats.words import chunks

_REMEDY = "Export it again, or as another format."
_HEAD_BYTES = 1 << 16  # in which a file says which axis points up
_MOST_NODES = 100_000
_BLANKS = bytes.maketrans(b"\t\n\r", b"   ")
_NO_SURFACES = {"lines", "linestrips"}


class _Instance(NamedTuple):
    """A geometry or a controller that a node shows."""

    element: ET.Element
    matrix: Array  # (4, 4) of the node
    skeletons: tuple[str, ...] = ()  # nodes below which the joints of a skin are found


def read_collada(file: Path) -> Mesh:
    """All faces of the scene, with every instance, skins in rest pose. Nothing else is opened.

    Raises:
        DataError: if the file is damaged, or needs what is not read.
    """
    data = read_bytes(file)
    with parsing(file, _REMEDY):
        # Python's parser bounds what entities expand to; no exporter writes any.
        if b"<!ENTITY" in data or "<!ENTITY".encode("utf-16-le") in data:
            raise ValueError("it declares entities")
        root = ET.fromstring(data)  # noqa: S314  without entities
        if _tag(root) != "COLLADA":
            raise ValueError("it is no COLLADA file")
        return _Scene(root, file).read()


def collada_up(file: Path) -> str:
    """The axis that a file says points up: x, y or z.

    Raises:
        DataError: if it cannot be read.
    """
    with open_parsing(file, _REMEDY) as stream:
        found = re.search(rb"<(?:\w+:)?up_axis\s*>\s*([XYZ])_UP", stream.read(_HEAD_BYTES))
    return found[1].decode().lower() if found else "y"


def _tag(element: ET.Element) -> str:
    return element.tag.rpartition("}")[2]


def _all(element: ET.Element, *tags: str) -> Iterator[ET.Element]:
    """Children of some tags."""
    return (child for child in element if _tag(child) in tags)


def _has(element: ET.Element, *tags: str) -> bool:
    return next(_all(element, *tags), None) is not None


def _one(element: ET.Element, tag: str) -> ET.Element:
    found = next(_all(element, tag), None)
    if found is None:
        raise ValueError(f"<{_tag(element)}> has no <{tag}>")
    return found


def _numbers(element: ET.Element) -> npt.NDArray[np.float64]:
    return _values(element.text or "", np.float64)


def _integers(element: ET.Element) -> npt.NDArray[np.int64]:
    return _values(element.text or "", np.int64)


def _values(text: str, kind: type[Any]) -> Array:
    words = text.encode().translate(_BLANKS)
    parts = [np.array(part.split(), kind) for part in chunks(words, b" ")]
    return np.concatenate([np.zeros(0, kind), *parts])


class _Scene:
    """A file, its elements found by their ids."""

    def __init__(self, root: ET.Element, file: Path):
        self._root, self._file = root, file
        self._ids: dict[str, ET.Element] = {}
        for element in root.iter():
            if "id" in element.attrib:
                self._ids.setdefault(element.attrib["id"], element)
        self._nodes: dict[ET.Element, Array] = {}  # where each stands, (4, 4)

    def read(self) -> Mesh:
        builder = MeshBuilder(self._file)
        surfaces: dict[tuple[ET.Element, tuple[str, ...]], Mesh] = {}
        for element, matrix, skeletons in self._instances():
            if (element, skeletons) not in surfaces:
                vertices, faces = self._surface(element, skeletons)
                used, faces = used_vertices(faces, len(vertices), self._file)
                surfaces[element, skeletons] = Mesh(vertices[used], faces)
            vertices, faces = surfaces[element, skeletons]
            if len(faces):
                builder.check(len(faces), len(vertices))
                # Joints place a skin, wherever its node is.
                place = np.eye(4) if _has(element, "skin") else matrix
                builder.add(vertices @ place[:3, :3].T + place[:3, 3], faces)
        return builder.mesh()

    def _find(self, url: str) -> ET.Element:
        if not url.startswith("#"):
            raise ValueError(f"it refers to {one_line(url, 80)!r}, another file")
        if url[1:] not in self._ids:
            raise ValueError(f"{one_line(url, 80)!r} is not there")
        return self._ids[url[1:]]

    def _instances(self) -> list[_Instance]:
        """What the scene shows; of a library without scenes, each geometry once."""
        scenes = [e for e in self._root.iter() if _tag(e) == "visual_scene"]
        links = [e for e in self._root.iter() if _tag(e) == "instance_visual_scene"]
        if not scenes:
            geometries = [e for e in self._root.iter() if _tag(e) == "geometry"]
            return [_Instance(element, np.eye(4)) for element in geometries]
        scene = self._find(links[0].attrib["url"]) if links else scenes[0]
        instances: list[_Instance] = []
        waiting = [(node, np.eye(4)) for node in _all(scene, "node")]
        n_nodes = 0
        while waiting:
            node, matrix = waiting.pop()
            n_nodes += 1
            if n_nodes + len(instances) > _MOST_NODES:
                raise ValueError(f"it has more than {_MOST_NODES} nodes with all copies")
            for child in node:
                match _tag(child):
                    case "node":
                        waiting.append((child, matrix))
                    case "instance_node":
                        waiting.append((self._find(child.attrib["url"]), matrix))
                    case "instance_geometry" | "instance_controller":
                        shown = self._find(child.attrib["url"])
                        skeletons = tuple(each.text or "" for each in _all(child, "skeleton"))
                        instances.append(_Instance(shown, matrix, skeletons))
                    case _:
                        # Transforms come before what they place, as the format demands.
                        matrix = matrix @ _transform(child)
            self._nodes.setdefault(node, matrix)
        return instances

    def _surface(self, element: ET.Element, skeletons: tuple[str, ...]) -> Mesh:
        """Faces of a geometry, or of a controller: as its joints hold it, or not morphed."""
        inner = next(_all(element, "mesh", "skin", "morph"), None)
        if inner is None:
            kinds = [_tag(child) for child in element if _tag(child) not in ("asset", "extra")]
            raise ValueError(f"it shows <{', '.join(kinds)}>, which is not read")
        if _tag(inner) != "mesh":
            mesh = self._surface(self._find(inner.attrib["source"]), skeletons)
            if _tag(inner) == "morph":
                return self._morphed(inner, mesh)
            return self._held(inner, mesh, skeletons)
        position = _inputs(_one(inner, "vertices"))["POSITION"]
        vertices = self._source(position.attrib["source"], 3)
        polygons: list[Array] = []
        for child in inner:
            if _tag(child) not in _NO_SURFACES and _has(child, "p", "ph"):
                polygons += _polygons(child)
        return Mesh(vertices, triangulate(vertices, polygons, self._file))

    def _source(self, url: str, width: int) -> npt.NDArray[np.float64]:
        """(count, width) numbers."""
        source = self._find(url)
        accessor = _one(_one(source, "technique_common"), "accessor")
        values = _numbers(self._find(accessor.attrib["source"]))
        stride, first = int(accessor.get("stride", 1)), int(accessor.get("offset", 0))
        names = [param.get("name", "").upper() for param in _all(accessor, "param")]
        count = int(accessor.attrib["count"])
        if min(first, count) < 0 or stride < 1 or first + count * stride > len(values):
            raise ValueError(f"source {one_line(url, 80)!r} has fewer values than it promises")
        rows = values[first : first + count * stride].reshape(count, stride)
        columns = list(range(width))
        if width == 3 and {"X", "Y", "Z"} <= {*names}:
            columns = [names.index(name) for name in "XYZ"]
        return rows[:, columns]

    def _morphed(self, morph: ET.Element, mesh: Mesh) -> Mesh:
        weights = _inputs(_one(morph, "targets"))["MORPH_WEIGHT"]
        if self._source(weights.attrib["source"], 1).any():
            raise ValueError("morph targets with weights are not read")
        return mesh

    def _held(self, skin: ET.Element, mesh: Mesh, skeletons: tuple[str, ...]) -> Mesh:
        joints = _inputs(_one(skin, "joints"))
        names = self._names(joints["JOINT"].attrib["source"])
        inverse = self._source(joints["INV_BIND_MATRIX"].attrib["source"], 16).reshape(-1, 4, 4)
        shape = next(_all(skin, "bind_shape_matrix"), None)
        bound = np.eye(4) if shape is None else _numbers(shape).reshape(4, 4)
        # Two figures may call their joints alike: each skin says below which node its own are.
        below = [node for url in skeletons for node in self._find(url.strip()).iter()]
        nodes = [node for node in below or self._nodes if node in self._nodes]
        by_sid = {node.get("sid"): self._nodes[node] for node in reversed(nodes)}
        by_id = {node.get("id"): place for node, place in self._nodes.items()}
        stand = np.stack([by_sid[n] if n in by_sid else by_id[n] for n in names])
        matrices = np.concatenate([stand @ inverse[: len(stand)], np.eye(4)[None]]) @ bound
        given = _one(skin, "vertex_weights")
        inputs = _inputs(given)
        weights = self._source(inputs["WEIGHT"].attrib["source"], 1)[:, 0]
        stride = max(int(each.get("offset", 0)) for each in inputs.values()) + 1
        entries = _integers(_one(given, "v")).reshape(-1, stride)
        joint, weight = (
            entries[:, int(inputs[name].get("offset", 0))] for name in ("JOINT", "WEIGHT")
        )
        counts = _integers(_one(given, "vcount"))
        vertex = np.repeat(np.arange(len(counts)), counts)
        if len(counts) != len(mesh.vertices) or joint.min(initial=0) < -1:
            raise ValueError("a skin has weights for another number of vertices")
        placed = np.zeros((len(counts), 4))  # the last column: the sum of weights
        for rows in blocks(len(entries), 32):
            matrix = matrices[joint[rows]]  # -1: the last, as bound
            points = np.einsum("nrc,nc->nr", matrix[:, :3, :3], mesh.vertices[vertex[rows]])
            points = np.column_stack([points + matrix[:, :3, 3], np.ones(len(points))])
            np.add.at(placed, vertex[rows], points * weights[weight[rows], None])
        if (placed[:, 3] <= 0).any():
            raise ValueError("a vertex of a skin has no weight")
        return Mesh(placed[:, :3] / placed[:, 3:], mesh.faces)

    def _names(self, url: str) -> list[str]:
        """Words of a source."""
        array = next(_all(self._find(url), "Name_array", "IDREF_array", "SIDREF_array"), None)
        return [] if array is None else (array.text or "").split()


def _inputs(element: ET.Element) -> dict[str, ET.Element]:
    """The inputs of an element by what they mean; the first of several."""
    found: dict[str, ET.Element] = {}
    for child in _all(element, "input"):
        found.setdefault(child.attrib["semantic"], child)
    return found


def _polygons(primitive: ET.Element) -> list[Array]:
    """Corners of a list of faces, one (F, n) array for each number of corners n."""
    kind, inputs = _tag(primitive), _inputs(primitive)
    stride = max(int(each.get("offset", 0)) for each in _all(primitive, "input")) + 1
    if _has(primitive, "ph"):
        raise ValueError("polygons with holes are not read")
    # There may be millions of lists, of one face each.
    texts = [element.text or "" for element in _all(primitive, "p")]
    values = _values(" ".join(texts), np.int64).reshape(-1, stride)
    corners = narrow(values[:, int(inputs["VERTEX"].get("offset", 0))])
    if kind == "triangles":
        return [corners.reshape(-1, 3)]
    if kind == "polylist":
        counts = _integers(_one(primitive, "vcount"))
    else:
        counts = np.array([len(text.split()) for text in texts], np.int64) // stride
    if counts.min(initial=0) < 0 or counts.sum() != len(corners):
        raise ValueError(f"<{kind}> has another number of corners than it promises")
    first = np.cumsum(counts) - counts
    if kind in ("polylist", "polygons"):
        return [
            corners[first[counts == n, None] + np.arange(n)]
            for n in np.unique(counts[counts >= 3]).tolist()
        ]
    run = np.repeat(np.arange(len(counts)), counts)
    inside = np.flatnonzero(run[:-2] == run[2:])
    if kind == "tristrips":
        return [corners[inside[:, None] + np.arange(3)]]
    if kind == "trifans":
        return [corners[np.stack([first[run[inside]], inside + 1, inside + 2], axis=1)]]
    raise ValueError(f"<{kind}> is not read")


def _transform(element: ET.Element) -> Array:
    """(4, 4) of one step; of what is none, no change."""
    matrix = np.eye(4)
    match _tag(element):
        case "matrix":
            return _numbers(element).reshape(4, 4)
        case "translate":
            matrix[:3, 3] = _numbers(element)
        case "scale":
            matrix[:3, :3] *= _numbers(element)
        case "rotate":
            x, y, z, degrees = _numbers(element)
            axis = np.array([x, y, z]) / max(float(np.linalg.norm([x, y, z])), 1e-300)
            cross = np.cross(np.eye(3), axis)
            angle = np.radians(degrees)
            matrix[:3, :3] += np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross
        case "lookat":
            eye, interest, up = _numbers(element).reshape(3, 3)
            back = (eye - interest) / np.linalg.norm(eye - interest)
            right = np.cross(up, back) / np.linalg.norm(np.cross(up, back))
            matrix[:3] = np.column_stack([right, np.cross(back, right), back, eye])
        case "skew":
            raise ValueError("<skew> is not read")
    return matrix
