"""ModelNet as `modelnet40_normal_resampled` publishes it, and the pickles made from it.

Text: `<class>/<class>_0001.txt` with 10,000 lines `x,y,z,nx,ny,nz`, named by
`modelnet40_{train,test}.txt`. Pickles: `modelnet40_{train,test}_8192pts_fps.dat`, a list of
8192 x 6 arrays, farthest points first, and a list of labels; those of ModelNet10 and of other
numbers of points are named alike.
"""

from __future__ import annotations

import re
import threading
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from i2pmae.datasets.hdf5 import MODELNET40_C, MODELNET40_NAMES, lists_to_read
from i2pmae.datasets.parsed import ParsedFiles
from i2pmae.datasets.source import Entry, ShapeSource
from i2pmae.errors import DataError, one_line
from i2pmae.formats.files import (
    plain_name,
    read_columns,
    read_names,
    read_pickle,
    require_file,
)
from i2pmae.untrusted.unpickling import as_array

MODELNET10_NAMES = (
    *("bathtub", "bed", "chair", "desk", "dresser", "monitor", "night_stand", "sofa", "table"),
    "toilet",
)
PICKLES = "modelnet*_*_*pts*.dat"
_PICKLE_NAME = re.compile(
    r"(?P<prefix>modelnet(?:10|40))_(?:train|test)_(?P<points>\d+)pts(?P<end>(?:_fps)?)\.dat"
)
_MOST_LINES = 10_000  # of a published file


class ModelNetText(ShapeSource):
    """ModelNet40 resampled: the first 8192 lines, centered and scaled to the unit sphere.

    The lines are in random order, so the first n of them are a fair sample. Normals are ignored.
    Each file is parsed once; from then on its points come from the user's cache folder, see
    `parsed`.

    Raises:
        DataError: if a list is missing or wrong.
    """

    layout = "modelnet-text"
    recipe = "finetune-modelnet40"
    svm_c: float | None = MODELNET40_C
    normalized_points: ClassVar[int | None] = 8192
    uniform: ClassVar[bool] = True
    prefix: ClassVar[str] = "modelnet40"

    def __init__(self, root: Path, *, split: str, limit: int | None, points: int, seed: int):
        class_names = read_names(
            root / f"{self.prefix}_shape_names.txt", "the name of each class, one a line"
        )
        labels = {name: label for label, name in enumerate(class_names)}
        entries: list[Entry] = []
        self._parsed: dict[str, ParsedFiles] = {}  # by split
        for name in lists_to_read(root, self.prefix + "_{}.txt", split):
            n_before = len(entries)
            listing = root / f"{self.prefix}_{name}.txt"
            for line in read_names(listing, f"the shapes of the {name} split"):
                class_name = plain_name(line, listing).rpartition("_")[0]
                if class_name not in labels:
                    raise DataError(
                        f"{listing} lists {one_line(line)!r}, whose class {class_name!r} is not "
                        f"in {self.prefix}_shape_names.txt. Use lists of the same download."
                    )
                file = root / class_name / f"{line}.txt"
                entries.append(Entry(f"{class_name}/{line}", labels[class_name], name, file))
            files = [entry.file for entry in entries[n_before:]]
            self._parsed[name] = ParsedFiles(self.layout, root, files, most_lines=_MOST_LINES)
        super().__init__(
            root, class_names, entries, split=split, limit=limit, points=points, seed=seed
        )

    def _read(self, entry: Entry) -> tuple[npt.NDArray[Any], None]:
        return self._parsed[entry.split].read(entry.file, _parse_points), None


def _parse_points(file: Path) -> npt.NDArray[np.float32]:
    """The points of a text file; normals are checked and dropped."""
    return read_columns(file, ",", 6)[:, :3]


class ModelNet10Text(ModelNetText):
    """The ten classes of ModelNet10 in the same folder."""

    layout = "modelnet10-text"
    svm_c = None
    prefix: ClassVar[str] = "modelnet10"


