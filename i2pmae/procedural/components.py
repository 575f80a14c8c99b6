"""Electronic components, packages with equal leads, and hollow cases."""

from __future__ import annotations

import numpy as np

from i2pmae.procedural.constructive import half_space
from i2pmae.procedural.form import ANY, Form, attach, carve, sized
from i2pmae.procedural.primitives import (
    X,
    Y,
    Z,
    at,
    joined,
    mirrored,
    placed,
    row,
    towards,
    turn_about,
)


def _component(form: Form) -> None:
    """A body on a few leads that are long, or bent down beside it: capacitors, diodes."""
    draw = form.draw
    is_bent = draw.chance(0.4)
    size = np.array([1.0, draw.scale(0.2, 1.5), draw.scale(0.12, 1.0)])
    if is_bent:
        size[Y] = draw.scale(0.1, 0.6)
        size[Z] = size[Y] * draw.one_of(1.0, 1.0, draw.between(0.4, 1.6))
    kind = form.kind(("cylinder", "cylinder", "box", "box", "sphere", "turned"))
    form.put(kind, size, axis=X if is_bent else draw.one_of(Y, Z), plain=0.8)
    thick = draw.scale(0.02, 0.1)
    drop = size[Y] / 2 + draw.scale(0.1, 1.2)
    lead = form.kind(("cylinder", "cylinder", "box"))
    if is_bent:
        out = draw.scale(0.06, 0.5)
        long = (out + size[X] / 2, thick, thick)  # from the middle: bodies may be round
        form.put(lead, long, mirrored(at((long[0] / 2, 0, 0)), X), X, plain=1)
        down = (thick, drop, thick * draw.one_of(1.0, 1.0, draw.between(1, 3)))
        form.put(lead, down, mirrored(at((long[0] - thick / 2, (thick - drop) / 2, 0)), X), plain=1)
    else:
        leads = row(X, size[X] * draw.between(0.2, 0.85), draw.one_of(2, 2, 2, 3, 3, 4, 5, 7))
        form.put(lead, (thick, drop, thick), placed(at((0, -drop / 2, 0)), leads), plain=1)
    if draw.chance(0.3):
        attach(form, (0, 0, 0), size, ("box", "cylinder", "torus"), 0.1)


def package(form: Form) -> None:
    """A body with equal leads: chips, connectors, capacitors, heat sinks, switches."""
    draw = form.draw
    if draw.chance(0.3):
        _component(form)
        return
    size = np.array([1.0, draw.scale(0.05, 0.7), draw.scale(0.12, 1.0)])
    kind = form.kind(("box", "box", "box", "box", "box", "cylinder", "prism"))
    form.put(kind, size, axis=draw.one_of(Y, Y, X, Z) if kind != "prism" else Y, plain=0.6)
    if draw.chance(0.45):
        carve(form, size)
    n = draw.one_of(1, 2, 2, 3, 4, 5, 6, 8, 10, 12, 14, 16, 20)
    fit = 1.0 if kind == "box" else 0.6  # round bodies do not reach the corners
    span = fit * size[X] * draw.between(0.6, 0.97)
    wide = span / n * draw.between(0.2, 0.7) if n > 2 else draw.scale(0.02, 0.12)
    lie = row(X, span - wide, n)
    style = draw.one_of("gull", "gull", "pins", "pins", "pads", "balls", "side", "fins")
    slim = min(wide, draw.scale(0.01, 0.06))
    low = -size[Y] / 2
    if style == "gull":  # out, down and out again
        out, drop = draw.scale(0.05, 0.3), size[Y] * draw.between(0.5, 0.75)
        around = draw.chance(0.35)
        for part, y, z in (
            ((wide, slim, out / 2), drop, out / 4),
            ((wide, drop, slim), drop / 2, out / 2),
            ((wide, slim, out / 2), 0, 0.75 * out),
        ):
            where = (0, low + y, size[Z] / 2 + z - slim)
            leads = mirrored(placed(at(where), lie), Z)
            if around:
                m = max(round(n * size[Z]), 1)
                beside = placed(at((0, low + y, size[X] / 2 + z - slim)), row(X, 0.8 * size[Z], m))
                quarter = placed(at(turn=turn_about(Y, np.pi / 2)), beside)
                leads = joined(leads, mirrored(quarter, X))
            form.put("box", part, leads, plain=1)
    elif style == "pins":
        n_rows = draw.one_of(1, 1, 2, 2, 3, 5, 8)
        long = draw.scale(0.1, 0.7)
        depth = fit * (size[Z] - wide) * draw.between(0.3, 0.95)
        pins = placed(lie, row(Z, depth, n_rows))
        if kind != "box":
            low, long = low / 2, long - low / 2
        pins = placed(at((0, low - long / 2 + 0.01, 0)), pins)
        form.put(form.kind(("box", "cylinder", "cylinder")), (slim, long, slim), pins, plain=1)
        if draw.chance(0.3):
            through = placed(at((0, size[Y] + long * draw.between(0.3, 1), 0)), pins)
            form.put("box", (slim, long, slim), through, plain=1)
    elif style == "balls":
        rows = max(int(n * size[Z]), 1)
        balls = placed(lie, row(Z, (size[Z] - wide) * 0.95, min(rows, 8)))
        form.put("sphere", (wide,) * 3, placed(at((0, low, 0)), balls), plain=1)
    elif style == "pads":
        pad = (wide, slim, size[Z] * draw.between(0.1, 0.3))
        edge = at((0, low, size[Z] / 2 - pad[2] / 3))
        form.put("box", pad, mirrored(placed(edge, lie), Z), plain=1)
    elif style == "side":
        long = draw.scale(0.1, 0.8)
        level = low + size[Y] * draw.between(0.1, 0.9)
        leads = placed(at((0, level, size[Z] / 2 + long / 2 - 0.01)), lie)
        leads = mirrored(leads, Z) if draw.chance(0.6) else leads
        form.put(
            form.kind(("box", "box", "cylinder", "swept")), (wide, slim, long), leads, Z, plain=1
        )
    else:
        high = draw.scale(0.15, 0.8)
        fin = (min(wide, 0.6 * span / n), high, size[Z] * draw.between(0.8, 1))
        form.put("box", fin, placed(at((0, (size[Y] + high) / 2, 0)), lie), plain=0.9)
    for _ in range(draw.one_of(0, 0, 1, 1, 2)):
        attach(
            form, (0, 0, 0), size, ("box", "cylinder", "cylinder", "prism", "sphere", "torus"), 0.0
        )


