"""Point clouds as shaded discs, seen slightly from above."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba_array
from matplotlib.figure import Figure
from numpy.typing import NDArray

from i2pmae.geometry.normals import NEIGHBORS, surface_normals
from i2pmae.pictures.style import name_column, name_row, panels

Up = Literal["y", "z"]

_AZIMUTH = np.deg2rad(35)  # from the front, to the right
_ELEVATION = np.deg2rad(22)
_FADE = 0.5  # how far the farthest point fades into white
_SHADE = 0.4  # how much darker the side away from the light is
_LIGHT = np.array([-0.42, 0.72, 0.55])  # direction it comes from: right, up, towards the viewer


def shape_rows(
    clouds: Iterable[NDArray[np.floating]],
    names: Sequence[str],
    titles: Sequence[str],
    *,
    width: float,
    up: Up = "y",
    bottom: float = 0.35,
) -> tuple[Figure, NDArray[np.object_]]:
    """Make a figure with one row per shape, as high as the shape, and one panel per title.

    Args:
        clouds: per shape (N, 3), which the panels of its row are to hold.
        names: of the shapes, written beside the rows.
        titles: written above the columns.
        width: of a panel, inches.
        up: which axis of the clouds points up.
        bottom: room for a legend or color bar, inches.

    Returns:
        The figure and its (shapes, titles) axes.

    Raises:
        ValueError: if there are not as many names as shapes.
    """
    heights = [_row_height(cloud, width, up) for cloud in clouds]
    figure, axes = panels(
        len(heights), len(titles), width=width, heights=heights, left=0.25, bottom=bottom
    )
    for panel, name in zip(axes[:, 0], names, strict=True):
        name_row(panel, name)
    for panel, title in zip(axes[0], titles, strict=True):
        name_column(panel, title)
    return figure, axes


def draw_points(
    axes: Axes,
    points: NDArray[np.floating],
    colors: Any,
    *,
    frame: NDArray[np.floating] | None = None,
    up: Up = "y",
    relief: float = 1.0,
    scale: float = 1.0,
) -> None:
    """Draw a cloud in a panel: lit from the upper left, far points first and paler.

    Args:
        axes: panel of `panels`.
        points: (N, 3), any unit; N may be 0.
        colors: one matplotlib color, or (N, 3 or 4) red, green, blue (, alpha) in [0, 1].
        frame: (M, 3) cloud that fills the panel, the same for panels to be compared; None takes
            `points`. Its number of points sets the size of the discs.
        up: which axis of the cloud points up.
        relief: strength of light and fading; less leaves colors that stand for values truer.
        scale: of the discs; 1 lets neighbors in `frame` just touch.
    """
    frame = points if frame is None else frame
    seen = _look_at(frame, up)
    low, high = seen[:, :2].min(axis=0), seen[:, :2].max(axis=0)
    panel = axes.bbox
    reach = max(float(((high - low) / (panel.width, panel.height)).max()) * 0.56, 1e-6)
    middle = (low + high) / 2
    axes.set(
        xlim=(middle[0] - reach * panel.width, middle[0] + reach * panel.width),
        ylim=(middle[1] - reach * panel.height, middle[1] + reach * panel.height),
    )
    for spine in axes.spines.values():
        spine.set_visible(False)
    if len(points) == 0:
        return
    x, y, depth = _look_at(points, up).T
    rgba = np.broadcast_to(to_rgba_array(colors), (len(points), 4)).copy()
    rgba[:, :3] *= 1 - _SHADE * relief * (1 - _light(points, up)[:, None])
    nearest, extent = seen[:, 2].max(), max(float(np.ptp(seen[:, 2])), 1e-6)
    rgba[:, :3] += (
        (1 - rgba[:, :3]) * _FADE * relief * ((nearest - depth) / extent).clip(0, 1)[:, None]
    )
    order = np.argsort(depth, kind="stable")
    inches = panel.width / axes.figure.dpi
    diameter = scale * 72 * inches * 0.031 * float(np.clip(np.sqrt(1024 / len(frame)), 0.3, 1.6))
    axes.scatter(x[order], y[order], s=diameter**2, c=rgba[order], linewidths=0)


def _row_height(cloud: NDArray[np.floating], width: float, up: Up = "y") -> float:
    """Height of a panel of some width that the cloud just fills, at most its width."""
    across, upward = np.ptp(_look_at(cloud, up)[:, :2], axis=0)
    return width * float(np.clip(1.05 * upward / max(across, 1e-6), 0.4, 1))


def _light(points: NDArray[np.floating], up: Up) -> NDArray[np.float64]:
    """How much light falls on each point, (N,) in [0, 1], from the plane through its neighbors."""
    if len(points) < NEIGHBORS:
        return np.ones(len(points))
    cloud = torch.from_numpy(np.asarray(points, dtype=np.float32))[None]
    normals = _look_at(surface_normals(cloud)[0].numpy(), up)
    normals *= np.where(normals[:, 2:] < 0, -1, 1)  # towards the viewer
    light: NDArray[np.float64] = (normals @ _LIGHT).clip(0, 1)
    return light


def _look_at(points: NDArray[np.floating], up: Up) -> NDArray[np.float64]:
    """Points as seen: right, up and towards the viewer, (N, 3)."""
    points = np.asarray(points, dtype=np.float64).reshape(-1, 3)
    x, y, z = points[:, (0, 1, 2) if up == "y" else (1, 2, 0)].T
    right = x * np.cos(_AZIMUTH) - z * np.sin(_AZIMUTH)
    front = x * np.sin(_AZIMUTH) + z * np.cos(_AZIMUTH)
    upward = y * np.cos(_ELEVATION) - front * np.sin(_ELEVATION)
    towards = y * np.sin(_ELEVATION) + front * np.cos(_ELEVATION)
    return np.stack([right, upward, towards], axis=1)
