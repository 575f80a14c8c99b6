"""Labeled clouds for training and evaluation, from a data set or streamed from a store."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor
from torch.nn import functional as F

from i2pmae.config import FinetuneConfig
from i2pmae.datasets import ShapeSource, open_labeled_splits, require_labels
from i2pmae.datasets.check import not_finite_notes
from i2pmae.datasets.reading import read_each
from i2pmae.datasets.shapenetpart import ShapeNetPart, ShapeNetPartHdf5
from i2pmae.errors import DataError, StoreError
from i2pmae.evaluation.clouds import source_points
from i2pmae.evaluation.split import labeled_part
from i2pmae.evaluation.voting import POOL_RATIO
from i2pmae.geometry.draws import WHOLE, Part, integers, uniform
from i2pmae.geometry.grouping import gather_rows
from i2pmae.geometry.sampling import farthest_points, spread_points
from i2pmae.progress import note, track
from i2pmae.store import StoreReader, resolve_store
from i2pmae.store.reader import epoch_order

Indices = NDArray[np.int64]
_PURPOSE = "fine-tuning"


class Batch(NamedTuple):
    """Some clouds. Where they differ in size, shorter ones repeat their first points."""

    points: Tensor  # (B, N, 3) float32
    counts: Tensor  # (B,) int64, points that are a cloud's own
    labels: Tensor  # (B,) int64
    parts: Tensor | None = None  # (B, N) int64

    def to(self, device: torch.device) -> Batch:
        """The same clouds on a device."""
        points, counts, labels = (values.to(device) for values in self[:3])
        return Batch(points, counts, labels, None if self.parts is None else self.parts.to(device))

    def take(self, chosen: Tensor) -> Batch:
        """The chosen points (B, M) of each cloud; all count as its own."""
        parts = None if self.parts is None else self.parts.gather(1, chosen)
        counts = torch.full_like(self.counts, chosen.shape[1])
        return Batch(gather_rows(self.points, chosen), counts, self.labels, parts)

    def first(self, n_points: int) -> Batch:
        """The first points of each cloud, from its beginning again where it has fewer."""
        rows = torch.arange(n_points, device=self.points.device)
        return self.take(rows % self.counts[:, None])


def draw_points(batch: Batch, n_points: int, generator: Generator) -> Batch:
    """Draw points of each cloud at random, without replacement as far as there are enough.

    A cloud with fewer points gives all of them, and some again.

    Args:
        batch: clouds of any size.
        n_points: M, points per cloud.
        generator: on the batch's device.

    Returns:
        Clouds of `n_points` points.
    """
    n_clouds, width, _ = batch.points.shape
    device, counts = batch.points.device, batch.counts[:, None]
    keys = integers(2**62, (n_clouds, width), generator)
    own = torch.arange(width, device=device) < counts
    order = keys.where(own, 2**62).argsort(dim=1)[:, :n_points]
    if order.shape[1] < n_points:
        order = F.pad(order, (0, n_points - order.shape[1]))
    again = uniform((n_clouds, n_points), generator) * counts
    return batch.take(order.where(torch.arange(n_points, device=device) < counts, again.long()))


def draw_spread_points(batch: Batch, n_points: int, generator: Generator) -> Batch:
    """Draw well-spread points of each cloud: other ones every time, of all that it has.

    A random half of a cloud's points gives 1.17 times as many farthest points as are asked for, and
    these the points.

    Arguments and result are those of `draw_points`.

    Source: the release's ModelNet40 reader. Differs: it shuffles the points of a cloud every epoch
        and finds the farthest of all of them from the first; half of them takes half the time.
    """
    width = batch.points.shape[1]
    n_pool = _pool_size(width, n_points)
    if n_pool == width:
        return draw_points(batch, n_points, generator)
    half = draw_points(batch, max(n_pool, width // 2), generator)
    pool = half.take(spread_points(half.points, n_pool))
    # A cloud with fewer points is repeated in its half, and these points are chosen last.
    own = pool._replace(counts=batch.counts.clamp(max=n_pool))
    return draw_points(own, n_points, generator)


class Clouds(Protocol):
    """Labeled clouds, read batch by batch."""

    labels: Indices  # (S,)

    @property
    def ids(self) -> list[str]:
        """Name of each cloud in its source."""
        ...

    def select(self, chosen: Indices, labels: Indices | None = None) -> Clouds:
        """Some of the clouds, under other labels if any are given."""
        ...

    def prepare(self) -> None:
        """Read everything that is read only once, so that bad shapes show before training."""
        ...

    def batches(
        self, batch_size: int, *, seed: int, epoch: int, start: int = 0, part: Part = WHOLE
    ) -> Iterator[Batch]:
        """One epoch in an order that depends only on seed and epoch; full batches only.

        With sampling `spread` these are whole clouds, of which every step draws.

        Args:
            batch_size: clouds of a batch, of all processes together.
            seed, epoch: of the order, which is that of `epoch_order`.
            start: batches to leave out at the beginning.
            part: rows of every batch that are wanted.
        """
        ...

    def in_order(self, batch_size: int) -> Iterator[Batch]:
        """All clouds once, those of their points that evaluation uses."""
        ...


class SourceClouds:
    """Clouds of a data set on disk, read once and kept in memory as far as they are used.

    Args:
        source: labeled shapes.
        config: which points are used, and how many at least.
        chosen: shapes of the source; None: all.
        labels: of the chosen ones; None: the source's.
        memory: shapes that have been read, by index into the source.
        farthest: farthest points of those that were evaluated, by index into the source.
    """

    def __init__(
        self,
        source: ShapeSource,
        config: FinetuneConfig,
        chosen: Indices | None = None,
        labels: Indices | None = None,
        memory: dict[int, tuple[Tensor, Tensor | None]] | None = None,
        farthest: dict[int, Tensor] | None = None,
    ) -> None:
        self._source = source
        self._config = config
        self._chosen = np.arange(len(source)) if chosen is None else chosen
        self._memory = {} if memory is None else memory
        self._farthest = {} if farthest is None else farthest
        if labels is None:
            labels = np.asarray(source.labels, dtype=np.int64)[self._chosen]
        self.labels = labels

    @property
    def ids(self) -> list[str]:
        """See `Clouds`."""
        return [self._source.ids[index] for index in self._chosen.tolist()]

    def select(self, chosen: Indices, labels: Indices | None = None) -> SourceClouds:
        """See `Clouds`."""
        labels = self.labels[chosen] if labels is None else labels
        shared = self._memory, self._farthest
        return SourceClouds(self._source, self._config, self._chosen[chosen], labels, *shared)

    def prepare(self) -> None:
        """See `Clouds`."""
        missing = [index for index in self._chosen.tolist() if index not in self._memory]
        if missing:
            shapes = read_each(self._source, partial(_used_arrays, self._config), missing)
            for index, outcome in track(shapes, "read shapes", len(missing)):
                points, parts = outcome.result()
                self._memory[index] = (
                    torch.from_numpy(points),
                    None if parts is None else torch.from_numpy(parts),
                )
        read = {index: n for index, n in self._source.not_finite.items() if index in missing}
        for message in not_finite_notes(read):
            note(message)

    def batches(
        self, batch_size: int, *, seed: int, epoch: int, start: int = 0, part: Part = WHOLE
    ) -> Iterator[Batch]:
        """See `Clouds`."""
        order = epoch_order(np.arange(len(self._chosen)), seed, epoch)
        for first in range(start * batch_size, len(order) - len(order) % batch_size, batch_size):
            places = order[first : first + batch_size]
            read = self._evaluated if self._config.sampling == "fps" else self._memory.__getitem__
            clouds = [read(index) for index in self._chosen[places].tolist()]
            yield self._batch(clouds, places, part)

    def in_order(self, batch_size: int) -> Iterator[Batch]:
        """See `Clouds`."""
        for first in range(0, len(self._chosen), batch_size):
            places = np.arange(first, min(first + batch_size, len(self._chosen)))
            clouds = [self._evaluated(index) for index in self._chosen[places].tolist()]
            yield self._batch(clouds, places)

    def _evaluated(self, index: int) -> tuple[Tensor, Tensor | None]:
        """Points and parts of a shape that evaluation uses."""
        points, parts = self._memory[index]
        if self._config.sampling in ("first", "random"):
            return points, parts
        if index not in self._farthest:
            self._farthest[index] = _farthest(points[None], self._config)[0].int()
        used = self._farthest[index]
        return points[used], None if parts is None else parts[used]

    def _batch(
        self, clouds: list[tuple[Tensor, Tensor | None]], places: Indices, part: Part = WHOLE
    ) -> Batch:
        # What is drawn for a cloud depends on the widest of all processes together.
        widest = max(len(points) for points, _ in clouds)
        own = slice(*(len(clouds) * k // part.count for k in (part.index, part.index + 1)))
        clouds, places = clouds[own], places[own]
        counts = [len(points) for points, _ in clouds]
        rows = [torch.arange(widest) % count for count in counts]
        parts = [
            labels[row] for (_, labels), row in zip(clouds, rows, strict=True) if labels is not None
        ]
        return Batch(
            torch.stack([points[row] for (points, _), row in zip(clouds, rows, strict=True)]),
            torch.tensor(counts),
            torch.from_numpy(self.labels[places]),
            torch.stack(parts).long() if parts else None,
        )


def _used_arrays(
    config: FinetuneConfig, source: ShapeSource, index: int
) -> tuple[NDArray[np.float32], NDArray[np.integer] | None]:
    """Points and parts of a shape, those that are used."""
    shape = source.load(index)
    if config.task != "segmentation" and len(shape.points) < config.points:
        raise DataError(
            f"{config.shapes}: shape {source.ids[index]} has {len(shape.points)} points, "
            f"{config.points} are asked; set --points {len(shape.points)} or fewer"
        )
    used = slice(config.points if config.sampling == "first" else None)
    points = shape.points[used].copy()  # a view would keep all in memory
    return points, None if shape.parts is None else shape.parts[used].copy()


class StoreClouds:
    """Clouds of a store, streamed; only the order of their farthest points stays in memory.

    Args:
        reader: a finished store.
        config: which points are used, and how many.
        chosen: (n,) shapes of the store.
        labels: (n,) of the chosen ones; None: the store's.
    """

    def __init__(
        self,
        reader: StoreReader,
        config: FinetuneConfig,
        chosen: Indices,
        labels: Indices | None = None,
    ) -> None:
        self._reader = reader
        self._config = config
        self._chosen = chosen
        self.labels = reader.read_all("label")[chosen] if labels is None else labels
        self._names = ["points"]
        if config.task == "segmentation" and reader.info.spec.parts:
            self._names.append("parts")
        self._place = np.full(len(reader), -1, dtype=np.int64)  # of a shape among the chosen
        self._place[chosen] = np.arange(len(chosen))
        is_whole = config.sampling in ("first", "random")
        kept = 0 if is_whole else _pool_size(reader.n_points, config.points)
        # Memory is used as rows are filled.
        smallest = np.uint16 if reader.n_points <= 2**16 else np.int32
        self._farthest = np.empty((len(chosen), kept), smallest)
        self._known = np.full(len(chosen), kept == 0)

    @property
    def ids(self) -> list[str]:
        """See `Clouds`."""
        return [str(name) for name in self._reader.read_all("id")[self._chosen]]

    def select(self, chosen: Indices, labels: Indices | None = None) -> StoreClouds:
        """See `Clouds`."""
        labels = self.labels[chosen] if labels is None else labels
        return StoreClouds(self._reader, self._config, self._chosen[chosen], labels)

    def prepare(self) -> None:
        """See `Clouds`."""
        available, asked = self._reader.n_points, self._config.points
        if self._config.task != "segmentation" and available < asked:
            raise DataError(
                f"{self._config.shapes} holds {available} points per shape, {asked} are asked; "
                f"set --points {available} or fewer"
            )

    def batches(
        self, batch_size: int, *, seed: int, epoch: int, start: int = 0, part: Part = WHOLE
    ) -> Iterator[Batch]:
        """See `Clouds`."""
        for arrays in self._reader.batches(
            batch_size,
            seed=seed,
            epoch=epoch,
            indices=self._chosen,
            start=start,
            part=(part.index, part.count),
            names=self._names,
        ):
            places = self._place[arrays["index"]]
            batch = self._batch(arrays, places)
            yield self._evaluated(batch, places) if self._config.sampling == "fps" else batch

    def in_order(self, batch_size: int) -> Iterator[Batch]:
        """See `Clouds`."""
        for first in range(0, len(self._chosen), batch_size):
            places = np.arange(first, min(first + batch_size, len(self._chosen)))
            batch = self._batch(self._reader.read(self._chosen[places], self._names), places)
            yield self._evaluated(batch, places)

    def _evaluated(self, batch: Batch, places: Indices) -> Batch:
        """Points of clouds that evaluation uses."""
        if not self._farthest.shape[1]:
            return batch
        if not self._known[places].all():
            self._farthest[places] = _farthest(batch.points, self._config).numpy()
            self._known[places] = True
        return batch.take(torch.from_numpy(self._farthest[places].astype(np.int64)))

    def _batch(self, arrays: dict[str, NDArray[np.generic]], places: Indices) -> Batch:
        points = torch.from_numpy(arrays["points"])
        parts = torch.from_numpy(arrays["parts"]).long() if "parts" in arrays else None
        counts = torch.full((len(places),), points.shape[1])
        batch = Batch(points, counts, torch.from_numpy(self.labels[places]), parts)
        if self._config.sampling == "first":
            return batch.first(min(self._config.points, points.shape[1]))
        return batch


def _farthest(points: Tensor, config: FinetuneConfig) -> Tensor:
    """Farthest points (B, K) of clouds (B, N, 3), which evaluation uses: the first of them, or a
    vote's draws."""
    return farthest_points(points, _pool_size(points.shape[1], config.points))


