"""How far measures may be off because few shapes were tested: bootstrap over shapes."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Estimate(NamedTuple):
    """A mean and its 95% interval; prints as `76.1 [64.2, 86.6]`."""

    value: float
    low: float
    high: float

    @property
    def is_significant(self) -> bool:
        """Whether the interval of a difference excludes 0."""
        return self.low > 0 or self.high < 0

    @property
    def signed(self) -> str:
        """A difference in words: `+6.0 [-1.5, +13.4]`."""
        return f"{self.value:+.1f} [{self.low:+.1f}, {self.high:+.1f}]"

    def __str__(self) -> str:
        return f"{self.value:.1f} [{self.low:.1f}, {self.high:.1f}]"


def resampled_means(
    values: NDArray[np.floating],
    groups: NDArray[np.integer] | None = None,
    *,
    draws: int = 1000,
    seed: int = 0,
) -> NDArray[np.float64]:
    """Means over shapes, of the shapes as they are and of shapes drawn with replacement.

    All rows share their draws, so differences of rows are paired.

    Args:
        values: (M, T) measures of T shapes, or (M, R, T) of R repetitions, such as draws of their
            points, which are then drawn with replacement as well; NaN where a measure does not
            hold for a shape.
        groups: (T,) class of each shape: the mean over classes of the means within them.
        draws: how often shapes are drawn.
        seed: of the draws.

    Returns:
        (1 + draws, M); the first row is of the shapes as they are.
    """
    rng, n = np.random.default_rng(seed), values.shape[-1]
    values = values.reshape(len(values), -1, n)
    n_repetitions = values.shape[1]
    _, group_of = np.unique(np.zeros(n) if groups is None else groups, return_inverse=True)
    member = np.eye(group_of.max() + 1)[group_of]  # (T, classes)
    known = np.isfinite(values)
    filled = np.where(known, values, 0)
    means = np.empty((1 + draws, len(values)))
    for draw in range(1 + draws):
        times = np.ones((n_repetitions, n))
        if draw > 0:
            times *= np.bincount(rng.integers(n, size=n), minlength=n)
        if draw > 0 and n_repetitions > 1:
            drawn = rng.integers(n_repetitions, size=n_repetitions)
            times *= np.bincount(drawn, minlength=n_repetitions)[:, None]
        sums, counts = ((part * times).sum(axis=1) @ member for part in (filled, known))
        within = sums / np.maximum(counts, 1)
        with np.errstate(invalid="ignore"):  # none of the few shapes that have it was drawn
            means[draw] = within.sum(axis=1) / (counts > 0).sum(axis=1)
    return means


def estimate(means: NDArray[np.float64]) -> Estimate:
    """Value and 95% percentile interval from (1 + draws,) means, or differences of them."""
    low, high = np.nanpercentile(means[1:], [2.5, 97.5])
    return Estimate(float(means[0]), float(low), float(high))
