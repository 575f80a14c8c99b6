"""Arrangements of one to nine primitives: furniture, parts of machines, stacks, heaps. y is up."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from i2pmae.procedural.components import case, package
from i2pmae.procedural.form import ANY, Form, attach, carve, proportions, sized
from i2pmae.procedural.furniture import furniture
from i2pmae.procedural.primitives import (
    X,
    Y,
    Z,
    at,
    mirrored,
    placed,
    ring,
    row,
    turn_about,
)

_BOXY = ("box", "box", "box", "box", "prism")
_ROUND = ("cylinder", "cylinder", "cone", "sphere", "turned", "torus")


def _lump(form: Form) -> None:
    """One primitive, or two that touch; often carved."""
    draw = form.draw
    size = proportions(draw)
    kind = form.kind(ANY)
    form.put(kind, size, axis=draw.one_of(X, Y, Z), plain=0.35)
    if kind not in ("wire", "swept"):
        for _ in range(draw.one_of(0, 0, 1, 1, 2)):
            carve(form, size)
    if draw.chance(0.5):
        sink = draw.one_of(0.0, 0.1, 0.4)
        attach(form, (0, 0, 0), size, ANY, sink)


def _stack(form: Form) -> None:
    """Primitives on top of each other: towers, lamps, vases, capacitors, screws."""
    draw = form.draw
    kinds = draw.one_of(_ROUND, _ROUND, _BOXY, ANY)
    width, depth = draw.scale(0.3, 1), draw.scale(0.3, 1)
    if kinds is _ROUND:
        depth = width
    top = 0.0
    carved = draw.chance(0.35)
    for level in range(draw.one_of(2, 3, 3, 4, 5, 6)):
        size = np.array([width, draw.scale(0.04, 1.0), depth])
        where = np.array([0, top + size[1] / 2, 0])
        form.put(form.kind(kinds), size, where, draw.one_of(Y, Y, Y, X))
        if carved and level == 0:
            carve(form, size, where)
        top += size[1] * draw.one_of(1.0, 1.0, 0.85)
        narrower = draw.scale(0.25, 1.5)
        width = float(np.clip(width * narrower, 0.05, 1.2))
        depth = float(
            np.clip(depth * (narrower if draw.chance(0.7) else draw.scale(0.4, 1.3)), 0.05, 1.2)
        )
    if draw.chance(0.25):
        attach(form, (0, top / 2, 0), np.array([width, top, depth]), ANY, 0.2)


def _machine(form: Form) -> None:
    """A body with smaller primitives on its faces."""
    draw = form.draw
    size = proportions(draw, 0.15)
    kind = form.kind(("box", "box", "box", "prism", "cylinder", "turned", "sphere"))
    form.put(kind, size, axis=draw.one_of(X, Y, Y, Z))
    if draw.chance(0.45):
        carve(form, size)
    sink = 0.0 if kind in ("box", "prism") else 0.3
    kinds = draw.one_of(ANY, _BOXY, ("cylinder", "cylinder", "cone", "sphere", "torus"))
    for _ in range(draw.one_of(1, 2, 2, 3, 4, 6)):
        attach(form, (0, 0, 0), size, kinds, sink)


def _frame(form: Form) -> None:
    """Bars and plates: racks, stands, fences, scaffolds, shelves of wire."""
    draw = form.draw
    size = np.array([draw.scale(0.2, 1.2), draw.scale(0.2, 1.4), draw.scale(0.1, 1.0)])
    form.put("wire", size, axis=draw.one_of(Y, Y, Z))
    n = draw.one_of(0, 1, 2, 3, 4, 6)
    if n:
        plate = size * draw.between(0.8, 1.02)
        across = draw.one_of(Y, Y, Y, X, Z)
        plate[across] = draw.scale(0.01, 0.06)
        span = size[across] * draw.one_of(1.0, 0.8, 0.5)
        shift = np.zeros(3)
        shift[across] = 0 if n > 1 else size[across] / 2 * draw.one_of(-1, 0, 1)
        where = placed(at(shift), row(across, span - plate[across], n))
        form.put(
            form.kind(("box", "box", "box", "cylinder", "wire")), plate, where, across, plain=0.8
        )
    if draw.chance(0.4):
        part = sized(draw, size, 0.2, 0.8)
        form.put(form.kind(ANY), part, (0, (part[1] - size[1]) / 2 * draw.one_of(0, 1, -1), 0))
    if draw.chance(0.35):
        other = size * [draw.between(0.3, 1.2), draw.between(0.3, 1), draw.between(0.8, 1.2)]
        where = at((size[X] / 2 * draw.one_of(0, 1, 1), size[Y] / 2 * draw.one_of(0, 0, 1), 0))
        form.put(form.kind(("wire", "wire", "swept")), other, where)
    if draw.chance(0.3):
        attach(form, (0, 0, 0), size, ANY, 0.1)


def _wheel(form: Form) -> None:
    """Copies around an axis: fans, wheels, star feet, gears, flowers, chandeliers."""
    draw = form.draw
    axis = draw.one_of(Y, Y, Z)
    u = (axis + 1) % 3
    hub = draw.scale(0.06, 0.6)
    size = np.full(3, hub)
    size[axis] = draw.scale(0.03, 1.0)
    form.put(
        form.kind(("cylinder", "cylinder", "cylinder", "sphere", "prism", "turned", "cone")),
        size,
        axis=axis,
    )
    n = draw.one_of(2, 3, 4, 4, 5, 6, 8, 10, 12, 16, 24)
    for _ in range(draw.one_of(1, 1, 1, 2)):
        reach = draw.scale(0.15, 0.7)
        chord = 2 * np.pi * (hub / 2 + 0.3 * reach) / n
        arm = np.empty(3)
        arm[u] = reach
        arm[axis] = draw.scale(0.02, 0.5)
        arm[3 - axis - u] = min(chord * draw.between(0.2, 0.9), 0.6)
        pitch = turn_about(u, draw.one_of(0.0, 0.0, draw.between(-0.9, 0.9)))
        tilt = turn_about((axis + 2) % 3, draw.one_of(0.0, 0.0, draw.between(-0.7, 0.7)))
        out = np.zeros(3)
        out[u] = hub * 0.45 + reach / 2
        out[axis] = size[axis] * draw.one_of(0, 0, draw.between(-0.45, 0.45))
        copies = placed(ring(axis, n), at(tilt @ out, tilt @ pitch))
        kind = form.kind(("box", "box", "cylinder", "cone", "sphere", "prism", "swept", "turned"))
        form.put(kind, arm, copies, draw.one_of(u, u, axis))
        if draw.chance(0.25):  # something at the ends
            out[u] += reach / 2
            end = np.full(3, min(chord, 0.3) * draw.between(0.3, 0.9))
            copies = placed(ring(axis, n), at(tilt @ out, tilt))
            form.put(form.kind(("sphere", "cylinder", "cone", "box", "torus")), end, copies, axis)
    if draw.chance(0.45):  # a rim
        rim = np.full(3, 2 * (hub * 0.45 + reach) * draw.one_of(1.0, 1.05, draw.between(0.6, 1)))
        rim[axis] = draw.scale(0.02, 0.2)
        form.put(form.kind(("torus", "torus", "swept")), rim, axis=axis if draw.chance(0.9) else u)
    if draw.chance(0.45):  # a shaft, and a foot
        long, thick = draw.scale(0.2, 1.5), hub * draw.scale(0.1, 0.8)
        shaft = np.full(3, thick)
        shaft[axis] = long
        where = np.zeros(3)
        where[axis] = -(long + size[axis]) / 2 * draw.one_of(1, 1, 0)
        form.put(form.kind(("cylinder", "cylinder", "box", "cone")), shaft, where, axis)
        if draw.chance(0.5):
            foot = np.full(3, draw.scale(0.15, 0.8))
            foot[axis] = draw.scale(0.02, 0.2)
            where[axis] -= long / 2
            form.put(form.kind(("cylinder", "box", "cone", "torus")), foot, where, axis)


def _pipes(form: Form) -> None:
    """Tubes, springs, hooks and rings, alone or between bodies."""
    draw = form.draw
    size = proportions(draw, 0.15)
    form.put("swept", size, axis=draw.one_of(X, Y, Z))
    if draw.chance(0.4):
        other = size * [draw.between(0.4, 1.1) for _ in range(3)]
        shift = at(size / 2 * [draw.one_of(0, 1), draw.one_of(0, 0, 1), draw.one_of(0, 1)])
        shift = mirrored(shift, draw.one_of(X, Z)) if draw.chance(0.5) else shift
        form.put(form.kind(("swept", "swept", "wire", "torus")), other, shift, draw.one_of(X, Y, Z))
    for _ in range(draw.one_of(0, 1, 1, 2, 3)):
        part = sized(draw, size, 0.15, 0.7)
        axis = draw.one_of(X, Y, Z)
        where = np.zeros(3)
        where[axis] = size[axis] / 2 * draw.one_of(-1, 1)
        copies = mirrored(at(where), axis) if draw.chance(0.4) else at(where)
        form.put(
            form.kind(("cylinder", "cylinder", "sphere", "cone", "box", "turned")),
            part,
            copies,
            axis,
        )


def _blocks(form: Form) -> None:
    """Blocks and plates side by side on a floor: sofas, beds, steps, buildings, screens, bases."""
    draw = form.draw
    size = np.array([draw.scale(0.3, 1.4), draw.scale(0.03, 0.7), draw.scale(0.2, 1.2)])
    form.put("box", size, plain=0.8)
    if draw.chance(0.2):
        carve(form, size)
    kinds = draw.one_of(("box",), ("box", "box", "box", "prism", "cylinder", "sphere"))
    low, high = -size / 2, size / 2
    for _ in range(draw.one_of(1, 2, 2, 3, 4, 5)):
        side = draw.one_of("back", "back", "sides", "sides", "top", "top", "front")
        own = np.array([draw.scale(0.04, 1.0), draw.scale(0.04, 1.0), draw.scale(0.04, 0.8)])
        center = (low + high) / 2
        if side == "sides":
            own[Z] = (high - low)[Z] * draw.one_of(1.0, draw.between(0.3, 1))
            own[X] = draw.scale(0.03, 0.4)
            where = at((high[X] + own[X] / 2, low[Y] + own[Y] / 2, center[Z]))
            form.put(form.kind(kinds), own, mirrored(where, X), draw.one_of(X, Y, Z), plain=0.8)
            low[X], high[X] = low[X] - own[X], high[X] + own[X]
        elif side == "top":
            n = draw.one_of(1, 1, 2, 3)
            own[[X, Z]] = (high - low)[[X, Z]] * [
                draw.between(0.3, 1) / n,
                draw.between(0.3, 1),
            ]
            own[Y] = draw.scale(0.03, 0.6)
            back = (low[Z] + own[Z] / 2, center[Z], high[Z] - own[Z] / 2)
            where = at((0, high[Y] + own[Y] / 2, draw.one_of(*back)))
            span = (high - low)[X] * (1 - 1 / n)
            form.put(form.kind(kinds), own, placed(where, row(X, span, n)), plain=0.7)
            high[Y] += own[Y] if n == 1 and draw.chance(0.7) else 0
        else:
            sign = -1 if side == "back" else 1
            own[X] = (high - low)[X] * draw.one_of(1.0, draw.between(0.3, 1))
            own[Z] = draw.scale(0.03, 0.4)
            edge = high[Z] if sign > 0 else low[Z]
            form.put(
                form.kind(kinds),
                own,
                (0, low[Y] + own[Y] / 2, edge + sign * own[Z] / 2),
                draw.one_of(X, Y, Z),
                plain=0.8,
            )
            if sign > 0:
                high[Z] += own[Z]
            else:
                low[Z] -= own[Z]
    if draw.chance(0.35):
        thick = draw.scale(0.02, 0.1)
        feet = at(size / 2 * (1, -1, 1) - thick)
        form.put(
            form.kind(("box", "cylinder")),
            (thick, 2 * thick, thick),
            mirrored(mirrored(feet, X), Z),
        )


def _heap(form: Form) -> None:
    """Primitives of any kind, size and turn that run into each other, often mirrored."""
    draw = form.draw
    n = draw.one_of(2, 3, 3, 4, 5, 6, 7, 9)
    mirror = draw.one_of(None, None, X, X, Z)
    size = proportions(draw, 0.15)
    where = np.zeros(3)
    form.put(form.kind(ANY), size, axis=draw.one_of(X, Y, Z))
    for _ in range(n - 1):
        away = np.array([draw.between(-1, 1) for _ in range(3)])
        away /= max(float(np.linalg.norm(away)), 1e-3)
        own = proportions(draw, 0.1) * draw.scale(0.15, 0.8)
        spot = where + away * (size + 0.5 * own) / 2
        turn = np.eye(3)
        if draw.chance(0.4):
            for axis in range(3):
                turn = turn @ turn_about(axis, draw.between(-np.pi, np.pi))
        copies = at(spot, turn)
        if mirror is not None:
            copies = mirrored(copies, mirror)
        form.put(form.kind(ANY), own, copies, draw.one_of(X, Y, Z))
        if draw.chance(0.5):
            where, size = spot, own
    if draw.chance(0.2):
        bounds = form.assembly.bounds
        carve(form, bounds[1] - bounds[0], bounds.mean(axis=0))


ARRANGEMENTS: dict[str, Callable[[Form], None]] = {
    "lump": _lump,
    "stack": _stack,
    "machine": _machine,
    "furniture": furniture,
    "package": package,
    "case": case,
    "frame": _frame,
    "wheel": _wheel,
    "pipes": _pipes,
    "blocks": _blocks,
    "heap": _heap,
}
