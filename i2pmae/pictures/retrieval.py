"""A shape and those that an encoder finds most similar to it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from i2pmae.pictures.points import Up, draw_points
from i2pmae.pictures.style import (
    ACCENT,
    NEUTRAL,
    PALETTE,
    legend,
    name_below,
    name_column,
    panels,
    save,
)

_WIDTH = 1.6  # of a panel, inches
_PER_ROW = 5  # neighbors
_SAME, _OTHER = PALETTE[0], NEUTRAL


class Drawn(NamedTuple):
    """A shape to be drawn."""

    points: NDArray[np.floating]  # (N, 3), any unit
    id: str
    class_name: str  # '' if unknown


def draw_neighbors(
    path: Path,
    query: Drawn,
    neighbors: Sequence[Drawn],
    captions: Sequence[str],
    *,
    up: Up = "y",
) -> Path:
    """Draw a shape, and beside it those nearest to it, the nearest first, five a row.

    Color says what the query is and which neighbors are of its class; where classes are unknown,
    all neighbors are of one color.

    Args:
        query: what was looked for.
        neighbors: what was found, at least one.
        captions: one per neighbor, such as its cosine.
        path, up: as of `shapes.draw_seen`, and so are the result and errors.
    """
    n_rows = -(-len(neighbors) // _PER_ROW)
    n_columns = 1 + min(len(neighbors), _PER_ROW)
    figure, axes = panels(
        n_rows, n_columns, width=_WIDTH, bottom=0.12, together=n_columns, row_gap=0.42
    )
    for panel in axes.ravel().tolist():
        panel.set_axis_off()
    name_column(axes[0, 0], query.class_name or "query")
    name_below(axes[0, 0], _last(query.id))
    draw_points(axes[0, 0], query.points, ACCENT, up=up)
    knows_classes = bool(query.class_name) and any(shape.class_name for shape in neighbors)
    used = {"query": ACCENT}
    for place, (shape, caption) in enumerate(zip(neighbors, captions, strict=True)):
        row, column = divmod(place, _PER_ROW)
        panel = axes[row, 1 + column]
        is_same = shape.class_name == query.class_name or not knows_classes
        color = _SAME if is_same else _OTHER
        used[("same class" if is_same else "other class") if knows_classes else "neighbor"] = color
        name_column(panel, f"{shape.class_name} {caption}".strip())
        name_below(panel, _last(shape.id))
        draw_points(panel, shape.points, color, up=up)
    legend(figure, used)
    return save(figure, path)


def _last(shape_id: str) -> str:
    """The end of an id, which tells shapes of a class apart."""
    return shape_id.rpartition("/")[2]
