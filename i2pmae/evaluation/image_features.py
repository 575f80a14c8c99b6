"""Pooled 2D features of stored shapes: what the image model knows of each, without any training."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from i2pmae.progress import track
from i2pmae.store import StoreReader


def mean_patches(
    features: NDArray[np.generic], scale: NDArray[np.float32] | None
) -> NDArray[np.float32]:
    """Mean feature of each view over the patches that any point reads.

    Args:
        features: (B, V, h, w, C) as stored; patches that are never read are zero.
        scale: (B, C) of int8 codes, or None.

    Returns:
        (B, V, C) float32.
    """
    n_read = features.any(axis=4).sum(axis=(2, 3))
    means: NDArray[np.float32] = features.sum(axis=(2, 3), dtype=np.float32)
    means /= np.maximum(n_read, 1)[..., None].astype(np.float32)
    return means if scale is None else means * scale[:, None]


def pooled_image_features(
    reader: StoreReader,
    indices: NDArray[np.int64],
    *,
    batch_size: int = 64,
    description: str | None = None,
) -> NDArray[np.float32]:
    """Image features of stored shapes, `mean_patches` of every view.

    Args:
        reader: the store.
        indices: (S,) shapes.
        batch_size: shapes read at once.
        description: of the bar; None shows none.

    Returns:
        (S, V, C) float32.
    """
    names = [name for name in ("features", "feature_scale") if name in reader.step_arrays]
    means = np.zeros((len(indices), reader.n_views, reader.channels), np.float32)
    starts = range(0, len(indices), batch_size)
    for start in starts if description is None else track(starts, description):
        some = slice(start, start + batch_size)
        batch = reader.read(indices[some], names)
        means[some] = mean_patches(batch["features"], batch.get("feature_scale"))
    return means
