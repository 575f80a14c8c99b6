"""Depth maps of shapes, and where the image model looks on them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
from matplotlib.colors import ListedColormap
from numpy.typing import NDArray

from i2pmae.pictures.points import Up
from i2pmae.pictures.style import SALIENCY, color_bar, name_column, name_row, panels, save

Number = TypeVar("Number", bound=np.generic)

_VIEWS_PER_ROW = 4
OVERLAY = ListedColormap(
    [(*SALIENCY(value)[:3], 0.9 * value**0.7) for value in np.linspace(0, 1, 256)]
)


def upright(maps: NDArray[Number], axes: NDArray[np.floating], up: Up = "y") -> NDArray[Number]:
    """Maps of views, turned by steps of 90 degrees so that up is up, for people to look at.

    The image model sees them as they are stored: of the paper's views, one lies on its side and one
    is upside down. A view from above has no up and stays.

    Args:
        maps: (S, V, H, W), or (S, V, H, W, 3) of colors; H = W.
        axes: (V, 3, 3) from `view_axes`: row, column, depth.
        up: which axis of the clouds points up.
    """
    down, right, _ = np.moveaxis(axes[..., "xyz".index(up)], 1, 0)
    turned = []
    for view in range(len(axes)):
        if abs(right[view]) > abs(down[view]):
            n_turns = 1 if right[view] > 0 else 3  # counterclockwise
        else:
            n_turns = 2 if down[view] > 1e-6 else 0
        turned.append(np.rot90(maps[:, view], n_turns, axes=(1, 2)))
    return np.stack(turned, axis=1)


def draw_depth_maps(
    path: Path,
    depth_maps: NDArray[np.generic],
    saliency_maps: NDArray[np.floating],
    names: Sequence[str],
) -> Path:
    """Draw every view of some shapes: its depth map, and saliency over it.

    A shape has one row, or several where it has more than four views.

    Saliency runs from the least value of a shape to its 99th percentile, so colors compare the
    views of a shape, not shapes. The less there is, the more of the depth map shines through.

    Args:
        path: `.png`, `.pdf` or `.svg` to write.
        depth_maps: (S, V, H, W), or (S, V, H, W, 3) of normals; uint8 in [0, 255] or float in
            [0, 1].
        saliency_maps: (S, V, h, w), any unit.
        names: S names, written beside the rows.

    Returns:
        `path`.

    Raises:
        DataError: if the file cannot be written.
        ValueError: if the arrays do not fit together.
    """
    if depth_maps.shape[:2] != saliency_maps.shape[:2] or len(names) != len(depth_maps):
        raise ValueError(
            f"depth maps {depth_maps.shape}, saliency maps {saliency_maps.shape}, "
            f"{len(names)} names"
        )
    n_shapes, n_views = depth_maps.shape[:2]
    if depth_maps.dtype == np.uint8:
        depth_maps = depth_maps.astype(np.float32) / 255
    n_rows = -(-n_views // _VIEWS_PER_ROW)
    n_columns = -(-n_views // n_rows)
    figure, axes = panels(
        n_shapes * n_rows, 2 * n_columns, width=1.25, left=0.25, bottom=0.4, together=2
    )
    for shape in range(n_shapes):
        name_row(axes[shape * n_rows, 0], names[shape])
        low, high = saliency_maps[shape].min(), np.percentile(saliency_maps[shape], 99)
        relative = ((saliency_maps[shape] - low) / max(high - low, 1e-12)).clip(0, 1)
        for place in range(n_rows * n_columns):
            row, column = divmod(place, n_columns)
            plain, over = axes[shape * n_rows + row, 2 * column : 2 * column + 2]
            if place >= n_views:
                plain.set_visible(False)
                over.set_visible(False)
                continue
            depth = depth_maps[shape, place]
            plain.imshow(depth, cmap="gray", vmin=0, vmax=1)
            gray = depth if depth.ndim == 2 else depth.mean(axis=2)
            over.imshow(0.72 + 0.28 * gray, cmap="gray", vmin=0, vmax=1)
            over.imshow(
                relative[place],
                cmap=OVERLAY,
                vmin=0,
                vmax=1,
                interpolation="bicubic",
                extent=over.get_xlim() + over.get_ylim(),
            )
    for column in range(n_columns):
        name_column(axes[0, 2 * column], f"view {column + 1}" if n_rows == 1 else "views")
        name_column(axes[0, 2 * column + 1], "saliency")
    color_bar(figure, OVERLAY, "ignored", "attended")
    return save(figure, path)
