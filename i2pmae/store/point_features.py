"""2D features of stored shapes brought back to their points."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from i2pmae.geometry.projection import PixelMap, back_project, pixels


def stored_pixels(
    batch: Mapping[str, Tensor], points: Tensor, axes: Tensor, image_size: int
) -> Tensor:
    """Pixels (B, V, M, 2) of points of stored shapes.

    Args:
        batch: arrays of the store, shapes first.
        points: (B, M, 3), some of the stored points, in their coordinates.
        axes: (V, 3, 3) directions of the store's views.
        image_size: of the store.
    """
    found = PixelMap(batch["pixel_origin"], batch["pixel_size"], batch["pixel_shift"].long())
    return pixels(points, found, axes, image_size)


def stored_visible(batch: Mapping[str, Tensor], chosen: Tensor) -> Tensor | None:
    """Which views see points of stored shapes, (B, V, M) bool; None where the store does not say.

    Args:
        batch: arrays of the store, shapes first.
        chosen: (B, M) int64 indices of the points.
    """
    visible = batch.get("visible")
    if visible is None:
        return None
    return visible.gather(2, chosen[:, None].expand(-1, visible.shape[1], -1)).bool()


def point_features(batch: Mapping[str, Tensor], axes: Tensor, image_size: int) -> Tensor:
    """2D features (B, V, N, C) float32 of all stored points; arguments as of `stored_pixels`."""
    at = stored_pixels(batch, batch["points"], axes, image_size)
    return back_project(batch["features"], at, image_size, batch.get("feature_scale"))
