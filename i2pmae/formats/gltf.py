"""Surfaces in `.glb` and `.gltf` files (glTF 2.0): a scene as it stands when it is opened.

No library is used: pygltflib only parses the JSON; trimesh and assimp get instances, quantized
values, morph targets, skins and required extensions silently wrong, see docs/own-meshes.md.
"""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from typing import Any
from urllib.parse import unquote, unquote_to_bytes

import numpy as np
import numpy.typing as npt

from i2pmae.errors import DataError, one_line
from i2pmae.formats.files import BYTE_ORDER_MARK, parsing, read_bytes, require_file, suffix
from i2pmae.formats.polygons import Array, Mesh, MeshBuilder, blocks, used_vertices

_REMEDY = "Export it again."
_MAGIC = b"glTF"  # of a .glb
_TEXT = (b"{", BYTE_ORDER_MARK)
_MOST_NODES = 100_000
_MOST_JSON = 1 << 26  # bytes; parsed, it takes up to twenty times as much
_MOST_UNSTORED = 10_000_000  # entries of an accessor without data, which are zeros
_MOST_WORK = 500_000_000  # entries looked at; some steps count as many
_TYPES = {5120: "i1", 5121: "u1", 5122: "i2", 5123: "u2", 5125: "u4", 5126: "f4"}
_COMPONENTS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4, "MAT2": 4, "MAT3": 9, "MAT4": 16}
_TRIANGLES, _STRIP, _FAN = 4, 5, 6
# Required extensions that leave the surface as it is, and those that are honored.
_KNOWN = re.compile(
    r"(KHR|EXT)_(materials|texture|lights|xmp|animation|techniques|instance_features|mesh_features"
    r"|structural_metadata|mesh_quantization|mesh_gpu_instancing|node_visibility)(_\w+)?"
    r"|MSFT_texture_dds|MSFT_lod|CESIUM_RTC|CESIUM_primitive_outline|VRM\w*"
)


def read_gltf(file: Path) -> Mesh:
    """All faces of the scene that is shown first, with every instance, skins in rest pose.

    Nothing outside of the file's folder is opened.

    Raises:
        DataError: if the file is damaged, or needs what is not read.
    """
    return parse_gltf(read_bytes(file), file)


def parse_gltf(data: bytes, file: Path) -> Mesh:
    """As `read_gltf`, of bytes that stem from a file."""
    with parsing(file, _REMEDY):
        is_text = data.startswith(_TEXT) or suffix(file.name) == ".gltf"
        is_text &= not data.startswith(_MAGIC)  # whatever the file's name says
        text, body = (data, None) if is_text else _chunks(data, file)
        if len(text) > _MOST_JSON:
            raise DataError(f"{file} has a description of {len(text)} bytes. Simplify it.")
        return _Scene(json.loads(text), body, file).read()


def _chunks(data: bytes, file: Path) -> tuple[bytes, bytes | None]:
    """The description and the first buffer of a `.glb`."""
    if not data.startswith(_MAGIC) or int.from_bytes(data[4:8], "little") != 2:
        raise DataError(f"{file} is no .glb file of glTF 2.0 or is cut short. {_REMEDY}")
    found: list[bytes] = []
    place = 12
    for kind in (b"JSON", b"BIN\0"):
        n = int.from_bytes(data[place : place + 4], "little")
        if data[place + 4 : place + 8] == kind:
            if place + 8 + n > len(data):
                raise DataError(f"{file} is no .glb file or is cut short. {_REMEDY}")
            found.append(data[place + 8 : place + 8 + n])
            place += 8 + n
    if not found:
        raise DataError(f"{file} is no .glb file or is cut short. {_REMEDY}")
    return found[0].rstrip(b"\0 "), found[1] if len(found) > 1 else None


