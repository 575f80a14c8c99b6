"""Clouds of equally many points, as frozen encoders take them, read in parallel."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from i2pmae.config import EmbedConfig, PredictConfig
from i2pmae.datasets import Shape, ShapeSource, open_split
from i2pmae.datasets.check import not_finite_notes
from i2pmae.datasets.reading import read_each
from i2pmae.errors import DataError
from i2pmae.evaluation.shape_files import refuse_own_files
from i2pmae.progress import note, warn

SOURCE_POINTS = 8192  # center and scale of a shape come from as many points, however few are used


def source_points(n_points: int | None) -> int:
    """Points to read of every shape where the first `n_points` are used."""
    return max(SOURCE_POINTS, n_points or 0)


def open_clouds(config: EmbedConfig | PredictConfig, *paths: Path) -> ShapeSource:
    """The shapes of a command, with the points that their center and scale come from.

    Raises:
        DataError: if they cannot be opened, or the command's output would overwrite one.
    """
    source = open_split(
        *paths,
        split=config.split,
        limit=config.limit,
        points=source_points(config.points),
        seed=config.seed,
        **config.reading,
    )
    refuse_own_files([config.out], source)
    return source


def with_points(shape: Shape, n_points: int, own: slice = slice(None)) -> Shape:
    """The first points of a shape, or of a slice of it, from the beginning again if too few."""
    rows = np.resize(np.arange(len(shape.points))[own], n_points)
    return Shape(shape.points[rows], None if shape.parts is None else shape.parts[rows])


class CloudReader:
    """Reads the clouds of a source with equally many points, and keeps count of its shapes.

    Args:
        source: the shapes.
        n_points: of every cloud, the first ones; None: as many as the first shape has.
        halves: make two clouds of every shape, without common points; of at most half as many
            points as the first shape has.
        on_error: what to do about shapes that cannot be used.
        require: called with the number of points before any are yielded.
        choose: called with every shape where it is read, to choose and order its points; a
            function of a module, or a `partial` of one.
        indices: of the shapes, in the order in which they are read; None: all.

    Attributes:
        n_points: see above; known once a shape has been read.
        kept: indices of the shapes that were read.
        skipped: ids of those that cannot be used.
        errors: why not, by index.
        repeated: indices of shapes with too few points.
    """

    def __init__(
        self,
        source: ShapeSource,
        n_points: int | None,
        *,
        halves: bool = False,
        on_error: Literal["stop", "skip"] = "stop",
        require: Callable[[int], None] = lambda _n_points: None,
        choose: Callable[[Shape], Shape] | None = None,
        indices: Sequence[int] | None = None,
    ) -> None:
        self.n_points = n_points
        self.kept: list[int] = []
        self.skipped: list[str] = []
        self.errors: dict[int, str] = {}
        self.repeated: set[int] = set()
        self._source = source
        self._n_clouds = 1 + halves  # of a shape
        self._on_error = on_error
        self._require = require
        self._choose = choose
        self._indices = range(len(source)) if indices is None else indices

    def __iter__(self) -> Iterator[NDArray[np.float32]]:
        """Yield the clouds, (N, 3) each; see `shapes`."""
        return (shape.points for shape in self.shapes())

    def shapes(self) -> Iterator[Shape]:
        """Yield the clouds, (N, 3) each, with their parts where they have any.

        Raises:
            DataError: at a shape that cannot be used, unless these are to be skipped.
            ConfigError: if the encoder needs more points.
        """
        source = self._source
        read = partial(_chosen, self._choose)
        for index, outcome in read_each(source, read, self._indices):
            try:
                shape = outcome.result()
            except DataError as error:
                if self._on_error == "stop":
                    raise DataError(
                        f"{error} Or add --on-error skip; i2pmae check-data lists all such shapes."
                    ) from None
                warn(f"skipped {source.ids[index]}: {error}")
                self.skipped.append(source.ids[index])
                self.errors[index] = str(error)
                continue
            available = len(shape.points) // self._n_clouds
            if self.n_points is None or (self._n_clouds > 1 and not self.kept):
                self.n_points = min(self.n_points or available, available)
            self._require(self.n_points)
            self.kept.append(index)
            if available < self.n_points:
                self.repeated.add(index)
            n_own = min(available, self.n_points)
            for first in range(0, self._n_clouds * n_own, n_own):
                yield with_points(shape, self.n_points, slice(first, first + n_own))
        if self.repeated:
            assert self.n_points is not None  # a shape has been read
            warn(
                f"{len(self.repeated)} shapes have fewer than {self._n_clouds * self.n_points} "
                "points; theirs were repeated"
            )
        for message in not_finite_notes(source.not_finite):
            note(message)


def read_points(
    source: ShapeSource, n_points: int | None = None, *, spare: bool = False
) -> NDArray[np.float32]:
    """Points (S, N, 3) of all shapes.

    Args:
        source: the shapes.
        n_points: first points of each shape; None takes what the shortest shape has.
        spare: keep further points, as many as the shortest shape has.

    Raises:
        DataError: if a shape cannot be read or has fewer points than asked.
    """
    read = partial(_first_points, None if spare else n_points)
    clouds = [cloud.result() for _, cloud in read_each(source, read)]
    for message in not_finite_notes(source.not_finite):
        note(message)
    shortest = min(len(cloud) for cloud in clouds)
    if n_points is not None and shortest < n_points:
        index = next(i for i, cloud in enumerate(clouds) if len(cloud) == shortest)
        raise DataError(
            f"{source.root}: shape {source.ids[index]} has {shortest} points, {n_points} are "
            f"asked; set --points {shortest} or fewer"
        )
    return np.stack([cloud[:shortest] for cloud in clouds]).astype(np.float32, copy=False)


def _first_points(n_points: int | None, source: ShapeSource, index: int) -> NDArray[np.float32]:
    return source.load(index).points[:n_points].copy()  # a view would keep all points in memory


def _chosen(choose: Callable[[Shape], Shape] | None, source: ShapeSource, index: int) -> Shape:
    shape = source.load(index)
    return shape if choose is None else choose(shape)
