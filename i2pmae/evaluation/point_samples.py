"""Features of some points of labeled shapes: of encoders, and of the 2D model from a store."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import chain

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from i2pmae.datasets import Shape, ShapeSource
from i2pmae.datasets.reading import read_each
from i2pmae.evaluation.clouds import with_points
from i2pmae.evaluation.features import extract_features
from i2pmae.evaluation.part_probe import PointSamples
from i2pmae.geometry.projection import mean_over_views
from i2pmae.model.frozen import FrozenEncoder
from i2pmae.progress import track
from i2pmae.store import StoreReader
from i2pmae.store.point_features import point_features, stored_visible

SHAPES, POINTS = 800, 128  # most shapes of a split, and points of each
_AT_ONCE = 32


def have_parts(sources: Sequence[ShapeSource]) -> bool:
    """Whether all points of the data set's shapes have parts, by class."""
    return all(source.part_names is not None and source.class_parts for source in sources)


def spread_places(counts: Sequence[int]) -> list[NDArray[np.int64]]:
    """Places of at most `SHAPES` of each split's shapes, evenly spaced."""
    return [np.unique(np.linspace(0, n - 1, min(n, SHAPES)).astype(np.int64)) for n in counts]


def sample_points(
    sources: Sequence[ShapeSource],
    kept: Sequence[Sequence[int]],
    encoders: Mapping[str, FrozenEncoder],
    n_points: int,
    *,
    batch_size: int = 32,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> PointSamples:
    """Encode shapes, and keep features and parts of the same few points of each.

    Args:
        sources: of every split; see `have_parts`.
        kept: of every split, the shapes that can be read.
        encoders: kind of features -> encoder, all on one device.
        n_points: of each shape, the first ones, that encoders see.
        batch_size: shapes per call.
        dtype: bfloat16 runs encoders under autocast.
        seed: of the points that are kept.
    """
    at = torch.from_numpy(np.random.default_rng(seed).permutation(n_points)[:POINTS])
    truth: list[NDArray[np.int64]] = []
    chosen = spread_places([len(indices) for indices in kept])

    def clouds() -> Iterator[NDArray[np.float32]]:
        for source, indices, places in zip(sources, kept, chosen, strict=True):
            wanted = [indices[place] for place in places]
            for _, outcome in read_each(source, partial(_first_points, n_points), wanted):
                points, parts = outcome.result()
                assert parts is not None  # the source has names of parts
                truth.append(parts[at.numpy()].astype(np.int64))
                yield points

    def encode(points: Tensor) -> Tensor:
        found = [encoder.point_features(points)[:, at] for encoder in encoders.values()]
        return torch.cat(found, dim=2)

    together = extract_features(
        encode,
        clouds(),
        batch_size=batch_size,
        device=next(next(iter(encoders.values())).parameters()).device,
        dtype=dtype,
        description="features of points",
        total=sum(map(len, chosen)),
    )
    ends = np.cumsum([sum(encoder.config.widths) for encoder in encoders.values()])[:-1]
    parts = np.stack(truth)
    firsts = np.cumsum([0, *map(len, kept)])
    return PointSamples(
        np.concatenate([first + places for first, places in zip(firsts, chosen, strict=False)]),
        dict(zip(encoders, np.split(together, ends, axis=2), strict=True)),
        dict.fromkeys(encoders, parts),
        _parts_of_classes(sources),
    )


def stored_points(
    reader: StoreReader, rows: NDArray[np.int64], seed: int = 0
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """2D features (S, P, C) and parts (S, P) of some points of stored shapes.

    Features are means over the views that see a point.

    Args:
        reader: a store with parts.
        rows: (S,) shapes.
        seed: of the points.
    """
    at = np.random.default_rng(seed).permutation(reader.n_points)[:POINTS]
    axes = torch.from_numpy(reader.view_axes)
    features, parts = [], []
    for first in track(range(0, len(rows), _AT_ONCE), "2D features of points"):
        found = reader.read(rows[first : first + _AT_ONCE], [*reader.step_arrays, "parts"])
        parts.append(found.pop("parts")[:, at].astype(np.int64))
        found["points"] = found["points"][:, at]
        batch = {name: torch.from_numpy(values) for name, values in found.items()}
        visible = stored_visible(batch, torch.from_numpy(at).expand(len(batch["points"]), -1))
        of_views = point_features(batch, axes, reader.image_size)
        features.append(mean_over_views(of_views, visible).numpy())
    return np.concatenate(features), np.concatenate(parts)


def _first_points(n_points: int, source: ShapeSource, index: int) -> Shape:
    """Points that encoders see, from the beginning again where a shape has too few."""
    return with_points(source.load(index), n_points)


def _parts_of_classes(sources: Sequence[ShapeSource]) -> list[tuple[int, ...]]:
    """Parts that each class may have, in any split."""
    found = [source.class_parts or () for source in sources]
    return [tuple(sorted({*chain(*of_class)})) or (0,) for of_class in zip(*found, strict=True)]
