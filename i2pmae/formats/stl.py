"""Surfaces in `.stl` files, text or binary.

No library is used: stl-reader ends the process on some damaged files; numpy-stl, trimesh and assimp
leave out facets, see docs/own-meshes.md.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from i2pmae.errors import DataError, one_line
from i2pmae.formats.files import parsing, read_bytes
from i2pmae.formats.polygons import Array, Mesh
from i2pmae.formats.words import Words, chunks, plain_text

_REMEDY = "Export it again."
_HEADER_BYTES = 84
_FACET = np.dtype([("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("attribute", "<u2")])
# Headers of programs that stream their output, and never came back to fill the number in.
_NOT_COUNTED = (0, 0xFFFFFFFF)
_WORDS = "facet normal # # # outer loop vertex # # # vertex # # # vertex # # # endloop endfacet"
_PATTERN = _WORDS.split()
_CORNERS = np.concatenate([np.arange(i + 1, i + 4) for i, w in enumerate(_PATTERN) if w[0] == "v"])
_KEYWORDS = np.array([i for i, word in enumerate(_PATTERN) if word != "#"])
_COMMENT = re.compile(rb"^[ \t]*(?:#|//)[^\n]*", re.MULTILINE)
_SPLIT_KEYWORD = re.compile(rb"\bend[ \t]+(loop|facet)\b")
# A name may hold anything, up to the line's end or, where all is on one line, the first facet.
_SOLID = re.compile(rb"\b(?:end[ \t]*)?solid\b(?:(?!\s(?:facet\s+normal|endsolid)\s)[^\n])*")


def read_stl(file: Path) -> Mesh:
    """Every facet of every solid.

    Raises:
        DataError: if the file is damaged or cut short.
    """
    data = read_bytes(file)
    promised = int.from_bytes(data[80:_HEADER_BYTES], "little")
    is_exact = len(data) == _HEADER_BYTES + promised * _FACET.itemsize
    is_text = b"\0" not in data.rstrip(b"\0") or data.startswith((b"\xff\xfe", b"\xfe\xff"))
    if is_text and not (is_exact and len(data) > _HEADER_BYTES):
        text = plain_text(data, file).lower()
        if b"solid" in text[:4096] or b"facet" in text[:4096]:
            return _mesh(_text_corners(text, file))
    return _mesh(_binary_corners(data, promised, file))


def _mesh(corners: Array) -> Mesh:
    return Mesh(corners.reshape(-1, 3), np.arange(len(corners) * 3, dtype=np.int32).reshape(-1, 3))


def _binary_corners(data: bytes, promised: int, file: Path) -> Array:
    room, rest = divmod(len(data) - _HEADER_BYTES, _FACET.itemsize)
    if promised in _NOT_COUNTED and room > 0 and rest == 0:
        promised = room
    expected = _HEADER_BYTES + promised * _FACET.itemsize
    if room < promised or len(data) < _HEADER_BYTES:
        raise DataError(
            f"{file} is neither text nor {expected} bytes long, as its header promises: it is cut "
            f"short or damaged. {_REMEDY}"
        )
    if room > promised and data[expected:].strip(b"\0 \r\n\t"):
        raise DataError(
            f"{file} continues for {len(data) - expected} bytes after the {promised} facets that "
            f"its header promises. {_REMEDY}"
        )
    return np.frombuffer(data, _FACET, promised, _HEADER_BYTES)["corners"].copy()


def _text_corners(text: bytes, file: Path) -> Array:
    corners = [np.zeros((0, 3, 3))]
    n_before = 0
    # Few files have these, and a search for bytes takes a tenth of the time.
    if b"#" in text or b"//" in text:
        text = _COMMENT.sub(b"", text)
    if b"end " in text or b"end\t" in text:
        text = _SPLIT_KEYWORD.sub(rb"end\1", text)
    with parsing(file, _REMEDY):
        for chunk in chunks(text, b"endfacet"):
            words = Words(_SOLID.sub(b"", chunk) if b"solid" in chunk else chunk)
            n, rest = divmod(len(words), len(_PATTERN))
            place = np.arange(n)[:, None] * len(_PATTERN)
            _check_keywords(words, place + _KEYWORDS, n_before)
            if rest:
                raise ValueError(
                    f"facet {n_before + n + 1} is cut short or is no triangle, at "
                    f"{words.at(n * len(_PATTERN))!r}"
                )
            corners.append(words.floats((place + _CORNERS).ravel()).reshape(-1, 3, 3))
            n_before += n
    return np.concatenate(corners)


def _check_keywords(words: Words, which: Array, n_before: int) -> None:
    expected = [_PATTERN[place] for place in _KEYWORDS]
    is_same = words.first_bytes(which) == [ord(word[0]) for word in expected]
    is_same &= words.lengths(which) == [len(word) for word in expected]
    if not is_same.all():
        row, column = np.argwhere(~is_same)[0]
        raise ValueError(
            f"facet {n_before + row + 1} has {words.at(which[row, column])!r} where "
            f"{one_line(expected[column])!r} belongs: cut short, or no triangle"
        )
