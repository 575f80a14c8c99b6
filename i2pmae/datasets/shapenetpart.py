"""ShapeNetPart: 16 categories with 50 part labels, as its benchmark publishes it.

`<synset>/<id>.txt` holds lines `x y z nx ny nz part`, `synsetoffset2category.txt` the names of
the categories, `train_test_split/shuffled_{train,val,test}_file_list.json` the splits.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from i2pmae.datasets.files import one_line, plain_name, read_columns, read_json, read_names
from i2pmae.datasets.source import Entry, ShapeSource
from i2pmae.errors import DataError

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


class ShapeNetPart(ShapeSource):
    """ShapeNetPart: each shape centred and scaled whole, then a random subset of its points.

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
        entries: list[Entry] = []
        for name in ("train", "val", "test"):
            listing = root / "train_test_split" / f"shuffled_{name}_file_list.json"
            needed = name in (self.train_splits if split == "train" else (split,))
            if not needed and not listing.is_file() and (split != "all" or entries):
                continue
            for synset, shape in _listed(listing, name, labels):
                file = root / synset / f"{shape}.txt"
                entries.append(Entry(f"{synset}/{shape}", labels[synset], name, file))
        self.class_parts = tuple(
            tuple(range(PART_RANGES[name][0], PART_RANGES[name][1] + 1)) for name in categories
        )
        self.part_names = tuple(
            f"{name} {label - first}"
            for name, (first, last) in PART_RANGES.items()
            for label in range(first, last + 1)
        )
        super().__init__(
            root, tuple(categories), entries, split=split, limit=limit, points=points, seed=seed
        )

    def _read(self, entry: Entry) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        table = read_columns(entry.file, None, 7)
        name = self.class_names[entry.label]
        first, last = PART_RANGES[name]
        wrong = np.flatnonzero(~np.isin(table[:, 6], range(first, last + 1)))
        if len(wrong):
            raise DataError(
                f"{entry.file}: part label {table[wrong[0], 6]:g} in line {wrong[0] + 1}; {name} "
                f"has {first} to {last}. Download the data set again."
            )
        return table[:, :3], table[:, 6]


def _categories(file: Path) -> dict[str, str]:
    """Name and synset of each category, in the order of the file."""
    categories: dict[str, str] = {}
    for line in read_names(file, "the name and synset of each category"):
        name, *rest = line.split()
        if len(rest) != 1 or name not in PART_RANGES:
            raise DataError(
                f"{file}: {one_line(line)!r} is not the name of a category of ShapeNetPart and its "
                "synset, such as 'Airplane 02691156'. Download it again."
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