def _pool_size(available: int, n_points: int) -> int:
    return min(available, round(POOL_RATIO * n_points))


@dataclass(frozen=True)
class LabeledSet:
    """Training and test clouds of a data set."""

    train: Clouds
    test: Clouds
    class_names: tuple[str, ...]
    part_names: tuple[str, ...] | None
    class_parts: tuple[tuple[int, ...], ...] | None  # per class, the parts that it may have
    up: str = "y"  # axis that pointed up in the files
    recipe: str | None = None  # whose published figures are of this data set


def open_labeled(config: FinetuneConfig) -> LabeledSet:
    """Open the test split that `config.data` or `config.cache` holds, and of the training split the
    shapes whose labels are used.

    Differs: data sets are read with the same seed whatever the run's seed is, so that runs of
        several seeds see the same shapes.

    Raises:
        DataError, StoreError: if a split or its labels are missing.
    """
    if config.data is not None:
        train, test = open_labeled_splits(
            config.data,
            _PURPOSE,
            limit=config.limit,
            points=source_points(config.points),
            **config.reading,
        )
        for message in train.notes:
            note(message)
        return LabeledSet(
            _labeled_share(SourceClouds(train, config), config),
            SourceClouds(test, config),
            train.class_names,
            train.part_names,
            train.class_parts,
            config.up,
            _published_recipe(train.recipe, train.layout),
        )
    reader = StoreReader(resolve_store(config.shapes))
    splits = reader.read_all("split")
    if "test" not in splits:
        raise StoreError(
            f"{config.shapes} holds no shapes of split 'test'; fine-tuning needs a train and a "
            "test split. Extract the data set into another store with --split all."
        )
    chosen = {"train": reader.indices("train"), "test": reader.indices("test")}
    if reader.info.recorded("layout") in (ShapeNetPart.layout, ShapeNetPartHdf5.layout):
        everything = reader.indices("all")
        chosen["train"] = everything[np.isin(splits[everything], ShapeNetPart.train_splits)]
    clouds = {}
    for split, indices in chosen.items():
        clouds[split] = StoreClouds(reader, config, indices[: config.limit])
        found = clouds[split]
        require_labels(config.shapes, split, found.labels.tolist(), found.ids, _PURPOSE)
    class_parts = reader.info.provenance.get("class_parts")
    return LabeledSet(
        _labeled_share(clouds["train"], config),
        clouds["test"],
        reader.class_names,
        reader.info.part_names,
        None if class_parts is None else tuple(map(tuple, class_parts)),
        str(reader.info.settings.get("up", "y")),
        _published_recipe(
            reader.info.provenance.get("finetune_recipe"), reader.info.recorded("layout")
        ),
    )


def _labeled_share(clouds: Clouds, config: FinetuneConfig) -> Clouds:
    """Training clouds whose labels the settings ask for."""
    if config.labels == 1:
        return clouds
    return clouds.select(labeled_part(clouds.labels, config.labels, config.seed))


def _published_recipe(recipe: str | None, layout: str) -> str | None:
    """A data set's recipe; none of PartNet, which borrows that of another one."""
    return None if layout.startswith("partnet") else recipe
