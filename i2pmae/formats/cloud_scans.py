"""Scanned objects as ScanObjectNN publishes them before sampling: `object_dataset/<class>/*.bin`.

A file is float32: the number of points, then 11 values per point, x, y, z first; the last are the
labels of its instance and of its part.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from i2pmae.errors import DataError
from i2pmae.formats.files import parsing, read_bytes

_COLUMNS = 11
_NUMBER = np.dtype("<f4")


def count_scan(file: Path) -> int | None:
    """Points in a file by its first number; None if the file's size does not fit that."""
    with parsing(file, "Check the file and its permissions."), file.open("rb") as stream:
        return _n_points(stream.read(_NUMBER.itemsize), file.stat().st_size)


def read_scan(file: Path) -> npt.NDArray[np.float32]:
    """All points of a file.

    Returns:
        (n, 11) float32, x, y, z first.

    Raises:
        DataError: if its size does not fit the number of points that it begins with.
    """
    data = read_bytes(file)
    if _n_points(data, len(data)) is None:
        raise DataError(
            f"{file} is {len(data)} bytes long; expected the number of points, then {_COLUMNS} "
            "float32 values per point, as in ScanObjectNN's files. Download it again, or remove it."
        )
    return np.frombuffer(data, _NUMBER)[1:].reshape(-1, _COLUMNS).copy()


def _n_points(start: bytes, size: int) -> int | None:
    """The number of points at the start of a file, None if its size is that of another number."""
    if len(start) < _NUMBER.itemsize:
        return None
    n_points = float(np.frombuffer(start, _NUMBER, count=1)[0])
    fits = n_points > 0 and size == (1 + n_points * _COLUMNS) * _NUMBER.itemsize
    return int(n_points) if fits else None
