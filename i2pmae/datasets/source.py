"""What every data set looks like to the stages: numbered shapes with points, label and id."""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
import statistics
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt

from i2pmae.errors import DataError

Points = npt.NDArray[np.float32]
Parts = npt.NDArray[np.uint8]

SPLIT_NAMES = ("train", "val", "test", "all")


class Shape(NamedTuple):
    """One shape as the stages see it."""

    points: Points  # (n, 3) float32, n >= 1
    parts: Parts | None = None  # (n,) uint8, index into `part_names` of the source


class Entry(NamedTuple):
    """Where one shape of a data set lies."""

    id: str
    label: int  # index into the class names; -1 unknown
    split: str  # 'train', 'val', 'test', or '' where the data set has none
    file: Path
    row: int = 0  # within the file


class ShapeSource(ABC):
    """A data set on disk, read one shape at a time.

    Nothing but names, labels and sizes is read when a source is built. Sources hold no open
    files: they can be pickled, and several threads may load from one at once. Everything about
    a shape depends on its id, the seed and the number of points asked for, never on which other
    shapes are read, in which order, or on `limit`.

    Attributes:
        root: folder (or file) that holds the data.
        class_names: name of each label; empty where shapes have no class.
        ids, labels, splits: one entry per shape; label -1 and split '' where unknown.
        notes: sentences for the user: what was left out or taken for granted.
        points: most points that `load` returns.
        seed: decides random samples of surfaces and clouds.
        layout: name of the layout, as `--layout` takes it.
        recipe: name of the fine-tuning recipe of this layout's data set.
        svm_points: points that the linear SVM uses, the first ones; None: all.
        svm_c: published regularisation of the linear SVM; None where nobody published one.
        part_names: name of each part label, or None where shapes have no parts.
        class_parts: per class, the part labels that occur in it, or None without parts.
    """

    layout: str
    recipe: str = "finetune-own-data"
    svm_points: int | None = 1024
    svm_c: float | None = None
    part_names: tuple[str, ...] | None = None
    class_parts: tuple[tuple[int, ...], ...] | None = None

    train_splits: ClassVar[tuple[str, ...]] = ("train",)  # what `split="train"` reads
    unit_sphere: ClassVar[bool] = True  # centre and scale, or keep coordinates as stored
    shuffled: ClassVar[bool] = False  # keep a random subset in random order, or the first points
    normalized_points: ClassVar[int | None] = 0  # points that decide centre and scale: as many
    # as are kept, or this many if that is more; None: all
    uniform: ClassVar[bool] = False  # all shapes must hold equally many points
    hash_contents: ClassVar[bool] = False  # the fingerprint covers what the files hold

    def __init__(
        self,
        root: Path,
        class_names: Sequence[str],
        entries: Sequence[Entry],
        *,
        split: str,
        limit: int | None,
        points: int,
        seed: int,
        notes: Sequence[str] = (),
    ):
        self.root = root
        self.class_names = tuple(class_names)
        self.points = points
        self.seed = seed
        self.notes = list(notes)
        _check_ids(root, entries)
        if not entries:
            raise DataError(f"{root} lists no shapes. Download the data set again.")
        self._samples = [entries[0], entries[len(entries) // 2], entries[-1]]
        self._expected_points: int | None = None
        self.entries = self._select(entries, split, limit)
        self.ids = [entry.id for entry in self.entries]
        self.labels = [entry.label for entry in self.entries]
        self.splits = [entry.split for entry in self.entries]
        if limit is None:
            self._note_absent_classes()

    def __len__(self) -> int:
        return len(self.entries)

    def load(self, index: int) -> Shape:
        """Read one shape.

        Args:
            index: position in `ids`, from 0.

        Returns:
            A shape of at most `points` points; its arrays belong to the caller.

        Raises:
            DataError: if the shape cannot be read, is empty, not finite or without extent.
            IndexError: if `index` is out of range.
        """
        return self.load_with_original(index)[0]

    def load_with_original(self, index: int) -> tuple[Shape, npt.NDArray[Any]]:
        """Read one shape, and all its coordinates as the file has them.

        Args:
            index: as in `load`.

        Returns:
            What `load` returns, and (n, 3 or more columns) numbers in the file's unit and order,
            before any were left out, centred or scaled; of a mesh, the points drawn.

        Raises:
            DataError, IndexError: as `load`.
        """
        if not 0 <= index < len(self.entries):
            raise IndexError(f"shape {index} of {len(self.entries)}")
        entry = self.entries[index]
        coordinates, parts = self._read(entry)
        try:
            if self.uniform:
                self._check_count(coordinates)
            return self._finish(entry, coordinates, parts), coordinates
        except DataError as error:
            raise DataError(f"{self._where(entry)}: {error}") from None

    def fingerprint(self) -> str:
        """Hash of what the source holds: layout, ids, labels, file names and sizes.

        Where many shapes share few files, their contents are covered as well. Folders may move;
        the fingerprint stays.

        Returns:
            64 hexadecimal digits.
        """
        digest = hashlib.sha256(f"{self.layout}\n".encode())
        for entry in self.entries:
            digest.update(f"{entry.id}\t{entry.label}\t{entry.split}\n".encode())
        for file in sorted({entry.file for entry in self.entries}, key=os.fspath):
            name = os.path.relpath(file, self.root)
            digest.update(f"{name}\t{_size(file)}\n".encode("utf-8", "surrogateescape"))
            if self.hash_contents:
                _hash_file(file, digest)
        return digest.hexdigest()

    @abstractmethod
    def _read(self, entry: Entry) -> tuple[npt.NDArray[Any], npt.NDArray[Any] | None]:
        """All coordinates (n, 3 or more columns) and part labels (n,) of a shape."""

    def _check_count(self, coordinates: npt.NDArray[Any]) -> None:
        """Refuse a shape that was cut short: in this layout all hold equally many points."""
        if self._expected_points is None:
            counts = []
            for entry in self._samples:
                with contextlib.suppress(DataError):  # load() of that shape says so
                    counts.append(self._read(entry)[0].shape[0])
            self._expected_points = statistics.median_high(counts or [coordinates.shape[0]])
        if coordinates.shape[0] != self._expected_points:
            raise DataError(
                f"holds {coordinates.shape[0]} points, others {self._expected_points}: mixed point "
                "counts. Download the data set again."
            )

    def _where(self, entry: Entry) -> str:
        """How messages name a shape."""
        return f"{entry.id} ({entry.file})"

    def _finish(
        self, entry: Entry, coordinates: npt.NDArray[Any], parts: npt.NDArray[Any] | None
    ) -> Shape:
        """Check what was read, choose the points to keep, centre and scale them."""
        xyz = usable(coordinates)
        if self.unit_sphere and self.normalized_points is None:
            xyz = to_unit_sphere(xyz)
        if self.shuffled:
            order = random_order(len(xyz), self.points, shape_generator(self.seed, entry.id))
            xyz = xyz[order]
            parts = None if parts is None else parts[order]
        if self.unit_sphere and self.normalized_points is not None:
            xyz = to_unit_sphere(xyz[: max(self.normalized_points, self.points)])
        kept = np.array(xyz[: self.points], dtype=np.float32)
        if parts is None:
            return Shape(kept)
        return Shape(kept, np.array(parts[: self.points], dtype=np.uint8))

    def _select(self, entries: Sequence[Entry], split: str, limit: int | None) -> list[Entry]:
        """The shapes of a split, the first `limit` of them."""
        present = sorted({entry.split for entry in entries})
        if present == [""] and split in ("train", "all"):
            chosen = list(entries)
            if split == "train":
                self.notes.append(
                    f"no train and test split was found: all {len(chosen)} shapes are used"
                )
        elif split == "all":
            chosen = list(entries)
        else:
            wanted = (*self.train_splits, "") if split == "train" else (split,)
            chosen = [entry for entry in entries if entry.split in wanted]
            outside = sum(entry.split == "" for entry in entries)
            if outside and split == "train":
                self.notes.append(
                    f"{outside} shapes lie outside the folders of a split and count as training "
                    "data"
                )
        if not chosen:
            known = ", ".join(name for name in present if name) or "none"
            raise DataError(
                f"{self.root} holds no shapes of split {split!r}; splits found: {known}. "
                "Name one of them with --split, or use --split all."
            )
        return chosen[:limit]

    def _note_absent_classes(self) -> None:
        used = set(self.labels)
        absent = [name for label, name in enumerate(self.class_names) if label not in used]
        if absent:
            some = ", ".join(absent[:5]) + (", ..." if len(absent) > 5 else "")
            self.notes.append(
                f"{len(absent)} of {len(self.class_names)} classes have no shape here: {some}"
            )


def usable(coordinates: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return the x, y, z columns of a cloud that can be rendered and grouped.

    Args:
        coordinates: (n, 3 or more) numbers.

    Returns:
        (n, 3) float32 or float64.

    Raises:
        DataError: if there are no points, no three columns, values that are not finite, or no
            extent along any axis.
    """
    if coordinates.ndim != 2 or coordinates.shape[1] < 3:
        raise DataError(
            f"holds an array of shape {coordinates.shape}; expected (points, 3 or more columns). "
            "Store one point a row."
        )
    if coordinates.dtype.kind not in "fiu":
        raise DataError(f"holds {coordinates.dtype} values; expected numbers. Convert it to float.")
    if len(coordinates) == 0:
        raise DataError("holds no points. Remove it or replace it.")
    xyz = coordinates[:, :3]
    if xyz.dtype not in (np.float32, np.float64):
        xyz = xyz.astype(np.float64)
    finite = np.isfinite(xyz)
    if not finite.all():
        finite = finite.all(axis=1)
        raise DataError(
            f"{int((~finite).sum())} of {len(xyz)} points are not finite (NaN or infinite), "
            f"the first in row {int(finite.argmin())}. Remove them or replace the file."
        )
    if (xyz == xyz[0]).all():
        raise DataError(f"all {len(xyz)} points coincide. Remove it or replace it.")
    return xyz


def to_unit_sphere(points: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Move the mean to the origin and scale the farthest point to distance 1.

    Args:
        points: (n, 3) finite, not all equal, any unit.

    Returns:
        (n, 3) float64.

    Raises:
        DataError: if the chosen points coincide or their extent cannot be computed.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        # Dividing first keeps means and squares of far-away coordinates from overflowing.
        scaled = points.astype(np.float64) / max(float(np.abs(points).max()), 1e-300)
        centered = scaled - scaled.T.copy().mean(axis=1)  # along the memory: four times as fast
        radius = math.sqrt(np.einsum("ij,ij->i", centered, centered).max())
    if not np.isfinite(radius) or radius <= 1e-12:
        raise DataError(
            "its points are too close together, compared with their distance from the origin, "
            "to be scaled. Move it to the origin or remove it."
        )
    return np.asarray(centered / radius, dtype=np.float64)


def shape_generator(seed: int, shape_id: str) -> np.random.Generator:
    """Random numbers that belong to one shape, whatever is read before or after it."""
    digest = hashlib.sha256(f"{seed}\n{shape_id}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:16], "little"))


def random_order(n: int, kept: int, generator: np.random.Generator) -> npt.NDArray[np.int64]:
    """The first `kept` entries of a random permutation; a longer one begins the same way.

    Returns:
        (min(n, kept),) int64.
    """
    keys = generator.random(n)
    if kept < n:
        nearest = np.argpartition(keys, kept)[:kept]
        return nearest[np.argsort(keys[nearest], kind="stable")].astype(np.int64)
    return np.argsort(keys, kind="stable").astype(np.int64)


def _check_ids(root: Path, entries: Sequence[Entry]) -> None:
    """Ids must be unique and storable as text."""
    seen: dict[str, Path] = {}
    for entry in entries:
        if entry.id in seen:
            other = seen[entry.id]
            if other == entry.file:
                raise DataError(
                    f"{root}: {entry.file.name} is listed twice. Remove one of the lines."
                )
            raise DataError(
                f"{root}: two shapes have the id {entry.id!r} ({other.name} and "
                f"{entry.file.name}). Remove or rename one of them."
            )
        seen[entry.id] = entry.file
        if not entry.id.isprintable():
            raise DataError(
                f"{root}: the name {entry.id!a} holds characters that cannot be stored. "
                "Rename the file."
            )


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:
        return -1  # load() names what is wrong with it


def _hash_file(file: Path, digest: hashlib._Hash) -> None:
    try:
        with file.open("rb") as stream:
            while block := stream.read(1 << 22):
                digest.update(block)
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror}. Check it.") from error