class _Scene:
    """A description and its buffers."""

    def __init__(self, scene: dict[str, Any], body: bytes | None, file: Path):
        self._scene, self._body, self._file = scene, body, file
        self._nodes = scene.get("nodes", [])
        self._buffers: dict[int, bytes] = {}
        self._sparse: dict[int, Array] = {}
        self._work = 0
        version = str(scene["asset"]["version"])
        if not version.startswith("2."):
            raise DataError(f"{file} is of glTF {one_line(version, 10)}; expected 2.0. {_REMEDY}")
        for name in scene.get("extensionsRequired", []):
            if not _KNOWN.fullmatch(name):
                is_packed = re.search("draco|meshopt", name)
                remedy = "Export it without compression." if is_packed else "Export it without."
                raise DataError(
                    f"{file} requires the extension {one_line(name, 60)}, which is not read. "
                    f"{remedy}"
                )
        if len(self._nodes) > _MOST_NODES:
            raise DataError(
                f"{file} has {len(self._nodes)} nodes; at most {_MOST_NODES} are read. Simplify it."
            )

    def read(self) -> Mesh:
        parents = self._parents()
        matrices = self._matrices(parents)
        builder = MeshBuilder(self._file)
        meshes: dict[int, Mesh] = {}
        for index in self._shown(parents):
            node = self._nodes[index]
            if "mesh" not in node:
                continue
            skin = node.get("skin")
            if skin is not None or "weights" in node:
                block = self._mesh(node["mesh"], node, matrices)
            else:
                if node["mesh"] not in meshes:
                    meshes[node["mesh"]] = self._mesh(node["mesh"], None, matrices)
                block = meshes[node["mesh"]]
            if len(block.faces) == 0:
                continue
            places = [np.eye(4)] if skin is not None else self._places(node, matrices[index])
            builder.check(len(places) * len(block.faces), len(places) * len(block.vertices))
            for place in places:
                builder.add(block.vertices @ place[:3, :3].T + place[:3, 3], block.faces)
        return builder.mesh()

    def _spend(self, work: int) -> None:
        """Refuse files of a few bytes that would keep us busy for hours."""
        self._work += work
        if self._work > _MOST_WORK:
            raise ValueError("its parts expand to far more than it stores")

    def _parents(self) -> list[int]:
        """The node around each node, or -1."""
        parents = [-1] * len(self._nodes)
        for index, node in enumerate(self._nodes):
            for child in node.get("children", []):
                if parents[_index(child)] >= 0:
                    raise ValueError(f"node {child} has two parents")
                parents[child] = index
        return parents

    def _shown(self, parents: list[int]) -> list[int]:
        """Nodes of the scene that is shown first; of a library of nodes, all."""
        scenes = self._scene.get("scenes", [])
        if scenes:
            waiting = list(scenes[_index(self._scene.get("scene", 0))].get("nodes", []))
        else:
            waiting = [index for index, parent in enumerate(parents) if parent < 0]
        seen: set[int] = set()
        while waiting:
            index = _index(waiting.pop())
            extensions = self._nodes[index].get("extensions", {})
            is_visible = extensions.get("KHR_node_visibility", {}).get("visible", True)
            if index not in seen and is_visible:
                seen.add(index)
                waiting += self._nodes[index].get("children", [])
        return sorted(seen)

    def _matrices(self, parents: list[int]) -> list[Array]:
        """Where each node stands, (4, 4)."""
        waiting = [index for index, parent in enumerate(parents) if parent < 0]
        matrices: list[Array | None] = [None] * len(self._nodes)
        while waiting:
            index = waiting.pop()
            matrix = _matrix(self._nodes[index])
            above = matrices[parents[index]] if parents[index] >= 0 else None
            matrices[index] = matrix if above is None else above @ matrix
            waiting += self._nodes[index].get("children", [])
        found = [matrix for matrix in matrices if matrix is not None]
        if len(found) < len(matrices):
            raise ValueError("nodes contain each other")
        return found

    def _places(self, node: dict[str, Any], matrix: Array) -> list[Array]:
        """Where copies of a node's mesh stand."""
        instancing = node.get("extensions", {}).get("EXT_mesh_gpu_instancing")
        if instancing is None:
            return [matrix]
        values = {
            name: self._numbers(index, slice(None))
            for name, index in instancing["attributes"].items()
            if name in ("TRANSLATION", "ROTATION", "SCALE")
        }
        (n,) = {len(column) for column in values.values()} or {0}
        self._spend(1000 * n)
        names = {"TRANSLATION": "translation", "ROTATION": "rotation", "SCALE": "scale"}
        return [
            matrix @ _matrix({names[name]: column[row] for name, column in values.items()})
            for row in range(n)
        ]

    def _mesh(self, index: int, node: dict[str, Any] | None, matrices: list[Array]) -> Mesh:
        """A mesh with its morph targets; placed, if the node has a skin."""
        mesh = self._scene["meshes"][_index(index)]
        weights = (node or {}).get("weights") or mesh.get("weights") or []
        skin = (node or {}).get("skin")
        joints = None if skin is None else self._joints(skin, matrices)
        builder = MeshBuilder(self._file)
        for primitive in mesh["primitives"]:
            self._spend(1000)
            attributes = primitive["attributes"]
            if primitive.get("mode", _TRIANGLES) < _TRIANGLES or "POSITION" not in attributes:
                continue  # points and lines, and what the format says to pass over
            faces = self._faces(primitive)
            if len(faces) == 0:
                continue
            used, faces = used_vertices(faces, self._count(attributes["POSITION"]), self._file)
            vertices = self._numbers(attributes["POSITION"], used)
            for weight, target in zip(weights, primitive.get("targets", []), strict=False):
                if weight and "POSITION" in target:
                    vertices += weight * self._numbers(target["POSITION"], used)
            if joints is not None:
                vertices = self._skinned(vertices, attributes, used, joints)
            builder.add(vertices, faces)
        return builder.mesh()

    def _faces(self, primitive: dict[str, Any]) -> Array:
        """Triangles (F, 3) of a primitive, by vertex."""
        corners: Array | None = None
        if "indices" in primitive:
            corners = self._values(primitive["indices"])
            if corners.ndim != 1 or corners.dtype.kind != "u":
                raise ValueError("corners are no unsigned integers")
        mode = primitive.get("mode", _TRIANGLES)
        position = primitive["attributes"]["POSITION"]
        count = self._count(position) if corners is None else len(corners)
        n = count // 3 if mode == _TRIANGLES else max(count - 2, 0)
        MeshBuilder(self._file).check(n, 0)
        first = np.arange(n, dtype=np.int32)
        if mode == _TRIANGLES:
            places: Array = np.arange(3 * n, dtype=np.int32).reshape(-1, 3)
        elif mode == _STRIP:
            places = first[:, None] + np.arange(3, dtype=np.int32)
        elif mode == _FAN:
            places = np.stack([np.zeros_like(first), first + 1, first + 2], axis=1)
        else:
            raise ValueError(f"primitives of mode {one_line(mode, 20)} are not known")
        return places if corners is None else corners[places]

    def _joints(self, index: int, matrices: list[Array]) -> Array:
        """(J, 4, 4): from the mesh as bound to where the joints hold it."""
        skin = self._scene["skins"][_index(index)]
        self._spend(100 * len(skin["joints"]))
        nodes = np.stack([matrices[_index(joint)] for joint in skin["joints"]])
        if "inverseBindMatrices" not in skin:
            return nodes
        bound = self._numbers(skin["inverseBindMatrices"], slice(None))[: len(nodes)]
        return np.asarray(nodes @ bound.reshape(-1, 4, 4).transpose(0, 2, 1))

    def _skinned(
        self, vertices: Array, attributes: dict[str, Any], used: Array | slice, joints: Array
    ) -> Array:
        n_sets = sum(name.startswith("JOINTS_") for name in attributes)
        which, weights = (
            np.concatenate(
                [self._numbers(attributes[f"{kind}_{n}"], used) for n in range(n_sets)], axis=1
            )
            for kind in ("JOINTS", "WEIGHTS")
        )
        weights[weights.sum(axis=1) <= 0, 0] = 1  # without any, the first joint holds it
        weights /= weights.sum(axis=1, keepdims=True)
        placed = np.empty_like(vertices)
        for rows in blocks(len(vertices), 64):
            held = joints[which[rows].astype(np.int64)]  # (n, 4 or more, 4, 4)
            matrix = np.einsum("nj,njrc->nrc", weights[rows], held)
            turned = np.einsum("nrc,nc->nr", matrix[:, :3, :3], vertices[rows])
            placed[rows] = turned + matrix[:, :3, 3]
        return placed

    def _count(self, index: int) -> int:
        count = int(self._scene["accessors"][_index(index)]["count"])
        if count < 0:
            raise ValueError("an accessor has a negative number of entries")
        return count

    def _numbers(self, index: int, rows: Array | slice) -> npt.NDArray[np.float64]:
        """Some entries as numbers, those stored as shares of an integer's range too."""
        values = self._values(index)[rows]
        self._spend(len(values))
        numbers = values.astype(np.float64)
        if self._scene["accessors"][index].get("normalized") and values.dtype.kind != "f":
            numbers = np.maximum(numbers / np.iinfo(values.dtype).max, -1)
        return numbers

    def _values(self, index: int) -> Array:
        """Entries as they are stored, (count,) or (count, components)."""
        accessor = self._scene["accessors"][_index(index)]
        n, count = _COMPONENTS[accessor["type"]], self._count(index)
        dtype = np.dtype("<" + _TYPES[accessor["componentType"]])
        if "sparse" not in accessor:
            if "bufferView" not in accessor:
                raise ValueError(f"accessor {index} has no data, or compressed ones")
            return self._view(
                accessor["bufferView"], accessor.get("byteOffset", 0), dtype, count, n
            )
        if index not in self._sparse:
            if "bufferView" in accessor:
                base = self._view(
                    accessor["bufferView"], accessor.get("byteOffset", 0), dtype, count, n
                ).copy()
            elif count > _MOST_UNSTORED:
                raise ValueError(f"accessor {index} expands to far more than it stores")
            else:
                base = np.zeros((count, n) if n > 1 else count, dtype)
            if sum(array.nbytes for array in self._sparse.values()) > 1 << 29:
                raise ValueError("sparse accessors expand to far more than they store")
            self._sparse[index] = _patched(base, *self._patch(accessor["sparse"], dtype, n))
        return self._sparse[index]

    def _patch(self, sparse: dict[str, Any], dtype: np.dtype[Any], n: int) -> tuple[Array, Array]:
        count = int(sparse["count"])
        where, values = sparse["indices"], sparse["values"]
        kind = np.dtype("<" + _TYPES[where["componentType"]])
        return (
            self._view(where["bufferView"], where.get("byteOffset", 0), kind, count, 1),
            self._view(values["bufferView"], values.get("byteOffset", 0), dtype, count, n),
        )

    def _view(self, index: int, offset: int, dtype: np.dtype[Any], count: int, n: int) -> Array:
        """Entries where they lie in a buffer, not copied."""
        view = self._scene["bufferViews"][_index(index)]
        size = n * dtype.itemsize
        stride = int(view.get("byteStride", size))
        length, first = int(view["byteLength"]), int(view.get("byteOffset", 0))
        data = self._buffer(_index(view["buffer"]))
        needed = offset + stride * (count - 1) + size if count else 0
        if min(offset, length, first, count) < 0 or stride < 1 or needed > length:
            raise ValueError(f"an accessor reaches beyond its view of {length} bytes")
        if first + length > len(data):
            raise ValueError(f"buffer {view['buffer']} ends before view {index}: it is cut short")
        shape, strides = ((count, n), (stride, dtype.itemsize)) if n > 1 else ((count,), (stride,))
        return np.ndarray(shape, dtype, data, first + offset, strides)

    def _buffer(self, index: int) -> bytes:
        if index not in self._buffers:
            self._buffers[index] = self._load(index, self._scene["buffers"][index].get("uri"))
        return self._buffers[index]

    def _load(self, index: int, uri: str | None) -> bytes:
        if uri is None:
            if index or self._body is None:
                raise ValueError(f"buffer {index} has no data")
            return self._body
        if uri.startswith("data:"):
            kind, _, content = uri.partition(",")
            return (
                base64.b64decode(content) if kind.endswith(";base64") else unquote_to_bytes(content)
            )
        if suffix(self._file.name) == ".glb":
            raise DataError(f"{self._file} keeps its data in another file. Export it as one .glb.")
        # Some exporters escape nothing, so that a name may hold % as it is.
        names = [name.replace("\\", "/").split("/") for name in (unquote(uri), uri)]
        if ":" in uri or any(".." in parts or parts[0] == "" for parts in names):
            raise DataError(
                f"{self._file} refers to {one_line(uri, 80)!r}, which is not in its folder. Export "
                "it as one .glb."
            )
        places = [self._file.parent.joinpath(*parts) for parts in names]
        beside = next((place for place in places if place.exists()), places[0])
        if beside.is_dir():
            raise ValueError(f"{one_line(uri, 80)!r} is a folder")
        return read_bytes(require_file(beside, f"data of {self._file.name}"))


def _index(index: int) -> int:
    """Refuses negative ones, which Python would count from the end."""
    if index < 0:
        raise ValueError(f"{index} is no index")
    return index


def _matrix(node: dict[str, Any]) -> Array:
    """(4, 4) of a node within its parent."""
    if "matrix" in node:
        return np.array(node["matrix"], np.float64).reshape(4, 4).T
    matrix = np.eye(4)
    if "rotation" in node:
        x, y, z, w = np.asarray(node["rotation"], np.float64) / max(
            float(np.linalg.norm(node["rotation"])), 1e-300
        )
        matrix[:3, :3] = [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    if "scale" in node:
        matrix[:3, :3] *= node["scale"]
    if "translation" in node:
        matrix[:3, 3] = node["translation"]
    return matrix


def _patched(base: Array, where: Array, values: Array) -> Array:
    base[where] = values
    return base
