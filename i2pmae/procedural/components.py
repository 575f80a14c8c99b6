"""Electronic components, packages with equal leads, and hollow cases."""

from __future__ import annotations

import numpy as np

from i2pmae.procedural.constructive import half_space
from i2pmae.procedural.form import ANY, Form, attach, carve, sized
from i2pmae.procedural.primitives import (
    at,
    joined,
    mirrored,
    placed,
    row,
    towards,
    turn_about,
)

_X, _Y, _Z = range(3)


def _component(form: Form) -> None:
    """A body on a few leads that are long, or bent down beside it: capacitors, diodes."""
    draw = form.draw
    is_bent = draw.chance(0.4)
    size = np.array([1.0, draw.scale(0.2, 1.5), draw.scale(0.12, 1.0)])
    if is_bent:
        size[_Y] = draw.scale(0.1, 0.6)
        size[_Z] = size[_Y] * draw.one_of(1.0, 1.0, draw.between(0.4, 1.6))
    kind = form.kind(("cylinder", "cylinder", "box", "box", "sphere", "turned"))
    form.put(kind, size, axis=_X if is_bent else draw.one_of(_Y, _Z), plain=0.8)
    thick = draw.scale(0.02, 0.1)
    drop = size[_Y] / 2 + draw.scale(0.1, 1.2)
    lead = form.kind(("cylinder", "cylinder", "box"))
    if is_bent:
        out = draw.scale(0.06, 0.5)
        long = (out + size[_X] / 2, thick, thick)  # from the middle: bodies may be round
        form.put(lead, long, mirrored(at((long[0] / 2, 0, 0)), _X), _X, plain=1)
        down = (thick, drop, thick * draw.one_of(1.0, 1.0, draw.between(1, 3)))
        form.put(
            lead, down, mirrored(at((long[0] - thick / 2, (thick - drop) / 2, 0)), _X), plain=1
        )
    else:
        leads = row(_X, size[_X] * draw.between(0.2, 0.85), draw.one_of(2, 2, 2, 3, 3, 4, 5, 7))
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
    form.put(kind, size, axis=draw.one_of(_Y, _Y, _X, _Z) if kind != "prism" else _Y, plain=0.6)
    if draw.chance(0.45):
        carve(form, size)
    n = draw.one_of(1, 2, 2, 3, 4, 5, 6, 8, 10, 12, 14, 16, 20)
    fit = 1.0 if kind == "box" else 0.6  # round bodies do not reach the corners
    span = fit * size[_X] * draw.between(0.6, 0.97)
    wide = span / n * draw.between(0.2, 0.7) if n > 2 else draw.scale(0.02, 0.12)
    lie = row(_X, span - wide, n)
    style = draw.one_of("gull", "gull", "pins", "pins", "pads", "balls", "side", "fins")
    slim = min(wide, draw.scale(0.01, 0.06))
    low = -size[_Y] / 2
    if style == "gull":  # out, down and out again
        out, drop = draw.scale(0.05, 0.3), size[_Y] * draw.between(0.5, 0.75)
        around = draw.chance(0.35)
        for part, y, z in (
            ((wide, slim, out / 2), drop, out / 4),
            ((wide, drop, slim), drop / 2, out / 2),
            ((wide, slim, out / 2), 0, 0.75 * out),
        ):
            where = (0, low + y, size[_Z] / 2 + z - slim)
            leads = mirrored(placed(at(where), lie), _Z)
            if around:
                m = max(round(n * size[_Z]), 1)
                beside = placed(
                    at((0, low + y, size[_X] / 2 + z - slim)), row(_X, 0.8 * size[_Z], m)
                )
                quarter = placed(at(turn=turn_about(_Y, np.pi / 2)), beside)
                leads = joined(leads, mirrored(quarter, _X))
            form.put("box", part, leads, plain=1)
    elif style == "pins":
        n_rows = draw.one_of(1, 1, 2, 2, 3, 5, 8)
        long = draw.scale(0.1, 0.7)
        depth = fit * (size[_Z] - wide) * draw.between(0.3, 0.95)
        pins = placed(lie, row(_Z, depth, n_rows))
        if kind != "box":
            low, long = low / 2, long - low / 2
        pins = placed(at((0, low - long / 2 + 0.01, 0)), pins)
        form.put(form.kind(("box", "cylinder", "cylinder")), (slim, long, slim), pins, plain=1)
        if draw.chance(0.3):
            through = placed(at((0, size[_Y] + long * draw.between(0.3, 1), 0)), pins)
            form.put("box", (slim, long, slim), through, plain=1)
    elif style == "balls":
        rows = max(int(n * size[_Z]), 1)
        balls = placed(lie, row(_Z, (size[_Z] - wide) * 0.95, min(rows, 8)))
        form.put("sphere", (wide,) * 3, placed(at((0, low, 0)), balls), plain=1)
    elif style == "pads":
        pad = (wide, slim, size[_Z] * draw.between(0.1, 0.3))
        edge = at((0, low, size[_Z] / 2 - pad[2] / 3))
        form.put("box", pad, mirrored(placed(edge, lie), _Z), plain=1)
    elif style == "side":
        long = draw.scale(0.1, 0.8)
        level = low + size[_Y] * draw.between(0.1, 0.9)
        leads = placed(at((0, level, size[_Z] / 2 + long / 2 - 0.01)), lie)
        leads = mirrored(leads, _Z) if draw.chance(0.6) else leads
        form.put(
            form.kind(("box", "box", "cylinder", "swept")), (wide, slim, long), leads, _Z, plain=1
        )
    else:
        high = draw.scale(0.15, 0.8)
        fin = (min(wide, 0.6 * span / n), high, size[_Z] * draw.between(0.8, 1))
        form.put("box", fin, placed(at((0, (size[_Y] + high) / 2, 0)), lie), plain=0.9)
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
    open_to = draw.one_of(_Z, _Z, _Y, _Y, _Y, _X)
    axis = _Y if kind != "cylinder" else draw.one_of(_Y, _Y, open_to)
    if kind in ("cylinder", "sphere") and draw.chance(0.7):
        size[_Z] = size[_X]
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
        across = draw.one_of(_Y, _Y, _X) if open_to != _Y else _X
        n = draw.one_of(1, 2, 2, 3, 4, 5, 7)
        board = inner.copy()
        board[across] = wall * draw.between(0.5, 1)
        form.put("box", board, row(across, inner[across] * (1 - 2 / (n + 1)), n), plain=1)
        if draw.chance(0.35):
            other = _X if across == _Y else _Z
            board = inner.copy()
            board[other] = wall * draw.between(0.5, 1)
            m = draw.one_of(1, 1, 2, 3)
            form.put("box", board, row(other, inner[other] * (1 - 2 / (m + 1)), m), plain=1)
        if open_to == _Z and draw.chance(0.4):
            n_fronts = n + 1
            front = inner.copy()
            front[across] = inner[across] / n_fronts * draw.between(0.8, 0.98)
            front[_Z] = wall
            fronts = row(across, inner[across] * (1 - 1 / n_fronts), n_fronts)
            form.put("box", front, placed(at((0, 0, size[_Z] / 2)), fronts), plain=0.9)
            grip = np.array(
                [draw.scale(0.02, 0.15), draw.scale(0.01, 0.06), draw.scale(0.01, 0.06)]
            )
            knobs = placed(at((0, 0, size[_Z] / 2 + wall / 2 + grip[2] / 2)), fronts)
            form.put(form.kind(("box", "cylinder", "sphere", "swept")), grip, knobs)
    elif draw.chance(0.3):  # something inside
        part = sized(draw, inner, 0.1, 0.7)
        down = at((0, (part[_Y] - inner[_Y]) / 2, 0))
        form.put(form.kind(ANY), part, down)
    if draw.chance(0.25):
        carve(form, size)
    if axis == _Y and kind != "sphere" and draw.chance(0.3):  # feet
        high, thick = draw.scale(0.04, 0.5), draw.scale(0.02, 0.08)
        aside = (size if kind == "box" else 0.6 * size) / 2 - thick / 2
        corner = (aside[_X], -(size[_Y] + high) / 2, aside[_Z])
        feet = mirrored(mirrored(at(corner), _X), _Z)
        form.put(form.kind(("box", "cylinder", "cone", "sphere")), (thick, high, thick), feet)
    if draw.chance(0.35):  # handles, lids, plinths
        attach(form, (0, 0, 0), size, ("swept", "swept", "box", "cylinder", "sphere", "torus"), 0.1)
