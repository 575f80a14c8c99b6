"""Point clouds as NumPy arrays: `.npy` and `.npz` as people save them."""

from __future__ import annotations

import contextlib
import math
import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from i2pmae.errors import DataError, one_line
from i2pmae.formats.files import check_npy_header, open_parsing
from i2pmae.untrusted.arrays import NpyHeader, npy_header

_ARRAY_NAMES = (
    *("points", "point", "pts", "xyz", "xyzs", "pos", "position", "positions", "coords", "coord"),
    *("coordinates", "pc", "pcd", "pcl", "point_cloud", "pointcloud", "point_clouds", "cloud"),
    *("point_set", "points_xyz", "surface_points", "vertices", "verts", "v", "data", "arr_0"),
)
_OF_EMBED = {"ids", "vectors", "settings"}  # some arrays of a file of vectors
# Names of arrays with one row per point that are not the points.
_NO_POINTS = re.compile(
    r"n|(.*_)?(normal|colou?r|rgba?|label|feat(ure)?|seg|part|instance|face|edge|triangle|sdf|occ"
    r"|grad(ient)?|tangent|uv|weight|box|bbox|camera|pose|mask|rotation|noise)s?(_.*)?"
)
# Names of the arrays of a mesh.
_CORNERS = re.compile(r"(.*_)?(vertices|verts|vertex|v|pos)")
_FACES = re.compile(r"(.*_)?(faces?|f|tris?|triangles?)")
_MOST_MEMBERS = 256  # of an archive that are looked at
_CAMERAS = ((2, 3), (3, 3), (3, 4), (4, 3), (4, 4))  # shapes of their matrices
_UNPACKED_FREELY = 1 << 26  # bytes that an archive may unpack to, however small it is
LARGEST_RATIO = 300  # beyond that, unpacked to packed size

Array = npt.NDArray[Any]
ArrayKind = Literal["cloud", "unclear", "other"]


def read_npz(file: Path) -> Array:
    """The cloud in an archive of arrays: the one with a usual name, or the only one, or x, y and z.

    Raises:
        DataError: if there is none, or it is damaged.
    """
    with _opened_archive(file) as archive:
        members = cloud_members(archive, file)
        if not members:
            names = ", ".join(name.removesuffix(".npy") for name in archive.namelist())
            raise DataError(
                f"{file} holds the arrays {one_line(names, 120) or 'none'}; expected one of "
                "shape (points, 3 or more), or one named 'points'. Rename it."
            )
        arrays = []
        for member in members:
            with archive.open(member) as stream:
                check_npy_header(stream, member.file_size, file)
            with archive.open(member) as stream:
                arrays.append(np.lib.format.read_array(stream, allow_pickle=False))
        if len(arrays) == 1:
            return np.asarray(arrays[0])
        return np.stack([axis.ravel().astype(np.float64) for axis in arrays], axis=1)


def count_npy(file: Path) -> int | None:
    """Points of a `.npy` as its header says; None if it is none of (points, 3 or more).

    Raises:
        DataError: if it is no array.
    """
    with open_parsing(file, "Save it again with numpy.save.") as stream:
        return _rows(npy_header(stream))


def count_npz(file: Path) -> int | None:
    """The same of the cloud that `read_npz` reads."""
    with _opened_archive(file) as archive:
        members = cloud_members(archive, file)
        if not members:
            return None
        with archive.open(members[0]) as stream:
            header = npy_header(stream)
        return _rows(header) if len(members) == 1 else math.prod(header.shape)


@contextlib.contextmanager
def _opened_archive(file: Path) -> Iterator[zipfile.ZipFile]:
    remedy = "Save it again with numpy.savez."
    with open_parsing(file, remedy) as stream, zipfile.ZipFile(stream) as archive:
        yield archive


def _rows(header: NpyHeader) -> int | None:
    """Rows of an array that may be a cloud, None of others: its reader says what is wrong."""
    if header.dtype.names is not None:
        return math.prod(header.shape) if xyz_fields(header.dtype) else None
    shape = _without_batch(header.shape)
    if len(shape) != 2 or shape[0] < shape[1]:
        return None
    return shape[0] if array_kind(header.shape, header.dtype) == "cloud" else None


def cloud_members(archive: zipfile.ZipFile, file: Path) -> list[zipfile.ZipInfo]:
    """Which arrays of an archive are the cloud: one, or x, y and z; none if that is not clear.

    Raises:
        DataError: if they are a mesh.
    """
    found = _members(archive, file)
    clouds = [name for name, (_, header) in found.items() if _kind(header) == "cloud"]
    known = [name for name in _ARRAY_NAMES if name in clouds]
    axes = [found[axis][1] for axis in "xyz" if axis in found]
    is_apart = len({axis.shape for axis in axes}) == 1 and len(axes) == 3
    if not known and is_apart and all(axis.dtype.kind in "fiu" for axis in axes):
        return [found[axis][0] for axis in "xyz"]
    if not known and len(clouds) > 1:
        clouds = [name for name in clouds if not _NO_POINTS.fullmatch(name)]
    if known or len(clouds) == 1:
        chosen = (known or clouds)[0]
        _refuse_mesh(chosen, found, file)
        return [found[chosen][0]]
    # Reading the only one says what is wrong with it.
    return [member for member, _ in found.values()] if len(found) == 1 and not clouds else []


