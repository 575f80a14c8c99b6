"""Mean and standard deviation of a store's image features, channel by channel."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from i2pmae.geometry.projection import back_project
from i2pmae.store.point_features import stored_pixels, stored_visible
from i2pmae.training.stored import to_tensors

if TYPE_CHECKING:
    from i2pmae.store import StoreReader

_SHAPES, _POINTS = 512, 64  # that are looked at: some 10^5 values of a channel
_AT_ONCE = 32


def channel_statistics(reader: StoreReader, indices: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the back-projected features, over shapes, views and points.

    At most 512 shapes and 64 points of each are read, evenly spaced: no chance is involved.

    Args:
        reader: the store.
        indices: (S,) its shapes that count, one at least.

    Returns:
        Mean (C,) and standard deviation (C,), float32; 1 for a constant channel.

    Raises:
        StoreError: if a shape cannot be read.
    """
    chosen = _spread(indices, _SHAPES)
    total = torch.zeros(2, reader.channels, dtype=torch.float64)
    n_values = 0
    for first in range(0, len(chosen), _AT_ONCE):
        found = _features(reader, chosen[first : first + _AT_ONCE]).double()
        total += torch.stack([found.sum(dim=0), found.square().sum(dim=0)])
        n_values += len(found)
    mean, square = total / n_values
    std = (square - mean.square()).clamp(min=0).sqrt()
    std[std < 1e-6] = 1
    return mean.float(), std.float()


def _spread(values: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """At most `count` of the values, evenly spaced."""
    return values[np.linspace(0, len(values) - 1, min(count, len(values))).astype(np.int64)]


def _features(reader: StoreReader, indices: NDArray[np.int64]) -> Tensor:
    """Features of some points of some shapes, in all views that see them: (n, C) float32."""
    batch = to_tensors(reader.read(indices))
    chosen = torch.from_numpy(_spread(np.arange(batch["points"].shape[1]), _POINTS))
    points = batch["points"][:, chosen].float()
    at = stored_pixels(batch, points, torch.from_numpy(reader.view_axes), reader.image_size)
    found = back_project(batch["features"], at, reader.image_size, batch.get("feature_scale"))
    seen = stored_visible(batch, chosen.expand(len(points), -1))
    return found.flatten(0, 2) if seen is None else found[seen]
