"""Points on the surface of solids that are joined and cut one after another.

A solid is a closed set of triangles with a test of what lies inside. An assembly adds and cuts
solids in order, as the feature tree of a CAD program does, but computes no mesh of the result:
it draws points from all surfaces and keeps those that have the assembly on one side only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]
Vector = Sequence[float] | Array
Map = Callable[[Array], Array]  # (n, 3) -> (n, 3)

_STEP = 1e-3  # how far beside a surface its two sides are looked at
_LEAST_VISIBLE = 0.02  # share of the surfaces
_LONGEST = 128  # radii of a path; thinner tubes hide too little to look for it


class Solid:
    """A closed surface around the third axis of its own coordinates.

    Attributes:
        triangles: (F, 3 corners, 3), counterclockwise from outside; some may have no area.
        inside: from x, y, z, each (n,), to whether they lie inside, (n,).
        bounds: (2, 3) least and greatest coordinates; None: those of the triangles.
    """

    def __init__(
        self,
        triangles: Array,
        inside: Callable[[Array, Array, Array], Bools],
        bounds: Array | None = None,
    ):
        self.triangles = triangles
        self.inside = inside
        if bounds is None:
            corners = triangles.reshape(-1, 3).T.copy()  # along the memory: several times as fast
            bounds = np.stack([corners.min(axis=1), corners.max(axis=1)])
        self.bounds = bounds


class Placements(NamedTuple):
    """Where copies of a solid lie."""

    turns: Array  # (I, 3, 3) orthogonal, may mirror: rest = turn @ own + shift
    shifts: Array  # (I, 3)


def box(size: Vector) -> Solid:
    """A box around the origin."""
    a, b, c = np.asarray(size, np.float64) / 2
    square = np.array([(-a, -b), (a, -b), (a, b), (-a, b)])

    def inside(x: Array, y: Array, z: Array) -> Bools:
        return np.asarray((np.abs(x) < a) & (np.abs(y) < b) & (np.abs(z) < c))

    return Solid(_extrusion_triangles([square], 2 * c, 1.0, np.zeros(2)), inside)


def half_space(reach: float) -> Solid:
    """All above the plane through the origin, as far as `reach`; to cut something off."""
    square = reach * np.array([(-1, -1, 0), (1, -1, 0), (1, 1, 0), (-1, 1, 0)], np.float64)
    bounds = reach * np.array([(-1, -1, 0), (1, 1, 2)], np.float64)

    def inside(x: Array, y: Array, z: Array) -> Bools:
        del x, y
        return np.asarray(z > 0)

    return Solid(_fan(square, np.zeros(3))[:, ::-1], inside, bounds)


def extruded(
    outline: Array,
    height: float,
    *,
    kernel: Vector = (0.0, 0.0),
    taper: float = 1.0,
    hole: float = 0.0,
) -> Solid:
    """A polygon that is drawn out along the third axis, from -height / 2 to height / 2.

    Args:
        outline: (E, 2) corners, counterclockwise.
        height: along the axis.
        kernel: a point that sees every corner.
        taper: size of the polygon at the top, relative to the bottom, about the axis.
        hole: size of a hole of the same form around `kernel`, relative to the outline; 0: none.
    """
    center = np.asarray(kernel, np.float64)
    loops = [outline] if not hole else [outline, center + hole * (outline - center)]

    def inside(x: Array, y: Array, z: Array) -> Bools:
        share = z / height + 0.5
        if taper != 1:
            scale = 1 + (taper - 1) * share.clip(0, 1)
            x, y = x / scale, y / scale
        return (share > 0) & (share < 1) & _in_polygons(x, y, loops)

    return Solid(_extrusion_triangles(loops, height, taper, center), inside)


def turned(
    profile: Array,
    *,
    stretch: Vector = (1.0, 1.0),
    angle: float = 2 * np.pi,
    n_steps: int = 40,
) -> Solid:
    """A closed profile that is turned around the third axis.

    Args:
        profile: (E, 2) corners (radius >= 0, height), counterclockwise; convex if `angle` is less
            than a full turn.
        stretch: of the first and the second axis, for ellipses.
        angle: how far it is turned.
        n_steps: sides of a full turn.
    """
    is_whole = angle > 2 * np.pi - 1e-6
    n_steps = max(int(np.ceil(n_steps * angle / (2 * np.pi))), 3)
    angles = np.linspace(0, angle, n_steps + 1)
    scale = np.array([*stretch, 1.0])
    round_ = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    rims = np.concatenate(  # (steps + 1, E, 3)
        [
            profile[None, :, :1] * round_[:, None, :],
            np.broadcast_to(profile[None, :, 1:], (n_steps + 1, len(profile), 1)),
        ],
        axis=2,
    )
    triangles = [_strip(rims[1:], rims[:-1])]
    if not is_whole:
        for rim, turn in ((rims[0], 1), (rims[-1], -1)):
            triangles.append(_fan(rim, rim.mean(axis=0))[:, ::turn])

    def inside(x: Array, y: Array, z: Array) -> Bools:
        x, y = x / scale[0], y / scale[1]
        within = _in_polygons(np.sqrt(x * x + y * y), z, [profile])
        return within if is_whole else within & (np.arctan2(y, x) % (2 * np.pi) < angle)

    return Solid(np.concatenate(triangles) * scale, inside)


def swept(path: Array, radius: float, *, n_sides: int = 10) -> Solid:
    """A tube along a path of points, with flat ends or, where the path returns, none.

    Args:
        path: (m, 3) points, at least two, each apart from the one before.
        radius: of the tube; the path should bend less sharply than that.
        n_sides: of its section.
    """
    is_closed = bool(np.allclose(path[0], path[-1])) and len(path) > 3
    along = np.gradient(path, axis=0)
    if is_closed:
        along[0] = along[-1] = path[1] - path[-2]
    along /= np.linalg.norm(along, axis=1, keepdims=True)
    firsts = [np.cross(along[0], np.eye(3)[np.abs(along[0]).argmin()])]
    for direction in along[1:]:
        firsts.append(firsts[-1] - direction * float(firsts[-1] @ direction))
    first = np.stack(firsts) / np.linalg.norm(firsts, axis=1, keepdims=True)
    angles = 2 * np.pi * np.arange(n_sides) / n_sides
    rims = path[:, None] + radius * (
        np.cos(angles)[None, :, None] * first[:, None]
        + np.sin(angles)[None, :, None] * np.cross(along, first)[:, None]
    )
    triangles = [_strip(rims[:-1], rims[1:])]
    if not is_closed:
        triangles += [_fan(rims[0], path[0])[:, ::-1], _fan(rims[-1], path[-1])]
    lengths = np.linalg.norm(np.diff(path, axis=0), axis=1)
    reached = np.concatenate([[0], lengths.cumsum()])
    n_places = int(reached[-1] / radius) + 2
    marks = np.linspace(0, reached[-1], n_places)
    places = np.stack([np.interp(marks, reached, path[:, axis]) for axis in range(3)])

    def inside(x: Array, y: Array, z: Array) -> Bools:
        if n_places > _LONGEST:
            return np.zeros(len(x), np.bool_)
        distances = np.zeros((len(marks), len(x)))
        for values, along_axis in zip((x, y, z), places, strict=True):
            offsets = values - along_axis[:, None]
            distances += offsets * offsets
        within = distances.min(axis=0) < radius**2
        if not is_closed:  # the ends are flat
            nearest = distances.argmin(axis=0)
            for place, end, out in (
                (0, path[0], -along[0]),
                (len(distances) - 1, path[-1], along[-1]),
            ):
                beyond = (x - end[0]) * out[0] + (y - end[1]) * out[1] + (z - end[2]) * out[2] > 0
                within &= ~(beyond & (nearest == place))
        return np.asarray(within)

    return Solid(np.concatenate(triangles), inside)


class Assembly:
    """Solids that are added and cut away, in this order."""

    def __init__(self) -> None:
        self._steps: list[tuple[Solid, Placements, int]] = []  # with the part; -1: cut away
        self._maps: list[Map] = []

    @property
    def bounds(self) -> Array:
        """(2, 3): least and greatest coordinates of what was added, before it was deformed."""
        boxes = [_boxes(solid, at) for solid, at, part in self._steps if part >= 0]
        low = np.min([(center - half).min(axis=0) for center, half in boxes], axis=0)
        return np.stack([low, np.max([(c + h).max(axis=0) for c, h in boxes], axis=0)])

    def add(self, part: int, solid: Solid, at: Placements) -> None:
        """Join copies of a solid to what is there."""
        self._steps.append((solid, at, part))

    def cut(self, solid: Solid, at: Placements) -> None:
        """Take copies of a solid away from what is there."""
        self._steps.append((solid, at, -1))

    def deform(self, deformation: Map) -> None:
        """Move the points of the result by a smooth map that keeps neighbors together."""
        self._maps.append(deformation)

    def sample(
        self, n: int, generator: np.random.Generator
    ) -> tuple[Array, npt.NDArray[np.uint8]] | None:
        """Draw points from the surface, evenly by area, in random order.

        Args:
            n: how many.
            generator: decides where.

        Returns:
            (n, 3) float64 and the part of each, (n,) uint8; None if next to nothing is left of
            the surfaces. What a cut lays bare belongs to the part that was cut.
        """
        surface = _Surface(self._steps)
        found: list[tuple[Array, npt.NDArray[np.uint8]]] = []
        missing, rate, most_grown = n, 0.8, 0.0
        while missing > 0:
            drawn = surface.draw(int(missing / rate * 1.05) + 64, generator)
            visible, parts = surface.visible(drawn)
            if visible.mean() < _LEAST_VISIBLE:
                return None
            points = drawn.points[:, visible].T
            if self._maps:
                points, grown = self._deformed(points, drawn.normals[:, visible].T)
                most_grown = most_grown or float(grown.max())
                kept = generator.random(len(points)) * most_grown < grown
                points, parts = points[kept], parts[kept]
            found.append((points, parts))
            missing -= len(points)
            rate = max(len(points) / len(visible), _LEAST_VISIBLE)
        return (
            np.concatenate([points for points, _ in found])[:n],
            np.concatenate([parts for _, parts in found])[:n],
        )

    def _deformed(self, points: Array, normals: Array) -> tuple[Array, Array]:
        """Points (n, 3) where the maps move them, and how much the surface grows there, (n,)."""
        first = np.cross(normals, np.eye(3)[np.abs(normals).argmin(axis=1)])
        first /= np.linalg.norm(first, axis=1, keepdims=True)
        second = np.cross(normals, first)
        moved = np.concatenate([points, points + _STEP * first, points + _STEP * second])
        for deformation in self._maps:
            moved = deformation(moved)
        start, *ends = moved.reshape(3, -1, 3)
        grown = np.cross(ends[0] - start, ends[1] - start) / _STEP**2
        return start, np.linalg.norm(grown, axis=1)


class _Drawn(NamedTuple):
    """Points on the surfaces of copies, hidden or not."""

    points: Array  # (3, n)
    normals: Array  # (3, n) of length 1, out of their solid
    copies: Ints  # (n,) that they were drawn from, counted over all steps


class _Surface:
    """All triangles of an assembly, and what fills the space beside them."""

    def __init__(self, steps: Sequence[tuple[Solid, Placements, int]]):
        self._solids = [solid for solid, _, _ in steps]
        self._parts = [part for _, _, part in steps]
        self._has_cuts = min(self._parts) < 0
        n_copies = np.array([len(at.shifts) for _, at, _ in steps])
        self._first_copies = n_copies.cumsum() - n_copies
        self._part_of_copy = np.repeat(np.array(self._parts, np.int16), n_copies)
        self._turns = np.concatenate([at.turns for _, at, _ in steps])
        self._shifts = np.concatenate([at.shifts for _, at, _ in steps])
        boxes = [_boxes(solid, at) for solid, at, _ in steps]
        self._centers = np.concatenate([centers for centers, _ in boxes])
        self._halves = np.concatenate([halves for _, halves in boxes])
        triangles = np.concatenate([solid.triangles for solid in self._solids])
        triangles = np.ascontiguousarray(triangles.transpose(1, 2, 0))
        edges = triangles[1:] - triangles[0]
        normals = np.cross(edges[0], edges[1], axis=0)
        areas = np.sqrt((normals * normals).sum(axis=0))
        # Corner, both edges and normal of each triangle, x to z, as rows: gathering from rows
        # takes half the time.
        self._triangles = np.concatenate(
            [triangles[0], edges[0], edges[1], normals / np.maximum(areas, 1e-30)]
        )
        n_triangles = [len(solid.triangles) for solid in self._solids]
        self._n_copies = np.repeat(n_copies, n_triangles)
        self._first_copy = np.repeat(self._first_copies, n_triangles)
        self._cumulative = (areas * self._n_copies).cumsum()
        self._columns = np.ascontiguousarray(self._turns.transpose(1, 2, 0).reshape(9, -1))

    def draw(self, n: int, generator: np.random.Generator) -> _Drawn:
        """Points drawn evenly from all triangles."""
        draws = generator.random((4, n))
        chosen = np.searchsorted(self._cumulative, draws[0] * self._cumulative[-1], side="right")
        chosen = np.minimum(chosen, len(self._cumulative) - 1)
        n_copies = self._n_copies[chosen]
        copies = (draws[1] * n_copies).astype(np.int64)
        copies = self._first_copy[chosen] + np.minimum(copies, n_copies - 1)
        beyond = draws[2] + draws[3] > 1  # the other half of the parallelogram
        shares = np.where(beyond, 1 - draws[2:], draws[2:])
        corner, first, second, normal = self._triangles[:, chosen].reshape(4, 3, n)
        own = corner + shares[0] * first + shares[1] * second
        turns = self._columns[:, copies].reshape(3, 3, n)
        points = np.einsum("cln,ln->cn", turns, own) + self._shifts.T[:, copies]
        return _Drawn(points, np.einsum("cln,ln->cn", turns, normal), copies)

    def visible(self, drawn: _Drawn) -> tuple[Bools, npt.NDArray[np.uint8]]:
        """Which points have the assembly on one side only, (n,); and the parts of those."""
        axis = int(np.ptp(drawn.points, axis=1).argmax())
        order = drawn.points[axis].argsort()
        points, copies = drawn.points[:, order], drawn.copies[order]
        step = _STEP * drawn.normals[:, order]
        outer = self._parts_at(points + step, points[axis], axis, copies, own_side=False)
        own = self._part_of_copy[copies]
        seen, parts = outer < 0, own
        if self._has_cuts:  # else a solid is always there on the inner side of its surface
            rows = np.flatnonzero(seen | (own < 0))
            inner = np.full(len(own), -1, np.int16)
            inner[rows] = self._parts_at(
                (points - step)[:, rows], points[axis, rows], axis, copies[rows], own_side=True
            )
            seen = ((outer >= 0) != (inner >= 0)) & (seen | (own < 0))
            parts = np.where(own >= 0, own, np.maximum(outer, inner))
        visible, every = np.empty(len(own), np.bool_), np.empty(len(own), np.uint8)
        visible[order], every[order] = seen, parts
        return visible, every[visible]

    def _parts_at(
        self, points: Array, key: Array, axis: int, copies: Ints, *, own_side: bool
    ) -> npt.NDArray[np.int16]:
        """The part that fills each place, -1 where there is none.

        Args:
            points: (3, n), at most `_STEP` from `key` along `axis`.
            key: (n,) rising.
            axis: of the key.
            copies: (n,) that each point was drawn from.
            own_side: whether points lie inside that copy; not left to rounding and to the corners
                that triangles cut off.
        """
        found = np.full(len(key), -1, np.int16)
        reach = self._halves[:, axis] + _STEP
        first = np.searchsorted(key, self._centers[:, axis] - reach).tolist()
        last = np.searchsorted(key, self._centers[:, axis] + reach).tolist()
        a, b = (other for other in range(3) if other != axis)
        ends = [*self._first_copies[1:].tolist(), len(reach)]
        for solid, part, start, end in zip(
            self._solids, self._parts, self._first_copies.tolist(), ends, strict=True
        ):
            for copy in range(start, end):
                if first[copy] == last[copy]:
                    continue
                here = slice(first[copy], last[copy])
                near = np.abs(points[a, here] - self._centers[copy, a]) < self._halves[copy, a]
                near &= np.abs(points[b, here] - self._centers[copy, b]) < self._halves[copy, b]
                near &= copies[here] != copy
                if part >= 0:  # whichever part was there first stays
                    near &= found[here] < 0
                rows = first[copy] + np.flatnonzero(near)
                if len(rows):
                    offsets = points[:, rows] - self._shifts[copy, :, None]
                    rows = rows[solid.inside(*np.einsum("cl,cn->ln", self._turns[copy], offsets))]
                    found[rows] = part
            if own_side:
                mine = (copies >= start) & (copies < end)
                found[mine] = part
        return found


def _boxes(solid: Solid, at: Placements) -> tuple[Array, Array]:
    """Centers (I, 3) and half sizes (I, 3) of boxes along the axes around each copy."""
    low, high = solid.bounds
    center = np.einsum("icl,l->ic", at.turns, (low + high) / 2) + at.shifts
    return center, np.einsum("icl,l->ic", np.abs(at.turns), (high - low) / 2)


def _extrusion_triangles(
    loops: Sequence[Array], height: float, taper: float, kernel: Array
) -> Array:
    """Sides and ends of an outline, with or without a hole of as many corners."""
    bottom = [np.column_stack([loop, np.full(len(loop), -height / 2)]) for loop in loops]
    top = [np.column_stack([taper * loop, np.full(len(loop), height / 2)]) for loop in loops]
    triangles = [_strip(bottom[0][None], top[0][None])]
    if len(loops) == 2:
        triangles.append(_strip(top[1][None], bottom[1][None]))
        triangles.append(_strip(top[0][None], top[1][None]))
        triangles.append(_strip(bottom[1][None], bottom[0][None]))
    else:
        triangles.append(_fan(bottom[0], np.array([*kernel, -height / 2]))[:, ::-1])
        triangles.append(_fan(top[0], np.array([*(taper * kernel), height / 2])))
    return np.concatenate(triangles)


def _strip(first: Array, second: Array) -> Array:
    """Triangles between closed rims (s, E, 3) and the next ones, to the left of first -> second."""
    ahead, beyond = first[:, _next(first.shape[1])], second[:, _next(first.shape[1])]
    lower = np.stack([first, ahead, beyond], axis=2)
    upper = np.stack([first, beyond, second], axis=2)
    return np.concatenate([lower, upper]).reshape(-1, 3, 3)


def _fan(rim: Array, center: Array) -> Array:
    """Triangles between a closed rim (E, 3) and a point."""
    return np.stack([rim, rim[_next(len(rim))], np.broadcast_to(center, rim.shape)], axis=1)


def _next(n: int) -> Ints:
    """(n,) index of the corner after each of a closed rim."""
    return np.arange(1, n + 1) % n


def _in_polygons(x: Array, y: Array, loops: Sequence[Array]) -> Bools:
    """Which points lie inside an odd number of closed polygons."""
    inside = np.zeros(len(x), np.bool_)
    for loop in loops:
        corners = loop.tolist()
        for (x0, y0), (x1, y1) in zip(corners, corners[1:] + corners[:1], strict=True):
            if y0 == y1:
                continue
            crossed = (y >= min(y0, y1)) & (y < max(y0, y1))
            inside ^= crossed & (x < x0 + (y - y0) * ((x1 - x0) / (y1 - y0)))
    return inside
