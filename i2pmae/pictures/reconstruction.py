"""What the network is shown, what it makes of the rest, and the truth."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.colors import to_rgba_array
from numpy.typing import NDArray

from i2pmae.pictures.points import Up, draw_points, shape_rows
from i2pmae.pictures.style import ACCENT, NEUTRAL, PALETTE, legend, save

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
        visible: per shape (n, 3), points that the encoder sees.
        reconstructed: per shape (m, 3), predicted neighbors plus their center, of masked tokens.
        truth: per shape (N, 3), the whole cloud; it sets the scale of the row.
        path, names, up: as of `shapes.draw_seen`, and so are the result and errors.
    """
    titles = ("masked input", "reconstruction", "truth")
    figure, axes = shape_rows(truth, names, titles, width=_WIDTH, up=up)
    rows = zip(axes, visible, reconstructed, truth, strict=True)
    for (left, middle, right), seen, made, whole in rows:
        draw_points(left, seen, _SEEN, frame=whole, up=up)
        both = np.concatenate([seen, made])
        colors = to_rgba_array([_SEEN] * len(seen) + [_MADE] * len(made))
        draw_points(middle, both, colors, frame=whole, up=up)
        draw_points(right, whole, _TRUE, frame=whole, up=up)
    legend(figure, {"visible": _SEEN, "reconstructed": _MADE, "truth": _TRUE})
    return save(figure, path)
