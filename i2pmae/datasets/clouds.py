"""Point clouds in people's own folders, one file each."""

from __future__ import annotations

import contextlib
import importlib
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from i2pmae.datasets.files import (
    check_npy_header,
    one_line,
    parsing,
    read_npy,
    read_text,
    refuse_gzip,
)
from i2pmae.datasets.folders import CLOUD_SUFFIXES, entries_of, left_out, suffix, walk
from i2pmae.datasets.ply import ply_header, read_ply
from i2pmae.datasets.source import Entry, ShapeSource
from i2pmae.errors import DataError

_ARRAY_NAMES = ("points", "xyz", "pos", "coords", "pc", "point_cloud", "pointcloud", "vertices")
_UNPACKED_FREELY = 1 << 26  # bytes that an archive may unpack to, however small it is
_LARGEST_RATIO = 300  # beyond that, unpacked to packed size
# Of a .las file: magic, where the points begin, number of records before them, kind of points.
_LAS_HEADER = struct.Struct("<4s92xIIB")
_LAS_RECORD = 54  # bytes, at least
_UNREADABLE = "Export it again, or as another of " + " ".join(CLOUD_SUFFIXES) + "."

Array = npt.NDArray[Any]


class Clouds(ShapeSource):
    """One point cloud a file: a random subset where it holds more points than asked for.

    Which points, and their order, depends on seed and id alone; so the first n of what is kept
    are a fair sample, too. They are then centred and scaled to the unit sphere. Normals, colours
    and other columns are ignored. Classes and splits come from folders, see `folders`.

    Raises:
        DataError: if there are no clouds, two share an id, a class has none, or a package that
            reads them is missing.
    """

    layout = "clouds"
    shuffled: ClassVar[bool] = True

    def __init__(self, root: Path, *, split: str, limit: int | None, points: int, seed: int):
        folder = walk(root)
        entries, class_names = entries_of(root, folder, CLOUD_SUFFIXES)
        for kind in sorted({suffix(entry.file.name) for entry in entries}):
            if kind in _PACKAGES:
                _package(kind)
        super().__init__(
            root if root.is_dir() else root.parent,
            class_names,
            entries,
            split=split,
            limit=limit,
            points=points,
            seed=seed,
            notes=left_out(folder, CLOUD_SUFFIXES),
        )
        with contextlib.suppress(DataError):  # load() says what is wrong with the file
            extra = _extra_columns(self.entries[0].file)
            if extra:
                self.notes.append("only x, y, z are read; normals, colours and the like are not")

    def _read(self, entry: Entry) -> tuple[Array, None]:
        return read_cloud(entry.file), None


def read_cloud(file: Path) -> Array:
    """All points of a cloud.

    Args:
        file: `.npy`, `.npz`, `.ply`, `.pcd`, `.xyz` or `.las`.

    Returns:
        (n, 3 or more columns) numbers, x, y, z first, in the file's unit.

    Raises:
        DataError: if the file cannot be read or is no point cloud.
    """
    return _READERS[suffix(file.name)](file)


def _extra_columns(file: Path) -> bool:
    kind = suffix(file.name)
    if kind == ".ply":
        return ply_header(file).n_vertex_properties > 3
    if kind == ".pcd":
        return len(_pcd_header(file)["FIELDS"]) > 3
    cloud = read_cloud(file)
    return cloud.ndim == 2 and cloud.shape[1] > 3


def _read_npz(file: Path) -> Array:
    with parsing(file, "Save it again with numpy.savez."):
        with file.open("rb") as stream:
            refuse_gzip(stream.read(2), file)
        with zipfile.ZipFile(file) as archive:
            members = {m.filename.removesuffix(".npy"): m for m in archive.infolist()}
            known = [name for name in _ARRAY_NAMES if name in members]
            if not known and len(members) != 1:
                raise DataError(
                    f"{file} holds the arrays {one_line(', '.join(members), 120) or 'none'}; "
                    "expected one, or one named 'points'. Rename it."
                )
            member = members[known[0]] if known else next(iter(members.values()))
            if member.file_size > _UNPACKED_FREELY + _LARGEST_RATIO * member.compress_size:
                raise DataError(
                    f"{file} unpacks {member.compress_size} bytes to {member.file_size}: it is "
                    "damaged or made to harm. Remove it."
                )
            with archive.open(member) as stream:
                check_npy_header(stream, member.file_size, file)
            with archive.open(member) as stream:
                return np.asarray(np.lib.format.read_array(stream, allow_pickle=False))


