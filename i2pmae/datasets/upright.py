"""Which axis of a data set points up, told from its shapes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from i2pmae.geometry.coordinates import Up, bounds

_CELLS = 12  # along each side of a shape's box
_FEWEST_SHAPES = 8
_CLEAR = 0.1  # difference of mean likenesses that is no chance


class UpGuess(NamedTuple):
    """The axis that probably points up, and why."""

    axis: Up
    share: float  # of the shapes that say so, in [0, 1]
    reason: str


def mirror_likeness(points: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """How alike a shape and its mirror image are, along each axis.

    Args:
        points: (n, 3) finite, any unit, not all equal.

    Returns:
        (3,) shares of the cells of a grid in the shape's box that both fill, in [0, 1].
    """
    low, high = bounds(points)
    within = (points - low) / np.where(high > low, high - low, 1)
    filled = np.zeros((_CELLS,) * 3, bool)
    filled[tuple(np.minimum((within * _CELLS).astype(np.int64), _CELLS - 1).T)] = True
    mirrored = [np.flip(filled, axis) for axis in range(3)]
    return np.array([(filled & other).sum() / (filled | other).sum() for other in mirrored])


def guess_up(likenesses: Sequence[npt.NDArray[np.float64]]) -> UpGuess | None:
    """The axis along which most shapes differ most from their mirror image.

    Objects stand on something: left and right are often alike, front and back sometimes, top and
    bottom seldom.

    Args:
        likenesses: (3,) of each shape, see `mirror_likeness`.

    Returns:
        The guess; None where the shapes are few or do not agree.
    """
    if len(likenesses) < _FEWEST_SHAPES:
        return None
    table = np.stack(likenesses)
    shares = np.bincount(table.argmin(axis=1), minlength=3) / len(table)
    means = table.mean(axis=0)
    place = int(shares.argmax())
    if shares[place] <= 0.5 or np.delete(means, place).min() - means[place] < _CLEAR:
        return None
    axes: tuple[Up, Up, Up] = ("x", "y", "z")
    axis = axes[place]
    reason = (
        f"{shares[place]:.0%} of the shapes are least like their mirror image along {axis}, as "
        "objects that stand are from bottom to top"
    )
    return UpGuess(axis, float(shares[place]), reason)
