"""Finding shapes that cannot be used, before anything is written."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy.typing as npt

from i2pmae.datasets.source import Shape, ShapeSource
from i2pmae.errors import DataError

_WINDOW = 4096  # shapes


class Survey(NamedTuple):
    """What reading every shape once has shown."""

    bad: dict[int, str]  # index of each shape that cannot be used: why
    fewest_points: int | None  # that any usable shape has; None if there is none


def survey(
    source: ShapeSource,
    indices: Sequence[int] | None = None,
    workers: int | None = None,
    progress: Callable[[int], object] | None = None,
    look: Callable[[int, Shape, npt.NDArray[Any]], object] | None = None,
) -> Survey:
    """Read shapes once, in several threads, and keep nothing but what is wrong with them.

    Args:
        source: shapes to read.
        indices: which of them; None: all.
        workers: threads; None: one per core, 8 at most.
        progress: called with 1 after each shape, in order, in the calling thread.
        look: called with index, shape and original coordinates (see `load_with_original`) of each
            usable shape, in the reading threads.

    Returns:
        The shapes that cannot be used, in order, and the fewest points of the others.
    """
    chosen = range(len(source)) if indices is None else indices
    bad: dict[int, str] = {}
    fewest: int | None = None

    def read(index: int) -> int | str:
        try:
            if look is None:
                return len(source.load(index).points)
            shape, original = source.load_with_original(index)
            look(index, shape, original)
            return len(shape.points)
        except DataError as error:
            return str(error)

    pool = ThreadPoolExecutor(workers or min(os.cpu_count() or 1, 8), "check shapes")
    try:
        for start in range(0, len(chosen), _WINDOW):  # no more tasks at once than needed
            window = chosen[start : start + _WINDOW]
            for index, found in zip(window, pool.map(read, window), strict=True):
                if isinstance(found, str):
                    bad[index] = found
                else:
                    fewest = found if fewest is None else min(fewest, found)
                if progress is not None:
                    progress(1)
    finally:
        pool.shutdown(cancel_futures=True)
    return Survey(bad, fewest)
