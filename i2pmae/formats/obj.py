"""Surfaces in `.obj` files (Wavefront).

No library is used: tinyobjloader takes bad numbers for 0 and reads no comments after values;
trimesh and assimp get other cases wrong, see docs/own-meshes.md.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from i2pmae.errors import DataError
from i2pmae.formats.files import parsing, read_bytes
from i2pmae.formats.polygons import Array, Mesh, triangulate
from i2pmae.formats.words import Words, by_length, chunks, plain_text, without_comments

_REMEDY = "Export it again."
# Curved surfaces, and commands that read other files.
_NOT_READ = {"surf", "curv", "curv2", "bzp", "bsp", "cdc", "cdp", "res", "call", "csh"}


def read_obj(file: Path) -> Mesh:
    """All faces of a file, of all groups and materials.

    Raises:
        DataError: if the file is damaged, or holds curved surfaces.
    """
    text = plain_text(read_bytes(file), file)
    text = without_comments(text)  # first: they may end in a backslash, as paths do
    text = re.sub(rb"\\[ \t]*\n", b" ", text) if b"\\" in text else text
    vertices, polygons = [np.zeros((0, 3))], []
    n_before = 0
    with parsing(file, _REMEDY):
        for chunk in chunks(text):
            words = Words(chunk)
            first, counts = words.lines()
            if not len(first):
                continue
            is_vertex, is_face = _kinds(words, first, file)
            polygons += _faces(words, first, counts - 1, is_face, is_vertex.cumsum() + n_before)
            first = first[is_vertex]
            if (counts[is_vertex] < 4).any():
                raise ValueError("a vertex has fewer than three coordinates")
            coordinates = words.floats((first[:, None] + np.arange(1, 4)).ravel())
            vertices.append(coordinates.reshape(-1, 3))
            n_before += len(first)
    points = np.concatenate(vertices)
    return Mesh(points, triangulate(points, polygons, file))


def _kinds(words: Words, first: Array, file: Path) -> tuple[Array, Array]:
    """Which lines are vertices, and which are faces."""
    letters = words.first_bytes(first) | 32  # lower case
    lengths = words.lengths(first)
    is_vertex = (letters == ord("v")) & (lengths == 1)
    is_face = (letters == ord("f")) & (lengths == 1)
    others = first[~is_vertex & ~is_face & (lengths < 6) & np.isin(letters, list(b"vfscbr"))]
    # Of "vn", "vt", "s" there may be millions.
    common = np.isin(words.bytes[words.starts[others] + 1], list(b"tn \n\t"))
    for word in others[~common].tolist():
        name = words.at(word).lower()
        if name in _NOT_READ:
            raise DataError(
                f"{file} holds {name!r}: curved surfaces and commands are not read. Export it as "
                "polygons."
            )
        if name == "fo":  # as faces were called once
            is_face[np.searchsorted(first, word)] = True
        elif re.match(r"[vf][-+.\d]", name):
            raise DataError(f"{file}: a line begins with {name!r}: it is damaged. {_REMEDY}")
    return is_vertex, is_face


def _faces(
    words: Words, first: Array, counts: Array, is_face: Array, n_before: Array
) -> list[Array]:
    """Polygons of some lines, corners counted from 0; relative ones count from their line."""
    groups = []
    short = first[is_face & (counts > 0) & (counts < 3)]
    words.integers(short + 1, until=b"/")  # refuses `1,2,3`, which is one word
    wanted = is_face & (counts >= 3)
    for n in np.unique(counts[wanted]).tolist():
        lines = np.flatnonzero(wanted & (counts == n))
        (corners,) = by_length(words, first[lines] + 1, np.full(len(lines), n), until=b"/")
        if not corners.all():
            raise ValueError("a face names vertex 0; they are counted from 1")
        relative = corners < 0
        corners -= 1
        if relative.any():
            back = n_before[lines, None] + corners + 1
            if (back[relative] < 0).any():
                raise ValueError("a face counts back to before the first vertex")
            np.copyto(corners, back, where=relative, casting="unsafe")
        groups.append(corners)
    return groups
