"""Part segmentation: labeled and predicted parts of shapes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.colors import to_rgba, to_rgba_array
from numpy.typing import NDArray

from i2pmae.pictures.points import Up, draw_points, shape_rows
from i2pmae.pictures.style import ACCENT, NEUTRAL, PALETTE, legend, save

Clouds = Sequence[NDArray[np.floating]]
Labels = Sequence[NDArray[np.integer]]

_WIDTH = 2.1  # of a panel, inches
_RELIEF = 0.6  # colors stand for parts


def draw_parts(
    path: Path,
    points: Clouds,
    truth: Labels | None,
    predicted: Labels,
    names: Sequence[str],
    *,
    up: Up = "y",
) -> Path:
    """Draw labeled parts, predicted parts and mistakes side by side; one row per shape.

    Colors are a row's own: its first part always has the first one.

    Args:
        points: per shape (N, 3).
        truth: per shape (N,) part of each point; counted from 0 within the shape's category, so
            that colors do not run out. None: not known, predicted parts are drawn alone.
        predicted: per shape (N,), likewise.
        path, names, up: as of `shapes.draw_seen`, and so are the result and errors.
    """
    titles = ("predicted",) if truth is None else ("labeled", "predicted", "mistakes")
    figure, axes = shape_rows(points, names, titles, width=_WIDTH, up=up)
    palette = to_rgba_array(PALETTE)
    for row, cloud, labels, guesses in zip(
        axes, points, predicted if truth is None else truth, predicted, strict=True
    ):
        wrong = np.where((labels != guesses)[:, None], to_rgba(ACCENT), to_rgba(NEUTRAL))
        of_parts = [palette[parts % len(palette)] for parts in (labels, guesses)]
        colors = of_parts[1:] if truth is None else [*of_parts, wrong]
        for panel, color in zip(row, colors, strict=True):
            draw_points(panel, cloud, color, up=up, relief=_RELIEF)
    if truth is not None:
        legend(figure, {"right": NEUTRAL, "wrong": ACCENT})
    return save(figure, path)
