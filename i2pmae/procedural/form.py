"""A shape under construction, and what bodies of all kinds get: attached primitives, cuts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from i2pmae.procedural.constructive import Array, Assembly, Placements, Vector, half_space
from i2pmae.procedural.draw import Draw
from i2pmae.procedural.primitives import (
    KINDS,
    X,
    Y,
    Z,
    at,
    mirrored,
    placed,
    primitive,
    ring,
    row,
    towards,
    turn_about,
)

_MOST_PRIMITIVES = 9

ANY = ("box", "box", "prism", "cylinder", "cone", "torus", "sphere", "turned", "swept", "wire")


class Form:
    """A shape under construction."""

    def __init__(self, draw: Draw):
        self.draw = draw
        self.assembly = Assembly()
        self.n_primitives = 0

    def put(
        self,
        kind: str,
        size: Vector,
        where: Placements | Vector = (0.0, 0.0, 0.0),
        axis: int = Y,
        *,
        plain: float = 0.5,
    ) -> None:
        """Add copies of one primitive; a tenth primitive is left out.

        Args:
            kind, size, axis: as in `primitive`.
            where: copies, or the center of one.
            plain: chance of a plain one.
        """
        if self.n_primitives == _MOST_PRIMITIVES:
            return
        self.n_primitives += 1
        where = where if isinstance(where, Placements) else at(where)
        is_plain = self.draw.chance(plain)
        for solid, inner in primitive(self.draw, kind, size, axis, is_plain=is_plain):
            self.assembly.add(KINDS.index(kind), solid, placed(where, inner))

    def cut(self, kind: str, size: Vector, where: Placements | Vector, axis: int = Y) -> None:
        """Take copies of a primitive away from what is there."""
        where = where if isinstance(where, Placements) else at(where)
        for solid, inner in primitive(self.draw, kind, size, axis, is_plain=True):
            self.assembly.cut(solid, placed(where, inner))

    def kind(self, kinds: Sequence[str]) -> str:
        """One of some kinds."""
        return str(self.draw.one_of(*kinds))


def proportions(draw: Draw, low: float = 0.08) -> Array:
    """Three extents, the largest 1."""
    size = np.array([draw.scale(low, 1) for _ in range(3)])
    return np.asarray(size / size.max())


def sized(draw: Draw, size: Array, low: float, high: float) -> Array:
    """Extents scaled by a factor of their own each, from `low` to `high`."""
    return size * [draw.scale(low, high) for _ in range(3)]


def attach(form: Form, center: Vector, size: Array, kinds: Sequence[str], sink: float) -> None:
    """Small primitives on a face of a box: one, a row, a grid, a ring; on one side or both.

    Args:
        form: to add to.
        center, size: of the box around the body.
        kinds: of the primitives.
        sink: share of a primitive that lies in the body; more than 0 also keeps it away from the
            box's edges, where a round body is far.
    """
    draw = form.draw
    face = draw.one_of(X, X, Y, Y, Y, Z, Z)
    side = draw.one_of(1, 1, -1) if face == Y else draw.one_of(1, -1)
    u, v = (
        ((face + 1) % 3, (face + 2) % 3) if draw.chance(0.5) else ((face + 2) % 3, (face + 1) % 3)
    )
    own = np.empty(3)
    own[face] = min(float(np.exp(np.log(size).mean())), size[u]) * draw.scale(0.05, 0.8)
    if sink > 0:
        size = size * np.where(np.arange(3) == face, 1.0, 0.66)
    pattern = draw.one_of("one", "one", "one", "row", "row", "row", "grid", "pair", "ring")
    where = np.zeros(3)
    if pattern == "one":
        own[u], own[v] = size[u] * draw.scale(0.08, 0.9), size[v] * draw.scale(0.08, 0.9)
        for axis in (u, v):
            where[axis] = (
                (size[axis] - own[axis]) / 2 * draw.one_of(0, 0, 0, 1, -1, draw.between(-1, 1))
            )
        copies = at()
    elif pattern in ("row", "grid"):
        n = draw.one_of(2, 3, 4, 5, 6, 8, 10, 12, 16)
        span = size[u] * draw.between(0.6, 0.96)
        own[u] = span / n * draw.between(0.2, 0.75)
        copies = row(u, span - own[u], n)
        own[v] = size[v] * draw.scale(0.06, 0.9)
        if pattern == "grid":
            n = draw.one_of(2, 2, 3, 4, 5)
            own[v] = size[v] / n * draw.between(0.2, 0.75)
            copies = placed(copies, row(v, size[v] * 0.9 - own[v], n))
        else:
            where[v] = (size[v] - own[v]) / 2 * draw.one_of(0, 0, 1, -1, draw.between(-1, 1))
    elif pattern == "pair":
        own[u], own[v] = size[u] * draw.scale(0.06, 0.4), size[v] * draw.scale(0.1, 0.9)
        where[u] = (size[u] - own[u]) / 2 * draw.between(0.4, 1)
        copies = at()
    else:
        n = draw.one_of(3, 4, 5, 6, 8)
        reach = min(size[u], size[v]) / 2
        own[u] = own[v] = reach * draw.scale(0.15, 0.6)
        where[u] = reach - own[u] / 2
        copies = ring(face, n)
    where[face] = side * (size[face] / 2 + own[face] * (0.5 - sink))
    spot = at(where)
    copies = placed(copies, spot) if pattern == "ring" else placed(spot, copies)
    if pattern == "pair":
        copies = mirrored(copies, u)
        if draw.chance(0.3):
            copies = mirrored(copies, v)
    if draw.chance(0.35):
        copies = mirrored(copies, face)
    form.put(form.kind(kinds), own, placed(at(center), copies), draw.one_of(face, face, u, v))


def carve(form: Form, size: Array, center: Vector = (0.0, 0.0, 0.0)) -> None:
    """Take something away from a box: holes, a pocket, notches, slots, a slice, a bite."""
    draw = form.draw
    middle = at(center)
    axis = draw.one_of(X, Y, Y, Z)
    u, v = (axis + 1) % 3, (axis + 2) % 3
    own, where = np.empty(3), np.zeros(3)
    style = draw.one_of(
        "holes", "holes", "pocket", "pocket", "notch", "notch", "slots", "slice", "bite"
    )
    if style == "holes":
        n, m = draw.one_of(
            (1, 1), (1, 1), (2, 1), (3, 1), (4, 1), (6, 1), (2, 2), (3, 2), (4, 3), (5, 5)
        )
        share = draw.between(0.3, 0.8)
        own[u], own[v], own[axis] = size[u] / n * share, size[v] / m * share, 1.02 * size[axis]
        if draw.chance(0.5):
            own[u] = own[v] = min(own[u], own[v])
        copies = placed(row(u, size[u] * (1 - 1 / n), n), row(v, size[v] * (1 - 1 / m), m))
        form.cut(form.kind(("cylinder", "cylinder", "box")), own, placed(middle, copies), axis)
    elif style == "pocket":
        own = size * draw.between(0.6, 0.95)
        own[axis] = size[axis] * draw.between(0.3, 0.95)
        where[axis] = draw.one_of(1, 1, -1) * (size[axis] - own[axis]) / 2 * 1.02
        own[axis] *= 1.01
        form.cut(form.kind(("box", "box", "cylinder")), own, placed(middle, at(where)), axis)
    elif style == "notch":
        own[u], own[v], own[axis] = (
            2 * size[u] * draw.between(0.1, 0.45),
            2 * size[v] * draw.between(0.1, 0.45),
            1.02 * size[axis],
        )
        where[u], where[v] = size[u] / 2, size[v] / 2 * draw.one_of(1, 0)
        copies = at(where, draw.one_of(np.eye(3), np.eye(3), turn_about(axis, np.pi / 4)))
        for mirror in (u, v):
            if draw.chance(0.6):
                copies = mirrored(copies, mirror)
        form.cut(form.kind(("box", "box", "cylinder")), own, placed(middle, copies), axis)
    elif style == "slots":
        n = draw.one_of(1, 2, 3, 5, 8)
        own[u] = size[u] / n * draw.between(0.2, 0.6)
        own[v] = size[v] * draw.one_of(1.02, draw.between(0.4, 0.9))
        own[axis] = size[axis] * draw.one_of(2.04, draw.between(0.3, 1.2))
        where[axis] = size[axis] / 2
        copies = placed(at(where), row(u, size[u] * (1 - 1 / n), n))
        form.cut("box", own, placed(middle, copies), axis)
    elif style == "slice":
        turn = towards(axis) @ turn_about(X, draw.between(-0.9, 0.9))
        normal = turn[:, Z]
        away = float(np.abs(normal) @ size) / 2
        copies = at(normal * away * draw.between(0.2, 0.8), turn)
        if draw.chance(0.3):
            copies = mirrored(copies, draw.one_of(X, Y, Z))
        form.assembly.cut(half_space(float(np.linalg.norm(size)) / 2), placed(middle, copies))
    else:
        own[:] = float(np.sort(size)[1]) * draw.between(0.4, 1.2)
        where = size / 2 * [draw.one_of(0, 1, -1) for _ in range(3)]
        if not where.any():
            where[axis] = size[axis] / 2
        form.cut("sphere", own, placed(middle, at(where)))
