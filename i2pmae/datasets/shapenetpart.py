"""ShapeNetPart: 16 categories with 50 part labels, as its benchmark publishes it; or one's own.

`<synset>/<id>.txt` holds lines `x y z nx ny nz part`, `synsetoffset2category.txt` the names of
the categories, `train_test_split/shuffled_{train,val,test}_file_list.json` the splits. The older
version has points in `<synset>/points/<id>.pts` and parts, counted from 1 in each category, in
`<synset>/points_label/<id>.seg`. The one in hdf5 has `data`, `label` and `pid` in the files that
`{train,val,test}_hdf5_file_list.txt` name.

Other categories have whatever part labels their shapes have.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt

from i2pmae.datasets.hdf5 import Hdf5Source, dataset
from i2pmae.datasets.source import Entry, ShapeSource
from i2pmae.errors import DataError, one_line
from i2pmae.formats.files import (
    parsing,
    plain_name,
    read_bytes,
    read_columns,
    read_json,
    read_names,
    read_text,
    require_file,
)
from i2pmae.untrusted.hdf5 import open_hdf5

_MOST_PARTS = 256
_THREADS = 8
# First and last part label of each category.
PART_RANGES = {
    "Airplane": (0, 3),
    "Bag": (4, 5),
    "Cap": (6, 7),
    "Car": (8, 11),
    "Chair": (12, 15),
    "Earphone": (16, 18),
    "Guitar": (19, 21),
    "Knife": (22, 23),
    "Lamp": (24, 27),
    "Laptop": (28, 29),
    "Motorbike": (30, 35),
    "Mug": (36, 37),
    "Pistol": (38, 40),
    "Rocket": (41, 43),
    "Skateboard": (44, 46),
    "Table": (47, 49),
}


class PartLabels(NamedTuple):
    """Part labels of the files, and what they are called here."""

    names: tuple[str, ...]  # of all parts; a part's place is its label here
    of_class: tuple[tuple[int, ...], ...]  # per category, the labels here
    in_files: tuple[tuple[int, ...], ...]  # likewise in its files

    @classmethod
    def published(cls, categories: Sequence[str], *, from_one: bool = False) -> PartLabels:
        """Those of ShapeNetPart; its older version counts from one in each category."""
        names = tuple(
            f"{name} {label - first}"
            for name, (first, last) in PART_RANGES.items()
            for label in range(first, last + 1)
        )
        ranges = [PART_RANGES[name] for name in categories]
        labels = tuple(tuple(range(first, last + 1)) for first, last in ranges)
        if not from_one:
            return cls(names, labels, labels)
        return cls(names, labels, tuple(tuple(range(1, len(own) + 1)) for own in labels))

    @classmethod
    def own(cls, found: Mapping[str, Collection[int]], root: Path) -> PartLabels:
        """Those found in the shapes of each category."""
        in_files = tuple(tuple(sorted(labels)) for labels in found.values())
        starts = [0, *accumulate(map(len, in_files))]
        if starts[-1] > _MOST_PARTS:
            raise DataError(
                f"{root}: its categories have {starts[-1]} parts; at most {_MOST_PARTS} can be "
                "stored. Merge some of them."
            )
        return cls(
            tuple(f"{name} {label}" for name in found for label in sorted(found[name])),
            tuple(tuple(range(*pair)) for pair in pairwise(starts)),
            in_files,
        )

    def here(self, category: int, labels: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
        """Labels of a shape's points as they are called here.

        Raises:
            DataError: if one is none of the category's.
        """
        own = np.array(self.in_files[category])
        wrong = np.flatnonzero(~np.isin(labels, own))
        if len(wrong):
            raise DataError(
                f"part label {labels[wrong[0]]:g} in line {wrong[0] + 1}; its category has "
                f"{own[0]} to {own[-1]}. Download the data set again."
            )
        places = np.searchsorted(own, labels)
        return np.array(self.of_class[category], np.uint8)[places]

    def read(self, entry: Entry, key: str, n_points: int) -> npt.NDArray[np.uint8]:
        """Labels of a shape's first points, from an array of its hdf5 file."""
        with parsing(entry.file, "Download it again."), open_hdf5(entry.file) as opened:
            found = dataset(opened, entry.file, key)[entry.row, :n_points]
        return self.here(entry.label, np.asarray(found))


