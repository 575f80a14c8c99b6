"""Reconstructions beside the truth, as clouds that rotate together."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from i2pmae.report.packed import pack_kinds, pack_points
from i2pmae.report.page import Cloud, CloudRow, CloudTable

Points = NDArray[np.floating]

KINDS = ["visible", "reconstructed", "truth"]
MOST_ROWS = 8
_POINTS = 1024  # of each kind


def upright(points: Points, up: str) -> Points:
    """Points with y up, (N, 3)."""
    return points if up == "y" else points[:, (1, 2, 0)]


def cloud_of(parts: dict[str, Points], truth: Points, up: str) -> Cloud:
    """Points of some `KINDS` as one cloud, where the true one has its middle and its size."""
    kept = {name: _thinned(points) for name, points in parts.items()}
    kinds = [np.full(len(points), KINDS.index(name)) for name, points in kept.items()]
    points = np.concatenate(list(kept.values()))
    return Cloud(
        pack_points(upright(points, up), upright(truth, up)), pack_kinds(np.concatenate(kinds))
    )


def reconstruction_table(
    names: Sequence[str], made: Sequence[tuple[Points, Points, Points]], up: str
) -> CloudTable:
    """What a network is shown, what it makes of it, and the truth; some shapes, evenly chosen.

    Args:
        names: of the shapes.
        made: truth (N, 3), visible points (n, 3) and reconstructed ones (m, 3) of each shape.
        up: which axis of the clouds points up.
    """
    rows = []
    for place in evenly(len(made), MOST_ROWS):
        truth, visible, reconstructed = made[place]
        columns = (
            {"visible": visible},
            {"visible": visible, "reconstructed": reconstructed},
            {"truth": truth},
        )
        rows.append(CloudRow(names[place], [cloud_of(parts, truth, up) for parts in columns]))
    return CloudTable(
        "What the encoder sees, what the network makes of it, and the whole shape. Clouds of a "
        "row turn together.",
        ["visible input", "reconstruction", "truth"],
        KINDS,
        rows,
    )


def evenly(n_all: int, n_chosen: int) -> list[int]:
    """Places at even steps, at most `n_chosen`."""
    return sorted({round(at) for at in np.linspace(0, n_all - 1, min(n_all, n_chosen))})


def _thinned(points: Points) -> Points:
    """Distinct points, every k-th if there are too many."""
    distinct = np.unique(points, axis=0)
    return distinct[evenly(len(distinct), _POINTS)]
