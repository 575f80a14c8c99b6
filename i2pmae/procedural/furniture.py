"""Furniture on legs of many kinds."""

from __future__ import annotations

import numpy as np

from i2pmae.procedural.form import Form
from i2pmae.procedural.primitives import (
    at,
    mirrored,
    placed,
    ring,
    row,
    turn_about,
)

_X, _Y, _Z = range(3)


def _legs(form: Form, width: float, depth: float, height: float) -> None:
    """What holds a plate up, from the floor to `height`."""
    draw = form.draw
    thick = draw.scale(0.015, 0.1)
    style = draw.one_of(
        "posts", "posts", "posts", "three", "panels", "column", "frames", "block", "cage"
    )
    if style == "posts":
        wide, deep = thick, thick * draw.one_of(1.0, 1.0, draw.scale(0.4, 3))
        tilt = draw.one_of(0.0, 0.0, 0.0, draw.between(0.0, 0.3))
        turn = turn_about(_Z, -tilt) @ turn_about(_X, tilt * draw.one_of(0, 1))
        inset = draw.one_of(0.0, draw.between(0.0, 0.2))
        where = ((width - wide) / 2 * (1 - inset), height / 2, (depth - deep) / 2 * (1 - inset))
        copies = mirrored(mirrored(at(where, turn_about(_Z, 0) if not tilt else turn.T), _X), _Z)
        kind = form.kind(("box", "box", "cylinder", "cylinder", "cone", "turned"))
        form.put(kind, (wide, height / np.cos(tilt), deep), copies, plain=0.8)
        if draw.chance(0.3):
            form.put(
                form.kind(("box", "cylinder")),
                (thick * 0.7, thick * 0.7, depth - deep),
                mirrored(at((where[0], height * draw.between(0.1, 0.7), 0)), _X),
                _Z,
                plain=1,
            )
    elif style == "three":
        n, tilt = draw.one_of(3, 3, 4, 5, 6), draw.one_of(0.0, draw.between(0.0, 0.5))
        reach = min(width, depth) * draw.between(0.2, 0.42)
        leg = at((reach, height / 2, 0), turn_about(_Z, tilt))
        form.put(
            form.kind(("box", "cylinder", "cone")),
            (thick, height / np.cos(tilt), thick),
            placed(ring(_Y, n), leg),
            plain=0.8,
        )
    elif style == "panels":
        where = ((width - thick) / 2 * draw.between(0.6, 1), height / 2, 0)
        size = (thick, height, depth * draw.between(0.6, 1))
        form.put("box", size, mirrored(at(where), _X), draw.one_of(_X, _Z), plain=0.7)
    elif style == "column":
        form.put(
            form.kind(("cylinder", "cylinder", "box", "turned", "cone")),
            (thick * 1.5, height, thick * 1.5),
            (0, height / 2, 0),
        )
        reach = min(width, depth) * draw.between(0.4, 0.9)
        if draw.chance(0.6):
            form.put(
                form.kind(("cylinder", "box", "cone", "sphere")),
                (reach, thick, reach),
                (0, thick / 2, 0),
            )
        else:
            foot = at((reach / 4, thick / 4, 0), turn_about(_Z, draw.one_of(0.0, -0.2)))
            form.put(
                form.kind(("box", "cylinder")),
                (reach / 2, thick / 2, thick / 2),
                placed(ring(_Y, draw.one_of(3, 4, 5)), foot),
                _X,
            )
    elif style == "frames":
        where = (width / 2 * draw.between(0.6, 0.95), height / 2, 0)
        form.put(form.kind(("swept", "wire")), (thick, height, depth), mirrored(at(where), _X), _Y)
    elif style == "block":
        form.put(
            "box",
            (width * draw.between(0.5, 1), height, depth * draw.between(0.5, 1)),
            (0, height / 2, 0),
        )
    else:
        form.put("wire", (width, height, depth), (0, height / 2, 0))


