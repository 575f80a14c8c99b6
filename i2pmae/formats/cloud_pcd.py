"""Points in `.pcd` files (Point Cloud Library): text, binary or compressed.

No library is used: pypcd4 takes text that is cut short, and refuses headers of older versions and
numbers apart by several blanks.
"""

from __future__ import annotations

import math
import struct
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from i2pmae.formats.cloud_arrays import LARGEST_RATIO
from i2pmae.formats.files import open_parsing

_REMEDY = "Export it again, or as .ply."
_HEADER_BYTES = 1 << 16  # more than any header needs
_MOST_VALUES = 4096  # of a point
_TYPES = {
    (letter, size): np.dtype(f"<{kind}{size}")
    for letter, kind, sizes in (
        ("F", "f", (4, 8)),
        ("I", "i", (1, 2, 4, 8)),
        ("U", "u", (1, 2, 4, 8)),
    )
    for size in map(str, sizes)
}


class PcdHeader(NamedTuple):
    """What a file says about itself."""

    n_points: int
    fields: list[tuple[str, np.dtype[Any], int]]  # name, type, values of a point
    encoding: str
    n_bytes: int  # where the points begin

    @property
    def n_columns(self) -> int:
        """Values of a point."""
        return sum(count for _, _, count in self.fields)

    @property
    def row(self) -> int:
        """Bytes of a point."""
        return sum(dtype.itemsize * count for _, dtype, count in self.fields)


def pcd_header(file: Path) -> PcdHeader:
    """Read a file's header only, and compare it with the file's size.

    Raises:
        DataError: if it is no `.pcd`, or cut short.
    """
    with open_parsing(file, _REMEDY) as stream:
        header = _parse_header(stream.read(_HEADER_BYTES))
        n_left = file.stat().st_size - header.n_bytes
        needed = header.n_points * header.row
        if header.encoding == "ascii":
            needed = header.n_points * 2 * header.n_columns - 1  # a digit and a separator each
        elif header.encoding == "binary_compressed":
            stream.seek(header.n_bytes)
            packed, unpacked = struct.unpack("<II", stream.read(8))
            if unpacked != needed or unpacked > LARGEST_RATIO * packed + 1024:
                raise ValueError(f"{packed} bytes cannot unpack to {needed} bytes of points")
            needed = 8 + packed
        if needed > n_left:
            raise ValueError(f"{needed} bytes of points expected, {n_left} found: it is cut short")
        return header


def read_pcd(file: Path) -> npt.NDArray[np.float64]:
    """All points of a file, (n, 3).

    Raises:
        DataError: if it is damaged, cut short, or has no fields x, y and z.
    """
    header = pcd_header(file)
    with open_parsing(file, _REMEDY) as stream:
        stream.seek(header.n_bytes)
        names = [name for name, _, _ in header.fields]
        if not {*"xyz"} <= {*names}:
            raise ValueError(f"it has no fields x, y and z, but {' '.join(names)}")
        places = [names.index(axis) for axis in "xyz"]
        if header.encoding == "ascii":
            return _read_text(stream.read(), header, places)
        if header.encoding == "binary":
            row = np.dtype([(f"{i}", *field[1:]) for i, field in enumerate(header.fields)])
            points = np.frombuffer(stream.read(header.n_points * header.row), row)
            return np.stack([_first(points[f"{place}"]) for place in places], axis=1)
        packed, unpacked = struct.unpack("<II", stream.read(8))
        data = _unpack(stream.read(packed), unpacked)
        columns = []
        for place in places:  # all values of a field come before those of the next
            _, dtype, count = header.fields[place]
            start = header.n_points * sum(d.itemsize * n for _, d, n in header.fields[:place])
            values = np.frombuffer(data, dtype, header.n_points * count, start)
            columns.append(_first(values.reshape(-1, count)))
        return np.stack(columns, axis=1)


def _parse_header(data: bytes) -> PcdHeader:
    lines: dict[str, list[str]] = {}
    place = 0
    while "DATA" not in lines:
        end = data.find(b"\n", place)
        if end < 0:
            raise ValueError("its header has no line DATA")
        key, *values = data[place:end].decode("utf-8", "replace").split() or ["#"]
        lines[key.upper()] = values
        place = end + 1
    names = lines.get("FIELDS", lines.get("COLUMNS", []))
    defaults = {"SIZE": "4", "TYPE": "F", "COUNT": "1"}  # which files of old versions leave out
    sizes, types, counts = (lines.get(key, [value] * len(names)) for key, value in defaults.items())
    if not len(names) == len(sizes) == len(types) == len(counts) > 0:
        raise ValueError("FIELDS, SIZE, TYPE and COUNT differ in length")
    n_values = _numbers(counts)
    if sum(n_values) > _MOST_VALUES:
        raise ValueError(f"{sum(n_values)} values a point")
    fields = []
    for name, letter, size, count in zip(names, types, sizes, n_values, strict=True):
        if (letter.upper(), size) not in _TYPES:
            raise ValueError(f"its field {name} is of type {letter} and size {size}")
        fields.append((name.lower(), _TYPES[letter.upper(), size], count))
    told = ["POINTS"] if "POINTS" in lines else ["WIDTH", "HEIGHT"]
    n_points = math.prod(_numbers(lines.get(key, []))[0] for key in told)
    encoding = " ".join(lines["DATA"]).lower()
    if encoding not in ("ascii", "binary", "binary_compressed"):
        raise ValueError(f"DATA {encoding} is not known")
    return PcdHeader(n_points, fields, encoding, place)


def _numbers(words: list[str]) -> list[int]:
    numbers = [int(word) for word in words]
    if not numbers or min(numbers) < 0:
        raise ValueError(f"expected numbers, found {' '.join(words)!r}")
    return numbers


def _first(values: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """The first value of each point, where a field has several."""
    return (values if values.ndim == 1 else values[:, 0]).astype(np.float64)


def _read_text(data: bytes, header: PcdHeader, places: list[int]) -> npt.NDArray[np.float64]:
    counts = [count for _, _, count in header.fields]
    columns = [sum(counts[:place]) for place in places]
    lines = [line for line in data.decode("ascii").splitlines() if line.strip()]
    if len(lines) != header.n_points:
        raise ValueError(f"it holds {len(lines)} points, its header promises {header.n_points}")
    if not lines:
        return np.zeros((0, 3))
    return np.loadtxt(lines, np.float64, comments=None, usecols=columns, ndmin=2)


def _unpack(data: bytes, size: int) -> bytes:
    """Decompress LZF: runs of bytes, and repetitions of what came before."""
    found = bytearray()
    place = 0
    while place < len(data) and len(found) <= size:
        control = data[place]
        place += 1
        if control < 32:
            found += data[place : place + control + 1]
            place += control + 1
            continue
        length = control >> 5
        if length == 7:
            length += data[place]
            place += 1
        start = len(found) - ((control & 31) << 8) - data[place] - 1
        place += 1
        if start < 0:
            raise ValueError("its compressed points are damaged")
        run = found[start : start + length + 2]
        found += (run * ((length + 2) // len(run) + 1))[: length + 2]
    if len(found) != size:
        raise ValueError("its compressed points are damaged")
    return bytes(found)
