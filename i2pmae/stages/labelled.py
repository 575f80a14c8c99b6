"""Labelled clouds for training and evaluation, from a data set or streamed from a store."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor
from torch.nn import functional as F

from i2pmae.config import FinetuneConfig
from i2pmae.datasets import ShapeSource, detect_layout, open_source
from i2pmae.datasets.few_shot import FewShotEpisode
from i2pmae.datasets.shapenetpart import ShapeNetPart
from i2pmae.errors import DataError, StoreError
from i2pmae.geometry.grouping import gather_rows
from i2pmae.geometry.sampling import farthest_points
from i2pmae.progress import note, track
from i2pmae.store import StoreReader, resolve_store
from i2pmae.store.reader import epoch_order

Indices = NDArray[np.int64]

_POOL = 1200 / 1024  # farthest points that a training cloud is drawn from, per point used


class Batch(NamedTuple):
    """Some clouds. Where they differ in size, shorter ones go on with their first points again."""

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
    keys = torch.randint(2**62, (n_clouds, width), generator=generator, device=device)
    own = torch.arange(width, device=device) < counts
    order = keys.where(own, 2**62).argsort(dim=1)[:, :n_points]
    if order.shape[1] < n_points:
        order = F.pad(order, (0, n_points - order.shape[1]))
    again = torch.rand(n_clouds, n_points, generator=generator, device=device) * counts
    return batch.take(order.where(torch.arange(n_points, device=device) < counts, again.long()))


class Clouds(Protocol):
    """Labelled clouds, read batch by batch."""

    labels: Indices  # (S,)

    @property
    def ids(self) -> list[str]:
        """Name of each cloud in its source."""
        ...

    def select(self, chosen: Indices, labels: Indices | None = None) -> Clouds:
        """Some of the clouds, under other labels if any are given."""
        ...

    def prepare(self) -> None:
        """Read whatever is read only once, so that what cannot be used shows before training."""
        ...

    def batches(self, batch_size: int, *, seed: int, epoch: int) -> Iterator[Batch]:
        """One epoch in an order that depends on seed and epoch alone; full batches only."""
        ...

    def in_order(self, batch_size: int) -> Iterator[Batch]:
        """All clouds once."""
        ...


class SourceClouds:
    """Clouds of a data set on disk, read once and kept in memory as far as they are used.

    Args:
        source: labelled shapes.
        config: which points are used, and how many at least.
        chosen: shapes of the source; None: all.
        labels: of the chosen ones; None: the source's.
        memory: shapes that have been read, by index into the source.
    """

    def __init__(
        self,
        source: ShapeSource,
        config: FinetuneConfig,
        chosen: Indices | None = None,
        labels: Indices | None = None,
        memory: dict[int, tuple[Tensor, Tensor | None]] | None = None,
    ) -> None:
        self._source = source
        self._config = config
        self._chosen = np.arange(len(source)) if chosen is None else chosen
        self._memory = {} if memory is None else memory
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
        return SourceClouds(self._source, self._config, self._chosen[chosen], labels, self._memory)

    def prepare(self) -> None:
        """See `Clouds`."""
        missing = [index for index in self._chosen.tolist() if index not in self._memory]
        for index in track(missing, "read shapes") if missing else ():
            self._memory[index] = self._load(index)

    def batches(self, batch_size: int, *, seed: int, epoch: int) -> Iterator[Batch]:
        """See `Clouds`."""
        order = epoch_order(np.arange(len(self._chosen)), seed, epoch)
        for first in range(0, len(order) - len(order) % batch_size, batch_size):
            yield self._batch(order[first : first + batch_size])

    def in_order(self, batch_size: int) -> Iterator[Batch]:
        """See `Clouds`."""
        for first in range(0, len(self._chosen), batch_size):
            yield self._batch(np.arange(first, min(first + batch_size, len(self._chosen))))

    def _batch(self, places: Indices) -> Batch:
        clouds = [self._memory[index] for index in self._chosen[places].tolist()]
        counts = [len(points) for points, _ in clouds]
        widest = max(counts)
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

    def _load(self, index: int) -> tuple[Tensor, Tensor | None]:
        """Points and parts of a shape, those that are used."""
        config, shape = self._config, self._source.load(index)
        if config.task != "segmentation" and len(shape.points) < config.points:
            raise DataError(
                f"{config.shapes}: shape {self._source.ids[index]} has {len(shape.points)} points, "
                f"{config.points} are asked; set --points {len(shape.points)} or fewer"
            )
        points = torch.from_numpy(shape.points)
        parts = None if shape.parts is None else torch.from_numpy(shape.parts)
        used = _used_points(points[None], config)[0]
        return points[used], None if parts is None else parts[used]


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
        kept = _pool_size(reader.n_points, config.points) if config.sampling == "fps" else 0
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

    def batches(self, batch_size: int, *, seed: int, epoch: int) -> Iterator[Batch]:
        """See `Clouds`."""
        for arrays in self._reader.batches(
            batch_size, seed=seed, epoch=epoch, indices=self._chosen, names=self._names
        ):
            yield self._batch(arrays, self._place[arrays["index"]])

    def in_order(self, batch_size: int) -> Iterator[Batch]:
        """See `Clouds`."""
        for first in range(0, len(self._chosen), batch_size):
            places = np.arange(first, min(first + batch_size, len(self._chosen)))
            yield self._batch(self._reader.read(self._chosen[places], self._names), places)

    def _batch(self, arrays: dict[str, NDArray[np.generic]], places: Indices) -> Batch:
        points = torch.from_numpy(arrays["points"])
        parts = torch.from_numpy(arrays["parts"]).long() if "parts" in arrays else None
        counts = torch.full((len(places),), points.shape[1])
        batch = Batch(points, counts, torch.from_numpy(self.labels[places]), parts)
        if self._config.sampling == "random":
            return batch
        if not self._known[places].all():
            self._farthest[places] = _used_points(points, self._config).numpy()
            self._known[places] = True
        if self._config.sampling == "first":
            return batch.first(min(self._config.points, points.shape[1]))
        return batch.take(torch.from_numpy(self._farthest[places].astype(np.int64)))


def _used_points(points: Tensor, config: FinetuneConfig) -> Tensor:
    """Which points (B, K) of clouds (B, N, 3) training and evaluation use, in which order.

    With sampling `fps` the first `config.points` are the farthest ones, so that taking the first
    is farthest-point sampling; some more are for random draws in training.
    """
    n_clouds, available, _ = points.shape
    if config.sampling == "fps":
        return farthest_points(points, _pool_size(available, config.points))
    n_used = min(available, config.points) if config.sampling == "first" else available
    return torch.arange(n_used).expand(n_clouds, n_used)


def _pool_size(available: int, n_points: int) -> int:
    return min(available, round(_POOL * n_points))


@dataclass(frozen=True)
class LabelledSet:
    """Training and test clouds of a data set."""

    train: Clouds
    test: Clouds
    class_names: tuple[str, ...]
    part_names: tuple[str, ...] | None
    class_parts: tuple[tuple[int, ...], ...] | None  # per class, the parts that it may have


def open_labelled(config: FinetuneConfig) -> LabelledSet:
    """Open the training and the test split that `config.data` or `config.cache` holds.

    Differs: data sets are read with the same seed whatever the run's seed is, so that runs of
        several seeds see the same shapes.

    Raises:
        DataError, StoreError: if a split or its labels are missing.
    """
    if config.data is not None:
        train, test = (
            open_source(config.data, layout=config.layout, split=split, limit=config.limit)
            for split in ("train", "test")
        )
        for message in train.notes:
            note(message)
        for split, source in (("train", train), ("test", test)):
            _require_labels(config, split, np.asarray(source.labels))
        return LabelledSet(
            SourceClouds(train, config),
            SourceClouds(test, config),
            train.class_names,
            train.part_names,
            train.class_parts,
        )
    reader = StoreReader(resolve_store(config.shapes))
    splits = reader.read_all("split")
    if "test" not in splits:
        raise StoreError(
            f"{config.shapes} holds no shapes of split 'test'; fine-tuning needs a train and a "
            "test split. Extract the data set into another store with --split all."
        )
    chosen = {"train": reader.indices("train"), "test": reader.indices("test")}
    if reader.info.settings["layout"] == ShapeNetPart.layout:
        everything = reader.indices("all")
        chosen["train"] = everything[np.isin(splits[everything], ShapeNetPart.train_splits)]
    clouds = {}
    for split, indices in chosen.items():
        clouds[split] = StoreClouds(reader, config, indices[: config.limit])
        _require_labels(config, split, clouds[split].labels)
    class_parts = reader.info.provenance.get("class_parts")
    return LabelledSet(
        clouds["train"],
        clouds["test"],
        reader.class_names,
        reader.info.part_names,
        None if class_parts is None else tuple(map(tuple, class_parts)),
    )


def default_recipe(data: Path | None, cache: Path | None, layout: str) -> str:
    """Name of the recipe of a data set's layout.

    Raises:
        DataError, StoreError: if there is no data set or store.
    """
    if cache is not None:
        provenance = StoreReader(resolve_store(cache)).info.provenance
        return str(provenance.get("finetune_recipe") or provenance["recipe"])  # an older store's
    assert data is not None
    if layout == FewShotEpisode.layout or (layout == "auto" and _is_few_shot(data)):
        return FewShotEpisode.recipe
    return open_source(data, layout=layout, split="all").recipe


def _is_few_shot(data: Path) -> bool:
    return detect_layout(data) == FewShotEpisode.layout


def _require_labels(config: FinetuneConfig, split: str, labels: Indices) -> None:
    if len(labels) == 0 or labels.min() < 0:
        raise DataError(
            f"{config.shapes}: no labelled shapes of split '{split}'; fine-tuning needs classes "
            "and a train and a test split"
        )
