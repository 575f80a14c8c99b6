"""Histograms of arrays of any size, in memory that does not grow."""

from __future__ import annotations

import math
from typing import Any, Required, TypedDict

import numpy as np
from numpy.typing import NDArray

from i2pmae.store.inspect import Cache
from i2pmae.store.schema import DONE, arrays

BINS = 512  # while counting
SHOWN = 32  # in the result
_LEFT_OUT = ("label", "status", "view_axes")  # they count or say the same of every shape
_VALUES_AT_ONCE = 1 << 22


class Counted(TypedDict, total=False):
    """The values of an array; without any, the first two alone."""

    count: Required[int]
    not_finite: Required[int]
    zeros: int
    min: float
    max: float
    mean: float
    std: float
    low: float  # lower edge of the first bin
    high: float  # upper edge of the last one
    counts: list[int]  # in even bins


class Histogram:
    """Counts of values in even bins; the range doubles if a value is outside of it."""

    def __init__(self) -> None:
        self._counts = np.zeros(BINS, np.int64)
        self._low = self._high = 0.0
        self._least, self._most = math.inf, -math.inf
        self._n = self._zeros = self._odd = 0
        self._mean = self._squares = 0.0

    def add(self, values: NDArray[Any]) -> None:
        """Count values of any shape and number type."""
        flat = np.asarray(values).ravel()
        if flat.dtype != np.float64:
            flat = flat.astype(np.float32)
        finite = np.isfinite(flat)
        if not finite.all():
            self._odd += int((~finite).sum())
            flat = flat[finite]
        if not len(flat):
            return
        least, most = float(flat.min()), float(flat.max())
        self._reach(least, most)
        self._counts += np.histogram(flat, BINS, (self._low, self._high))[0]
        self._least, self._most = min(self._least, least), max(self._most, most)
        self._zeros += int((flat == 0).sum())
        n, mean = len(flat), float(flat.mean(dtype=np.float64))
        spread = float(np.square(flat - np.float64(mean), dtype=np.float64).sum())
        distance, total = mean - self._mean, self._n + n
        self._squares += spread + distance**2 * self._n * n / total
        self._mean += distance * n / total
        self._n = total

    def result(self) -> Counted:
        """What was counted, in 32 even bins."""
        if not self._n:
            return {"count": 0, "not_finite": self._odd}
        centers = self._low + (np.arange(BINS) + 0.5) * (self._high - self._low) / BINS
        low, high = self._least, self._most
        width = (high - low) / SHOWN or 1.0
        places = ((centers - low) / width).astype(np.int64).clip(0, SHOWN - 1)
        counts = np.bincount(places, weights=self._counts, minlength=SHOWN)
        return {
            "count": self._n,
            "not_finite": self._odd,
            "zeros": self._zeros,
            "min": low,
            "max": high,
            "mean": self._mean,
            "std": math.sqrt(self._squares / self._n),
            "low": low,
            "high": low + SHOWN * width,
            "counts": counts.astype(np.int64).tolist(),
        }

    def _reach(self, least: float, most: float) -> None:
        """Widen the range, so that it holds these values."""
        if not self._n:
            width = (most - least) or abs(most) or 1.0
            self._low, self._high = least - width / 1024, most + width / 1024
        while least < self._low or most > self._high:
            width = self._high - self._low
            pairs = self._counts.reshape(-1, 2).sum(axis=1)
            empty = np.zeros_like(pairs)
            if least < self._low:
                self._low -= width
                self._counts = np.concatenate([empty, pairs])
            else:
                self._high += width
                self._counts = np.concatenate([pairs, empty])


def histograms(cache: Cache, advance: Any = lambda _: None) -> dict[str, Counted]:
    """Histogram of every array of numbers, over the shapes that are done.

    Features are counted as values, whatever the store holds.

    Args:
        cache: a store, finished or not.
        advance: called with the number of shapes that one more array has been read of.

    Returns:
        What `Histogram.result` returns, by name of the array.

    Raises:
        StoreError: if the store is damaged.
    """
    done = np.asarray(cache.raw("status").compute()) == DONE
    found = {}
    for name in counted_arrays(cache):
        histogram = Histogram()
        lazy = cache[name]
        step = max(1, _VALUES_AT_ONCE // max(math.prod(lazy.shape[1:]), 1))
        for first in range(0, len(done), step):
            rows = done[first : first + step]
            if rows.any():
                histogram.add(np.asarray(lazy[first : first + step].compute())[rows])
            advance(len(rows))
        found[name] = histogram.result()
    return found


def counted_arrays(cache: Cache) -> list[str]:
    """Arrays that `histograms` reads."""
    return [
        name
        for name, schema in arrays(cache.info.spec).items()
        if name not in _LEFT_OUT and schema.dtype != "string"
    ]
