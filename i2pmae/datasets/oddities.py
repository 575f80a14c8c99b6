"""What is odd about a shape, though it can be used."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from i2pmae.geometry.coordinates import bounds

_FAR = {0.99: 2.0, 0.95: 5.0}  # share of the points, how far the others may lie; real objects stay
# below 1.3 and 3
_FLAT = 1e-3  # spread across a plane or line, relative to the spread along it
_OFF_ORIGIN = 1e3  # distance from the origin in sizes of the shape; float32 keeps four digits
_RADII = (0.5, 2.0)  # distance of the farthest point where coordinates are used as stored


def oddities(xyz: NDArray[np.float64]) -> list[tuple[str, str]]:
    """What is odd about coordinates of any unit.

    Args:
        xyz: (n, 3) finite.

    Returns:
        Kind and reason of each.
    """
    unit = np.abs(xyz).max()
    xyz = xyz / unit  # so that squares neither overflow nor vanish
    middle = np.median(np.ascontiguousarray(xyz.T), axis=1)  # along the memory
    radii = np.sort(np.linalg.norm(xyz - middle, axis=1))
    findings = []
    for share, allowed in _FAR.items():
        inner = radii[int(share * (len(radii) - 1))]
        if radii[-1] > allowed * inner:
            n_far = int((radii > allowed * inner).sum())
            reach = f"{radii[-1] / inner:.3g} times as far out as" if inner > 0 else "away from"
            reason = f"{n_far} of {len(xyz)} points lie far off, up to {reach} {share:.0%} of them"
            findings.append(("outlier", reason))
            break
    low, high = bounds(xyz)
    scaled = (xyz - xyz.mean(axis=0)) / (high - low).max()
    spreads = np.sqrt(np.linalg.eigvalsh(scaled.T @ scaled).clip(0))
    if not findings and spreads[1] < _FLAT * spreads[2]:
        findings.append(("flat", "all points lie on a line"))
    elif not findings and spreads[0] < _FLAT * spreads[2]:
        findings.append(("flat", "all points lie in a plane"))
    distance = float(np.linalg.norm(middle))
    if distance > _OFF_ORIGIN * radii[-1]:
        times = f"{distance / radii[-1]:.3g} times its size"
        reason = f"{distance * unit:.3g} from the origin, {times}: float32 loses digits"
        findings.append(("off origin", reason))
    return findings


def stored_oddities(points: NDArray[np.float32]) -> list[tuple[str, str]]:
    """What is odd about coordinates (n, 3) that are used as stored; as `oddities`."""
    radius = float(np.linalg.norm(points.astype(np.float64), axis=1).max())
    if _RADII[0] <= radius <= _RADII[1]:
        return []
    return [("not normalized", f"the farthest point lies at {radius:.3g}; expected about 1")]