def _refuse_mesh(
    chosen: str, found: Mapping[str, tuple[zipfile.ZipInfo, NpyHeader]], file: Path
) -> None:
    """Refuse corners of faces: a mesh has few points where it is flat, so they are no sample."""
    for name, (_, header) in found.items():
        is_faces = _FACES.fullmatch(name) and header.dtype.kind in "iu" and len(header.shape) == 2
        if is_faces and _CORNERS.fullmatch(chosen):
            raise DataError(
                f"{file} holds a mesh, the arrays {chosen} and {name}; expected a cloud. Save it "
                "as .ply or .obj, or add points of its surface as 'points'."
            )


def archive_kind(archive: zipfile.ZipFile, file: Path) -> ArrayKind:
    """What the arrays of an archive may be, as `array_kind`; vectors of `embed` are no cloud."""
    found = _members(archive, file)
    if found.keys() >= _OF_EMBED:
        return "other"
    if cloud_members(archive, file):
        return "cloud"
    kinds = {_kind(header) for _, header in found.values()}
    return "other" if kinds == {"other"} else "unclear"


def refuse_unpacked(member: zipfile.ZipInfo, file: Path) -> None:
    """Refuse a member of an archive that unpacks to far more than it takes.

    Raises:
        DataError: naming both sizes.
    """
    if member.file_size > _UNPACKED_FREELY + LARGEST_RATIO * member.compress_size:
        raise DataError(
            f"{file} unpacks {member.compress_size} bytes to {member.file_size}: it is "
            "damaged or malicious. Remove it."
        )


def _members(archive: zipfile.ZipFile, file: Path) -> dict[str, tuple[zipfile.ZipInfo, NpyHeader]]:
    """Arrays of an archive by name, in lower case, and their headers."""
    found: dict[str, tuple[zipfile.ZipInfo, NpyHeader]] = {}
    for member in archive.infolist()[:_MOST_MEMBERS]:
        if not member.filename.endswith(".npy"):
            continue
        refuse_unpacked(member, file)
        with archive.open(member) as stream, contextlib.suppress(ValueError):
            name = member.filename.removesuffix(".npy").lower()
            found[name] = member, npy_header(stream)
    return found


def _kind(header: NpyHeader) -> ArrayKind:
    return array_kind(header.shape, header.dtype)


def array_kind(shape: tuple[int, ...], dtype: np.dtype[Any]) -> ArrayKind:
    """Whether an array may hold points, one a row; or one a column, which its reader refuses.

    Labels, cameras, pictures and the like are `other`; what may be meant as a cloud and is none
    is `unclear`.
    """
    if dtype.names is not None:  # of any shape, as organized scans have
        return "cloud" if shape and xyz_fields(dtype) is not None else "other"
    shape = _without_batch(shape)
    if len(shape) == 3 and shape[2] == 3 and dtype.kind == "f":
        return "cloud"  # a stack of clouds rather than a picture or a grid
    if len(shape) != 2 or min(shape) == 1 != shape[0] or shape in _CAMERAS:
        return "other"
    if dtype.kind not in "fiu" or (min(shape) < 3 and shape[1] != 3):
        return "unclear"
    return "cloud"


def xyz_fields(dtype: np.dtype[Any]) -> list[str] | None:
    """Names of a structured array's fields that are x, y and z, or one of all three."""
    fields: Mapping[str, Any] = dtype.fields or {}
    names = {name.lower(): name for name in dtype.names or ()}
    if all(axis in names and fields[names[axis]][0].kind in "fiu" for axis in "xyz"):
        return [names[axis] for axis in "xyz"]
    for name in _ARRAY_NAMES:
        if name in names and fields[names[name]][0].shape == (3,):
            return [names[name]]
    return None


def _without_batch(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of a batch of one cloud without the batch: of (1, n, c) or (n, 1, c)."""
    return (max(shape[:2]), shape[2]) if len(shape) == 3 and 1 in shape[:2] else shape


def plain_columns(array: Array) -> Array:
    """A cloud as plain columns, if it is a structured array or a batch of one."""
    fields = xyz_fields(array.dtype) if array.dtype.names is not None else None
    if fields is None:
        return array.reshape(_without_batch(array.shape))
    array = array.reshape(-1)
    if len(fields) == 1:
        return np.asarray(array[fields[0]])
    with np.errstate(all="ignore"):  # numbers that are not finite are left out later
        return np.stack([array[name].astype(np.float64) for name in fields], axis=-1)