class ModelNetPickle(ShapeSource):
    """ModelNet40 as two pickles: all 8192 points centered and scaled, the first ones kept.

    They are in farthest-point order, so the first n are well spread. Normals are ignored. A
    pickle is read whole when its first shape is asked for.

    Raises:
        DataError: if a pickle is missing or holds anything but arrays of numbers.
    """

    layout = "modelnet-pickle"
    recipe = "finetune-modelnet40"
    normalized_points: ClassVar[int | None] = None
    uniform: ClassVar[bool] = True
    hash_contents: ClassVar[bool] = True

    def __init__(self, root: Path, *, split: str, limit: int | None, points: int, seed: int):
        folder = root if root.is_dir() else root.parent
        pattern = _pickle_pattern(root)
        prefix = pattern.partition("_")[0]
        names_file = folder / f"{prefix}_shape_names.txt"
        is_small = prefix == "modelnet10"
        class_names: tuple[str, ...] = MODELNET10_NAMES if is_small else MODELNET40_NAMES
        if names_file.is_file():
            class_names = tuple(read_names(names_file, "the name of each class"))
        self._lock = threading.Lock()
        self._clouds: dict[Path, list[npt.NDArray[Any]]] = {}
        entries: list[Entry] = []
        for name in lists_to_read(folder, pattern, split):
            file = require_file(folder / pattern.format(name), f"the shapes of the {name} split")
            self._clouds[file], found = _read_modelnet_pickle(file, len(class_names))
            entries += [
                Entry(f"{name}/{row:05d}", label, name, file, row)
                for row, label in enumerate(found)
            ]
        super().__init__(
            folder, class_names, entries, split=split, limit=limit, points=points, seed=seed
        )
        self.svm_c = MODELNET40_C if len(class_names) == len(MODELNET40_NAMES) else None

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in _CACHES}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._lock = threading.Lock()
        self._clouds = {}

    def _read(self, entry: Entry) -> tuple[npt.NDArray[Any], None]:
        if entry.file not in self._clouds:
            with self._lock:
                if entry.file not in self._clouds:
                    clouds, _ = _read_modelnet_pickle(entry.file, len(self.class_names))
                    self._clouds[entry.file] = clouds
        return self._clouds[entry.file][entry.row], None


_CACHES = ("_lock", "_clouds")


def _pickle_pattern(root: Path) -> str:
    """Name of the pickles, with `{}` for the split: those given, else those of most points."""
    files = [root] if root.is_file() else sorted(root.glob(PICKLES))
    named = [found for file in files if (found := _PICKLE_NAME.fullmatch(file.name))]
    if not named:
        return "modelnet40_{}_8192pts_fps.dat"
    best = max(named, key=lambda found: (int(found["points"]), found["end"], found["prefix"]))
    return f"{best['prefix']}_{{}}_{best['points']}pts{best['end']}.dat"


def _read_modelnet_pickle(file: Path, n_classes: int) -> tuple[list[npt.NDArray[Any]], list[int]]:
    """Clouds and labels of one pickle."""
    value = read_pickle(file)
    is_pair = isinstance(value, list | tuple) and len(value) == 2
    if not is_pair or not all(isinstance(half, list | tuple) for half in value):
        raise DataError(
            f"{file} holds {one_line(type(value).__name__)}; expected [list of clouds, list of "
            "labels]. Download it again."
        )
    clouds, labels = value
    if len(clouds) != len(labels) or not clouds:
        raise DataError(
            f"{file} holds {len(clouds)} clouds and {len(labels)} labels; expected as many of "
            "each. Download it again."
        )
    return (
        [pickled_cloud(cloud, file, row) for row, cloud in enumerate(clouds)],
        [pickled_label(label, n_classes, file, row) for row, label in enumerate(labels)],
    )


def pickled_cloud(value: object, file: Path, row: int) -> npt.NDArray[Any]:
    """A cloud of a pickle.

    Raises:
        DataError: if it is no array of points.
    """
    cloud = as_array(value)
    if cloud is None or cloud.ndim != 2 or cloud.shape[1] != 3:
        found = one_line(type(value).__name__) if cloud is None else f"shape {cloud.shape}"
        raise DataError(
            f"{file}: cloud {row} is no array of points ({found}); expected (points, 3 or 6). "
            "Download it again."
        )
    return cloud


def pickled_label(value: object, n_classes: int, file: Path, row: int) -> int:
    """A label of a pickle.

    Raises:
        DataError: if it is no integer from 0 to `n_classes` - 1.
    """
    label = as_array(value)
    if label is None or label.size != 1 or label.dtype.kind not in "iu":
        raise DataError(f"{file}: label {row} is no integer. Download it again.")
    number = int(label.reshape(-1)[0])
    if not 0 <= number < n_classes:
        raise DataError(
            f"{file}: label {row} is {number}; expected 0 to {n_classes - 1}. Download it again."
        )
    return number
