"""What the network is shown, what it makes of the rest, and the truth."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.colors import to_rgba_array
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

_WIDTH = 2.1  # of a panel, inches
_SEEN, _MADE, _TRUE = PALETTE[0], ACCENT, NEUTRAL


def draw_reconstructions(
    path: Path,
    visible: Clouds,
    reconstructed: Clouds,
    truth: Clouds,
    names: Sequence[str],
    *,
    up: Up = "y",
) -> Path:
    """Draw masked input, reconstruction and truth side by side; one row per shape.

    Args:
        path: `.png`, `.pdf` or `.svg` to write.
        visible: per shape (n, 3), points that the encoder sees.
        reconstructed: per shape (m, 3), predicted neighbors plus their center, of masked tokens.
        truth: per shape (N, 3), the whole cloud; it sets the scale of the row.
        names: written beside the rows.
        up: which axis of the clouds points up.

    Returns:
        `path`.

    Raises:
        DataError: if the file cannot be written.
        ValueError: if the sequences differ in length.
    """
    heights = [row_height(whole, _WIDTH, up) for whole in truth]
    figure, axes = panels(len(names), 3, width=_WIDTH, heights=heights, left=0.25, bottom=0.35)
    rows = zip(axes, visible, reconstructed, truth, names, strict=True)
    for (left, middle, right), seen, made, whole, name in rows:
        name_row(left, name)
        draw_points(left, seen, _SEEN, frame=whole, up=up)
        both = np.concatenate([seen, made])
        colors = to_rgba_array([_SEEN] * len(seen) + [_MADE] * len(made))
        draw_points(middle, both, colors, frame=whole, up=up)
        draw_points(right, whole, _TRUE, frame=whole, up=up)
    for panel, title in zip(axes[0], ("masked input", "reconstruction", "truth"), strict=True):
        name_column(panel, title)
    legend(figure, {"visible": _SEEN, "reconstructed": _MADE, "truth": _TRUE})
    return save(figure, path)
