"""Primitives of random proportions, and patterns of copies of them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from i2pmae.procedural.constructive import (
    Array,
    Placements,
    Solid,
    Vector,
    box,
    extruded,
    swept,
    turned,
)
from i2pmae.procedural.draw import Draw

X, Y, Z = range(3)
KINDS = ("box", "prism", "cylinder", "cone", "torus", "sphere", "turned", "swept", "wire")

Piece = list[tuple[Solid, Placements]]  # solids around the origin of the piece

_FINE = 0.25  # extent from which round solids get all their sides


def at(center: Vector = (0.0, 0.0, 0.0), turn: Array | None = None) -> Placements:
    """One copy."""
    turn = np.eye(3) if turn is None else turn
    return Placements(turn[None], np.asarray(center, np.float64)[None])


def placed(outer: Placements, inner: Placements) -> Placements:
    """Every inner copy within every outer one."""
    turns = np.einsum("iab,jbc->ijac", outer.turns, inner.turns)
    shifts = np.einsum("iab,jb->ija", outer.turns, inner.shifts) + outer.shifts[:, None]
    return Placements(turns.reshape(-1, 3, 3), shifts.reshape(-1, 3))


def row(axis: int, span: float, n: int) -> Placements:
    """Copies at equal distances, the outer ones `span` apart."""
    shifts = np.zeros((n, 3))
    shifts[:, axis] = np.linspace(-span / 2, span / 2, n) if n > 1 else 0.0
    return Placements(np.broadcast_to(np.eye(3), (n, 3, 3)), shifts)


def mirrored(placements: Placements, axis: int) -> Placements:
    """Copies and their mirror images; those that lie on the mirror stay alone."""
    mirror = np.eye(3)
    mirror[axis, axis] = -1
    aside = np.abs(placements.shifts[:, axis]) > 1e-6
    return Placements(
        np.concatenate([placements.turns, mirror @ placements.turns[aside]]),
        np.concatenate([placements.shifts, placements.shifts[aside] @ mirror]),
    )


def joined(first: Placements, second: Placements) -> Placements:
    """The copies of both."""
    return Placements(*(np.concatenate(arrays) for arrays in zip(first, second, strict=True)))


def towards(axis: int) -> Array:
    """(3, 3) rotation that brings the third axis, along which solids are built, to another."""
    return np.asarray(np.roll(np.eye(3), axis + 1, axis=0))


def ring(axis: int, n: int) -> Placements:
    """Turns around an axis through the origin."""
    return Placements(
        np.stack([turn_about(axis, 2 * np.pi * k / n) for k in range(n)]), np.zeros((n, 3))
    )


def turn_about(axis: int, angle: float) -> Array:
    """(3, 3) rotation."""
    first, second = (axis + 1) % 3, (axis + 2) % 3
    turn = np.eye(3)
    turn[first, first] = turn[second, second] = np.cos(angle)
    turn[second, first] = np.sin(angle)
    turn[first, second] = -turn[second, first]
    return turn


def primitive(
    draw: Draw, kind: str, size: Vector, axis: int = 1, *, is_plain: bool = False
) -> Piece:
    """A primitive of random form that about fills a box around the origin.

    Args:
        draw: decides the form.
        kind: one of `KINDS`.
        size: of the box.
        axis: that the primitive is built along.
        is_plain: whether boxes, cylinders and spheres are whole ones without chamfer or taper.
    """
    turn = towards(axis)
    own = np.asarray(size, np.float64) @ turn
    if kind == "wire":
        return [(solid, placed(at(turn=turn), inner)) for solid, inner in _wire(draw, own)]
    if is_plain and kind in _PLAIN:
        return [(_PLAIN[kind](own), at(turn=turn))]
    return [(_MAKERS[kind](draw, own), at(turn=turn))]


def rods(starts: Array, ends: Array, radius: float, *, is_round: bool) -> Piece:
    """Bars from points (k, 3) to others."""
    along = ends - starts
    lengths = np.linalg.norm(along, axis=1)
    along /= lengths[:, None]
    across = np.cross(along, np.eye(3)[np.abs(along).argmin(axis=1)])
    across /= np.linalg.norm(across, axis=1, keepdims=True)
    turns = np.stack([across, np.cross(along, across), along], axis=2)
    piece = []
    for length in np.unique(lengths.round(6)):
        same = np.abs(lengths - length) < 2e-6
        size = (2 * radius, 2 * radius, float(length))
        solid = _disc(np.array(size), 10) if is_round else box(size)
        piece.append((solid, Placements(turns[same], (starts[same] + ends[same]) / 2)))
    return piece


def _disc(size: Array, n_steps: int | None = None) -> Solid:
    high = size[2] / 2
    profile = np.array([(0, -high), (0.5, -high), (0.5, high), (0, high)])
    return turned(profile, stretch=size[:2], n_steps=n_steps or _n_steps(size))


def _ball(size: Array) -> Solid:
    profile = _arc(-np.pi / 2, np.pi / 2, 1.0, 13 if size.max() > _FINE else 7)
    return turned(profile * (1, size[2]), stretch=size[:2], n_steps=_n_steps(size))


def _n_steps(size: Array) -> int:
    return 40 if size[:2].max() > _FINE else 14


def _box(draw: Draw, size: Array) -> Solid:
    style = draw.one_of("plain", "plain", "plain", "plain", "chamfered", "tapered")
    if style == "plain":
        return box(size)
    if style == "tapered":
        return extruded(_rectangle() * size[:2], size[2], taper=draw.between(0.4, 0.95))
    cut = draw.scale(0.05, 0.45) * size[:2].min()
    corners = [draw.chance(0.6) for _ in range(4)]
    corners[draw.one_of(0, 1, 2, 3)] = True
    if draw.chance(0.5):
        corners[2:] = corners[1::-1]
    outline: list[Array] = []
    for corner, is_cut in zip(_rectangle() * size[:2], corners, strict=True):
        inward = -np.sign(corner) * cut
        if is_cut:
            ends = [corner + inward * (1, 0), corner + inward * (0, 1)]
            outline += ends if corner[0] * corner[1] < 0 else ends[::-1]
        else:
            outline.append(corner)
    return extruded(np.stack(outline), size[2])


def _rectangle() -> Array:
    return np.array([(-0.5, -0.5), (0.5, -0.5), (0.5, 0.5), (-0.5, 0.5)])


def _prism(draw: Draw, size: Array) -> Solid:
    outline, kernel = draw.one_of(
        _regular, _regular, _regular, _star, _gear, _angle_iron, _tee, _cross, _roof, _blob
    )(draw)
    low, high = outline.min(axis=0), outline.max(axis=0)
    scale = size[:2] / (high - low)
    return extruded(
        (outline - (low + high) / 2) * scale,
        size[2],
        kernel=(kernel - (low + high) / 2) * scale,
        taper=draw.one_of(1.0, 1.0, 1.0, 1.0, draw.between(0.2, 0.95)),
        hole=draw.one_of(0.0, 0.0, 0.0, 0.0, draw.between(0.5, 0.93)),
    )


def _polar(radii: Array, first: float = 0.0) -> Array:
    angles = first + 2 * np.pi * np.arange(len(radii)) / len(radii)
    return np.asarray(radii[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1))


def _regular(draw: Draw) -> tuple[Array, Array]:
    n = draw.one_of(3, 3, 5, 6, 6, 8)
    return _polar(np.ones(n), np.pi / 2 if n % 2 else np.pi / n), np.zeros(2)


def _star(draw: Draw) -> tuple[Array, Array]:
    return _polar(np.tile([1.0, draw.between(0.35, 0.8)], draw.one_of(4, 5, 6, 8))), np.zeros(2)


def _gear(draw: Draw) -> tuple[Array, Array]:
    low = draw.between(0.65, 0.9)
    return _polar(np.tile([1.0, 1.0, low, low], draw.one_of(6, 8, 10, 12))), np.zeros(2)


def _angle_iron(draw: Draw) -> tuple[Array, Array]:
    a, b = draw.between(0.1, 0.6), draw.between(0.1, 0.6)
    return np.array([(0, 0), (1, 0), (1, b), (a, b), (a, 1), (0, 1)]), np.array([a / 2, b / 2])


def _tee(draw: Draw) -> tuple[Array, Array]:
    a, b = draw.between(0.05, 0.35), draw.between(0.1, 0.5)
    outline = [(-a, 0), (a, 0), (a, 1 - b), (0.5, 1 - b), (0.5, 1), (-0.5, 1), (-0.5, 1 - b)]
    return np.array([*outline, (-a, 1 - b)]), np.array([0, 1 - b / 2])


def _cross(draw: Draw) -> tuple[Array, Array]:
    a, b = draw.between(0.1, 0.35), draw.between(0.1, 0.35)
    quarter = np.array([(0.5, -b), (0.5, b), (a, b)])
    upper = np.concatenate([quarter, [(a, 0.5), (-a, 0.5), (-a, b)]])
    return np.concatenate([upper, -upper]), np.zeros(2)


def _roof(draw: Draw) -> tuple[Array, Array]:
    eaves, ridge = draw.between(0.0, 0.8), draw.between(0.0, 0.5)
    lean = draw.one_of(0.0, 0.0, draw.between(-0.4, 0.4))
    outline = [
        (-0.5, 0),
        (0.5, 0),
        (0.5, eaves),
        (lean + ridge, 1),
        (lean - ridge, 1),
        (-0.5, eaves),
    ]
    return np.array(outline), np.array([0.0, 0.5 * max(eaves, 0.3)])


def _blob(draw: Draw) -> tuple[Array, Array]:
    angles = 2 * np.pi * np.arange(24) / 24
    radii = np.ones(24)
    for frequency in (2, 3, 4):
        amount, phase = draw.between(0, 0.5 / frequency), draw.between(0, 2 * np.pi)
        radii += amount * np.cos(frequency * angles + phase)
    return _polar(radii), np.zeros(2)


def _cylinder(draw: Draw, size: Array) -> Solid:
    style = draw.one_of("plain", "plain", "plain", "rounded", "hollow", "part")
    high = size[2] / 2
    if style == "part":
        profile = np.array([(0, -high), (0.5, -high), (0.5, high), (0, high)])
        return turned(profile, stretch=size[:2], angle=draw.one_of(0.5, 0.75, 1.0, 1.5) * np.pi)
    if style == "hollow":
        inner = 0.5 * draw.between(0.5, 0.92)
        profile = np.array([(inner, -high), (0.5, -high), (0.5, high), (inner, high)])
        return turned(profile, stretch=size[:2], n_steps=_n_steps(size))
    if style == "plain":
        return _disc(size)
    bevel = draw.between(0.05, 0.2)
    rise = min(bevel * size[:2].min(), 0.45 * size[2])
    profile = np.array(
        [
            (0, -high),
            (0.5 - bevel, -high),
            (0.5, rise - high),
            (0.5, high - rise),
            (0.5 - bevel, high),
            (0, high),
        ]
    )
    return turned(profile, stretch=size[:2], n_steps=_n_steps(size))


def _cone(draw: Draw, size: Array) -> Solid:
    top, high = 0.5 * draw.one_of(0.0, draw.between(0.05, 0.9)), size[2] / 2
    if draw.chance(0.25):
        wall = draw.between(0.02, 0.1)
        top = max(top, wall)
        profile = np.array([(0.5 - wall, -high), (0.5, -high), (top, high), (top - wall, high)])
    else:
        profile = np.array([(0, -high), (0.5, -high), (top, high), (0, high)])
    return turned(profile, stretch=size[:2], n_steps=_n_steps(size))


def _torus(draw: Draw, size: Array) -> Solid:
    radius = draw.scale(0.04, 0.2)
    if draw.chance(0.75):
        section = _polar(np.ones(12)) * (radius, size[2] / 2)
    else:
        section = 2 * _rectangle() * (radius, size[2] / 2)
    angle = draw.one_of(2.0, 2.0, 1.0, draw.between(0.4, 1.8)) * np.pi
    n_steps = 36 if size[:2].max() > _FINE else 16
    return turned(
        section + np.array([0.5 - radius, 0]), stretch=size[:2], angle=angle, n_steps=n_steps
    )


def _arc(first: float, last: float, power: float, n: int) -> Array:
    """(n, 2) radius and height on a superellipse, from one angle above the equator to another."""
    angles = np.linspace(first, last, n)
    cos, sin = np.cos(angles), np.sin(angles)
    return 0.5 * np.stack([np.abs(cos) ** power, np.sign(sin) * np.abs(sin) ** power], axis=1)


def _sphere(draw: Draw, size: Array) -> Solid:
    power = draw.one_of(1.0, 1.0, 1.0, draw.between(0.3, 0.8), draw.between(1.0, 1.6))
    n = 13 if size.max() > _FINE else 7
    style = draw.one_of("whole", "whole", "whole", "half", "bowl")
    if style == "whole":
        profile = _arc(-np.pi / 2, np.pi / 2, power, n)
    else:
        profile = 2 * (_arc(0, np.pi / 2, power, n) - (0, 0.25)) * (0.5, 1)
        if style == "bowl":
            share = draw.between(0.75, 0.95)
            base = np.array([0, 0.5])
            inner = (profile[::-1] + base) * share - base
            profile = np.concatenate([profile, inner]) * (1, draw.one_of(1, -1))
            profile = profile if profile[0, 1] < 0 else profile[::-1]
        else:
            profile = np.concatenate([[(0, -0.5)], profile])
    return turned(profile * (1, size[2]), stretch=size[:2], n_steps=_n_steps(size))


def _turned(draw: Draw, size: Array) -> Solid:
    n_knots = draw.one_of(3, 4, 4, 5, 6)
    knots = np.array([draw.between(0.15, 1.0) for _ in range(n_knots)])
    heights = np.linspace(-0.5, 0.5, n_knots)
    if draw.chance(0.35):  # steps
        steps = np.repeat(knots, 2)
        levels = np.sort([-0.5, 0.5, *np.repeat([draw.between(-0.45, 0.45) for _ in knots[1:]], 2)])
        radii, heights = steps, levels
    elif draw.chance(0.25):  # straight lines
        radii = knots
    else:
        levels = np.linspace(0, n_knots - 1, 15)
        lower = np.minimum(levels.astype(np.int64), n_knots - 2)
        share = (1 - np.cos(np.pi * (levels - lower))) / 2
        radii = knots[lower] + share * (knots[lower + 1] - knots[lower])
        heights = levels / (n_knots - 1) - 0.5
    radii = radii / (2 * radii.max())
    outer = np.stack([radii, heights], axis=1)
    if draw.chance(0.3):  # a vessel
        wall = min(draw.between(0.02, 0.06), 0.6 * float(radii.min()))
        floor = draw.between(0.02, 0.1)
        inner = np.stack([radii - wall, np.maximum(heights, floor - 0.5)], axis=1)[::-1]
        profile = np.concatenate([[(0, -0.5)], outer, inner, [(0, floor - 0.5)]])
    else:
        profile = np.concatenate([[(0, -0.5)], outer, [(0, 0.5)]])
    return turned(profile * (1, size[2]), stretch=size[:2], n_steps=_n_steps(size))


def _swept(draw: Draw, size: Array) -> Solid:
    path = draw.one_of(_helix, _ripple, _ripple, _bent_bar, _bent_bar, _bent_bar, _bow, _bow)(draw)
    radius = draw.scale(0.02, 0.09) * float(np.sort(size)[1:].mean())
    if size[1] > size[0]:  # flat paths lie across the smaller one
        path = path[:, (1, 0, 2)]
    low, high = path.min(axis=0), path.max(axis=0)
    room = np.maximum(size - 2 * radius, 0.2 * size)
    path = (
        (path - (low + high) / 2) / np.maximum(high - low, 1e-9) * np.where(high > low, room, 0.0)
    )
    return swept(path, radius, n_sides=draw.one_of(4, 8, 8))


def _helix(draw: Draw) -> Array:
    share = np.linspace(0, 1, 80)
    angle = 2 * np.pi * draw.between(2, 6) * share
    radius = 1 - draw.one_of(0.0, 0.0, draw.between(0.2, 0.8)) * share
    return np.stack([radius * np.cos(angle), radius * np.sin(angle), share], axis=1)


def _ripple(draw: Draw) -> Array:
    share = np.linspace(0, 1, 48)
    waves = [
        sum(
            draw.between(-1, 1) / k * np.sin(np.pi * k * share + draw.between(0, np.pi))
            for k in (1, 2, 3)
        )
        for _ in range(2)
    ]
    return np.stack([waves[0], waves[1] * draw.one_of(0, 1), share * 1.5], axis=1)


def _bent_bar(draw: Draw) -> Array:
    """Straight stretches with rounded corners: hooks, handles, zigzags, pipes."""
    a = draw.between(0.2, 0.8)
    corners = draw.one_of(
        [(0, 0, 0), (0, 0, 1), (1, 0, 1), (1, 0, 0)],
        [(0, 0, 0), (0, 0, 1), (1, 0, 1)],
        [(0, 0, 0), (0, 0, a), (1, 0, a), (1, 0, 1)],
        [(0, 0, 0), (0, 0, 1), (1, 0, 1), (1, 0, a), (0.6, 0, a)],
        [(0, 0, 0), (0, 0, 1), (1, 0, 1), (1, 1, 1), (1, 1, 0)],
        [(k % 2, 0, k / 4) for k in range(draw.one_of(4, 6, 8))],
    )
    line = np.array(corners, np.float64)
    marks = np.linspace(0, len(line) - 1, 12 * (len(line) - 1) + 1)
    path = np.stack([np.interp(marks, np.arange(len(line)), c) for c in line.T], axis=1)
    for _ in range(draw.one_of(2, 6)):
        path[1:-1] = (path[:-2] + 2 * path[1:-1] + path[2:]) / 4
    return path


def _bow(draw: Draw) -> Array:
    """An arc, or a closed ellipse."""
    angles = np.linspace(0, draw.one_of(1.0, 1.0, draw.between(0.5, 1.7), 2.0) * np.pi, 33)
    return np.stack([np.cos(angles), np.zeros(33), np.sin(angles)], axis=1)


def _wire(draw: Draw, size: Array) -> Piece:
    """Bars along the edges of a box or prism, a pyramid, a ladder or a grid."""
    radius = draw.scale(0.008, 0.04) * float(np.sort(size)[1:].mean())
    room = np.maximum(size - 2 * radius, 0.05 * size.max())
    starts, ends = draw.one_of(_cage, _cage, _cage, _spokes, _ladder, _ladder, _grid, _grid)(draw)
    if size[1] > size[0]:  # flat ones lie across the smaller one
        starts, ends = starts[:, (1, 0, 2)], ends[:, (1, 0, 2)]
    return rods(starts * room, ends * room, radius, is_round=draw.chance(0.5))


def _cage(draw: Draw) -> tuple[Array, Array]:
    n = draw.one_of(3, 4, 4, 4, 4, 6, 8)
    rim = np.column_stack([_rectangle() if n == 4 else _polar(np.full(n, 0.5)), np.full(n, -0.5)])
    narrow = draw.one_of(1.0, 1.0, 1.0, draw.between(0.3, 0.9))
    upper = rim * (narrow, narrow, -1)
    edges = [(rim, upper)]
    if draw.chance(0.85):
        edges.append((upper, np.roll(upper, 1, axis=0)))
    for share in draw.one_of((0,), (0,), (0.2,), (0, 0.5), ()):
        level = rim + share * (upper - rim)
        edges.append((level, np.roll(level, 1, axis=0)))
    if draw.chance(0.15):
        edges.append((rim, np.roll(upper, 1, axis=0)))
    return _bars(edges)


def _spokes(draw: Draw) -> tuple[Array, Array]:
    n = draw.one_of(3, 4, 5, 6, 8)
    rim = np.column_stack([_polar(np.full(n, 0.5)), np.full(n, -0.5)])
    top = np.broadcast_to((0.0, 0.0, 0.5), rim.shape)
    return _bars([(rim, top)] + ([(rim, np.roll(rim, 1, axis=0))] if draw.chance(0.6) else []))


def _ladder(draw: Draw) -> tuple[Array, Array]:
    n, side = draw.one_of(3, 4, 5, 7, 9, 12), draw.one_of(0.5, 0.5, 0.4)
    rails = np.array([(-side, 0, -0.5), (side, 0, -0.5)])
    levels = np.linspace(-0.5, 0.5, n) if draw.chance(0.5) else np.linspace(-0.45, 0.45, n)
    rungs = np.column_stack([np.full(n, -0.5), np.zeros(n), levels])
    return _bars([(rails, rails * (1, 1, -1)), (rungs, rungs * (-1, 1, 1))])


def _grid(draw: Draw) -> tuple[Array, Array]:
    edges = []
    for axis in (0, 2):
        n = draw.one_of(2, 3, 4, 6, 8)
        starts = np.zeros((n, 3))
        starts[:, axis] = np.linspace(-0.5, 0.5, n)
        starts[:, 2 - axis] = -0.5
        ends = starts.copy()
        ends[:, 2 - axis] = 0.5
        edges.append((starts, ends))
    return _bars(edges)


def _bars(edges: list[tuple[Array, Array]]) -> tuple[Array, Array]:
    return np.concatenate([s for s, _ in edges]), np.concatenate([e for _, e in edges])


_MAKERS: dict[str, Callable[[Draw, Array], Solid]] = {
    "box": _box,
    "prism": _prism,
    "cylinder": _cylinder,
    "cone": _cone,
    "torus": _torus,
    "sphere": _sphere,
    "turned": _turned,
    "swept": _swept,
}
_PLAIN: dict[str, Callable[[Array], Solid]] = {"box": box, "cylinder": _disc, "sphere": _ball}
