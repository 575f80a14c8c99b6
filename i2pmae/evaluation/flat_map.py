"""Vectors brought to the plane, to be looked at."""

import numpy as np
from numpy.typing import NDArray

_COMPONENTS = 50  # principal components that t-SNE sees
_FEWEST = 6  # vectors below which principal components alone are drawn


def flat_map(vectors: NDArray[np.floating], seed: int = 0) -> NDArray[np.float64]:
    """Place similar vectors side by side: t-SNE of their principal components, by cosine.

    Args:
        vectors: (S, C).
        seed: of what is random.

    Returns:
        (S, 2) in [0, 1]. Distances between far groups say nothing. Equal vectors share a place.
    """
    from sklearn.manifold import TSNE

    exact = vectors.astype(np.float64)
    scaled = exact - exact.mean(axis=0)
    lengths = np.linalg.norm(scaled, axis=1, keepdims=True)
    rounding = np.finfo(np.float32).eps * np.linalg.norm(exact, axis=1).max()
    scaled = np.where(lengths > rounding, scaled / np.maximum(lengths, 1e-12), 0)
    left, sizes, _ = np.linalg.svd(scaled, full_matrices=False)
    places = (left * sizes)[:, :_COMPONENTS]
    # t-SNE divides by the spread, and crashes where there is none.
    if len(places) >= _FEWEST and places.any():
        perplexity = min(30.0, (len(places) - 1) / 3)
        places = TSNE(perplexity=perplexity, random_state=seed, init="pca").fit_transform(places)
    flat = np.zeros((len(places), 2))
    flat[:, : places.shape[1]] = places[:, :2]
    low, high = flat.min(axis=0), flat.max(axis=0)
    result: NDArray[np.float64] = (flat - low) / np.maximum(high - low, 1e-12)
    return result
