"""Procedural shapes of twelve everyday classes, from parametric parts, with part labels.

Enough to try every command, and to train and test every part of the project, without a download.
Classes share parts and overlap in proportions, so that telling them apart takes more than an
outline. y is up, fronts face +z.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from i2pmae.procedural.draw import Draw
from i2pmae.procedural.surfaces import Array, Solids, Vector

_UP = (0.0, 1.0, 0.0)
_SIDE = (1.0, 0.0, 0.0)


def draw_shape(
    name: str, n_points: int, generator: np.random.Generator
) -> tuple[Array, npt.NDArray[np.uint8]]:
    """A shape of one of `CLASSES`: (N, 3) points of its surface and (N,) parts of its class."""
    shape = Solids()
    CLASSES[name][1](Draw(generator), shape)
    # Drawn before the points, so that the form does not depend on how many there are.
    deformed = _deformation(generator)
    points, parts = shape.sample(n_points, generator)
    size = np.ptp(points, axis=0).max()
    noise = 0.004 * size * generator.standard_normal(points.shape)
    return np.einsum("nc,cd->nd", points, deformed) + noise, parts


def _deformation(generator: np.random.Generator) -> Array:
    """(3, 3): stretch along each axis, lean, turn about the upright axis."""
    stretch = np.diag(np.exp(0.15 * generator.standard_normal(3)))
    lean = np.eye(3)
    lean[1, [0, 2]] = 0.05 * generator.standard_normal(2)
    angle = np.deg2rad(10) * generator.standard_normal()
    cos, sin = np.cos(angle), np.sin(angle)
    turn = np.array([[cos, 0, -sin], [0, 1, 0], [sin, 0, cos]])
    return np.asarray(stretch @ lean @ turn)


def _moved(point: Vector, x: float = 0.0, y: float = 0.0, z: float = 0.0) -> Array:
    """A point some way to the right, up and forward."""
    return np.add(np.asarray(point, np.float64), (x, y, z))


def _four_legs(draw: Draw, shape: Solids, part: int, size: tuple[float, float], top: float) -> None:
    """Legs under a width x depth rectangle at height `top`: straight, tapered or splayed."""
    width, depth = size
    thick = draw.between(0.015, 0.04)
    taper = draw.between(0.5, 1.0)
    splay = draw.one_of(0.0, 0.0, draw.between(0.02, 0.12))
    inset = draw.between(1.0, 2.5) * thick
    is_square = draw.chance(0.5)
    for x in (-1, 1):
        for z in (-1, 1):
            head = np.array([x * (width / 2 - inset), top, z * (depth / 2 - inset)])
            foot = _moved(head, x * splay, -top, z * splay)
            if is_square:
                axis = foot - head
                edges = [(2 * thick, 0, 0), (0, 0, 2 * thick), axis]
                shape.slab(part, (head + foot) / 2, edges)
            else:
                shape.rod(part, head, foot, thick, thick * taper)


def _pedestal(draw: Draw, shape: Solids, part: int, size: tuple[float, float], top: float) -> None:
    """One column on a disc or a star of feet."""
    reach = min(size) * draw.between(0.3, 0.5)
    thick = draw.between(0.02, 0.05)
    foot = draw.between(0.02, 0.05)
    shape.rod(part, (0, foot, 0), (0, top, 0), thick, thick * draw.between(0.7, 1.3))
    if draw.chance(0.5):
        shape.rod(part, (0, 0, 0), (0, foot, 0), reach, reach * draw.between(0.5, 1.0))
        return
    n_feet = draw.one_of(3, 4, 5)
    for angle in 2 * np.pi * np.arange(n_feet) / n_feet:
        tip = (reach * np.cos(angle), 0.01, reach * np.sin(angle))
        shape.rod(part, (0, foot, 0), tip, 0.02, 0.015)


def _panels(draw: Draw, shape: Solids, part: int, size: tuple[float, float], top: float) -> None:
    """Two boards that stand at the sides."""
    width, depth = size
    thick = draw.between(0.02, 0.06)
    for x in (-1, 1):
        middle = (x * (width / 2 - thick * draw.one_of(0.5, 2.0)), top / 2, 0)
        shape.box(part, middle, (thick, top, depth * draw.between(0.6, 1.0)))


def _support(draw: Draw, shape: Solids, part: int, size: tuple[float, float], top: float) -> None:
    draw.one_of(_four_legs, _four_legs, _pedestal, _panels)(draw, shape, part, size, top)


def _back(
    draw: Draw, shape: Solids, part: int, width: float, depth: float, seat: float, height: float
) -> None:
    """A back rest behind a seat: a board, upright bars or rungs; upright or leaning."""
    lean = draw.between(0.0, 0.25) * height
    thick = draw.between(0.02, 0.05)
    foot = np.array([0, seat, -depth / 2 + thick / 2])
    along = np.array([0, height, -lean])
    style = draw.one_of("board", "bars", "rungs")
    if style == "board":
        share = draw.between(0.5, 1.0)  # the board may begin above the seat
        middle = foot + along * (1 - share / 2)
        edges: list[Vector] = [
            (width * draw.between(0.8, 1.0), 0, 0),
            along * share,
            (0, 0, thick),
        ]
        shape.slab(part, middle, edges)
        if share < 0.9:
            for x in (-0.35, 0.35):
                shape.rod(part, _moved(foot, x * width), _moved(foot + along, x * width), 0.015)
        return
    sides = (-width / 2 + thick, width / 2 - thick)
    if style == "bars":
        shape.rod(part, _moved(foot + along, sides[0]), _moved(foot + along, sides[1]), 0.025)
        places = np.linspace(*sides, draw.one_of(3, 4, 5, 6, 7))
        for x in places:
            shape.rod(part, _moved(foot, x), _moved(foot + along, x), 0.012)
        return
    for x in sides:
        shape.rod(part, _moved(foot, x), _moved(foot + along, x), 0.02)
    for share in np.linspace(0.3, 1.0, draw.one_of(2, 3, 4)):
        middle = foot + along * share
        shape.box(part, middle, (width - 2 * thick, 0.06 * height + 0.02, 0.02))


def _arms(draw: Draw, shape: Solids, part: int, width: float, depth: float, seat: float) -> None:
    """Rests at both sides of a seat: solid, or rails on posts."""
    height = draw.between(0.12, 0.28)
    thick = draw.between(0.03, 0.12)
    is_solid = draw.chance(0.4)
    for x in (-1, 1):
        place = x * width / 2
        if is_solid:
            shape.box(part, (place, seat + height / 2, 0), (thick, height, depth))
            continue
        shape.box(part, (place, seat + height, 0), (0.05, 0.03, 0.9 * depth))
        for z in (-0.35, 0.35):
            shape.rod(part, (place, seat, z * depth), (place, seat + height, z * depth), 0.015)


def _airplane(draw: Draw, shape: Solids) -> None:
    body, wing, tail, engine = range(4)
    length = draw.between(1.4, 2.0)
    radius = length * draw.between(0.035, 0.075)
    nose, stern = draw.between(0.08, 0.2) * length, draw.between(0.2, 0.4) * length
    profile = [
        (0.0, 0.0),
        (0.5 * radius, 0.25 * nose),
        (0.85 * radius, 0.6 * nose),
        (radius, nose),
        (radius, length - stern),
        (0.6 * radius, length - 0.4 * stern),
        (draw.between(0.1, 0.3) * radius, length),
        (0.0, length),
    ]
    shape.turned(body, (0, 0, length / 2), (0, 0, -1), profile)
    span = length * draw.between(0.35, 0.6)
    chord = length * draw.between(0.1, 0.22)
    sweep = -span * draw.one_of(draw.between(0.0, 0.15), draw.between(0.3, 0.8))
    rise = span * draw.between(-0.05, 0.15)
    height = radius * draw.one_of(-0.6, 0.0, 0.8)
    forward = length * draw.between(-0.05, 0.15)
    for x in (-1, 1):
        reach = np.array([x * span, rise, sweep])
        root = np.array([0, height, forward])
        shape.slab(wing, root + reach / 2, [reach, (0, 0.02, 0), (0, 0, chord)])
        for share in draw.one_of((), (0.35,), (0.3, 0.6)):
            at = _moved(root + reach * share, y=-0.05 * length * draw.one_of(0.7, -0.5))
            long, wide = draw.between(0.6, 1.1) * chord, draw.between(0.3, 0.6) * radius
            shape.rod(engine, _moved(at, z=long / 2), _moved(at, z=-long / 2), wide, 0.7 * wide)
    end = -length / 2 + chord * 0.4
    fin = length * draw.between(0.1, 0.18)
    top = np.array([0, fin + radius, -0.5 * fin])
    shape.slab(tail, np.array([0, 0, end]) + top / 2, [top, (0.02, 0, 0), (0, 0, 0.6 * chord)])
    level = top * draw.one_of(0.1, 0.1, 1.0)
    for x in (-1, 1):
        reach = np.array([x * fin * 1.2, 0, -0.4 * fin])
        middle = np.array([0, 0, end]) + level + reach / 2
        shape.slab(tail, middle, [reach, (0, 0.02, 0), (0, 0, 0.5 * chord)])


def _bed(draw: Draw, shape: Solids) -> None:
    mattress, frame, headboard, leg, pillow = range(5)
    width, depth = draw.between(0.8, 1.9), draw.between(1.7, 2.2)
    legs = draw.between(0.05, 0.35)
    board, soft = draw.between(0.06, 0.2), draw.between(0.12, 0.28)
    _four_legs(draw, shape, leg, (width, depth), legs)
    shape.box(frame, (0, legs + board / 2, 0), (width, board, depth))
    inner = draw.between(0.9, 1.0)
    shape.box(mattress, (0, legs + board + soft / 2, 0), (inner * width, soft, inner * depth))
    high = draw.between(0.3, 0.9)
    back = (0, (legs + board + high) / 2, -depth / 2)
    shape.box(headboard, back, (width, legs + board + high, 0.05))
    if draw.chance(0.4):
        low = legs + board + high * draw.between(0.2, 0.6)
        shape.box(headboard, (0, low / 2, depth / 2), (width, low, 0.05))
    n_pillows = draw.one_of(0, 1, 2) if width > 1.2 else draw.one_of(0, 1)
    for number in range(n_pillows):
        x = (number - (n_pillows - 1) / 2) * width * 0.45
        place = (x, legs + board + soft + 0.05, -0.38 * depth)
        shape.box(pillow, place, (0.4 * width, 0.1, 0.35))


def _bench(draw: Draw, shape: Solids) -> None:
    seat, back, leg = range(3)
    width, depth = draw.between(0.9, 1.8), draw.between(0.3, 0.5)
    height, thick = draw.between(0.35, 0.55), draw.between(0.03, 0.07)
    draw.one_of(_four_legs, _panels)(draw, shape, leg, (width, depth), height)
    n_boards = draw.one_of(1, 1, 3, 4)
    for number in range(n_boards):
        z = ((number + 0.5) / n_boards - 0.5) * depth
        shape.box(
            seat,
            (0, height + thick / 2, z),
            (width, thick, depth / n_boards * draw.between(0.7, 1)),
        )
    if draw.chance(0.4):
        _back(draw, shape, back, width, depth, height + thick, draw.between(0.3, 0.5))


def _bottle(draw: Draw, shape: Solids) -> None:
    body, neck, cap = range(3)
    radius, height = draw.between(0.1, 0.22), draw.between(0.35, 0.7)
    narrow, long = radius * draw.between(0.25, 0.7), draw.between(0.05, 0.3)
    shoulder, waist = draw.between(0.02, 0.2), draw.between(0.8, 1.05)
    shape.turned(
        body,
        (0, 0, 0),
        _UP,
        [
            (0, 0),
            (radius, 0),
            (radius * waist, height / 2),
            (radius, height),
            ((radius + narrow) * draw.between(0.4, 0.6), height + 0.6 * shoulder),
            (narrow, height + shoulder),
        ],
    )
    top = height + shoulder + long
    shape.turned(neck, (0, height + shoulder, 0), _UP, [(narrow, 0), (narrow * 0.9, long)])
    wide = narrow * draw.between(1.0, 1.4)
    shape.rod(cap, (0, top, 0), (0, top + draw.between(0.03, 0.1), 0), wide)


def _cabinet(draw: Draw, shape: Solids) -> None:
    body, door, handle, leg = range(4)
    width, depth = draw.between(0.5, 1.4), draw.between(0.3, 0.6)
    height, legs = draw.between(0.5, 1.8), draw.one_of(0.0, draw.between(0.05, 0.25))
    if legs:
        _four_legs(draw, shape, leg, (width, depth), legs)
    shape.box(body, (0, legs + height / 2, 0), (width, height, depth))
    columns, rows = draw.one_of((1, 1), (2, 1), (2, 2), (1, 3), (1, 4), (2, 3))
    gap = draw.between(0.01, 0.03)
    wide, high = width / columns - gap, height / rows - gap
    for column in range(columns):
        for row in range(rows):
            x = ((column + 0.5) / columns - 0.5) * width
            y = legs + (row + 0.5) / rows * height
            shape.box(door, (x, y, depth / 2 + 0.015), (wide, high, 0.03))
            side = 0.0 if rows > 2 else (0.4 if x <= 0 else -0.4) * wide
            lying = rows > 2
            grip = (0.25 * wide, 0.025, 0.03) if lying else (0.025, min(0.2, 0.4 * high), 0.03)
            shape.box(handle, (x + side, y, depth / 2 + 0.05), grip)


def _chair(draw: Draw, shape: Solids) -> None:
    seat, back, leg, arm = range(4)
    width, depth = draw.between(0.4, 0.65), draw.between(0.4, 0.6)
    height, thick = draw.between(0.35, 0.6), draw.between(0.03, 0.12)
    _support(draw, shape, leg, (width, depth), height)
    if draw.chance(0.25):
        shape.rod(seat, (0, height, 0), (0, height + thick, 0), min(width, depth) / 2)
    else:
        shape.box(seat, (0, height + thick / 2, 0), (width, thick, depth))
    _back(draw, shape, back, width, depth, height + thick, draw.between(0.25, 0.7))
    if draw.chance(0.4):
        _arms(draw, shape, arm, width, depth, height + thick)


def _lamp(draw: Draw, shape: Solids) -> None:
    base, pole, shade = range(3)
    height, thick = draw.between(0.3, 1.5), draw.between(0.012, 0.03)
    foot = draw.between(0.1, 0.22)
    if draw.chance(0.7):
        shape.turned(base, (0, 0, 0), _UP, [(0, 0), (foot, 0), (foot * 0.9, 0.03), (thick, 0.06)])
    else:
        shape.box(base, (0, 0.03, 0), (2 * foot, 0.06, 2 * foot))
    top = np.array([0.0, height, 0.0])
    if draw.chance(0.35):  # an arm that reaches forward
        reach = draw.between(0.2, 0.4)
        shape.rod(pole, (0, 0.05, 0), top, thick)
        end = _moved(top, y=draw.between(-0.1, 0.2), z=reach)
        shape.rod(pole, top, end, thick)
        top, axis = end, np.array([0, -1.0, draw.between(-0.2, 0.8)])
    else:
        shape.rod(pole, (0, 0.05, 0), top, thick, thick * draw.between(0.5, 2.5))
        axis = np.array([0, -1.0, 0])
        top = _moved(top, y=draw.between(0.0, 0.1))
    narrow, wide = draw.between(0.04, 0.15), draw.between(0.12, 0.3)
    long = draw.between(0.12, 0.35)
    if draw.chance(0.2):  # a globe
        bends = np.linspace(0, np.pi, 9)
        profile = [(wide * np.sin(bend), wide * (1 - np.cos(bend))) for bend in bends]
        shape.turned(shade, top - axis * wide, axis, profile)
    else:
        shape.turned(shade, top, axis, [(narrow, 0), (wide, long)])
        if draw.chance(0.5):
            shape.turned(shade, top, axis, [(0, 0), (narrow, 0)])


def _mug(draw: Draw, shape: Solids) -> None:
    body, handle = range(2)
    radius, height = draw.between(0.2, 0.32), draw.between(0.3, 0.75)
    wall, flare = draw.between(0.015, 0.03), draw.between(0.75, 1.2)
    belly = draw.between(0.95, 1.15)
    top = radius * flare
    shape.turned(
        body,
        (0, 0, 0),
        _UP,
        [
            (0, 0),
            (radius, 0),
            ((radius + top) / 2 * belly, height / 2),
            (top, height),
            (top - wall, height),
            ((radius + top) / 2 * belly - wall, height / 2),
            (radius - wall, wall),
            (0, wall),
        ],
    )
    bow, tube = height * draw.between(0.18, 0.35), draw.between(0.018, 0.04)
    place = ((radius + top) / 2 * belly - 0.1 * bow, height * draw.between(0.45, 0.6), 0)
    if draw.chance(0.75):
        shape.tube(handle, place, (_SIDE, _UP), (bow, tube), (-np.pi / 2, np.pi / 2))
    else:
        for y in (-bow, bow):
            start = _moved(place, y=y)
            shape.rod(handle, start, _moved(start, bow), tube)
        shape.rod(handle, _moved(place, bow, -bow), _moved(place, bow, bow), tube)


def _shelf(draw: Draw, shape: Solids) -> None:
    side, board, back = range(3)
    width, depth = draw.between(0.5, 1.4), draw.between(0.22, 0.45)
    height, thick = draw.between(0.6, 2.0), draw.between(0.015, 0.045)
    is_frame = draw.chance(0.35)
    for x in (-1, 1):
        place = x * (width - thick) / 2
        if not is_frame:
            shape.box(side, (place, height / 2, 0), (thick, height, depth))
            continue
        for z in (-1, 1):
            at = z * (depth - thick) / 2
            shape.box(side, (place, height / 2, at), (1.5 * thick, height, 1.5 * thick))
    lowest = draw.between(0.02, 0.15)
    for share in np.linspace(lowest, draw.between(0.9, 1.0), draw.one_of(3, 4, 5, 6)):
        shape.box(board, (0, share * height, 0), (width, thick, depth))
    if draw.chance(0.4):
        shape.box(back, (0, height / 2, -depth / 2), (width, height, 0.01))


def _sofa(draw: Draw, shape: Solids) -> None:
    seat, back, arm, leg = range(4)
    width, depth = draw.between(1.0, 2.2), draw.between(0.6, 0.95)
    legs, thick = draw.between(0.04, 0.2), draw.between(0.18, 0.35)
    top = legs + thick
    _four_legs(draw, shape, leg, (width, depth), legs)
    n_cushions = draw.one_of(1, 2, 3)
    shape.box(seat, (0, legs + thick / 2, 0), (width, thick, depth))
    for number in range(n_cushions):
        x = ((number + 0.5) / n_cushions - 0.5) * width * 0.9
        shape.box(seat, (x, top + 0.05, 0.05), (0.85 * width / n_cushions, 0.1, depth * 0.75))
    high, fat = draw.between(0.3, 0.6), draw.between(0.1, 0.25)
    edges = [(width, 0, 0), (0, high, -draw.between(0.0, 0.15)), (0, 0, fat)]
    shape.slab(back, (0, top + high / 2, -depth / 2 + fat / 2), edges)
    rest, wide = draw.between(0.15, 0.3), draw.between(0.1, 0.22)
    for x in draw.one_of((-1, 1), (-1, 1), (-1, 1), (1,)):
        place = x * (width / 2 - wide / 2)
        shape.box(arm, (place, top + rest / 2, 0), (wide, rest, depth))
        if draw.chance(0.4):
            at = top + rest
            shape.rod(arm, (place, at, -depth / 2), (place, at, depth / 2), 0.6 * wide)


def _table(draw: Draw, shape: Solids) -> None:
    top, leg, shelf = range(3)
    width, depth = draw.between(0.7, 1.8), draw.between(0.5, 0.95)
    height, thick = draw.between(0.35, 0.8), draw.between(0.02, 0.07)
    if draw.chance(0.3):
        width = depth
        shape.rod(top, (0, height, 0), (0, height + thick, 0), depth / 2)
        inner = (0.7 * depth, 0.7 * depth)
    else:
        shape.box(top, (0, height + thick / 2, 0), (width, thick, depth))
        inner = (width, depth)
    _support(draw, shape, leg, inner, height)
    if draw.chance(0.3):
        level = draw.between(0.2, 0.8) * height
        shape.box(shelf, (0, level, 0), (0.85 * inner[0], 0.025, 0.85 * inner[1]))


def _vase(draw: Draw, shape: Solids) -> None:
    body, neck, foot = range(3)
    belly, height = draw.between(0.12, 0.3), draw.between(0.3, 0.8)
    bottom, narrow = belly * draw.between(0.4, 0.9), belly * draw.between(0.3, 0.95)
    widest = draw.between(0.35, 0.75) * height
    stand, long = draw.between(0.02, 0.1), draw.between(0.04, 0.3)
    wide = bottom * draw.between(0.7, 1.3)
    shape.turned(foot, (0, 0, 0), _UP, [(0, 0), (wide, 0), (bottom, stand)])
    bulge = draw.between(0.85, 1.0)
    profile = [
        (bottom, 0),
        ((bottom + 2 * belly) / 3 * bulge, widest / 2),
        (belly, widest),
        ((narrow + 2 * belly) / 3 * bulge, (widest + height) / 2),
        (narrow, height),
    ]
    shape.turned(body, (0, stand, 0), _UP, profile)
    rim = narrow * draw.between(0.8, 1.7)
    shape.turned(neck, (0, stand + height, 0), _UP, [(narrow, 0), (rim, long), (rim * 0.9, long)])


_Build = Callable[[Draw, Solids], None]
CLASSES: dict[str, tuple[tuple[str, ...], _Build]] = {
    "airplane": (("body", "wing", "tail", "engine"), _airplane),
    "bed": (("mattress", "frame", "headboard", "leg", "pillow"), _bed),
    "bench": (("seat", "back", "leg"), _bench),
    "bottle": (("body", "neck", "cap"), _bottle),
    "cabinet": (("body", "door", "handle", "leg"), _cabinet),
    "chair": (("seat", "back", "leg", "arm"), _chair),
    "lamp": (("base", "pole", "shade"), _lamp),
    "mug": (("body", "handle"), _mug),
    "shelf": (("side", "board", "back"), _shelf),
    "sofa": (("seat", "back", "arm", "leg"), _sofa),
    "table": (("top", "leg", "shelf"), _table),
    "vase": (("body", "neck", "foot"), _vase),
}