def case(form: Form) -> None:
    """Something hollow: open boxes and tubs, shelves, cupboards, housings, mugs, bins."""
    draw = form.draw
    size = np.array([draw.scale(0.3, 1.2), draw.scale(0.15, 1.6), draw.scale(0.2, 0.9)])
    kind = form.kind(("box", "box", "box", "box", "cylinder", "cylinder", "sphere", "prism"))
    wall = draw.scale(0.02, 0.12) * size.min()
    open_to = draw.one_of(Z, Z, Y, Y, Y, X)
    axis = Y if kind != "cylinder" else draw.one_of(Y, Y, open_to)
    if kind in ("cylinder", "sphere") and draw.chance(0.7):
        size[Z] = size[X]
    form.put(kind, size, axis=axis, plain=0.85)
    inner = size - 2 * wall
    if kind == "prism":
        inner *= 0.6
    where = np.zeros(3)
    where[open_to] = wall
    if draw.chance(0.15):
        inner[open_to] = 1.1 * size[open_to]
    inner_kind = kind if kind in ("cylinder", "sphere") else "box"
    form.cut(inner_kind, inner, at(where), axis)
    if kind == "sphere":
        over = np.zeros(3)
        over[open_to] = size[open_to] * draw.between(-0.1, 0.35)
        form.assembly.cut(half_space(float(np.linalg.norm(size)) / 2), at(over, towards(open_to)))
    if kind == "box" and draw.chance(0.6):  # shelves, dividers, drawers, doors
        across = draw.one_of(Y, Y, X) if open_to != Y else X
        n = draw.one_of(1, 2, 2, 3, 4, 5, 7)
        board = inner.copy()
        board[across] = wall * draw.between(0.5, 1)
        form.put("box", board, row(across, inner[across] * (1 - 2 / (n + 1)), n), plain=1)
        if draw.chance(0.35):
            other = X if across == Y else Z
            board = inner.copy()
            board[other] = wall * draw.between(0.5, 1)
            m = draw.one_of(1, 1, 2, 3)
            form.put("box", board, row(other, inner[other] * (1 - 2 / (m + 1)), m), plain=1)
        if open_to == Z and draw.chance(0.4):
            n_fronts = n + 1
            front = inner.copy()
            front[across] = inner[across] / n_fronts * draw.between(0.8, 0.98)
            front[Z] = wall
            fronts = row(across, inner[across] * (1 - 1 / n_fronts), n_fronts)
            form.put("box", front, placed(at((0, 0, size[Z] / 2)), fronts), plain=0.9)
            grip = np.array(
                [draw.scale(0.02, 0.15), draw.scale(0.01, 0.06), draw.scale(0.01, 0.06)]
            )
            knobs = placed(at((0, 0, size[Z] / 2 + wall / 2 + grip[2] / 2)), fronts)
            form.put(form.kind(("box", "cylinder", "sphere", "swept")), grip, knobs)
    elif draw.chance(0.3):  # something inside
        part = sized(draw, inner, 0.1, 0.7)
        down = at((0, (part[Y] - inner[Y]) / 2, 0))
        form.put(form.kind(ANY), part, down)
    if draw.chance(0.25):
        carve(form, size)
    if axis == Y and kind != "sphere" and draw.chance(0.3):  # feet
        high, thick = draw.scale(0.04, 0.5), draw.scale(0.02, 0.08)
        aside = (size if kind == "box" else 0.6 * size) / 2 - thick / 2
        corner = (aside[X], -(size[Y] + high) / 2, aside[Z])
        feet = mirrored(mirrored(at(corner), X), Z)
        form.put(form.kind(("box", "cylinder", "cone", "sphere")), (thick, high, thick), feet)
    if draw.chance(0.35):  # handles, lids, plinths
        attach(form, (0, 0, 0), size, ("swept", "swept", "box", "cylinder", "sphere", "torus"), 0.1)
