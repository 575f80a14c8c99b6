"""Vertices and faces of `.ply` files, text or binary.

Differs from the other formats: no library reads it. plyfile's licence (GPL) does not go with
ours, and trimesh refuses files that mix triangles with larger polygons, as Blender writes them.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from i2pmae.datasets.files import one_line, parsing, read_bytes, refuse_gzip
from i2pmae.errors import DataError

_TYPES = {
    "char": "i1",
    "uchar": "u1",
    "short": "i2",
    "ushort": "u2",
    "int": "i4",
    "uint": "u4",
    "float": "f4",
    "double": "f8",
    "int8": "i1",
    "uint8": "u1",
    "int16": "i2",
    "uint16": "u2",
    "int32": "i4",
    "uint32": "u4",
    "int64": "i8",
    "uint64": "u8",
    "float32": "f4",
    "float64": "f8",
}
_INTEGERS = {name for name, kind in _TYPES.items() if kind[0] in "iu"}
_ORDERS = {"ascii": "=", "binary_little_endian": "<", "binary_big_endian": ">"}
_HEADER_BYTES = 1 << 16  # more than any header needs
_FACE_LISTS = ("vertex_indices", "vertex_index")


class Property(NamedTuple):
    """A column; a list where `length` is the type of its length."""

    name: str
    type: np.dtype[Any]
    length: np.dtype[Any] | None


class Element(NamedTuple):
    """Rows of one kind, such as vertices."""

    name: str
    n_rows: int
    properties: list[Property]


class Header(NamedTuple):
    """What a file says about itself."""

    is_text: bool
    elements: list[Element]
    n_bytes: int  # where the data begins

    @property
    def n_faces(self) -> int:
        """Polygons; none in a point cloud."""
        return sum(element.n_rows for element in self.elements if element.name == "face")

    @property
    def n_vertex_properties(self) -> int:
        """Columns of a vertex: x, y, z and others."""
        return sum(len(e.properties) for e in self.elements if e.name == "vertex")


def ply_header(file: Path) -> Header:
    """Read a file's header only.

    Raises:
        DataError: if it is no `.ply`.
    """
    with parsing(file, "Export it again."), file.open("rb") as stream:
        return _parse_header(stream.read(_HEADER_BYTES), file)


def read_ply(file: Path) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """Vertices and triangles; larger polygons become fans.

    Returns:
        (V, 3) float64 and (F, 3) int64 indices into it; F is 0 for a point cloud.

    Raises:
        DataError: if the file is damaged or cut short.
    """
    data = read_bytes(file)
    header = _parse_header(data[:_HEADER_BYTES], file)
    _check_size(header, len(data) - header.n_bytes, file)
    with parsing(file, "Export it again."):
        read = _read_text if header.is_text else _read_binary
        vertices, polygons = read(data, header)
        triangles = _fans(polygons)
    check_corners(triangles, len(vertices), file)
    return vertices, triangles


def check_corners(triangles: npt.NDArray[np.int64], n_vertices: int, file: Path) -> None:
    """Refuse faces whose corners are no vertices.

    Raises:
        DataError: naming the first such corner.
    """
    wrong = triangles[(triangles < 0) | (triangles >= n_vertices)]
    if len(wrong):
        raise DataError(
            f"{file}: a face names vertex {wrong[0]}; expected 0 to {n_vertices - 1}. Export it "
            "again."
        )


def _parse_header(data: bytes, file: Path) -> Header:
    refuse_gzip(data, file)
    end = re.search(rb"(?m)^end_header[ \t]*\r?\n", data)
    lines = [] if end is None else data[: end.start()].decode("utf-8", "replace").splitlines()
    if end is None or not lines or lines[0].strip() != "ply":
        raise DataError(f"{file} has no header of a .ply file. Export it again.")
    order = None
    elements: list[Element] = []
    for line in lines[1:]:
        words = line.split()
        match words:
            case [] | ["comment" | "obj_info", *_]:
                pass
            case ["format", name, _] if name in _ORDERS:
                order = _ORDERS[name]
            case ["element", name, count] if count.isdecimal() and len(count) < 19:
                elements.append(Element(name, int(count), []))
            case ["property", "list", length, kind, name] if (
                elements and length in _INTEGERS and kind in _TYPES and order
            ):
                types = np.dtype(order + _TYPES[kind]), np.dtype(order + _TYPES[length])
                elements[-1].properties.append(Property(name, *types))
            case ["property", kind, name] if elements and kind in _TYPES and order:
                dtype = np.dtype(order + _TYPES[kind])
                elements[-1].properties.append(Property(name, dtype, None))
            case _:
                raise DataError(
                    f"{file}: unknown header line {one_line(line, 60)!r}. Export it again."
                )
    if order is None:
        raise DataError(f"{file}: the header names no known format. Export it again.")
    return Header(order == "=", elements, end.end())


def _check_size(header: Header, n_bytes: int, file: Path) -> None:
    """Refuse headers that promise more rows than the file can hold."""
    needed = 0
    for element in header.elements:
        if header.is_text:
            row = max(2 * len(element.properties), 1)  # a digit and a separator each
        else:
            row = sum((p.length or p.type).itemsize for p in element.properties)
        needed += element.n_rows * max(row, 1)
    if needed > n_bytes + 1:  # the last line may lack its end
        raise DataError(
            f"{file}: the header promises at least {needed} bytes, {n_bytes} follow: it is cut "
            "short or damaged. Export it again."
        )


def _xyz_columns(element: Element) -> list[int]:
    names = [column.name for column in element.properties]
    if any(column.length is not None for column in element.properties):
        raise ValueError("vertices hold lists")
    return [names.index(axis) for axis in "xyz"]


def _face_column(element: Element) -> int | None:
    for place, column in enumerate(element.properties):
        if column.length is not None and column.name in _FACE_LISTS:
            return place
    return None


Polygons = list[npt.NDArray[np.int64]]  # one (F, n) array for each number of corners n


def _read_text(data: bytes, header: Header) -> tuple[npt.NDArray[np.float64], Polygons]:
    lines = [line for line in data[header.n_bytes :].decode("ascii").split("\n") if line.strip()]
    vertices = np.zeros((0, 3))
    faces: list[list[int]] = []
    start = 0
    for element in header.elements:
        rows = lines[start : start + element.n_rows]
        start += element.n_rows
        if len(rows) < element.n_rows:
            raise ValueError(f"{len(rows)} of {element.n_rows} lines of {element.name!r} are there")
        if element.name == "vertex" and rows:
            vertices = np.loadtxt(
                rows, np.float64, comments=None, usecols=_xyz_columns(element), ndmin=2
            )
        wanted = _face_column(element) if element.name == "face" else None
        if wanted is not None:
            faces += [_corners(row.split(), element.properties, wanted) for row in rows]
    by_length: dict[int, list[list[int]]] = {}
    for face in faces:
        by_length.setdefault(len(face), []).append(face)
    return vertices, [np.array(group, np.int64) for n, group in by_length.items() if n >= 3]


def _corners(words: list[str], columns: list[Property], wanted: int) -> list[int]:
    """Entries of one list in a line of text."""
    place = 0
    for column in columns[:wanted]:
        place += 1 if column.length is None else 1 + int(words[place])
    n = int(words[place])
    corners = [int(word) for word in words[place + 1 : place + 1 + n]]
    if n < 0 or len(corners) < n:
        raise ValueError(f"a face of {n} corners lists {len(corners)}")
    return corners


def _read_binary(data: bytes, header: Header) -> tuple[npt.NDArray[np.float64], Polygons]:
    vertices = np.zeros((0, 3))
    polygons: Polygons = []
    place = header.n_bytes
    for element in header.elements:
        if all(column.length is None for column in element.properties):
            row = np.dtype([(f"{i}", column.type) for i, column in enumerate(element.properties)])
            if element.name == "vertex":
                rows = np.frombuffer(data, row, element.n_rows, place)
                columns = [rows[f"{i}"] for i in _xyz_columns(element)]
                vertices = np.stack(columns, axis=1).astype(np.float64)
            place += row.itemsize * element.n_rows
        else:
            wanted = _face_column(element) if element.name == "face" else None
            groups, place = _read_lists(data, place, element, wanted)
            polygons += groups
    return vertices, polygons


def _read_lists(
    data: bytes, place: int, element: Element, wanted: int | None
) -> tuple[Polygons, int]:
    """Entries of one list property by length, and where the next element begins."""
    uniform = _read_uniform(data, place, element, wanted)
    if uniform is not None:
        return uniform
    starts = np.empty(element.n_rows, np.int64)
    lengths = np.zeros(element.n_rows, np.int64)
    order = "big" if any(p.type.byteorder == ">" for p in element.properties) else "little"
    steps = [
        (column.type.itemsize, 0 if column.length is None else column.length.itemsize)
        for column in element.properties
    ]
    for row in range(element.n_rows):
        for index, (size, length_size) in enumerate(steps):
            if not length_size:
                place += size
                continue
            n = int.from_bytes(data[place : place + length_size], order)  # type: ignore[arg-type]
            place += length_size
            if index == wanted:
                starts[row], lengths[row] = place, n
            place += n * size
        if place > len(data):
            raise ValueError(f"it ends in row {row} of {element.n_rows} of {element.name!r}")
    if wanted is None:
        return [], place
    kind = element.properties[wanted].type
    flat = np.frombuffer(data, np.uint8)
    groups = []
    for n in np.unique(lengths[lengths >= 3]):
        where = starts[lengths == n, None] + np.arange(n * kind.itemsize)
        groups.append(flat[where].view(kind).astype(np.int64))
    return groups, place


def _read_uniform(
    data: bytes, place: int, element: Element, wanted: int | None
) -> tuple[Polygons, int] | None:
    """As `_read_lists`, at once, if all rows have lists as long as the first; else None."""
    fields: list[Any] = []
    first = place
    for index, column in enumerate(element.properties):
        n = 1
        if column.length is not None:
            head = data[first : first + column.length.itemsize]
            if len(head) < column.length.itemsize:
                return None
            n = int(np.frombuffer(head, column.length)[0])
            fields.append((f"n{index}", column.length))
            first += column.length.itemsize
        first += n * column.type.itemsize
        if n < 0 or first > len(data):
            return None
        fields.append((f"{index}", column.type, (n,)))
    end = place + (first - place) * element.n_rows
    if end > len(data):
        return None
    rows = np.frombuffer(data, np.dtype(fields), element.n_rows, place)
    for index, column in enumerate(element.properties):
        if (
            column.length is not None
            and len(rows)
            and (rows[f"n{index}"] != rows[f"n{index}"][0]).any()
        ):
            return None
    faces = [] if wanted is None else [rows[f"{wanted}"].astype(np.int64)]
    return [group for group in faces if group.shape[1] >= 3], end


def _fans(polygons: Polygons) -> npt.NDArray[np.int64]:
    """Triangles (F, 3) from polygons: first corner, and two neighbors each."""
    fans = [np.zeros((0, 3), np.int64)]
    for group in polygons:
        second = np.arange(1, group.shape[1] - 1)
        corners = np.stack([np.zeros_like(second), second, second + 1], axis=1)
        fans.append(group[:, corners].reshape(-1, 3))
    return np.concatenate(fans)
