"""Which files of a folder are meshes, which are point clouds, and which are neither.

An ending does not always say: `.ply` files are either; a `.npy` may hold labels or cameras, a
`.txt` may hold prose. Only the beginnings of such files are read.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Literal

from i2pmae.datasets.folders import CLOUD_SUFFIXES, MESH_SUFFIXES
from i2pmae.errors import DataError
from i2pmae.formats.cloud_arrays import archive_kind, array_kind
from i2pmae.formats.cloud_scans import count_scan
from i2pmae.formats.cloud_text import looks_like_points
from i2pmae.formats.files import suffix
from i2pmae.formats.ply import ply_header
from i2pmae.untrusted.arrays import npy_header

Kind = Literal["mesh", "cloud", "unclear", "other"]

_THREADS = 8
_PIECE = 256  # files that a thread looks into at a time
_REMEMBERED = 100_000  # files
_AMBIGUOUS = (".bin", ".csv", ".npy", ".npz", ".ply", ".txt")


def kinds_of(root: Path, files: Iterable[tuple[str, ...]]) -> dict[tuple[str, ...], Kind]:
    """The kind of each file below a folder, given as parts of its path.

    Files that may be either but cannot be read, such as a damaged `.ply`, are unclear.
    """
    kinds: dict[tuple[str, ...], Kind] = {}
    looked_into = []
    for parts in files:
        ending = suffix(parts[-1])
        if ending in _AMBIGUOUS:
            looked_into.append(parts)
        elif ending in MESH_SUFFIXES:
            kinds[parts] = "mesh"
        else:
            kinds[parts] = "cloud" if ending in CLOUD_SUFFIXES else "other"

    def look(start: int) -> list[Kind]:
        return [_kind(root.joinpath(*parts)) for parts in looked_into[start : start + _PIECE]]

    with ThreadPoolExecutor(_THREADS, "look into files") as pool:
        pieces = pool.map(look, range(0, len(looked_into), _PIECE))
        kinds |= zip(looked_into, chain.from_iterable(pieces), strict=True)
    return kinds


def _kind(file: Path) -> Kind:
    try:
        status = file.stat()
    except OSError:
        return "unclear"
    return _look_into(file, (status.st_dev, status.st_ino, status.st_size, status.st_ctime_ns))


@lru_cache(_REMEMBERED)  # a command lists its folder for the settings, and again to read it
def _look_into(file: Path, _version: tuple[int, ...]) -> Kind:
    try:
        match suffix(file.name):
            case ".ply":
                return "mesh" if ply_header(file).n_faces else "cloud"
            case ".bin":
                return "cloud" if count_scan(file) is not None else "other"
            case ".npy":
                with file.open("rb") as stream:
                    header = npy_header(stream)
                return array_kind(header.shape, header.dtype)
            case ".npz":
                with zipfile.ZipFile(file) as archive:
                    return archive_kind(archive, file)
            case _:
                with file.open("rb") as stream:
                    return "cloud" if looks_like_points(stream) else "other"
    except (DataError, OSError, RuntimeError, ValueError, zipfile.BadZipFile):
        return "unclear"  # read_cloud() and read_mesh() say what is wrong