class ShapeNetPart(ShapeSource):
    """ShapeNetPart: each shape centered and scaled whole, then a random subset of its points.

    The subset depends on seed and id alone. The training split includes the validation split, as
    in the published protocol; `split="val"` reads the latter alone. Normals are ignored.

    Raises:
        DataError: if a list or the names of the categories are missing or wrong.

    Source: Yi et al., A scalable active framework for region annotation in 3D shape collections.
    """

    layout = "shapenetpart"
    recipe = "segment-shapenetpart"
    svm_points = 2048
    train_splits: ClassVar[tuple[str, ...]] = ("train", "val")
    normalized_points: ClassVar[int | None] = None
    shuffled: ClassVar[bool] = True

    def __init__(self, root: Path, *, split: str, limit: int | None, points: int, seed: int):
        categories = _categories(root / "synsetoffset2category.txt")
        labels = {synset: label for label, synset in enumerate(categories.values())}
        self._is_older = any((root / synset / "points").is_dir() for synset in labels)
        entries: list[Entry] = []
        for name in ("train", "val", "test"):
            listing = root / "train_test_split" / f"shuffled_{name}_file_list.json"
            needed = name == ("train" if split == "all" else split)
            if not needed and not listing.is_file():
                continue
            for synset, shape in _listed(listing, name, labels):
                place = f"points/{shape}.pts" if self._is_older else f"{shape}.txt"
                file = root / synset / place
                entries.append(Entry(f"{synset}/{shape}", labels[synset], name, file))
        self._labels = self._part_labels(root, tuple(categories), entries)
        self.part_names, self.class_parts, _ = self._labels
        super().__init__(
            root, tuple(categories), entries, split=split, limit=limit, points=points, seed=seed
        )
        if self.part_names != PartLabels.published(tuple(PART_RANGES)).names:
            self.notes.append(f"{len(self.part_names)} parts are those found in the shapes")

    def _part_labels(
        self, root: Path, categories: tuple[str, ...], entries: Sequence[Entry]
    ) -> PartLabels:
        """The published part labels where the shapes have these, else those that they have."""
        by_category: dict[int, list[Path]] = {place: [] for place in range(len(categories))}
        for entry in entries:
            by_category[entry.label].append(entry.file)
        if {*categories} <= PART_RANGES.keys():
            published = PartLabels.published(categories, from_one=self._is_older)
            fitting = [
                self._labels_in(files[place]) <= {*published.in_files[category]}
                for category, files in by_category.items()
                for place in {0, len(files) // 2, len(files) - 1}
                if files
            ]
            if 2 * sum(fitting) >= len(fitting):  # others are damaged, which reading them says
                return published
        with ThreadPoolExecutor(_THREADS, "look for parts") as pool:
            found = {
                name: set().union(*pool.map(self._labels_in, files))
                for name, files in zip(categories, by_category.values(), strict=True)
            }
        return PartLabels.own(found, root)

    def _labels_in(self, file: Path) -> set[int]:
        """Part labels of a shape, as far as they can be read."""
        try:
            lines = read_text(self._labels_file(file), strict=True).splitlines()
            return {int(float(line.rsplit(None, 1)[-1])) for line in lines}
        except (DataError, OSError, ValueError, IndexError, OverflowError):
            return set()  # load() says what is wrong

    def _labels_file(self, file: Path) -> Path:
        """The file with the part labels of the points in another one."""
        if not self._is_older:
            return file
        return file.parents[1] / "points_label" / f"{file.stem}.seg"

    def _count(self, entry: Entry) -> int:
        return len(read_bytes(entry.file).rstrip().split(b"\n"))  # a point a line, and no other

    def _read(self, entry: Entry) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        if self._is_older:
            xyz = read_columns(entry.file, None, 3)
            parts = read_columns(self._labels_file(entry.file), None, 1)[:, 0]
            if len(xyz) != len(parts):
                raise DataError(
                    f"{entry.file} has {len(xyz)} points, its points_label {len(parts)} parts. "
                    "Download the data set again."
                )
        else:
            table = read_columns(entry.file, None, 7)
            xyz, parts = table[:, :3], table[:, 6]
        try:
            return xyz, self._labels.here(entry.label, parts)
        except DataError as error:
            raise DataError(f"{entry.file}: {error}") from None


class ShapeNetPartHdf5(Hdf5Source):
    """ShapeNetPart in hdf5 files of 2048 points a shape, the first of them, centered and scaled.

    Raises:
        DataError: if a list or a file is missing or wrong.
    """

    layout = "shapenetpart-hdf5"
    recipe = "segment-shapenetpart"
    svm_points = 2048
    train_splits: ClassVar[tuple[str, ...]] = ("train", "val")

    def __init__(self, root: Path, *, split: str, limit: int | None, points: int, seed: int):
        categories = tuple(_categories(root / "all_object_categories.txt"))
        files: list[tuple[str, Path]] = []
        for name in ("train", "val", "test"):
            listing = root / f"{name}_hdf5_file_list.txt"
            if listing.is_file() or name == ("train" if split == "all" else split):
                for line in read_names(listing, f"the hdf5 files of the {name} split"):
                    base = plain_name(line.replace("\\", "/").rpartition("/")[2], listing)
                    files.append((name, require_file(root / base, f"shapes of the {name} split")))
        self._labels = PartLabels.published(categories)
        self.part_names, self.class_parts, _ = self._labels
        super().__init__(
            root, categories, files, split=split, limit=limit, points=points, seed=seed
        )

    def _read(self, entry: Entry) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        xyz = super()._read(entry)[0]
        return xyz, self._labels.read(entry, "pid", len(xyz))


def _categories(file: Path) -> dict[str, str]:
    """Name and synset of each category, in the order of the file."""
    categories: dict[str, str] = {}
    for line in read_names(file, "the name and synset of each category"):
        name, *rest = line.split()
        if len(rest) != 1:
            raise DataError(
                f"{file}: {one_line(line)!r} is not the name of a category and its folder, such as "
                "'Airplane 02691156'. Download it again."
            )
        categories[name] = plain_name(rest[0], file)
    if len(set(categories.values())) < len(categories):
        raise DataError(f"{file}: two categories share a synset. Download it again.")
    return categories


def _listed(listing: Path, name: str, labels: dict[str, int]) -> list[tuple[str, str]]:
    """Synset and id of each shape that a split lists as `shape_data/<synset>/<id>`."""
    lines = read_json(listing, f"the shapes of the {name} split")
    if not isinstance(lines, list) or not all(isinstance(line, str) for line in lines):
        raise DataError(
            f"{listing} holds no list of 'shape_data/<synset>/<id>'. Download it again."
        )
    shapes = []
    for line in lines:
        synset, slash, shape = line.removeprefix("shape_data/").partition("/")
        if not slash or synset not in labels:
            raise DataError(
                f"{listing} lists {one_line(line)!r}; expected 'shape_data/<synset>/<id>' with a "
                "synset of synsetoffset2category.txt. Download it again."
            )
        shapes.append((synset, plain_name(shape, listing)))
    return shapes
