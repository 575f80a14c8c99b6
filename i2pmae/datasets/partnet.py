"""PartNet: objects of 24 categories and their parts, as downloaded.

`data_v0/<annotation>/` is one object: points of its surface in `point_sample/`, its parts as meshes
in `objs/`, its category in `meta.json`. `sem_seg_h5/<Category>-<level>/` has `train-00.h5` and so
on with `data` (N, 10000, 3) and `label_seg` (N, 10000). `ins_seg_h5/<Category>/`, also with a level
and in folders such as `ins_seg_h5_for_detection`, has such files with `pts` (N, 10000, 3).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from i2pmae.datasets.hdf5 import Hdf5Source, Table, check_clouds, dataset
from i2pmae.datasets.shapenetpart import PartLabels
from i2pmae.datasets.source import Entry, ShapeSource
from i2pmae.errors import DataError
from i2pmae.formats.cloud_text import read_text_cloud
from i2pmae.formats.files import parsing, read_json, storable
from i2pmae.formats.ply import read_ply
from i2pmae.untrusted.hdf5 import open_hdf5
from i2pmae.urls import absolute_path

_SAMPLES = (  # of an object, the first that is there
    "pts-10000.txt",
    "sample-points-all-pts-nor-rgba-10000.txt",
    "pts-10000.pts",
    "sample-points-all-pts-nor-rgba-10000.ply",
)
_INSTANCES = "ins_seg_h5"
_LOOKED_AT = 8  # folders that tell the layout
_LEVEL = re.compile(r"(?P<category>.+)-(?P<level>[1-9])")
_PIECE = re.compile(r"(?P<split>train|val|test)-\d+\.h5")


class PartNet(ShapeSource):
    """PartNet's objects, from the points of their surface samples; parts are not told apart.

    Raises:
        DataError: if there are no objects.
    """

    layout = "partnet"
    shuffled: ClassVar[bool] = True

    def __init__(self, root: Path, *, split: str, limit: int | None, points: int, seed: int):
        found, n_empty = [], 0
        for folder in sorted(_objects(root)):
            samples = (folder / "point_sample" / name for name in _SAMPLES)
            file = next((sample for sample in samples if sample.is_file()), None)
            n_empty += file is None
            if file is not None:
                found.append((folder.name, _category(folder), file))
        names = sorted({category for _, category, _ in found})
        entries = [Entry(name, names.index(category), "", file) for name, category, file in found]
        super().__init__(root, names, entries, split=split, limit=limit, points=points, seed=seed)
        if n_empty:
            self.notes.append(f"{n_empty} folders of objects hold no sample of points")

    def _read(self, entry: Entry) -> tuple[npt.NDArray[Any], None]:
        if entry.file.suffix == ".ply":
            return read_ply(entry.file)[0], None
        return read_text_cloud(entry.file), None

    @staticmethod
    def is_at(root: Path) -> bool:
        """Whether a folder holds such objects, or a folder `data_v0` that does."""
        return any((folder / "objs").is_dir() for folder in islice(_objects(root), _LOOKED_AT))


class _PartNetFiles(Hdf5Source):
    """Files such as `train-00.h5` in one folder per category."""

    def __init__(self, root: Path, folders: Mapping[str, Path], **options: Any):
        self._label_of = {folder: label for label, folder in enumerate(folders.values())}
        files = [piece for folder in folders.values() for piece in _pieces(folder)]
        super().__init__(root, tuple(folders), files, **options)

    def _table(self, file: Path) -> Table:
        with parsing(file, "Download it again."), open_hdf5(file) as opened:
            data = dataset(opened, file, self.points_key)
            check_clouds(data, file)
            return Table(int(data.shape[1]), [self._label_of[file.parent]] * int(data.shape[0]))

    def _name(self, file: Path) -> str:
        return f"{_folder_name(file.parent)}/{file.stem}"


class PartNetHdf5(_PartNetFiles):
    """PartNet's clouds with the parts of one level, the coarsest that a category has.

    `root` may also be the folder of one category and level. The training split leaves the
    validation split out.

    Raises:
        DataError: if there are no files, or they are not as published.
    """

    layout = "partnet-hdf5"
    recipe = "segment-shapenetpart"
    svm_points = 2048

    def __init__(self, root: Path, **options: Any):
        folders = _coarsest(root)
        labels = {
            category: _labels_in([file for _, file in _pieces(folder)])
            for category, folder in folders.items()
        }
        self._labels = PartLabels.own(labels, root)
        self.part_names, self.class_parts, _ = self._labels
        super().__init__(root, folders, **options)
        levels = ", ".join(map(_folder_name, [*folders.values()][:3]))
        self.notes.append(f"parts are those of {levels}{', ...' * (len(folders) > 3)}")

    def _read(self, entry: Entry) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        xyz = super()._read(entry)[0]
        return xyz, self._labels.read(entry, "label_seg", len(xyz))

    @staticmethod
    def is_at(root: Path) -> bool:
        """Whether a folder holds such files, or folders of categories that do."""
        return bool(_coarsest(root))


class PartNetInstances(_PartNetFiles):
    """PartNet's clouds as published for instance segmentation; their instances are not read.

    `root` may also be the folder of one category. Of several levels of a category, which hold the
    same objects, the first is read. The training split leaves the validation split out.

    Raises:
        DataError: if there are no files, or they are not as published.
    """

    layout = "partnet-instances"
    points_key: ClassVar[str] = "pts"

    def __init__(self, root: Path, **options: Any):
        super().__init__(root, _instances(root), **options)

    @staticmethod
    def is_at(root: Path) -> bool:
        """Whether a folder holds such files, or folders of categories that do."""
        return bool(_instances(root))


def _pieces(folder: Path) -> list[tuple[str, Path]]:
    """Split and path of the files in a category's folder."""
    return [
        (found["split"], file)
        for file in sorted(folder.iterdir())
        if (found := _PIECE.fullmatch(file.name))
    ]


