"""Smooth deformations of whole shapes."""

from __future__ import annotations

import numpy as np

from i2pmae.procedural.constructive import Array, Assembly, Map
from i2pmae.procedural.draw import Draw


def deform(draw: Draw, assembly: Assembly) -> None:
    """Stretch a shape, and taper, twist, bend, shear or dent it."""
    low, high = assembly.bounds
    stretch = np.array([draw.scale(0.75, 1.3) for _ in range(3)])
    assembly.deform(lambda points: (points - (low + high) / 2) * stretch)
    size = (high - low) * stretch
    axis = draw.one_of(0, 1, 1, 2)
    assembly.deform(
        draw.one_of(_taper, _twist, _bend, _bend, _lean, _dents, _dents)(draw, size, axis)
    )


def _taper(draw: Draw, size: Array, axis: int) -> Map:
    change = draw.scale(0.35, 0.9) - 1
    others = [other for other in range(3) if other != axis]
    sign = draw.one_of(1, 1, -1)

    def taper(points: Array) -> Array:
        share = sign * points[:, axis] / size[axis] + 0.5
        moved = points.copy()
        moved[:, others] *= (1 + change * share)[:, None]
        return moved

    return taper


def _twist(draw: Draw, size: Array, axis: int) -> Map:
    rate = draw.between(-1.8, 1.8) / size[axis]
    first, second = (axis + 1) % 3, (axis + 2) % 3

    def twist(points: Array) -> Array:
        cos, sin = np.cos(rate * points[:, axis]), np.sin(rate * points[:, axis])
        moved = points.copy()
        moved[:, first] = cos * points[:, first] - sin * points[:, second]
        moved[:, second] = sin * points[:, first] + cos * points[:, second]
        return moved

    return twist


def _bend(draw: Draw, size: Array, axis: int) -> Map:
    """The axis becomes an arc; what lies on its inner side must not pass the arc's center."""
    towards = (axis + draw.one_of(1, 2)) % 3
    angle = min(draw.between(0.3, 2.2), 1.4 * size[axis] / size[towards])
    radius = size[axis] / angle

    def bend(points: Array) -> Array:
        turn = points[:, axis] / radius
        moved = points.copy()
        moved[:, axis] = (radius - points[:, towards]) * np.sin(turn)
        moved[:, towards] = radius - (radius - points[:, towards]) * np.cos(turn)
        return moved

    return bend


def _lean(draw: Draw, size: Array, axis: int) -> Map:
    lean = np.eye(3)
    for other in range(3):
        if other != axis:
            lean[axis, other] = draw.between(-0.5, 0.5) * size[other] / size.max()
    return lambda points: np.asarray(np.einsum("nc,cd->nd", points, lean))


def _dents(draw: Draw, size: Array, axis: int) -> Map:
    """Waves: one or two long ones, or many short ones."""
    del axis
    periods = draw.one_of(1.0, 2.0, draw.between(3, 8))
    waves = np.array([[draw.between(-1, 1) for _ in range(3)] for _ in range(3)])
    waves *= 2 * np.pi * periods / size.max()
    phases = np.array([draw.between(0, 2 * np.pi) for _ in range(3)])
    depth = draw.between(0.2, 0.7) / (2 * np.pi * periods) * size.max() / 2

    def dent(points: Array) -> Array:
        return np.asarray(points + depth * np.sin(np.einsum("nc,cd->nd", points, waves) + phases))

    return dent
