"""Text formats of meshes, read many words at a time.

A Python loop over the lines of a mesh of a million faces takes many seconds. So words are found as
places in the text's bytes, and numbers are read by whole columns.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from i2pmae.errors import DataError, one_line
from i2pmae.formats.files import BYTE_ORDER_MARK, parsing, wide_encoding
from i2pmae.formats.polygons import Array, narrow

_CHUNK = 1 << 22  # bytes looked at together, so that memory stays small beside the text
_MOST_DIGITS = 18


def plain_text(data: bytes, file: Path) -> bytes:
    """Text as bytes that extend ASCII, with `\\n` line ends and no byte-order mark.

    Raises:
        DataError: if it is binary.
    """
    with parsing(file, "Export it again as UTF-8."):
        encoding = wide_encoding(data)
        if encoding is not None:
            data = data.decode(encoding).encode()
    data = data.removeprefix(BYTE_ORDER_MARK).rstrip(b"\0")  # padding of some programs
    if b"\0" in data:
        raise DataError(f"{file} is binary; expected text. Download or export it again.")
    if b"\r" in data:
        data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    return data


def without_comments(text: bytes) -> bytes:
    """Leave out what follows `#` in each line."""
    return re.sub(rb"#[^\n]*", b"", text) if b"#" in text else text


def chunks(text: bytes, end: bytes = b"\n", place: int = 0) -> Iterator[bytes]:
    """Parts of a text, from a place on, that each end in `end`, but for the last."""
    while place < len(text):
        stop = len(text)
        if place + _CHUNK < stop:
            found = text.find(end, place + _CHUNK)
            stop = stop if found < 0 else found + len(end)
        yield text[place:stop]
        place = stop


class Words:
    """The words of a text, separated by blanks and control characters."""

    def __init__(self, text: bytes):
        self._text = text
        self.bytes = np.frombuffer(text + b"\n", np.uint8)
        blank = np.empty(len(self.bytes) + 1, np.bool_)
        blank[0] = True
        np.less_equal(self.bytes, 32, out=blank[1:])
        edges = np.flatnonzero(blank[1:] != blank[:-1])
        self.starts, self.ends = edges[::2], edges[1::2]

    def __len__(self) -> int:
        return len(self.starts)

    def lines(self) -> tuple[Array, Array]:
        """Of each line that has words: the first one, and how many."""
        ends = np.flatnonzero(self.bytes == 10)
        edges = np.concatenate([[0], np.searchsorted(self.starts, ends)])
        counts = np.diff(edges)
        return edges[:-1][counts > 0], counts[counts > 0]

    def at(self, word: int) -> str:
        """One word, for messages."""
        return one_line(
            self._text[self.starts[word] : self.ends[word]][:80].decode("utf-8", "replace"), 40
        )

    def first_bytes(self, which: Array) -> Array:
        """The first character of some words."""
        return self.bytes[self.starts[which]]

    def lengths(self, which: Array) -> Array:
        """How long some words are, bytes."""
        return np.asarray(self.ends[which] - self.starts[which])

    def floats(self, which: Array) -> npt.NDArray[np.float64]:
        """Some words, in order of the text, as numbers.

        Raises:
            ValueError: if one is no number.
        """
        change = np.zeros(len(self.bytes) + 1, np.int8)
        change[self.starts[which]] += 1
        change[self.ends[which] + 1] -= 1  # a blank after each
        kept = self.bytes[change.cumsum(dtype=np.int8)[:-1].view(np.bool_)].tobytes()
        if b"_" in kept:  # which Python allows between digits
            raise ValueError("a number holds '_'")
        return np.array(kept.split(), np.float64)

    def integers(self, which: Array, *, until: bytes = b" ") -> npt.NDArray[np.int64]:
        """Some words as integers, each up to its end or the character `until`.

        Raises:
            ValueError: if one is no integer.
        """
        place = self.starts[which].copy()
        negative = self.bytes[place] == ord("-")
        place += negative
        first = place.copy()
        values = np.zeros(len(place), np.int64)
        for _ in range(_MOST_DIGITS):
            digits = self.bytes[place] - np.uint8(48)
            is_digit = digits <= 9
            if not is_digit.any():
                break
            np.copyto(values, values * 10 + digits, where=is_digit)
            place += is_digit
        wrong = (place == first) | ((place < self.ends[which]) & (self.bytes[place] != ord(until)))
        if wrong.any():
            raise ValueError(f"{self.at(np.asarray(which)[wrong][0])!r} is no integer")
        return np.where(negative, -values, values)


def by_length(
    words: Words, first: Array, counts: Array, *, until: bytes = b" "
) -> list[npt.NDArray[np.int32]]:
    """Polygons whose corners stand one after another, one (F, n) array for each count n.

    Args:
        words: of a text.
        first: (F,) the first corner of each polygon.
        counts: (F,) how many corners each has; those with fewer than three are left out.
        until: as for `integers`.
    """
    groups = []
    for n in np.unique(counts[counts >= 3]).tolist():
        which = first[counts == n, None] + np.arange(n)
        corners = words.integers(which.ravel(), until=until).reshape(-1, n)
        groups.append(narrow(corners))
    return groups
