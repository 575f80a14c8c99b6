"""ShapeNet-55 as published for pre-training: one `.npy` a shape, and two lists.

`ShapeNet-55/{train,test}.txt` name `<taxonomy>-<model>.npy`; the clouds of 8192 points lie in
`shapenet_pc`. The taxonomy id is the class.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy.typing as npt

from i2pmae.datasets.hdf5 import lists_to_read
from i2pmae.datasets.source import Entry, ShapeSource
from i2pmae.errors import DataError
from i2pmae.formats.files import plain_name, read_names, read_npy


class ShapeNet55(ShapeSource):
    """ShapeNet-55; the first points of each shape, then centered and scaled to the unit sphere.

    The files' points are in random order, so the first n are a fair sample.

    Raises:
        DataError: if a list is missing or names something else than `<taxonomy>-<model>.npy`.
    """

    layout = "shapenet55"
    uniform: ClassVar[bool] = True
    lists: ClassVar[str] = "ShapeNet-55"
    clouds: ClassVar[str] = "shapenet_pc"

    def __init__(self, root: Path, *, split: str, limit: int | None, points: int, seed: int):
        listed = {name: root / self.lists / f"{name}.txt" for name in ("train", "test")}
        needed = lists_to_read(root / self.lists, "{}.txt", split)
        names: dict[str, list[str]] = {}
        for name, listing in listed.items():
            if name in needed or listing.is_file():
                lines = read_names(listing, f"the shapes of the {name} split")
                names[name] = [_checked(line, listing) for line in lines]
        if not (root / self.clouds).is_dir():
            raise DataError(
                f"{root / self.clouds} is missing; it holds the clouds that {self.lists} lists. "
                f"Download shapenet_pc and unpack it beside {self.lists}."
            )
        taxonomies = sorted({_taxonomy(line) for lines in names.values() for line in lines})
        labels = {taxonomy: label for label, taxonomy in enumerate(taxonomies)}
        entries = [
            Entry(
                line.removesuffix(".npy"),
                labels[_taxonomy(line)],
                name,
                root / self.clouds / line,
            )
            for name, lines in names.items()
            for line in lines
        ]
        super().__init__(
            root, taxonomies, entries, split=split, limit=limit, points=points, seed=seed
        )

    def _read(self, entry: Entry) -> tuple[npt.NDArray[Any], None]:
        return read_npy(entry.file), None


def _checked(line: str, listing: Path) -> str:
    """A line of a list, if it names a cloud and its class."""
    name = plain_name(line, listing)
    taxonomy, dash, model = name.removesuffix(".npy").partition("-")
    if not (taxonomy and dash and model) or not name.endswith(".npy"):
        raise DataError(
            f"{listing} lists {name!r}; expected <taxonomy>-<model>.npy. Download the list again."
        )
    return name


def _taxonomy(line: str) -> str:
    return line.partition("-")[0]
