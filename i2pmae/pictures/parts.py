"""Part segmentation: what is where, according to the labels and to the network."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.colors import to_rgba, to_rgba_array
from numpy.typing import NDArray

from i2pmae.pictures.points import Up, draw_points, row_height
from i2pmae.pictures.style import (
    ACCENT,
    NEUTRAL,
    PALETTE,
    legend,
    name_column,
    name_row,
    panels,
    save,
)

Clouds = Sequence[NDArray[np.floating]]
Labels = Sequence[NDArray[np.integer]]

_WIDTH = 2.1  # of a panel, inches
_RELIEF = 0.6  # colors stand for parts


def draw_parts(
    path: Path,
    points: Clouds,
    truth: Labels,
    predicted: Labels,
    names: Sequence[str],
    *,
    up: Up = "y",
) -> Path:
    """Draw labelled parts, predicted parts and mistakes side by side; one row per shape.

    Colors are a row's own: its first part always has the first one.

    Args:
        path: `.png`, `.pdf` or `.svg` to write.
        points: per shape (N, 3).
        truth: per shape (N,) part of each point; counted from 0 within the shape's category, so
            that colors do not run out.
        predicted: per shape (N,), likewise.
        names: written beside the rows.
        up: which axis of the clouds points up.

    Returns:
        `path`.

    Raises:
        DataError: if the file cannot be written.
        ValueError: if the sequences differ in length.
    """
    heights = [row_height(cloud, _WIDTH, up) for cloud in points]
    figure, axes = panels(len(names), 3, width=_WIDTH, heights=heights, left=0.25, bottom=0.35)
    palette = to_rgba_array(PALETTE)
    for row, cloud, labels, guesses, name in zip(
        axes, points, truth, predicted, names, strict=True
    ):
        name_row(row[0], name)
        wrong = np.where((labels != guesses)[:, None], to_rgba(ACCENT), to_rgba(NEUTRAL))
        colors = (palette[labels % len(palette)], palette[guesses % len(palette)], wrong)
        for panel, color in zip(row, colors, strict=True):
            draw_points(panel, cloud, color, up=up, relief=_RELIEF)
    for panel, title in zip(axes[0], ("labelled", "predicted", "mistakes"), strict=True):
        name_column(panel, title)
    legend(figure, {"right": NEUTRAL, "wrong": ACCENT})
    return save(figure, path)
