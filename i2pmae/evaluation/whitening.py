"""Features made comparable: centered, decorrelated and scaled, so that a cosine means something.

Frozen features of one network share most of their direction: the cosine of any two shapes is close
to 1. Whitened ones of unrelated shapes have a cosine around 0.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

_MOST_SHAPES = 4096  # whose pairs a score is compared with
_ROUNDING = 1e-6  # of a cosine of float32


class Whitening(NamedTuple):
    """Statistics of the features of a data set.

    Attributes:
        mean: (C,) float32.
        matrix: (C, K) float32; principal axes, each divided by the root of its variance plus the
            mean variance of all channels, so that axes of little variance, which are mostly noise,
            do not count as much as the others. Measured on furniture and electronics parts, this
            finds more shapes of the query's class than raw or standardized features, and than the
            first 8 to 128 axes divided by their standard deviation; see docs/own-meshes.md.
    """

    mean: NDArray[np.float32]
    matrix: NDArray[np.float32]

    @classmethod
    def of(cls, vectors: NDArray[np.float32]) -> Whitening:
        """Statistics of vectors (S, C)."""
        values = vectors.astype(np.float64)
        mean = values.mean(axis=0)
        variances, axes = np.linalg.eigh((values - mean).T @ (values - mean) / len(values))
        n_axes = max(min(len(values) - 1, len(mean)), 1)
        kept = slice(len(mean) - n_axes, None)  # they are in ascending order
        scale = np.sqrt(variances[kept].clip(0) + max(variances.mean(), 1e-24))
        return cls(mean.astype(np.float32), (axes[:, kept] / scale).astype(np.float32))

    def apply(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        """Whitened vectors (S, K) of unit length, of vectors (S, C): products are cosines."""
        whitened = (vectors - self.mean) @ self.matrix
        lengths = np.linalg.norm(whitened, axis=1, keepdims=True)
        directions: NDArray[np.float32] = whitened / np.maximum(lengths, 1e-12)
        return directions


def percentiles(
    directions: NDArray[np.float32], scores: NDArray[np.floating]
) -> NDArray[np.float64]:
    """Percent of all pairs of shapes that are less similar than some scores.

    Args:
        directions: (S, K) of unit length; of more than 4096, as many at even steps are used.
        scores: (n,) cosines.

    Returns:
        (n,) in [0, 100].
    """
    some = directions[:: -(-len(directions) // _MOST_SHAPES)]
    pairs = np.sort((some @ some.T)[np.triu_indices(len(some), 1)])
    places = np.searchsorted(pairs, scores - _ROUNDING)  # a pair is not above itself
    below: NDArray[np.float64] = 100 * places / max(len(pairs), 1)
    return below
