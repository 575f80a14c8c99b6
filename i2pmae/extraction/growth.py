"""A store of a data set that has changed.

New shapes are added, classes and splits brought up to date, shapes with other contents refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from i2pmae.datasets import ShapeSource
from i2pmae.datasets.reading import read_pieces
from i2pmae.datasets.source import Entry, Shape
from i2pmae.errors import DataError, StoreDamageError, StoreError
from i2pmae.extraction.loading import ShapeReader
from i2pmae.formats.polygons import Mesh
from i2pmae.progress import Progress, note
from i2pmae.store.growth import grow_store
from i2pmae.store.location import Location
from i2pmae.store.lock import Part
from i2pmae.store.metadata import StoreInfo, load_info, setting_differences
from i2pmae.store.reader import StoreReader
from i2pmae.store.schema import DONE, PENDING

_LISTED = 5  # shapes that a message names
_AHEAD = 8  # shards of shapes that are read before they are compared
_TOLERANCE = 2.0**-15  # of stored coordinates, which are multiples of 2^-16


class InStoreOrder(ShapeSource):
    """The shapes of a data set as a store numbers them and their classes.

    First come the shapes that the store holds, in its order; those that are not extracted yet take
    the free numbers in the order of the data set. A shape that the data set no longer has keeps
    its number and cannot be loaded.

    Attributes:
        removed: ids of such shapes, which may be of another split by now.
        relabeled: ids of the shapes that the store holds with another class or split.
    """

    def __init__(
        self,
        source: ShapeSource,
        info: StoreInfo,
        stored: Sequence[str | None],
        labels: Sequence[int],
        splits: Sequence[str],
    ) -> None:
        """Put a data set in order.

        Args:
            source: the data set.
            info: of the store.
            stored: id of each shape of the store; None where none is written yet.
            labels: of the same shapes.
            splits: likewise.
        """
        places = {name: index for index, name in enumerate(source.ids)}
        held = set(stored)
        waiting = [name for name in source.ids if name not in held]
        free = iter(waiting)
        numbered = [name if name is not None else next(free, None) for name in stored]
        order: list[str] = [name for name in (*numbered, *free) if name is not None]
        self.removed = [name for name in order if name not in places]
        new_classes = [name for name in source.class_names if name not in info.class_names]
        self.class_names = (*info.class_names, *new_classes)
        self._source = source
        self._places = [places.get(name) for name in order]
        self.elsewhere = {
            name: entry._replace(label=self._label(entry.label))
            for name, entry in source.elsewhere.items()
        }
        said = {
            name: Entry(name, label, split, source.root)
            for name, label, split in zip(stored, labels, splits, strict=True)
            if name is not None
        } | self.elsewhere
        self.ids = order
        self.entries = [
            said[name]
            if place is None
            else Entry(
                name,
                self._label(source.labels[place]),
                source.splits[place],
                source.entries[place].file,
            )
            for name, place in zip(order, self._places, strict=True)
        ]
        self.labels = [entry.label for entry in self.entries]
        self.splits = [entry.split for entry in self.entries]
        before = {*zip(stored, labels, splits, strict=True)}
        self.relabeled = [
            entry.id for entry in self.entries if entry.id in held and entry[:3] not in before
        ]
        self.root, self.notes, self.points = source.root, source.notes, source.points
        self.seed, self.layout, self.recipe = source.seed, source.layout, source.recipe
        self.part_names = source.part_names
        self.class_parts = self._parts_of_classes(info.provenance.get("class_parts"))
        self.not_finite = {}

    def _label(self, label: int) -> int:
        return label if label < 0 else self.class_names.index(self._source.class_names[label])

    def _parts_of_classes(self, recorded: Any) -> tuple[tuple[int, ...], ...] | None:
        parts = self._source.class_parts
        if parts is None:
            return None
        known = dict(zip(self._source.class_names, parts, strict=True))
        old = dict(zip(self.class_names, recorded or (), strict=False))
        return tuple(tuple(known.get(name, old.get(name, ()))) for name in self.class_names)

    def __len__(self) -> int:
        return len(self.ids)

    def load_with_original(self, index: int) -> tuple[Shape, npt.NDArray[Any]]:
        """See `ShapeSource`; a shape that is no longer there is an error."""
        place = self._place(index)
        found = self._source.load_with_original(place)
        if place in self._source.not_finite:
            self.not_finite[index] = self._source.not_finite[place]
        return found

    @property
    def has_surfaces(self) -> bool:
        """Of the data set."""
        return self._source.has_surfaces

    def load_with_surface(self, index: int) -> tuple[Shape, Mesh]:
        """See `load_with_original`."""
        return self._source.load_with_surface(self._place(index))

    def _place(self, index: int) -> int:
        place = self._places[index]
        if place is None:
            raise DataError(f"{self.ids[index]} is no longer in {self.root}; put it back")
        return place

    def fingerprint(self) -> str:
        """Of the data set."""
        return self._source.fingerprint()

    def times(self, ids: Any = None) -> str:
        """Of the data set."""
        return self._source.times(ids)

    def _read(self, entry: Entry) -> Any:
        raise NotImplementedError  # `load_with_original` asks the data set


def in_store_order(source: ShapeSource, path: str | Path) -> ShapeSource:
    """A data set as the store that is there numbers it; itself where that makes no difference.

    Args:
        source: the shapes.
        path: folder or URL of a store, which need not be there or readable.

    Raises:
        StoreError: if its ids cannot be read.
    """
    try:
        info = load_info(Location.of(path))
    except StoreError:
        return source
    is_same = info.settings.get("source_fingerprint") == source.fingerprint()
    if is_same and source.class_names == info.class_names and not info.provenance.get("grown"):
        return source
    reader = StoreReader(path, unfinished=True, fill_missing=True)
    written = {key.rpartition("/")[2] for key in Location.of(path).keys("id/c/")}
    held: dict[int, tuple[str, int, str]] = {}
    for k in sorted(int(number) for number in written if number.isdecimal()):
        if k < info.spec.n_shards:
            with suppress(StoreDamageError):  # it is to be extracted again
                found = [reader.read_shard(k, name).tolist() for name in ("id", "label", "split")]
                held |= dict(enumerate(zip(*found, strict=True), info.spec.shard(k).start))
    if info.spec.n_shapes > len(source) + len(held):
        return source  # no store of this data set, as its writer says
    told = [held.get(index, ("", -1, "")) for index in range(info.spec.n_shapes)]
    ids, labels, splits = zip(*told, strict=True)
    return InStoreOrder(source, info, [name or None for name in ids], labels, splits)


def adopt(path: str | Path, source: ShapeSource, wanted: StoreInfo, part: Part | None) -> StoreInfo:
    """What a store that is there is to be continued as, after a look at what has changed.

    Files of other names or sizes, or changed at another time, are compared with what the store
    holds of them. New shapes make the store grow: what it holds stays byte for byte, except for
    labels and splits of which lists, tables or folders now say otherwise.

    Args:
        path: folder or URL of a store, which need not be there.
        source: the shapes, from `in_store_order`.
        wanted: what this run would record.
        part: of the store that this run writes.

    Returns:
        `wanted`, or with the recorded fingerprint where shapes were only removed.

    Raises:
        DataError: if shapes are not what they were.
        StoreError: if shapes that are still to be extracted were removed.
    """
    location = Location.of(path)
    try:
        info = load_info(location)
    except StoreError:
        return wanted  # the writer says what is wrong
    recorded = info.settings.get("source_fingerprint")
    as_recorded = replace(
        wanted,
        spec=replace(wanted.spec, n_shapes=info.spec.n_shapes),
        settings={**wanted.settings, "source_fingerprint": recorded},
        class_names=info.class_names,
    )
    removed, changed = (
        (source.removed, source.relabeled) if isinstance(source, InStoreOrder) else ([], [])
    )
    n_new = len(source) - info.spec.n_shapes
    if setting_differences(info, as_recorded) or (wanted.settings["limit"] and (n_new or removed)):
        return wanted
    is_same = (  # the fingerprint counts classes and does not name them
        wanted.settings["source_fingerprint"] == recorded
        and wanted.class_names == info.class_names
        and not changed
    )
    times = info.provenance.get("source_times")
    if is_same and (times == wanted.provenance["source_times"] or (info.complete and not times)):
        return wanted
    if times is None or source.times(_held(path)) != times:
        _require_unchanged(path, source, info)
    if is_same:
        return wanted
    removed = [name for name in removed if name not in source.elsewhere]
    if len(removed) == info.spec.n_shapes:
        raise StoreError(
            f"none of the {len(removed)} shapes of {location.text} ({_listed(removed)}) is in "
            f"{source.root}: it is a store of other data. Extract into another --cache"
        )
    if removed:
        note(
            f"{location.text} holds {len(removed)} shapes that are no longer in {source.root} "
            f"({_listed(removed)}); they are kept"
        )
    if n_new < 0:
        raise StoreError(
            f"{-n_new} shapes that {location.text} still lacks were removed from {source.root}. "
            "Put them back, or extract into another store."
        )
    if n_new == 0 and info.complete and not changed:
        return as_recorded
    if n_new:
        note(f"{location.text} grows: {n_new} new shapes are added to {info.spec.n_shapes}")
    grown = [
        *info.provenance.get("grown", []),
        {"shapes": info.spec.n_shapes, "source_fingerprint": recorded},
    ]
    wanted_now = replace(wanted, provenance={**wanted.provenance, "grown": grown})
    grow_store(path, wanted_now, source.labels, source.splits, part)
    if changed:
        note(
            f"{location.text}: updated the class or split of {len(changed)} shapes, which "
            f"{source.root} now gives otherwise ({_listed(changed)})"
        )
    return wanted


def _held(path: str | Path) -> set[str]:
    """Ids of the shapes that a store holds."""
    reader = StoreReader(path, unfinished=True, fill_missing=True)
    return set(reader.read_all("id")[reader.read_all("status") != PENDING].tolist())


def _require_unchanged(path: str | Path, source: ShapeSource, info: StoreInfo) -> None:
    """Compare the stored points of every shape with those that its file gives now."""
    reader = StoreReader(path, unfinished=True, fill_missing=True)
    done = reader.read_all("status") == DONE
    spec = info.spec
    removed = set(source.removed) if isinstance(source, InStoreOrder) else set()
    names = ["points", *(["parts"] if spec.parts else [])]
    changed: list[str] = []
    shards = [range(*spec.shard(k).indices(spec.n_shapes)) for k in range(spec.n_shards)]
    pieces = [shapes for shapes in shards if done[shapes.start : shapes.stop].any()]
    shapes_now = ShapeReader(source, spec.n_points, "skip")
    with (
        Progress("compare with the data", total=sum(map(len, pieces))) as progress,
        closing(read_pieces(shapes_now, pieces, n_ahead=_AHEAD)) as reading,
    ):
        for shapes, outcome in reading:
            loaded = outcome.result()
            stored = {
                name: reader.read_shard(shapes.start // spec.shard_size, name) for name in names
            }
            places = {index: place for place, index in enumerate(loaded.indices)}
            for index in shapes:
                if not done[index] or source.ids[index] in removed:
                    continue
                row, place = index - shapes.start, places.get(index)
                is_same = place is not None and (
                    float(np.abs(loaded.points[place] - stored["points"][row]).max()) <= _TOLERANCE
                    and (
                        loaded.parts is None
                        or np.array_equal(loaded.parts[place], stored["parts"][row])
                    )
                )
                if not is_same:
                    changed.append(source.ids[index])
            progress.advance(len(shapes))
    if changed:
        raise DataError(
            f"{len(changed)} shapes in {source.root} are not those that "
            f"{Location.of(path).text} was made of ({_listed(changed)}). Put the old files back, "
            "or extract into another store."
        )


def _listed(names: Sequence[str]) -> str:
    return ", ".join([*names[:_LISTED], *(["..."] if len(names) > _LISTED else [])])
