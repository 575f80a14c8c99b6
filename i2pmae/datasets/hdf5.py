"""Clouds in hdf5 files: `data` (N, P, 3) and `label` (N,) or (N, 1).

ModelNet40 as `modelnet40_ply_hdf5_2048` publishes it; ScanObjectNN's files are of the same kind.
"""

from __future__ import annotations

import re
import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import h5py
import numpy as np
import numpy.typing as npt

from i2pmae.datasets.source import Entry, ShapeSource
from i2pmae.errors import DataError
from i2pmae.formats.files import (
    open_parsing,
    parsing,
    plain_name,
    read_names,
    require_file,
)
from i2pmae.untrusted.hdf5 import open_hdf5

MODELNET40_NAMES = (
    *("airplane", "bathtub", "bed", "bench", "bookshelf", "bottle", "bowl", "car", "chair"),
    *("cone", "cup", "curtain", "desk", "door", "dresser", "flower_pot", "glass_box", "guitar"),
    *("keyboard", "lamp", "laptop", "mantel", "monitor", "night_stand", "person", "piano"),
    *("plant", "radio", "range_hood", "sink", "sofa", "stairs", "stool", "table", "tent"),
    *("toilet", "tv_stand", "vase", "wardrobe", "xbox"),
)
MODELNET40_C = 0.0093  # published for the linear SVM
IN_MEMORY = 1 << 30  # bytes of clouds up to which whole files are kept in memory
_BLOCK_ROWS = 64
_BLOCKS_KEPT = 32
_LARGEST_CHUNK = 1 << 29  # bytes that reading one row may decompress
_MOST_ROWS = 1 << 21  # of a file; rows that were never written take no space in it
_NORMALIZED_POINTS = 8192  # that decide center and scale, if a shape has them
_LARGEST_RATIO = 1100  # deflate cannot compress further


class Table(NamedTuple):
    """Points per shape and labels of one file."""

    n_points: int  # per shape
    labels: list[int]


