"""Finding shapes that cannot be used, before anything is written."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from i2pmae.datasets.reading import read_ahead, read_each
from i2pmae.datasets.source import ShapeSource
from i2pmae.errors import DataError

_FEW = 0.05  # share of the shapes that are left out rather than cut the others
_MANY = 10  # shapes, of which one may be an exception
_CLOSE = 0.9  # of a number of points: nearly as many
_SAMPLE = 16  # shapes that are read to see whether their headers are right


class Survey(NamedTuple):
    """What reading every shape once has shown."""

    bad: dict[int, str]  # index of each shape that cannot be used: why
    n_points: dict[int, int]  # of each usable shape, by index
    not_finite: dict[int, int]  # points left out of usable shapes as they are not finite, by index

    def __or__(self, other: Survey) -> Survey:
        return Survey(
            self.bad | other.bad,
            self.n_points | other.n_points,
            self.not_finite | other.not_finite,
        )

    def in_order(self) -> Survey:
        """The same by index."""
        return Survey(
            dict(sorted(self.bad.items())),
            dict(sorted(self.n_points.items())),
            dict(sorted(self.not_finite.items())),
        )

    def notes(self) -> list[str]:
        """What the user should know of usable shapes."""
        return not_finite_notes(self.not_finite)


def survey(
    source: ShapeSource,
    indices: Sequence[int] | None = None,
    workers: int | None = None,
    progress: Callable[[int], object] | None = None,
) -> Survey:
    """Read every shape once and keep only what is wrong with it.

    Args:
        source: shapes to read.
        indices: which of them; None: all.
        workers: threads; None: one per core, 8 at most.
        progress: called with 1 after each shape, in order, in the calling thread.

    Returns:
        The shapes that cannot be used, and the points of the others; both in order.
    """
    bad: dict[int, str] = {}
    n_points: dict[int, int] = {}
    for index, read in read_each(source, _points_of, indices, workers):
        try:
            n_points[index] = read.result()
        except DataError as error:
            bad[index] = str(error)
        if progress is not None:
            progress(1)
    not_finite = {index: source.not_finite[index] for index in n_points & source.not_finite.keys()}
    return Survey(bad, n_points, not_finite)


def _points_of(source: ShapeSource, index: int) -> int:
    return len(source.load(index).points)


def survey_headers(
    source: ShapeSource, progress: Callable[[int], object] = lambda _: None
) -> Survey:
    """Find out how many points shapes have from headers and sizes, which is cheap.

    Shapes are read only where that does not tell: text; and all of them where some are not as
    their headers say, as points that are not finite do not count. What else is wrong with shapes
    shows when they are used.

    Args:
        source: shapes to look at.
        progress: called with 1 after each shape, in the calling thread.

    Returns:
        As `survey`; with what the headers promise of shapes that were not read.
    """
    bad: dict[int, str] = {}
    n_points: dict[int, int] = {}

    def look(index: int) -> int | str | None:
        try:
            return source.count(index)
        except DataError as error:
            return str(error)

    for index, outcome in read_ahead(look, range(len(source))):
        found = outcome.result()
        if isinstance(found, str):
            bad[index] = found
        elif found is not None:
            n_points[index] = found
        progress(int(found is not None))
    few = [index for index, n in n_points.items() if n < source.points]
    read = Survey({}, {}, {})
    if source.skips_not_finite and few:
        sample = few[:: max(len(few) // _SAMPLE, 1)]
        read |= survey(source, sample)
        if any(n != n_points[index] for index, n in read.n_points.items()):
            read |= survey(source, [index for index in few if index not in sample])
    unknown = [i for i in range(len(source)) if i not in n_points and i not in bad]
    read |= survey(source, unknown, progress=progress)
    known = {index: n for index, n in n_points.items() if index not in read.bad}
    return Survey(bad | read.bad, known | read.n_points, read.not_finite).in_order()


def shared_points(n_points: Mapping[int, int]) -> tuple[int, dict[int, str]]:
    """How many points the shapes of a set share, and which shapes have too few of them.

    A shape has too few if it has less than half of the median. It also has too few if it would cut
    the number by more than 10% although nearly all shapes, 95% or all but one of ten or more,
    have at least 90% of the median.

    Args:
        n_points: of each shape, by index; at least one.

    Returns:
        The fewest points of the other shapes; why shapes are too small, by index.
    """
    usual = statistics.median_high(n_points.values())
    small = {
        index: f"{n} points are less than half of the usual {usual}"
        for index, n in n_points.items()
        if 2 * n < usual
    }
    others = {index: n for index, n in n_points.items() if index not in small}
    most = min(n for n in others.values() if n >= _CLOSE * usual)
    n_below = sum(n < most for n in others.values())
    if len(n_points) >= _MANY and n_below <= max(1, _FEW * len(n_points)):
        small |= {
            index: f"{n} points, where nearly all shapes have {most} or more"
            for index, n in others.items()
            if n < _CLOSE * most
        }
    return min(n for index, n in n_points.items() if index not in small), small


def not_finite_notes(not_finite: Mapping[int, int]) -> list[str]:
    """What to say of points that were left out, by shape."""
    if not not_finite:
        return []
    return [
        f"{sum(not_finite.values())} points of {len(not_finite)} shapes are not finite (NaN or "
        "infinite) and are left out"
    ]
