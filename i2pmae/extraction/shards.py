"""The arrays of a store's shards, and who fills them."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple, Protocol

import numpy as np

from i2pmae.datasets import ShapeSource
from i2pmae.extraction.encoding import Arrays, Encoder
from i2pmae.extraction.loading import LoadedShapes, ShapeReader
from i2pmae.image_model import ImageModelInfo
from i2pmae.store.schema import DONE, SKIPPED, StoreSpec, arrays
from i2pmae.store.writer import StoreWriter


class ShardStats(NamedTuple):
    """What became of some shards, and where the time went."""

    skipped: dict[str, str]  # shapes that were left out, by id, with the reasons
    seconds: float = 0.0
    waited: float = 0.0  # seconds in which there was nothing to encode, for shapes were read
    not_finite: Mapping[int, int] = MappingProxyType({})  # points that were left out, by index

    def __or__(self, other: ShardStats) -> ShardStats:
        return ShardStats(
            self.skipped | other.skipped,
            self.seconds + other.seconds,
            self.waited + other.waited,
            {**self.not_finite, **other.not_finite},
        )

    @property
    def wait_share(self) -> float:
        """Part of the time in which shapes were waited for, in [0, 1]."""
        return self.waited / max(self.seconds, 1e-9)


class Executor(Protocol):
    """Runs extraction locally or on a dask cluster.

    Attributes:
        model: what the image model is like.
    """

    model: ImageModelInfo

    def extract(self, writer: StoreWriter) -> ShardStats:
        """Write all pending shards."""


class Shard:
    """The arrays of one shard while they are filled; shapes are skipped until they are put in."""

    def __init__(self, spec: StoreSpec, source: ShapeSource, rows: slice, kept: Arrays) -> None:
        """Make arrays for the shapes of `rows`; `kept` is what the store holds of the first."""
        self._start = rows.start
        self.values: Arrays = {
            name: np.zeros((rows.stop - rows.start, *array.shape(spec)[1:]), array.dtype_in(spec))
            for name, array in arrays(spec).items()
            if array.layout != "store" and array.dtype != "string"
        }
        self.values["label"] = np.asarray(source.labels[rows], dtype=np.int64)
        self.values["id"] = np.asarray(source.ids[rows], dtype=object)
        self.values["split"] = np.asarray(source.splits[rows], dtype=object)
        self.values["status"] = np.full(rows.stop - rows.start, SKIPPED, np.uint8)
        for name, array in kept.items():
            self.values[name][: len(array)] = array

    def put(self, loaded: LoadedShapes, encoder: Encoder) -> None:
        """Encode shapes into their places; threads may put different ones at the same time."""
        if not loaded.indices:
            return
        places = np.asarray(loaded.indices) - self._start
        for name, array in encode_shapes(loaded, encoder).items():
            self.values[name][places] = array
        self.values["status"][places] = DONE


def encode_shapes(loaded: LoadedShapes, encoder: Encoder) -> Arrays:
    """What the store should hold of some shapes.

    Returns:
        By name (B, ...), without `label`, `id`, `split` and `status`.
    """
    rows = encoder(loaded.points, loaded.surfaces) | {"points": loaded.points}
    return rows if loaded.parts is None else rows | {"parts": loaded.parts}


def encode_shape(source: ShapeSource, spec: StoreSpec, encoder: Encoder, index: int) -> Arrays:
    """What a store should hold of one shape, see `encode_shapes`.

    Raises:
        DataError: if the shape cannot be used.
    """
    reader = ShapeReader(source, spec.n_points, "stop", encoder.camera)
    return encode_shapes(reader([index]), encoder)


def shapes_of(spec: StoreSpec, k: int) -> range:
    """Indices of a shard's shapes."""
    rows = spec.shard(k)
    return range(rows.start, rows.stop)


def cut(shapes: range, size: int) -> list[range]:
    """Pieces of `size`, the last of which may be shorter."""
    return [shapes[start : start + size] for start in range(0, len(shapes), size)]
