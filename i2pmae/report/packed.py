"""Clouds, colors and pictures as short texts that a page carries in itself."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

_PICTURE = 96  # pixels per side of a view
_MOST_VIEWS = 6


def base64_text(values: NDArray[np.generic]) -> str:
    """Bytes of an array, little-endian, as base64."""
    return base64.b64encode(np.ascontiguousarray(values).tobytes()).decode()


def pack_points(points: NDArray[np.floating], frame: NDArray[np.floating] | None = None) -> str:
    """Points (N, 3), scaled into [-1, 1] about their middle, as int16 steps of 1/32767.

    Args:
        points: the cloud.
        frame: (M, 3) a cloud whose middle and size count instead; what is outside is clipped.
    """
    frame = points if frame is None else frame
    middle = (frame.min(axis=0) + frame.max(axis=0)) / 2
    reach = max(float(np.linalg.norm(frame - middle, axis=1).max()), 1e-9)
    inside = ((points - middle) / reach).clip(-1, 1)
    return base64_text(np.rint(inside * 32767).astype("<i2"))


def pack_directions(directions: NDArray[np.floating]) -> str:
    """Vectors (N, 3) of length 1 or 0 as int8 steps of 1/127."""
    return base64_text(np.rint(directions * 127).astype(np.int8))


def pack_scale(values: NDArray[np.floating], low: float, high: float) -> str:
    """Values (N,) between two ends as uint8."""
    relative = (values - low) / max(high - low, 1e-12)
    return base64_text(np.rint(relative.clip(0, 1) * 255).astype(np.uint8))


def pack_colors(colors: NDArray[np.floating]) -> str:
    """Red, green, blue (N, 3) in [0, 1] as uint8."""
    return base64_text(np.rint(colors.clip(0, 1) * 255).astype(np.uint8))


def pack_kinds(kinds: NDArray[np.generic]) -> str:
    """Categories (N,) from 0 to 255 as uint8."""
    return base64_text(kinds.astype(np.uint8))


def ramp(colors: Callable[[NDArray[np.float64]], NDArray[np.float64]]) -> str:
    """A color map as 256 times red, green, blue."""
    return pack_colors(colors(np.linspace(0, 1, 256))[:, :3])


def view_strip(
    depth_maps: NDArray[np.uint8],
    saliency_maps: NDArray[np.floating],
    overlay: Callable[[NDArray[np.floating]], NDArray[np.float64]],
) -> str:
    """Depth maps of a shape's first views, below them saliency over them, as the URL of a picture.

    Args:
        depth_maps: (V, H, W), or (V, H, W, 3) of normals.
        saliency_maps: (V, h, w), any unit.
        overlay: from saliency in [0, 1] to red, green, blue and alpha.

    Returns:
        A `data:` URL; the picture is two rows of square views.
    """
    from PIL import Image

    low, high = saliency_maps.min(), np.percentile(saliency_maps, 99)
    relative = ((saliency_maps - low) / max(high - low, 1e-12)).clip(0, 1)
    size = (_PICTURE, _PICTURE)
    n_views = min(len(depth_maps), _MOST_VIEWS)
    strip = Image.new("RGB", (n_views * _PICTURE, 2 * _PICTURE))
    for view in range(n_views):
        depth = Image.fromarray(depth_maps[view]).resize(size, Image.Resampling.BOX)
        strip.paste(depth.convert("RGB"), (view * _PICTURE, 0))
        salient = Image.fromarray(relative[view].astype(np.float32)).resize(
            size, Image.Resampling.BICUBIC
        )
        color = overlay(np.asarray(salient).clip(0, 1))
        faint = 0.72 + 0.28 * np.asarray(depth.convert("L"))[..., None] / 255
        mixed = faint * (1 - color[..., 3:]) + color[..., :3] * color[..., 3:]
        below = Image.fromarray(np.rint(mixed * 255).astype(np.uint8))
        strip.paste(below, (view * _PICTURE, _PICTURE))
    file = io.BytesIO()
    strip.save(file, "WEBP", quality=72, method=4)
    return f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode()}"
