"""Surfaces in `.3mf` files (3D Manufacturing Format): what is to be built.

No library is used: trimesh silently leaves out beam lattices, and parts that the archive lacks.
"""

from __future__ import annotations

import io
import re
import zipfile
from array import array
from collections import deque
from pathlib import Path
from typing import Any, NamedTuple
from xml.parsers import expat

import numpy as np

from i2pmae.errors import DataError, one_line
from i2pmae.formats.cloud_arrays import refuse_unpacked
from i2pmae.formats.files import parsing, read_bytes
from i2pmae.formats.polygons import Array, Mesh, MeshBuilder, used_vertices

_REMEDY = "Export it again, or as another format."
_MOST_PARTS = 100_000
_PART = 1 << 24  # bytes
# Extensions that leave the surface as it is: materials, parts in other files, slices, sets.
_KNOWN = re.compile(r".*/(material|production|slice|trianglesets|core)/\d+/\d+")
_OTHER_SHAPES = {"beamlattice", "displacementmesh", "booleanshape", "levelset", "implicit"}


class _Object(NamedTuple):
    """A mesh, and others that are part of it."""

    vertices: Array  # (V, 3)
    faces: Array  # (F, 3)
    parts: list[_Part]


class _Part(NamedTuple):
    """An object, placed."""

    key: tuple[str, str]  # file within the archive, and id
    place: Array  # (4, 3), for rows on its left


def read_3mf(file: Path) -> Mesh:
    """All faces of all items of the build.

    Raises:
        DataError: if the file is damaged, or needs what is not read.
    """
    data = read_bytes(file)
    with parsing(file, _REMEDY), zipfile.ZipFile(io.BytesIO(data)) as archive:
        names = {name.lower().lstrip("/"): name for name in archive.namelist()}
        root = _root(archive, names)
        models: dict[str, _Model] = {}
        waiting = deque([_Part((root, ""), np.eye(4)[:, :3])])
        builder = MeshBuilder(file)
        n_parts = 0
        while waiting:
            (path, number), place = waiting.popleft()
            n_parts += 1
            if n_parts > _MOST_PARTS:
                raise DataError(f"{file} has more than {_MOST_PARTS} parts. Simplify it.")
            if path not in models:
                if path not in names:
                    raise ValueError(f"{one_line(path, 80)!r} is not in it")
                member = archive.getinfo(names[path])
                refuse_unpacked(member, file)
                with archive.open(member) as stream:
                    models[path] = _Model(path).parse(stream)
            if not number:
                waiting.extend(models[path].items)
                continue
            thing = models[path].objects.get(number)
            if thing is None:
                raise ValueError(
                    f"object {one_line(number, 40)!r} is not in {one_line(path, 80)!r}"
                )
            if len(thing.faces):
                used, faces = used_vertices(thing.faces, len(thing.vertices), file)
                builder.add(thing.vertices[used] @ place[:3] + place[3], faces)
            for part in thing.parts:
                inner = part.place @ place[:3]
                inner[3] += place[3]
                waiting.append(_Part(part.key, inner))
        return builder.mesh()


def _root(archive: zipfile.ZipFile, names: dict[str, str]) -> str:
    """The file within the archive that says what is built."""
    relations = names.get("_rels/.rels")
    if relations is not None:
        with archive.open(relations) as stream:
            text = stream.read(1 << 20)
        for tag in re.findall(rb"<(?:\w+:)?Relationship\s[^>]*>", text):
            if b'/3dmodel"' in tag or b"/3dmodel'" in tag:
                found = re.search(rb"""\bTarget\s*=\s*["']/?([^"']+)["']""", tag)
                if found is not None:
                    return found[1].decode().lower()
    return "3d/3dmodel.model"


class _Model:
    """One file of an archive."""

    def __init__(self, path: str):
        self._path = path
        self._prefix = ""  # of the format's own elements
        self.objects: dict[str, _Object] = {}
        self.items: list[_Part] = []
        self._number = ""
        self._n_parts = 0
        self._vertices, self._faces = array("d"), array("q")
        self._parts: list[_Part] = []

    def parse(self, stream: Any) -> _Model:
        """Read all objects and items."""
        parser = expat.ParserCreate()
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.EntityDeclHandler = self._entity
        while part := stream.read(_PART):  # expat looks again at what a small one cuts
            parser.Parse(part, False)
        parser.Parse(b"", True)
        return self

    def _entity(self, *_: object) -> None:
        raise ValueError("it declares entities")

    def _start(self, tag: str, values: dict[str, str]) -> None:
        prefix, _, name = tag.rpartition(":")
        if name == "model":
            self._prefix = prefix
            self._check_required(values)
        elif name in _OTHER_SHAPES:
            raise ValueError(f"it holds <{name}>, which is not read")
        elif prefix != self._prefix:
            pass  # slices, for one, have vertices as well
        elif name == "vertex":
            self._vertices.extend((float(values["x"]), float(values["y"]), float(values["z"])))
        elif name == "triangle":
            self._faces.extend((int(values["v1"]), int(values["v2"]), int(values["v3"])))
        elif name == "object":
            self._count()
            self._number = values["id"]
        elif name in ("component", "item"):
            self._count()
            paths = [value for key, value in values.items() if key.endswith(":path")]
            path = paths[0].lower().lstrip("/") if paths else self._path
            part = _Part((path, values["objectid"]), _place(values.get("transform")))
            (self.items if name == "item" else self._parts).append(part)

    def _count(self) -> None:
        self._n_parts += 1
        if self._n_parts > _MOST_PARTS:
            raise ValueError(f"it has more than {_MOST_PARTS} parts")

    def _end(self, tag: str) -> None:
        prefix, _, name = tag.rpartition(":")
        if name == "object" and prefix == self._prefix:
            vertices = np.array(self._vertices).reshape(-1, 3)
            faces = np.array(self._faces, np.int64).reshape(-1, 3)
            self.objects[self._number] = _Object(vertices, faces, self._parts)
            self._vertices, self._faces = array("d"), array("q")
            self._parts = []

    def _check_required(self, values: dict[str, str]) -> None:
        for prefix in values.get("requiredextensions", "").split():
            space = values.get(f"xmlns:{prefix}", prefix)
            if not _KNOWN.fullmatch(space):
                raise ValueError(f"it requires the extension {one_line(space, 90)}, not read")


def _place(text: str | None) -> Array:
    """(4, 3) of twelve numbers."""
    return np.eye(4)[:, :3] if text is None else np.array(text.split(), np.float64).reshape(4, 3)
