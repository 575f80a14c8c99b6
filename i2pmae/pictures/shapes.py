"""What the image model sees of a shape, brought back to its points; and what masking hides."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.colors import to_rgba
from numpy.typing import NDArray

from i2pmae.pictures.points import Up, draw_points, shape_rows
from i2pmae.pictures.style import (
    ACCENT,
    FRAME,
    NEUTRAL,
    PALETTE,
    SALIENCY,
    color_bar,
    legend,
    name_column,
    panels,
    save,
)

_WIDTH = 2.0  # of a panel, inches
_VISIBLE, _HIDDEN = PALETTE[0], ACCENT
_VALUES = 0.35  # relief where colors stand for values
_WHITE = np.array([0.95047, 1.0, 1.08883])
_XYZ_TO_RGB = np.array(
    [
        [3.2404542, -1.5371385, -0.4985314],
        [-0.9692660, 1.8760108, 0.0415560],
        [0.0556434, -0.2040259, 1.0572252],
    ]
)


def draw_seen(
    path: Path,
    points: NDArray[np.floating],
    saliency: NDArray[np.floating],
    features: NDArray[np.floating],
    names: Sequence[str],
    *,
    up: Up = "y",
) -> Path:
    """Draw shapes, back-projected saliency and back-projected features; one row per shape.

    Args:
        path: `.png`, `.pdf` or `.svg` to write.
        points: (S, N, 3).
        saliency: (S, N) of each point, any unit; colors run from a shape's least value to its
            99th percentile.
        features: (S, N, C) of each point; see `feature_colors`.
        names: S names, written beside the rows.
        up: which axis of the clouds points up.

    Returns:
        `path`.

    Raises:
        DataError: if the file cannot be written.
        ValueError: if the arrays do not fit together.
    """
    colors = feature_colors(features)
    titles = ("points", "saliency", "features, 3 components")
    figure, axes = shape_rows(points, names, titles, width=_WIDTH, up=up, bottom=0.4)
    rows = zip(axes, points, saliency, colors, strict=True)
    for (left, middle, right), cloud, values, color in rows:
        draw_points(left, cloud, NEUTRAL, up=up)
        low, high = values.min(), np.percentile(values, 99)
        relative = ((values - low) / max(high - low, 1e-12)).clip(0, 1)
        draw_points(middle, cloud, SALIENCY(relative), up=up, relief=_VALUES)
        draw_points(right, cloud, color, up=up, relief=_VALUES)
    color_bar(figure, SALIENCY, "ignored", "attended")
    return save(figure, path)


def draw_features(
    path: Path,
    points: NDArray[np.floating],
    features: NDArray[np.floating],
    names: Sequence[str],
    *,
    up: Up = "y",
) -> Path:
    """Draw shapes in one row, each point in the color of its features; see `FeatureColors`.

    Args:
        points: (S, N, 3).
        features: (S, N, C) of each point.
        names: S names, written above the shapes.
        path, up: as of `draw_seen`, and so are the result and errors.
    """
    figure, axes = panels(1, len(names), width=_WIDTH)
    for panel, cloud, color, name in zip(
        axes[0], points, feature_colors(features), names, strict=True
    ):
        name_column(panel, name)
        draw_points(panel, cloud, color, up=up, relief=_VALUES)
    return save(figure, path)


class FeatureColors:
    """Colors in which similar features look similar, fitted to some features.

    The first principal component sets lightness, the second runs from blue to yellow, which
    color-blind readers tell apart, the third from green to red, less strongly.

    Args:
        features: (..., C) that set the components, C at least 3.
    """

    def __init__(self, features: NDArray[np.floating]) -> None:
        flat = features.reshape(-1, features.shape[-1]).astype(np.float64)
        self._mean = flat.mean(axis=0)
        centered = flat - self._mean
        # Directions of the C x C covariance: the points may be many.
        directions = np.linalg.eigh(centered.T @ centered)[1][:, ::-1][:, :3]
        signs = np.sign((directions**3).sum(axis=0))  # else the sign is chance
        self._directions = directions * np.where(signs == 0, 1, signs)
        components = centered @ self._directions
        self._spread = np.maximum(np.percentile(np.abs(components), 98, axis=0), 1e-12)

    def __call__(self, features: NDArray[np.floating]) -> NDArray[np.float64]:
        """Red, green, blue in [0, 1], (..., 3), of features (..., C)."""
        flat = features.reshape(-1, features.shape[-1]).astype(np.float64)
        components = (flat - self._mean) @ self._directions
        first, second, third = (components / self._spread).clip(-1, 1).T
        lab = np.stack([60 + 24 * first, 34 * third, 55 * second], axis=1)
        return _lab_to_rgb(lab).reshape(*features.shape[:-1], 3)


def feature_colors(features: NDArray[np.floating]) -> NDArray[np.float64]:
    """Color points (S, N, C) by their own `FeatureColors`, across all shapes: (S, N, 3)."""
    return FeatureColors(features)(features)


def draw_predicted_features(
    path: Path,
    points: NDArray[np.floating],
    centers: Sequence[NDArray[np.floating]],
    targets: Sequence[NDArray[np.floating]],
    predicted: Sequence[NDArray[np.floating]],
    names: Sequence[str],
    *,
    up: Up = "y",
) -> Path:
    """Draw target and predicted features of visible centers, and the error; one row per shape.

    Target and prediction share their colors. Errors run from 0 to the targets' root mean square
    distance from their mean, which is the error of a network that always says the mean.

    Args:
        points: (S, N, 3) the clouds, drawn faintly.
        centers: per shape (k, 3).
        targets: per shape (k, C).
        predicted: per shape (k, C).
        path, names, up: as of `draw_seen`, and so are the result and errors.
    """
    everything = np.concatenate(list(targets))
    colors = FeatureColors(everything)
    worst = max(float(np.sqrt(everything.var(axis=0).sum())), 1e-12)
    titles = ("target features", "predicted features", "error")
    figure, axes = shape_rows(points, names, titles, width=_WIDTH, up=up, bottom=0.4)
    rows = zip(axes, points, centers, targets, predicted, strict=True)
    for row, cloud, at, true, said in rows:
        error = np.linalg.norm(said - true, axis=1) / worst
        for panel, color in zip(
            row, (colors(true), colors(said), SALIENCY(error.clip(0, 1))), strict=True
        ):
            draw_points(panel, cloud, FRAME, up=up, relief=0.3)
            draw_points(panel, at, color, frame=cloud, up=up, relief=_VALUES, scale=1.25)
    color_bar(figure, SALIENCY, "no error", "as far off as the mean")
    return save(figure, path)


def draw_masks(
    path: Path,
    points: NDArray[np.floating],
    centers: Sequence[NDArray[np.floating]],
    masked: Sequence[NDArray[np.bool_]],
    names: Sequence[str],
    *,
    up: Up = "y",
) -> Path:
    """Draw which centers are visible and which are hidden at every scale; one row per shape.

    Args:
        points: (S, N, 3) the clouds, drawn faintly.
        centers: per level (S, G, 3), fine to coarse.
        masked: per level (S, G), True = hidden from the encoder.
        path, names, up: as of `draw_seen`, and so are the result and errors.
    """
    titles = [f"scale {k}: {at.shape[1]} centers" for k, at in enumerate(centers, start=1)]
    figure, axes = shape_rows(points, names, titles, width=_WIDTH, up=up)
    for level, (places, hidden) in enumerate(zip(centers, masked, strict=True)):
        for panel, cloud, at, is_hidden in zip(axes[:, level], points, places, hidden, strict=True):
            draw_points(panel, cloud, FRAME, up=up, relief=0.3)
            colors = np.where(is_hidden[:, None], to_rgba(_HIDDEN), to_rgba(_VISIBLE))
            draw_points(panel, at, colors, frame=cloud, up=up, relief=0.3, scale=1.1 + 0.5 * level)
    legend(figure, {"visible": _VISIBLE, "hidden": _HIDDEN})
    return save(figure, path)


def _lab_to_rgb(lab: NDArray[np.float64]) -> NDArray[np.float64]:
    """CIELAB (D65) to sRGB, clipped to what a screen can show."""
    lightness, red_green, blue_yellow = lab.T
    y = (lightness + 16) / 116
    shares = np.stack([y + red_green / 500, y, y - blue_yellow / 200])
    cubed = np.where(shares > 6 / 29, shares**3, 3 * (6 / 29) ** 2 * (shares - 4 / 29))
    linear = _XYZ_TO_RGB @ (cubed * _WHITE[:, None])
    curved = 1.055 * linear.clip(0.0031308) ** (1 / 2.4) - 0.055
    rgb: NDArray[np.float64] = np.where(linear <= 0.0031308, 12.92 * linear, curved)
    return rgb.clip(0, 1).T