def furniture(form: Form) -> None:
    """A plate on legs, with or without a back, arms, shelves, drawers, cushions."""
    draw = form.draw
    width, depth = draw.scale(0.3, 1.6), draw.scale(0.3, 0.9)
    height, thick = draw.scale(0.1, 1.1), draw.scale(0.015, 0.2)
    kind = form.kind(("box", "box", "box", "box", "cylinder", "prism"))
    fit = 1.0 if kind == "box" else 0.66  # corners of other plates carry nothing
    _legs(form, fit * width, fit * depth, height)
    form.put(kind, (width, thick, depth), (0, height + thick / 2, 0), plain=0.75)
    top = height + thick
    if draw.chance(0.5):  # a back
        high, slim = draw.scale(0.1, 1.0), draw.scale(0.012, 0.15)
        turn = turn_about(_X, draw.one_of(0.0, 0.0, -draw.between(0.05, 0.35)))
        back = at((0, top, -(depth - slim) / 2), turn)
        style = draw.one_of("plate", "plate", "bars", "bars", "boards", "frame", "bow")
        if style == "plate":
            rise = draw.one_of(0.0, 0.0, draw.between(0.0, 0.4)) * high
            form.put(
                form.kind(("box", "box", "prism", "cylinder")),
                (width * draw.between(0.6, 1), high - rise, slim),
                placed(back, at((0, (high + rise) / 2, 0))),
                _Z,
                plain=0.6,
            )
        elif style == "bars":
            n = draw.one_of(2, 3, 4, 5, 7, 9, 12)
            bar = (min(slim, 0.5 * width / n), high, slim)
            bars = placed(at((0, high / 2, 0)), row(_X, width - bar[0], n))
            form.put(form.kind(("box", "cylinder")), bar, placed(back, bars), plain=1)
            form.put("box", (width, slim * 2, slim), placed(back, at((0, high, 0))), plain=1)
        elif style == "boards":
            n = draw.one_of(2, 3, 4)
            board = (width, high / n * draw.between(0.3, 0.8), slim)
            boards = placed(at((0, high / 2 + board[1] / 4, 0)), row(_Y, high - board[1], n))
            form.put("box", board, placed(back, boards), plain=1)
            post = (slim, high, slim)
            posts = mirrored(at(((width - slim) / 2, high / 2, 0)), _X)
            form.put(form.kind(("box", "cylinder")), post, placed(back, posts), plain=1)
        else:
            kind = "wire" if style == "frame" else "swept"
            form.put(kind, (width, high, slim), placed(back, at((0, high / 2, 0))), _Y)
    if draw.chance(0.3):  # arms, or sides
        rest, slim = draw.scale(0.08, 0.5), draw.scale(0.02, 0.2)
        where = (width / 2, top + rest / 2 * draw.one_of(1.0, 1.0, 0.2), 0)
        kind = form.kind(("box", "box", "swept", "wire"))
        size = (slim, rest, depth * draw.between(0.6, 1))
        form.put(kind, size, mirrored(at(where), _X), draw.one_of(_X, _Z) if kind == "box" else _Y)
    if draw.chance(0.25) and height > 0.25:  # shelves below
        n = draw.one_of(1, 1, 2)
        board = (width * draw.between(0.6, 0.95), draw.scale(0.01, 0.04), depth * 0.9)
        form.put("box", board, placed(at((0, height * 0.5, 0)), row(_Y, height * 0.4, n)), plain=1)
    if draw.chance(0.25) and height > 0.25:  # drawers
        wide, high = width * draw.between(0.2, 0.45), height * draw.between(0.2, 0.95)
        drawers = at(((width - wide) / 2 * draw.one_of(1, 1, -1, 0), height - high / 2, 0))
        drawers = mirrored(drawers, _X) if draw.chance(0.3) else drawers
        form.put("box", (wide, high, depth * 0.9), drawers, plain=0.9)
    if draw.chance(0.35):  # cushions, pillows, books, dishes
        n = draw.one_of(1, 2, 2, 3)
        wide, deep = width / n * draw.between(0.5, 0.98), depth * draw.between(0.3, 0.95)
        high = draw.scale(0.03, 0.25)
        middle = at((0, top + high / 2, (depth - deep) / 2 * draw.one_of(0, 1, 0.5)))
        form.put(
            form.kind(("box", "box", "sphere", "cylinder", "turned")),
            (wide, high, deep),
            placed(middle, row(_X, width * (1 - 1 / n), n)),
        )