class Hdf5Source(ShapeSource):
    """Shapes in a few hdf5 files, the first points of each shape.

    The files' points are in random order, so the first n are a fair sample. Small sets are read
    whole, once, and served from memory; large ones in blocks of rows.
    """

    points_key: ClassVar[str] = "data"
    normalized_points: ClassVar[int | None] = _NORMALIZED_POINTS
    hash_contents: ClassVar[bool] = True

    def __init__(
        self,
        root: Path,
        class_names: Sequence[str],
        files: Sequence[tuple[str, Path]],
        *,
        split: str,
        limit: int | None,
        points: int,
        seed: int,
        notes: Sequence[str] = (),
    ):
        if not files:
            raise DataError(
                f"{root} holds no files of the layout {self.layout}. Check the path, or leave "
                "--layout out."
            )
        self._n_classes = len(class_names)
        entries: list[Entry] = []
        n_points: dict[Path, int] = {}
        for name, file in files:
            table = self._table(file)
            n_points[file] = table.n_points
            entries += [
                Entry(f"{self._name(file)}/{row:05d}", label, name, file, row)
                for row, label in enumerate(table.labels)
            ]
        first, *others = n_points
        for file in others:
            if n_points[file] != n_points[first]:
                raise DataError(
                    f"{file} has {n_points[file]} points a shape, {first.name} has "
                    f"{n_points[first]}: mixed point counts. Download the data set again."
                )
        super().__init__(
            root,
            class_names,
            entries,
            split=split,
            limit=limit,
            points=points,
            seed=seed,
            notes=notes,
        )
        self._kept_points = min(max(points, _NORMALIZED_POINTS), n_points[first])
        self._n_rows: dict[Path, int] = {}  # rows needed of each file
        for entry in self.entries:
            self._n_rows[entry.file] = max(self._n_rows.get(entry.file, 0), entry.row + 1)
        self._forget()

    def _table(self, file: Path) -> Table:
        """Points per shape and labels of a file."""
        return read_table(file, self._n_classes)

    def _name(self, file: Path) -> str:
        """What ids call a file."""
        return file.stem

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in _CACHES}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._forget()

    def _forget(self) -> None:
        self._lock = threading.Lock()
        self._whole: dict[Path, npt.NDArray[np.float32]] = {}
        self._blocks: OrderedDict[tuple[Path, int], npt.NDArray[np.float32]] = OrderedDict()

    def _read(self, entry: Entry) -> tuple[npt.NDArray[Any], npt.NDArray[Any] | None]:
        total = sum(self._n_rows.values()) * self._kept_points * 3 * 4
        if total <= IN_MEMORY:
            if entry.file not in self._whole:
                with self._lock:
                    if entry.file not in self._whole:
                        rows = slice(0, self._n_rows[entry.file])
                        self._whole[entry.file] = self._read_rows(entry.file, rows)
            return self._whole[entry.file][entry.row], None
        number, row = divmod(entry.row, _BLOCK_ROWS)
        key = (entry.file, number)
        with self._lock:
            block = self._blocks.pop(key, None)
            if block is None:
                start = number * _BLOCK_ROWS
                stop = min(start + _BLOCK_ROWS, self._n_rows[entry.file])
                block = self._read_rows(entry.file, slice(start, stop))
            self._blocks[key] = block  # the last one used is the last one dropped
            if len(self._blocks) > _BLOCKS_KEPT:
                self._blocks.popitem(last=False)
        return block[row], None

    def _count(self, _entry: Entry) -> int:
        return self._kept_points

    def _read_rows(self, file: Path, rows: slice) -> npt.NDArray[np.float32]:
        with parsing(file, "Download it again."), open_hdf5(file) as opened:
            clouds = np.empty((rows.stop - rows.start, self._kept_points, 3), np.float32)
            opened[self.points_key].read_direct(clouds, np.s_[rows, : self._kept_points])
            return clouds

    def _where(self, entry: Entry) -> str:
        return f"{entry.id} ({entry.file}, row {entry.row})"


_CACHES = ("_lock", "_whole", "_blocks")


class ModelNetHdf5(Hdf5Source):
    """ModelNet10 or ModelNet40 in the layout of `modelnet40_ply_hdf5_2048`.

    `train_files.txt` and `test_files.txt` name the hdf5 files, `shape_names.txt` the classes in
    the order of their labels. Folders in the lists are ignored: files lie beside their list.
    Clouds that reach exactly to the unit sphere stay as stored, as the published ones do in the
    published protocol; others are centered and scaled.

    Raises:
        DataError: if a list, a file, a key or a label is missing or wrong.
    """

    layout = "modelnet-hdf5"
    recipe = "finetune-modelnet40"
    unit_sphere: ClassVar[Literal["always", "outside", "never"]] = "outside"

    def __init__(self, root: Path, *, split: str, limit: int | None, points: int, seed: int):
        class_names = read_names(root / "shape_names.txt", "the name of each class, one a line")
        files: list[tuple[str, Path]] = []
        for name in lists_to_read(root, "{}_files.txt", split):
            listing = root / f"{name}_files.txt"
            for line in read_names(listing, f"the hdf5 files of the {name} split"):
                base = plain_name(re.split(r"[/\\]", line)[-1], listing)
                file = require_file(root / base, f"shapes of the {name} split")
                files.append((name, file))
        super().__init__(
            root, class_names, files, split=split, limit=limit, points=points, seed=seed
        )
        self.svm_c = MODELNET40_C if len(class_names) == 40 else None
        if not set(class_names) <= set(MODELNET40_NAMES):  # one's own shapes, in this layout
            self.recipe = ShapeSource.recipe


def lists_to_read(root: Path, pattern: str, split: str) -> list[str]:
    """Which of the train and test lists a split needs; `all` reads those that are there."""
    if split != "all":
        return ["train" if split == "val" else split]
    present = [name for name in ("train", "test") if (root / pattern.format(name)).is_file()]
    return present or ["train"]


