"""Surfaces in `.off` files (Geomview), text or binary.

No library is used: trimesh and assimp know neither binary files nor entries over several lines, see
docs/own-meshes.md.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

import numpy as np

from i2pmae.errors import DataError
from i2pmae.formats.files import parsing, read_bytes
from i2pmae.formats.polygons import Array, Mesh, triangulate
from i2pmae.formats.words import Words, by_length, chunks, plain_text, without_comments

_REMEDY = "Export it again."
_HEAD = re.compile(rb"\s*((?:ST|C|N)*)(4)?(n)?(?:OFF|off)(\s+BINARY\b[^\n]*\n)?")
_COUNTS = re.compile(
    rb"\s*(?:(\d{1,18})[ \t]+(\d{1,18})(?:[ \t]+-?\d+)?|(\d{1,18})\s+(\d{1,18})\s+-?\d+)(?=\s|$)"
)


class _Header(NamedTuple):
    """What a vertex holds."""

    dimensions: int  # 4: homogeneous
    others: int  # normals
    colors: bool
    textures: bool

    @property
    def width(self) -> int:
        """Numbers of a vertex as the format defines them."""
        return self.dimensions + self.others + 4 * self.colors + 2 * self.textures

    @property
    def widths(self) -> set[int]:
        """Numbers of a vertex as people write them: colors of 3 or 4, announced or not."""
        least = self.dimensions + self.others + 2 * self.textures
        return {least, least + 3, least + 4}


def read_off(file: Path) -> Mesh:
    """All faces of a file; colors and normals are passed over.

    Raises:
        DataError: if the file is damaged, cut short, or not of three dimensions.
    """
    data = read_bytes(file)
    head = _HEAD.match(data)
    if head is None or head[4] is None:
        data = without_comments(plain_text(data, file))
        head = _HEAD.match(data)
    if head is None:
        raise DataError(f"{file} has no header of an .off file. {_REMEDY}")
    others, homogeneous, any_dimension, binary = head.groups()
    header = _Header(4 if homogeneous else 3, 3 * (b"N" in others), b"C" in others, b"S" in others)
    with parsing(file, _REMEDY):
        if binary:
            if any_dimension:
                raise ValueError("binary files of any dimension are not read")
            vertices, polygons = _read_binary(data, head.end(), header)
        else:
            place = _skip_dimension(data, head.end()) if any_dimension else head.end()
            vertices, polygons = _read_text(data, place, header)
        vertices = vertices[:, :3] / vertices[:, 3:] if homogeneous else vertices
    return Mesh(vertices, triangulate(vertices, polygons, file))


def _skip_dimension(data: bytes, place: int) -> int:
    """Where the text continues after the number of dimensions."""
    found = re.compile(rb"\s*(\d{1,9})").match(data, place)
    if found is None or int(found[1]) != 3:
        raise ValueError("it is not of three dimensions")
    return found.end()


def _read_text(data: bytes, place: int, header: _Header) -> tuple[Array, list[Array]]:
    # The third count, of edges, may be missing at the line's end; or each has a line of its own.
    found = _COUNTS.match(data, place)
    if found is None:
        raise ValueError("its header promises no numbers of vertices and faces")
    n_vertices, n_faces = (int(count) for count in found.groups() if count is not None)
    try:
        return _by_lines(data, found.end(), header, n_vertices, n_faces)
    except ValueError as error:
        try:
            return _by_words(data[found.end() :], header, n_vertices, n_faces)
        except ValueError:
            n_lines = sum(not line.isspace() for line in data[found.end() :].splitlines() if line)
            if n_lines < n_vertices + n_faces:
                raise ValueError(
                    f"it holds {n_lines} lines of vertices and faces, its header promises "
                    f"{n_vertices + n_faces}: it is cut short"
                ) from None
            raise error from None


def _by_lines(
    data: bytes, place: int, header: _Header, n_vertices: int, n_faces: int
) -> tuple[Array, list[Array]]:
    """As nearly all files are: a vertex or face in each line."""
    vertices: list[Array] = [np.zeros((0, header.dimensions))]
    polygons: list[Array] = []
    n_found = 0
    for chunk in chunks(data, place=place):
        words = Words(chunk)
        first, counts = words.lines()
        split = min(max(n_vertices - n_found, 0), len(first))
        end = min(max(n_vertices + n_faces - n_found, 0), len(first))
        n_found += len(first)
        if not np.isin(counts[:split], list(header.widths)).all():
            raise ValueError(
                "a vertex has another number of values than the format says; expected one of "
                + ", ".join(map(str, sorted(header.widths)))
            )
        which = first[:split, None] + np.arange(header.dimensions)
        vertices.append(words.floats(which.ravel()).reshape(which.shape))
        lengths = words.integers(first[split:end])
        if (lengths >= counts[split:end]).any():
            raise ValueError("a face lists fewer corners than it promises")
        polygons += by_length(words, first[split:end] + 1, lengths)
        if len(first) > end and words.at(first[end]) in map(str, range(3, counts[end])):
            raise ValueError(f"more faces follow than the {n_faces} that its header promises")
    if n_found < n_vertices + n_faces:
        raise ValueError("it is cut short")
    return np.concatenate(vertices), polygons


def _by_words(
    text: bytes, header: _Header, n_vertices: int, n_faces: int
) -> tuple[Array, list[Array]]:
    """Entries that go over several lines, or share one."""
    words = Words(text)
    n_values = n_vertices * header.width
    if n_values + n_faces > len(words):
        raise ValueError("it is cut short")
    vertices = words.floats(np.arange(n_values)).reshape(-1, header.width)
    values = words.integers(np.arange(n_values, len(words)))
    first = np.empty(n_faces, np.int64)
    place = 0
    for face in range(n_faces):
        if place >= len(values) or values[place] < 0:
            raise ValueError("it is cut short")
        first[face] = place
        place += 1 + int(values[place])
    if place != len(values):
        raise ValueError("its faces hold other values than corners")
    polygons = by_length(words, first + 1 + n_values, values[first])
    return vertices[:, : header.dimensions], polygons


def _read_binary(data: bytes, place: int, header: _Header) -> tuple[Array, list[Array]]:
    n_vertices, n_faces = np.frombuffer(data, ">i4", 3, place)[:2].tolist()
    place += 12
    if min(n_vertices, n_faces) < 0:
        raise ValueError("its header promises a negative number of vertices or faces")
    vertices = np.frombuffer(data, ">f4", n_vertices * header.width, place)
    vertices = vertices.reshape(-1, header.width)[:, : header.dimensions].astype(np.float64)
    rest = data[place + 4 * n_vertices * header.width :]
    values = np.frombuffer(rest, ">i4", len(rest) // 4).astype(np.int32)
    first = np.empty(min(n_faces, len(values)), np.int64)
    place = 0
    for face in range(n_faces):
        if place >= len(values) or values[place] < 0:
            raise ValueError(f"it ends in face {face} of {n_faces}, or that one is damaged")
        first[face] = place
        place += 1 + int(values[place])  # then come the colors, counted
        place += 1 + max(int(values[place]), 0) if place < len(values) else 1
    if place > len(values):
        raise ValueError("it ends in its last face")
    lengths = values[first]
    return vertices, [
        values[first[lengths == n, None] + np.arange(1, n + 1)]
        for n in np.unique(lengths[lengths >= 3]).tolist()
    ]
