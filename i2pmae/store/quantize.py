"""Fewer bits for points and features, so that they compress."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

RELATIVE_STEP = 0.1
LARGEST_CODE = 127


def round_points(points: NDArray[np.float32]) -> NDArray[np.float32]:
    """Round every coordinate to a 16-bit grid of its shape.

    The grid's step is 2^-16 of the smallest power of two that is at least the largest absolute
    coordinate, so rounding moves a point by less than 1e-5 of the shape's extent and a second
    rounding changes nothing.

    Args:
        points: (B, N, 3) float32, finite, any unit.

    Returns:
        (B, N, 3) float32.
    """
    largest = np.abs(points).max(axis=(1, 2), keepdims=True).astype(np.float64)
    fraction, exponent = np.frexp(largest)  # largest = fraction * 2^exponent, fraction in [0.5, 1)
    exponent = exponent - (fraction == 0.5)
    step = np.ldexp(1.0, exponent - 16)
    rounded: NDArray[np.float32] = (np.rint(points / step) * step).astype(np.float32)
    return rounded


def quantize(
    features: NDArray[np.float32], relative_step: float = RELATIVE_STEP
) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Turn features into int8 codes with one scale per shape and channel.

    A code is the value over the scale, rounded. The scale is `relative_step` times the channel's
    root mean square over the patches that are read (not all zero), or larger where the channel's
    largest value needs it to fit 127: few codes are frequent, which an entropy coder turns into
    few bits, and every channel keeps the same relative precision.

    Args:
        features: (B, V, h, w, C) float32, finite; patches that are never read are zero.
        relative_step: scale in root mean squares; rounding noise is this over sqrt(12).

    Returns:
        (B, V, h, w, C) int8 in [-127, 127] and (B, C) float32, positive.
    """
    values = features.reshape(len(features), -1, features.shape[-1])
    read = np.maximum(values.any(axis=2).sum(axis=1), 1)
    rms = np.sqrt(np.einsum("bpc,bpc->bc", values, values) / read[:, None])
    largest = np.maximum(values.max(axis=1), -values.min(axis=1))
    scale = np.maximum(relative_step * rms, largest / LARGEST_CODE)
    scale = np.where(scale > np.finfo(np.float32).tiny, scale, 1).astype(np.float32)
    codes = values / scale[:, None]
    np.rint(codes, out=codes)
    np.clip(codes, -LARGEST_CODE, LARGEST_CODE, out=codes)
    return codes.astype(np.int8).reshape(features.shape), scale


def dequantize(codes: NDArray[np.int8], scale: NDArray[np.float32]) -> NDArray[np.float32]:
    """Undo `quantize`, up to half a scale.

    Args:
        codes: (B, V, h, w, C) int8.
        scale: (B, C) float32.

    Returns:
        (B, V, h, w, C) float32.
    """
    return codes.astype(np.float32) * scale[:, None, None, None, :]


def encode(
    features: NDArray[np.float32], dtype: str, relative_step: float = RELATIVE_STEP
) -> dict[str, NDArray[np.generic]]:
    """Features as a store of this dtype holds them.

    Args:
        features: (B, V, h, w, C) float32, finite; patches that are never read are zero.
        dtype: int8, float16 or float32.
        relative_step: of int8, see `quantize`.

    Returns:
        `features`, and with int8 `feature_scale`.
    """
    if dtype == "int8":
        codes, scale = quantize(features, relative_step)
        return {"features": codes, "feature_scale": scale}
    return {"features": features.astype(dtype)}
