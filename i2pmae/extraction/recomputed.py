"""A stored shape beside what is computed for it now."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from i2pmae.store.quantize import dequantize

_CLOSEST = 0.999  # cosine of features that another machine computes, in bfloat16 too
_EXACT = ("points", "parts", "pixel_shift")
_FAR_PIXELS = 0.001  # share of a depth map's pixels that may differ by more than rounding


def differences_from(
    values: dict[str, NDArray[Any]], stored: dict[str, NDArray[Any]], int8_step: float
) -> list[tuple[str, str]]:
    """Arrays of one shape that differ by more than another machine's arithmetic: name and how.

    A little difference changes how int8 codes are rounded, at worst all of them: then both sides
    have rounding noise of `int8_step` over sqrt(12) of its own.
    """
    exact = [name for name in values if name in _EXACT]
    found = [
        (name, "differs from the source")
        for name in exact
        if not np.array_equal(values[name], stored[name])
    ]
    for name, what, most in (
        ("depth", "pixels", 1),
        ("normals", "pixels", 1),
        ("visible", "points", 0),
    ):
        if name in values:
            far = np.abs(values[name].astype(int) - stored[name].astype(int)) > most
            if far.mean() > _FAR_PIXELS:
                found.append((name, f"{far.mean():.1%} of the {what} differ from the source"))
    rounding = int8_step**2 / 12 if "feature_scale" in values else 0
    for name, closest in (("features", _CLOSEST / (1 + rounding)), ("saliency", _CLOSEST)):
        cosine = _cosine(_values_of(name, values), _values_of(name, stored))
        if not cosine >= closest:
            found.append((name, f"cosine {cosine:.4f} with what is computed now"))
    return found


def _values_of(name: str, arrays: dict[str, NDArray[Any]]) -> NDArray[np.float64]:
    if name == "features" and "feature_scale" in arrays:
        return dequantize(arrays["features"], arrays["feature_scale"]).astype(np.float64)
    return arrays[name].astype(np.float64)


def _cosine(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    norms = float(np.linalg.norm(first) * np.linalg.norm(second))
    return float((first * second).sum()) / norms if norms else float(first.any() == second.any())
