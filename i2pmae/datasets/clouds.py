"""Point clouds in users' own folders, one file each."""

from __future__ import annotations

import contextlib
import importlib
import logging
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from i2pmae.datasets.folders import CLOUD_SUFFIXES
from i2pmae.datasets.own import OwnShapes
from i2pmae.datasets.source import Entry
from i2pmae.errors import DataError
from i2pmae.formats.cloud_arrays import (
    LARGEST_RATIO,
    count_npy,
    count_npz,
    plain_columns,
    read_npz,
)
from i2pmae.formats.cloud_las import check_packed
from i2pmae.formats.cloud_pcd import pcd_header, read_pcd
from i2pmae.formats.cloud_scans import count_scan, read_scan
from i2pmae.formats.cloud_text import read_text_cloud
from i2pmae.formats.files import (
    open_parsing,
    parsing,
    read_npy,
    require_content,
    suffix,
)
from i2pmae.formats.ply import ply_header, read_ply
from i2pmae.geometry.coordinates import finite_rows
from i2pmae.untrusted.arrays import npy_header

# laspy logs what it could not read; without a handler that would reach the terminal.
logging.getLogger("laspy").addHandler(logging.NullHandler())

# Of a .las file: magic, where the points begin, number of records before them, kind of points.
_LAS_HEADER = struct.Struct("<4s92xIIB")
_LAS_RECORD = 54  # bytes, at least
_UNREADABLE = "Export it again, or as another of " + " ".join(CLOUD_SUFFIXES) + "."

Array = npt.NDArray[Any]


class Clouds(OwnShapes):
    """One point cloud per file: a random subset if it holds more points than asked for.

    Which points, and their order, depends on seed and id alone; so the first n of what is kept
    are a fair sample, too. They are then centered and scaled to the unit sphere. Points that are
    not finite are left out and counted; normals, colors and other columns are ignored. Classes
    and splits come from names, see `naming`.

    Raises:
        DataError: as `OwnShapes`, or if a package that reads the clouds is missing.
    """

    layout = "clouds"
    kind = "cloud"
    shuffled: ClassVar[bool] = True
    skips_not_finite: ClassVar[bool] = True

    def __init__(self, root: Path, **options: Any):
        super().__init__(root, **options)
        for kind in sorted({suffix(entry.file.name) for entry in self.entries}):
            if kind in _PACKAGES:
                _package(kind)
        with contextlib.suppress(DataError):  # load() says what is wrong with the file
            if _extra_columns(self.entries[0].file):
                self.notes.append("only x, y, z are read; normals, colors and the like are not")

    @staticmethod
    def _holds_values(file: Path) -> bool:
        try:
            cloud = read_cloud(file)
            xyz = cloud[finite_rows(cloud), :3].astype(np.float64)
        except DataError:
            return True
        length = np.linalg.norm(xyz, axis=1)
        are_normals = (length == 0) | (abs(length - 1) < 0.01)
        are_counted = (xyz >= 0) & ((xyz <= 1) | (xyz == xyz.round()))  # colors, labels
        return bool(are_normals.all() or are_counted.all())

    def _count(self, entry: Entry) -> int | None:
        require_content(entry.file)
        return _count_points(entry.file)

    def _read(self, entry: Entry) -> tuple[Array, None]:
        return read_cloud(entry.file), None


def read_cloud(file: Path) -> Array:
    """All points of a cloud.

    Args:
        file: one that ends as `CLOUD_SUFFIXES` say.

    Returns:
        (n, 3 or more columns) numbers, x, y, z first, in the file's unit.

    Raises:
        DataError: if the file cannot be read or is no point cloud.
    """
    return plain_columns(_READERS[suffix(file.name)](file))


def _count_points(file: Path) -> int | None:
    """Points of a cloud as its header says; None of text, which has none."""
    match suffix(file.name):
        case ".ply":
            return ply_header(file).n_vertices
        case ".pcd":
            return pcd_header(file).n_points
        case ".bin":
            return count_scan(file)
        case ".npy":
            return count_npy(file)
        case ".npz":
            return count_npz(file)
        case ".las" | ".laz":
            with _opened_las(file) as reader:
                return int(reader.header.point_count)
    return None


def _extra_columns(file: Path) -> bool:
    """Whether a cloud has more columns than x, y, z, as far as its header says."""
    match suffix(file.name):
        case ".ply":
            return ply_header(file).n_vertex_properties > 3
        case ".pcd":
            return pcd_header(file).n_columns > 3
        case ".npy":
            with parsing(file, ""), file.open("rb") as stream:
                header = npy_header(stream)
            return len(header.shape) == 2 and header.shape[1] > 3
    return False


def _read_ply_cloud(file: Path) -> Array:
    if ply_header(file).n_faces:
        raise DataError(
            f"{file} has faces: it is a mesh. Read meshes with --layout meshes, clouds from "
            "another folder."
        )
    return read_ply(file)[0]


def _read_las(file: Path) -> Array:
    with _opened_las(file) as reader:
        found = reader.read_points(-1)  # read() reads what comes after them, too
        return np.stack([found.x, found.y, found.z], axis=1)


@contextlib.contextmanager
def _opened_las(file: Path) -> Iterator[Any]:
    """A file of laspy's, whose header fits its size."""
    laspy = _package(suffix(file.name))
    with open_parsing(file, _UNREADABLE) as stream:
        size = file.stat().st_size
        magic, place, n_records, kind = _LAS_HEADER.unpack(stream.read(_LAS_HEADER.size))
        if magic != b"LASF" or place > size or _LAS_RECORD * n_records > place:
            raise DataError(f"{file} is no .las file or is cut short. {_UNREADABLE}")
        is_packed = bool(kind & 0xC0)
        if is_packed:
            _package(".laz")
        # The parallel backend makes room for as many points as a part is said to have.
        with laspy.open(file, read_evlrs=False, laz_backend=laspy.LazBackend.Lazrs) as reader:
            needed = reader.header.point_count * reader.header.point_format.size
            if needed > (size - place) * (LARGEST_RATIO if is_packed else 1):
                raise DataError(
                    f"{file}: the header promises {needed} bytes of points, {size - place} follow: "
                    f"it is cut short or damaged. {_UNREADABLE}"
                )
            if is_packed:
                check_packed(file, reader.header.point_count, _UNREADABLE)
            try:
                yield reader
            except BaseException as error:
                if type(error).__name__ == "PanicException":  # of Rust, and no Exception
                    raise ValueError(f"its points are damaged: {error}") from error
                raise


_READERS: dict[str, Callable[[Path], Array]] = {
    ".bin": read_scan,
    ".csv": read_text_cloud,
    ".las": _read_las,
    ".laz": _read_las,
    ".npy": read_npy,
    ".npz": read_npz,
    ".pcd": read_pcd,
    ".ply": _read_ply_cloud,
    ".pts": read_text_cloud,
    ".txt": read_text_cloud,
    ".xyz": read_text_cloud,
}
_PACKAGES = {".las": ("laspy",), ".laz": ("laspy", "lazrs")}


def _package(kind: str) -> Any:
    """The package that reads files of a kind; it comes with the extra `clouds`."""
    found = []
    for name in _PACKAGES[kind]:
        try:
            found.append(importlib.import_module(name))
        except ImportError as error:
            raise DataError(
                f"{kind} files need {name}, which is not installed. Add it: pip install "
                "'i2pmae[clouds]'."
            ) from error
    return found[0]