def _read_ply_cloud(file: Path) -> Array:
    if ply_header(file).n_faces:
        raise DataError(
            f"{file} has faces: it is a mesh. Read meshes with --layout meshes, clouds from "
            "another folder."
        )
    return read_ply(file)[0]


def _read_xyz(file: Path) -> Array:
    text = read_text(file, strict=False)
    first = next((line for line in text.split("\n") if line.strip() and line[0] != "#"), "")
    delimiter = next((mark for mark in ",;" if mark in first), None)
    with parsing(file, "Expected lines of numbers, x y z first, as many on each line."):
        return np.loadtxt(text.split("\n"), np.float64, delimiter=delimiter, ndmin=2)


def _pcd_header(file: Path) -> dict[str, list[str]]:
    """Fields of a `.pcd` file's header, checked against each other and the file's size."""
    with parsing(file, _UNREADABLE), file.open("rb") as stream:
        head = stream.read(1 << 16)
        fields: dict[str, list[str]] = {}
        place = 0
        while "DATA" not in fields:
            end = head.index(b"\n", place)
            key, *values = head[place:end].decode("ascii").split() or ["#"]
            place = end + 1
            fields[key] = values
        sizes, counts = _numbers(fields["SIZE"]), _numbers(fields["COUNT"])
        n_points = _numbers(fields["POINTS"])[0]
        if not len(fields["FIELDS"]) == len(fields["TYPE"]) == len(sizes) == len(counts):
            raise ValueError("FIELDS, SIZE, TYPE and COUNT differ in length")
        if sum(counts) > 4096:
            raise ValueError(f"{sum(counts)} values a point")
        row = sum(size * count for size, count in zip(sizes, counts, strict=True))
        left = file.stat().st_size - place
        needed = n_points * row
        if fields["DATA"] == ["ascii"]:
            needed = n_points * 2 * sum(counts) - 1  # a digit and a separator each
        elif fields["DATA"] == ["binary_compressed"]:
            stream.seek(place)
            packed, unpacked = struct.unpack("<II", stream.read(8))
            if unpacked != n_points * row or unpacked > _LARGEST_RATIO * packed + 1024:
                raise ValueError(
                    f"{packed} bytes cannot unpack to {n_points} points of {row} bytes"
                )
            needed = 8 + packed
        if needed > left:
            raise ValueError(f"{needed} bytes of points expected, {left} found: it is cut short")
    return fields


def _numbers(words: list[str]) -> list[int]:
    numbers = [int(word) for word in words]
    if not numbers or min(numbers) < 0:
        raise ValueError(f"expected numbers, found {' '.join(words)!r}")
    return numbers


def _read_pcd(file: Path) -> Array:
    pypcd4 = _package(".pcd")
    _pcd_header(file)
    with parsing(file, _UNREADABLE):
        return np.asarray(pypcd4.PointCloud.from_path(file).numpy(("x", "y", "z")))


def _read_las(file: Path) -> Array:
    laspy = _package(".las")
    with parsing(file, _UNREADABLE):
        with file.open("rb") as stream:
            head = stream.read(_LAS_HEADER.size)
        size = file.stat().st_size
        magic, place, n_records, kind = _LAS_HEADER.unpack(head)
        if magic != b"LASF" or place > size or _LAS_RECORD * n_records > place:
            raise DataError(f"{file} is no .las file or is cut short. {_UNREADABLE}")
        if kind & 0xC0:
            raise DataError(f"{file} is compressed (.laz). Convert it to .las, as laszip does.")
        with laspy.open(file, read_evlrs=False) as reader:
            needed = reader.header.point_count * reader.header.point_format.size
            if needed > size - place:
                raise DataError(
                    f"{file}: the header promises {needed} bytes of points, {size - place} follow: "
                    f"it is cut short or damaged. {_UNREADABLE}"
                )
            found = reader.read()
            return np.stack([found.x, found.y, found.z], axis=1)


_READERS: dict[str, Callable[[Path], Array]] = {
    ".las": _read_las,
    ".npy": read_npy,
    ".npz": _read_npz,
    ".pcd": _read_pcd,
    ".ply": _read_ply_cloud,
    ".xyz": _read_xyz,
}
_PACKAGES = {".las": "laspy", ".pcd": "pypcd4"}


def _package(kind: str) -> Any:
    """The package that reads files of a kind; it comes with the extra `clouds`."""
    try:
        return importlib.import_module(_PACKAGES[kind])
    except ImportError as error:
        raise DataError(
            f"{kind} files need {_PACKAGES[kind]}, which is not installed. Add it: pip install "
            "'i2pmae[clouds]'."
        ) from error
