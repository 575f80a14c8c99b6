"""What every data set looks like to the stages: numbered shapes with points, label and id."""

from __future__ import annotations

import contextlib
import hashlib
import os
import statistics
from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from i2pmae.errors import DataError
from i2pmae.formats.files import require_content, storable
from i2pmae.formats.polygons import Mesh
from i2pmae.geometry.coordinates import (
    Up,
    finite_rows,
    in_unit_sphere,
    to_unit_sphere,
    turned,
    usable,
)

Points = npt.NDArray[np.float32]
Parts = npt.NDArray[np.uint8]

SPLIT_NAMES = ("train", "val", "test", "all")


class SplitError(DataError):
    """A data set has no shapes of the split asked for."""


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
        elsewhere: by id, the shapes of the splits that were not asked for.
        notes: sentences for the user: what was left out or taken for granted.
        points: most points that `load` returns.
        seed: decides random samples of surfaces and clouds.
        up: axis of the files that points up; shapes are turned so that it is y.
        stated_up: axis that the files themselves say points up; None where they say nothing.
        in_order: keep the first points even where a random subset is usual.
        not_finite: points left out of shapes read so far as they are not finite, by index.
        layout: name of the layout, as `--layout` takes it.
        recipe: name of the fine-tuning recipe of this layout's data set.
        svm_points: points that the linear SVM uses, the first ones; None: all.
        svm_c: published regularization of the linear SVM; None where nobody published one.
        part_names: name of each part label, or None where shapes have no parts.
        class_parts: per class, the part labels that occur in it, or None without parts.
    """

    layout: str
    recipe: str = "finetune-own-data"
    svm_points: int | None = 1024
    svm_c: float | None = None
    part_names: tuple[str, ...] | None = None
    class_parts: tuple[tuple[int, ...], ...] | None = None

    split_hint: ClassVar[str] = "Folders or lists named train and test tell splits."
    train_splits: ClassVar[tuple[str, ...]] = ("train",)  # what `split="train"` reads
    # Which clouds are centered and scaled to the unit sphere: all, those that do not reach its
    # surface exactly, or none, as a published protocol asks.
    unit_sphere: ClassVar[Literal["always", "outside", "never"]] = "always"
    shuffled: ClassVar[bool] = False  # keep a random subset in random order, or the first points
    normalized_points: ClassVar[int | None] = 0  # points that decide center and scale: as many
    # as are kept, or this many if that is more; None: all
    skips_not_finite: ClassVar[bool] = False  # leave out points that are NaN or infinite
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
        self.up: Up = "y"
        self.stated_up: str | None = None
        self.in_order = False
        self.not_finite: dict[int, int] = {}
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
            before any were chosen, turned, centered or scaled; of a mesh, the points drawn.

        Raises:
            DataError, IndexError: as `load`.
        """
        if not 0 <= index < len(self.entries):
            raise IndexError(f"shape {index} of {len(self.entries)}")
        entry = self.entries[index]
        coordinates, parts = self._read(entry)
        try:
            if self.skips_not_finite:
                coordinates = self._keep_finite(index, coordinates)
            if self.uniform:
                self._check_count(coordinates)
            return self._finish(entry, coordinates, parts), coordinates
        except DataError as error:
            raise DataError(f"{self._where(entry)}: {error}") from None

    @property
    def has_surfaces(self) -> bool:
        """Whether `load_with_surface` has surfaces to give."""
        return False

    def load_with_surface(self, index: int) -> tuple[Shape, Mesh]:
        """Read one shape, and the surface that its points were drawn from.

        Args:
            index: as in `load`.

        Returns:
            What `load` returns, and a mesh in the coordinates of its points.

        Raises:
            DataError, IndexError: as `load`.
        """
        raise NotImplementedError  # `has_surfaces` says where there are some

    def count(self, index: int) -> int | None:
        """How many points `load` will return, without reading the shape.

        Args:
            index: as in `load`.

        Returns:
            Points as the file's name, size or header tells; fewer may be usable. None if only
            reading tells.

        Raises:
            DataError: if the file is missing, empty, or its header is damaged.
        """
        n_points = self._count(self.entries[index])
        return None if n_points is None else min(n_points, self.points)

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

    def times(self, ids: Collection[str] | None = None) -> str:
        """Hash of the files' names, sizes and times of change; of equal ones none was changed.

        Args:
            ids: shapes whose files count; None: all.

        Returns:
            64 hexadecimal digits. A copy of a data set may have others.
        """
        digest = hashlib.sha256()
        chosen = {entry.file for entry in self.entries if ids is None or entry.id in ids}
        for file in sorted(chosen, key=os.fspath):
            try:
                found = os.stat(file)
            except OSError:  # of built-in shapes there are none
                continue
            name = os.path.relpath(file, self.root)
            told = f"{name}\t{found.st_size}\t{found.st_mtime_ns}\n"
            digest.update(told.encode("utf-8", "surrogateescape"))
        return digest.hexdigest()

    @abstractmethod
    def _read(self, entry: Entry) -> tuple[npt.NDArray[Any], npt.NDArray[Any] | None]:
        """All coordinates (n, 3 or more columns) and part labels (n,) of a shape."""

    def _count(self, entry: Entry) -> int | None:
        """Points of a shape, see `count`; of any size where all hold equally many."""
        require_content(entry.file)
        return self._points_of_others() if self.uniform else None

    def _points_of_others(self) -> int | None:
        """How many points all shapes should hold, as a few of them do; None if these are bad."""
        if self._expected_points is None:
            counts = []
            for entry in self._samples:
                with contextlib.suppress(DataError):  # load() of that shape says so
                    counts.append(self._read(entry)[0].shape[0])
            self._expected_points = statistics.median_high(counts) if counts else None
        return self._expected_points

    def _check_count(self, coordinates: npt.NDArray[Any]) -> None:
        """Refuse a shape that was cut short: in this layout all hold equally many points."""
        expected = self._points_of_others()
        if expected is not None and coordinates.shape[0] != expected:
            raise DataError(
                f"holds {coordinates.shape[0]} points, others {expected}: mixed point counts. "
                "Download the data set again."
            )

    def _keep_finite(self, index: int, coordinates: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """The points that are finite; the others are counted."""
        if coordinates.ndim != 2 or coordinates.dtype.kind != "f":
            return coordinates
        finite = finite_rows(coordinates)
        if finite.all():
            return coordinates
        self.not_finite[index] = len(finite) - int(np.count_nonzero(finite))
        kept: npt.NDArray[Any] = coordinates[finite]
        return kept

    def _where(self, entry: Entry) -> str:
        """How messages name a shape."""
        return f"{entry.id} ({entry.file})"

    def _finish(
        self, entry: Entry, coordinates: npt.NDArray[Any], parts: npt.NDArray[Any] | None
    ) -> Shape:
        """Check what was read, choose the points to keep, center and scale them."""
        xyz = turned(usable(coordinates), self.up)
        scaled = self.unit_sphere == "always" or (
            self.unit_sphere == "outside" and not in_unit_sphere(xyz)
        )
        if scaled and self.normalized_points is None:
            xyz = to_unit_sphere(xyz)
        if self.shuffled and not self.in_order:
            order = random_order(len(xyz), self.points, shape_generator(self.seed, entry.id))
            xyz = xyz[order]
            parts = None if parts is None else parts[order]
        if scaled and self.normalized_points is not None:
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
            unused = sum(entry.split == "val" for entry in entries)
            if split == "train" and unused and "val" not in self.train_splits:
                self.notes.append(
                    f"{unused} shapes of split val are left out; fine-tuning validates on a part "
                    "of the training shapes"
                )
            outside = sum(entry.split == "" for entry in entries)
            if outside and split == "train":
                self.notes.append(
                    f"{outside} shapes lie outside the folders of a split and count as training "
                    "data"
                )
        if not chosen:
            known = ", ".join(name for name in present if name) or "none"
            raise SplitError(
                f"{self.root} holds no shapes of split {split!r}; splits found: {known}. "
                f"{self.split_hint}"
            )
        ids = {entry.id for entry in chosen}
        self.elsewhere = {entry.id: entry for entry in entries if entry.id not in ids}
        return chosen[:limit]

    def _note_absent_classes(self) -> None:
        used = set(self.labels)
        absent = [name for label, name in enumerate(self.class_names) if label not in used]
        if absent:
            some = ", ".join(absent[:5]) + (", ..." if len(absent) > 5 else "")
            self.notes.append(
                f"{len(absent)} of {len(self.class_names)} classes have no shape here: {some}"
            )


def shape_generator(seed: int, shape_id: str) -> np.random.Generator:
    """Random generator of one shape, independent of what else is read."""
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
        if not storable(entry.id):
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
