"""A store as a data set: the points that stage one wrote."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy.typing as npt

from i2pmae.datasets.source import Entry, Shape, ShapeSource
from i2pmae.errors import ConfigError
from i2pmae.geometry.coordinates import Up

if TYPE_CHECKING:
    from i2pmae.store import StoreReader


class StoredShapes(ShapeSource):
    """Shapes of a finished store, without those that were skipped.

    Their points already lie in the unit sphere with y up. `up` says which axis pointed up in the
    files that the store was made from.

    Args:
        root: store, or a folder that holds exactly one; folder or URL.
        layouts: classes of data sets by layout: the stored one's recipe and published settings
            are those of its class.

    Attributes:
        stored_layout: layout of the data set that the store was made from.
        stored_points: points of every stored shape.

    Raises:
        StoreError: if there is no finished store.
    """

    layout = "store"
    split_hint: ClassVar[str] = "Extract with --split all to store every split."
    unit_sphere: ClassVar[Literal["always", "outside", "never"]] = "never"

    def __init__(
        self,
        root: Path,
        *,
        layouts: Mapping[str, type[ShapeSource]],
        **options: Any,
    ):
        self._path = root
        self._reader: StoreReader | None = None
        self._opening = threading.Lock()
        reader = self._open()
        ids, labels, splits = (reader.read_all(name) for name in ("id", "label", "split"))
        entries = [
            Entry(str(ids[index]), int(labels[index]), str(splits[index]), root, index)
            for index in reader.indices("all").tolist()
        ]
        recorded, n_left_out = reader.provenance, len(reader) - len(entries)
        self.part_names = reader.info.part_names
        if self.part_names is not None:
            self.class_parts = tuple(map(tuple, recorded.get("class_parts") or ()))
        self.stored_layout, self.stored_points = str(recorded.get("layout")), reader.n_points
        if published := layouts.get(self.stored_layout):
            self.recipe, self.svm_c = published.recipe, published.svm_c
            self.train_splits = published.train_splits  # type: ignore[misc]
        if self.svm_points is not None:
            self.svm_points = min(self.svm_points, reader.n_points)
        super().__init__(
            root,
            reader.class_names,
            entries,
            **options,
            notes=[f"{n_left_out} skipped shapes of the store are left out"] * (n_left_out > 0),
        )

    @staticmethod
    def is_at(path: Path) -> bool:
        """Whether a path is a store's, or that of a folder of stores and nothing else."""
        from i2pmae.store.location import METADATA, Location

        folder = Location.of(path).folder
        if folder is None or (folder / METADATA).is_file():
            return True
        if not folder.is_dir():
            return False
        inside = [found for found in folder.iterdir() if not found.name.startswith((".", "README"))]
        return bool(inside) and all((found / METADATA).is_file() for found in inside)

    @property
    def up(self) -> Up:
        """Axis that pointed up in the files; the stored points are turned so that it is y."""
        recorded = self._open().info.settings.get("up", "y")
        return recorded if recorded in ("x", "z") else "y"

    @up.setter
    def up(self, asked: Up) -> None:
        if asked != "y":
            raise ConfigError(
                f"--up {asked} is for files; shapes of {self._path} are stored with y up. Leave "
                "--up out."
            )

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_reader": None, "_opening": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _opening=threading.Lock())

    def _open(self) -> StoreReader:
        from i2pmae.store import StoreReader, resolve_store

        with self._opening:
            if self._reader is None:
                self._reader = StoreReader(resolve_store(self._path), resident_bytes=0)
            return self._reader

    def _read(self, entry: Entry) -> tuple[npt.NDArray[Any], npt.NDArray[Any] | None]:
        names = ["points"] if self.part_names is None else ["points", "parts"]
        found = self._open().read([entry.row], names)
        return found["points"][0], found["parts"][0] if "parts" in found else None

    def _count(self, _entry: Entry) -> int | None:
        return self._open().n_points

    def _finish(
        self, _entry: Entry, coordinates: npt.NDArray[Any], parts: npt.NDArray[Any] | None
    ) -> Shape:
        """The first points, as they are: stored points are turned and scaled."""
        kept = slice(self.points)
        return Shape(coordinates[kept].copy(), None if parts is None else parts[kept].copy())