def _folder_name(folder: Path) -> str:
    """The name of a folder, also where it is given as `.` or `..`."""
    return absolute_path(folder).name


def _instances(root: Path) -> dict[str, Path]:
    """Folders of files for instance segmentation, by category."""
    inner = sorted(folder for folder in root.glob(f"{_INSTANCES}*") if folder.is_dir())
    above = inner[0] if inner else root
    folders = [root]
    if _folder_name(above).startswith(_INSTANCES):
        folders += sorted(folder for folder in above.iterdir() if folder.is_dir())
    found: dict[str, Path] = {}
    for folder in folders:
        pieces = _pieces(folder)
        if pieces and _has_key(pieces[0][1], PartNetInstances.points_key):
            name = _folder_name(folder)
            level = _LEVEL.fullmatch(name)
            found.setdefault(level["category"] if level else name, folder)
    return found


def _has_key(file: Path, key: str) -> bool:
    try:
        with open_hdf5(file) as opened:
            return key in opened
    except OSError:
        return False


def _objects(root: Path) -> Iterator[Path]:
    """Folders of objects in a folder, or in its `data_v0`."""
    inner = root / "data_v0"
    for meta in (inner if inner.is_dir() else root).glob("*/meta.json"):
        if (meta.parent / "point_sample").is_dir():
            yield meta.parent


def _category(folder: Path) -> str:
    """The category that an object's `meta.json` names."""
    meta = read_json(folder / "meta.json", "the category of an object")
    category = meta.get("model_cat") if isinstance(meta, dict) else None
    if not isinstance(category, str) or not category or not storable(category):
        raise DataError(f"{folder / 'meta.json'} names no 'model_cat'. Download it again.")
    return category


def _coarsest(root: Path) -> dict[str, Path]:
    """The folder of the coarsest level of each category, by category."""
    found: dict[str, Path] = {}
    inner = root / "sem_seg_h5"
    above = inner if inner.is_dir() else root
    named_so = sorted(name for name in os.listdir(above) if _LEVEL.fullmatch(name))
    for folder in (root, *(above / name for name in named_so)):
        named = _LEVEL.fullmatch(_folder_name(folder))
        if named and folder.is_dir() and _pieces(folder):
            found.setdefault(named["category"], folder)
    return found


def _labels_in(files: Iterable[Path]) -> set[int]:
    """Part labels that occur in files."""
    found: set[int] = set()
    for file in files:
        with parsing(file, "Download it again."), open_hdf5(file) as opened:
            labels = dataset(opened, file, "label_seg")
            if labels.ndim != 2 or labels.dtype.kind not in "iu":
                raise DataError(
                    f"{file}: 'label_seg' of shape {labels.shape} holds {labels.dtype}; expected "
                    "integers of shape (shapes, points). Download it again."
                )
            found |= {int(label) for label in np.unique(labels[()])}
    return found
