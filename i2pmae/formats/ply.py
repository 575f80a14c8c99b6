"""Vertices and faces of `.ply` files, text or binary.

No library is used: plyfile's license (GPL) does not go with ours; pyminiply, trimesh and assimp
leave out triangle strips or end the process on a file cut short, see docs/own-meshes.md.
"""

from __future__ import annotations

import re
from array import array
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from i2pmae.errors import DataError, one_line
from i2pmae.formats.files import (
    BYTE_ORDER_MARK,
    START_BYTES,
    parsing,
    read_bytes,
    refuse_stand_in,
)
from i2pmae.formats.polygons import Array, Mesh, blocks, narrow, triangulate
from i2pmae.formats.words import Words, by_length, chunks

_TYPES = {
    "bool": "u1",
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
# Names of elements that are surfaces, and of those that list vertices but are not.
_SURFACES = {
    "polygons": re.compile(r"(tri)?(faces?|facets?)|poly(gon)?s?|tri(angle)?s?|quads?"),
    "strips": re.compile(r"tri(angle)?[-_]?strips?|strips?"),
    "fans": re.compile(r"tri(angle)?[-_]?fans?|fans?"),
}
_NO_SURFACES = re.compile(r"range_?grid|edges?|(poly)?lines?")


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

    @property
    def surface(self) -> str:
        """'polygons', 'strips' or 'fans'; 'unknown' if it lists vertices otherwise; else ''."""
        for surface, names in _SURFACES.items():
            if names.fullmatch(self.name):
                return surface
        lists = any(p.length is not None and p.name in _FACE_LISTS for p in self.properties)
        return "unknown" if lists and not _NO_SURFACES.fullmatch(self.name) else ""


class Header(NamedTuple):
    """What a file says about itself."""

    is_text: bool
    elements: list[Element]
    n_bytes: int  # where the data begins

    @property
    def n_faces(self) -> int:
        """Polygons, strips of triangles and the like; none in a point cloud."""
        return sum(element.n_rows for element in self.elements if element.surface)

    @property
    def n_vertices(self) -> int:
        """Points."""
        return sum(element.n_rows for element in self.elements if element.name == "vertex")

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


def read_ply(file: Path) -> Mesh:
    """Vertices and triangles; the latter are none for a point cloud.

    Raises:
        DataError: if the file is damaged or cut short.
    """
    data = read_bytes(file)
    header = _parse_header(data[:_HEADER_BYTES], file)
    _check_size(header, len(data) - header.n_bytes, file)
    with parsing(file, "Export it again."):
        vertices, polygons = (_read_text if header.is_text else _read_binary)(data, header)
    return Mesh(vertices, triangulate(vertices, polygons, file))


def _parse_header(data: bytes, file: Path) -> Header:
    refuse_stand_in(data[:START_BYTES], file)
    # A lone \r ends lines, too; but a \n after it is data, unless all lines end so.
    found = re.match(rb"(?i)(?:" + BYTE_ORDER_MARK + rb")?ply[ \t]*(\r\n|\r|\n)", data)
    line_end = found[1] if found else b"\n"
    end = re.search(rb"(?i)(?:\r|\n)end_header[ \t]*" + line_end, data)
    lines = [] if end is None else data[: end.start()].decode("utf-8", "replace").splitlines()
    if found is None or end is None:
        raise DataError(f"{file} has no header of a .ply file. Export it again.")
    order = None
    elements: list[Element] = []
    for line in lines[1:]:
        words = line.lower().split()
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
    """Which column lists a face's corners, if the element has faces."""
    if not element.surface or element.n_rows == 0:
        return None
    if element.surface == "unknown":
        raise ValueError(f"{element.name!r} lists vertices, but not as faces or strips")
    for place, column in enumerate(element.properties):
        is_list = column.length is not None and column.type.kind in "iu"
        if is_list and column.name in _FACE_LISTS:
            return place
    names = ", ".join(repr(column.name) for column in element.properties)
    raise ValueError(
        f"{element.name!r} has no integers {' or '.join(_FACE_LISTS)}, but {names or 'nothing'}"
    )


def _polygons(groups: list[Array], surface: str) -> list[Array]:
    """Polygons as they are; triangles (F, 3) of fans, and of strips, where -1 begins another."""
    if surface == "polygons":
        return groups
    rows = [row for group in groups for row in group]
    if surface == "fans":
        return [
            np.stack([np.broadcast_to(row[0], len(row) - 2), row[1:-1], row[2:]], axis=1)
            for row in rows
        ]
    runs = [np.stack([strip[:-2], strip[1:-1], strip[2:]], axis=1) for strip in rows]
    return [triangles[(triangles != -1).all(axis=1)] for triangles in runs]


def _read_text(data: bytes, header: Header) -> tuple[Array, list[Array]]:
    text = data[header.n_bytes :].replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    vertices: list[Array] = [np.zeros((0, 3))]
    polygons: list[Array] = []
    waiting = [(element, element.n_rows) for element in reversed(header.elements)]
    for chunk in chunks(text):
        words = Words(chunk)
        first, counts = words.lines()
        while len(first) and waiting:
            element, n_rows = waiting.pop()
            rows, lengths = first[:n_rows], counts[:n_rows]
            first, counts = first[n_rows:], counts[n_rows:]
            if len(rows) < n_rows:
                waiting.append((element, n_rows - len(rows)))
            if element.name == "vertex":
                columns = np.array(_xyz_columns(element))
                if (lengths < len(element.properties)).any():
                    raise ValueError("a vertex has fewer values than the header promises")
                values = words.floats((rows[:, None] + np.sort(columns)).ravel()).reshape(-1, 3)
                vertices.append(values[:, columns.argsort().argsort()])
            wanted = _face_column(element)
            if wanted is not None:
                groups = _text_lists(words, rows, lengths, element.properties[:wanted])
                polygons += _polygons(groups, element.surface)
        if len(first):
            raise ValueError("lines follow those that its header promises")
    for element, n_rows in waiting:
        if n_rows:
            raise ValueError(
                f"{element.n_rows - n_rows} of {element.n_rows} lines of {element.name!r} are there"
            )
    return np.concatenate(vertices), polygons


def _text_lists(words: Words, first: Array, counts: Array, before: list[Property]) -> list[Array]:
    """One list of each line, that comes after other columns."""
    places = np.zeros_like(first)
    for column in [*before, None]:
        if (places >= counts).any():
            raise ValueError("a face has fewer values than the header promises")
        if column is not None and column.length is None:
            places += 1
            continue
        lengths = words.integers(first + places)
        places += 1
        if column is not None:
            places += np.maximum(lengths, 0)
    wrong = (lengths < 0) | (lengths > counts - places)
    if wrong.any():
        n, found = lengths[wrong][0], (counts - places)[wrong][0]
        raise ValueError(f"a face of {n} corners lists {found}")
    return list(by_length(words, first + places, lengths))


def _read_binary(data: bytes, header: Header) -> tuple[Array, list[Array]]:
    vertices: list[Array] = [np.zeros((0, 3))]
    polygons: list[Array] = []
    place = header.n_bytes
    for element in header.elements:
        if all(column.length is None for column in element.properties):
            row = np.dtype([(f"{i}", column.type) for i, column in enumerate(element.properties)])
            if element.name == "vertex":
                rows = np.frombuffer(data, row, element.n_rows, place)
                columns = [rows[f"{i}"] for i in _xyz_columns(element)]
                vertices.append(np.stack(columns, axis=1).astype(np.float64))
            place += row.itemsize * element.n_rows
            _face_column(element)  # refuses faces that list no corners
        else:
            if element.name == "vertex":
                _xyz_columns(element)
            groups, place = _read_lists(data, place, element, _face_column(element))
            polygons += _polygons(groups, element.surface)
    return np.concatenate(vertices), polygons


def _read_lists(
    data: bytes, place: int, element: Element, wanted: int | None
) -> tuple[list[Array], int]:
    """Entries of one list property by length, and where the next element begins."""
    uniform = _read_uniform(data, place, element, wanted)
    if uniform is not None:
        return uniform
    is_big = any(p.type.byteorder == ">" for p in element.properties)
    order: Literal["big", "little"] = "big" if is_big else "little"
    steps = [
        (column.type.itemsize, 0 if column.length is None else column.length.itemsize)
        for column in element.properties
    ]
    starts, lengths = array("q"), array("q")
    for row in range(element.n_rows):
        for index, (size, length_size) in enumerate(steps):
            if not length_size:
                place += size
                continue
            if length_size == 1 and place < len(data):
                n = data[place]
            else:
                n = int.from_bytes(data[place : place + length_size], order)
            place += length_size
            if index == wanted:
                starts.append(place)
                lengths.append(n)
            place += n * size
        if place > len(data):
            raise ValueError(f"it ends in row {row} of {element.n_rows} of {element.name!r}")
    if wanted is None:
        return [], place
    kind = element.properties[wanted].type
    flat = np.frombuffer(data, np.uint8)
    first, counts = np.array(starts, np.int64), np.array(lengths, np.int64)
    groups = []
    for n in np.unique(counts[counts >= 3]).tolist():
        rows = first[counts == n]
        corners = np.empty((len(rows), n), np.int32)
        for some in blocks(len(rows), n * kind.itemsize):
            where = rows[some, None] + np.arange(n * kind.itemsize)
            corners[some] = narrow(flat[where].view(kind))
        groups.append(corners)
    return groups, place


def _read_uniform(
    data: bytes, place: int, element: Element, wanted: int | None
) -> tuple[list[Array], int] | None:
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
    faces = [] if wanted is None else [narrow(rows[f"{wanted}"])]
    return [group for group in faces if group.shape[1] >= 3], end