def read_table(file: Path, n_classes: int) -> Table:
    """Check a file's keys, shapes and labels without reading its clouds.

    Args:
        file: path of the hdf5 file.
        n_classes: labels must lie below it.

    Raises:
        DataError: if anything is not as it should be.
    """
    remedy = "Download it again."
    with open_parsing(file, remedy), open_hdf5(file) as opened:
        data, label = dataset(opened, file, "data"), dataset(opened, file, "label")
        check_clouds(data, file)
        n_rows, n_points = int(data.shape[0]), int(data.shape[1])
        if label.shape not in ((n_rows,), (n_rows, 1)):
            raise DataError(
                f"{file}: 'label' has shape {label.shape}, 'data' {data.shape}; expected "
                f"({n_rows},) or ({n_rows}, 1). {remedy}"
            )
        if n_rows > _MOST_ROWS:
            raise DataError(
                f"{file}: 'data' holds {n_rows} shapes; at most {_MOST_ROWS} are read of one "
                "file. Split it, or download it again if it should hold fewer."
            )
        stored = np.asarray(label[()]).reshape(-1)
        whole = stored.dtype.kind in "iuf" and np.isfinite(stored).all()
        if not whole or (stored != np.round(stored)).any():
            raise DataError(f"{file}: 'label' holds {label.dtype}; expected integers. Convert it.")
        labels = stored.astype(np.int64)
    wrong = np.flatnonzero((labels < 0) | (labels >= n_classes))
    if len(wrong):
        raise DataError(
            f"{file}: 'label' is {labels[wrong[0]]} in row {wrong[0]}; expected 0 to "
            f"{n_classes - 1} for the {n_classes} classes named. Use the list of classes that "
            "came with the file."
        )
    return Table(n_points, labels.tolist())


def dataset(opened: Any, file: Path, key: str) -> Any:
    """A dataset stored in the file itself, and not far larger than the file.

    Raises:
        DataError: if there is none.
    """
    link = opened.get(key, getlink=True)
    if link is None:
        keys = ", ".join(sorted(opened)[:8]) or "none"
        raise DataError(
            f"{file} has no {key!r}; keys found: {keys}. Rename the array that is meant, or "
            "download the file again."
        )
    dataset = opened[key] if isinstance(link, h5py.HardLink) else None
    if not isinstance(dataset, h5py.Dataset) or dataset.is_virtual or dataset.external:
        raise DataError(
            f"{file}: {key!r} is not an array within this file. Copy the data into it, or "
            "download it again."
        )
    stored = int(dataset.id.get_storage_size())
    size = int(dataset.size or 0) * dataset.dtype.itemsize
    chunk = int(np.prod(dataset.chunks)) * dataset.dtype.itemsize if dataset.chunks else 0
    if size > (1 << 26) + _LARGEST_RATIO * stored or chunk > _LARGEST_CHUNK:
        raise DataError(
            f"{file}: {key!r} of shape {dataset.shape} claims {size} bytes but {stored} are "
            "stored: it is damaged or was never filled. Download it again."
        )
    return dataset


def check_clouds(data: Any, file: Path) -> None:
    """Refuse a dataset that is no stack of clouds.

    Raises:
        DataError: if its shape or type is another.
    """
    shape, key = data.shape, data.name.lstrip("/")
    if len(shape) != 3 or shape[2] != 3 or not shape[0] or not shape[1]:
        hint = (
            " Transpose it: the coordinates belong on the last axis."
            if len(shape) == 3 and shape[1] == 3
            else ""
        )
        raise DataError(
            f"{file}: {key!r} has shape {shape}; expected (shapes, points, 3), none of them 0."
            f"{hint or ' Download it again.'}"
        )
    if data.dtype.kind not in "fiu":
        raise DataError(f"{file}: {key!r} holds {data.dtype}; expected numbers. Convert it.")
