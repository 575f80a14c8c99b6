"""Points on the surfaces of solids put together from simple parts.

Solids are slabs (boxes, also sheared), turned profiles (cylinders, cones, vases) and bent tubes.
Each is taken apart into patches that formulas sample evenly, so one draw covers a whole shape;
points that lie hidden between or within solids are drawn again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Vector = Sequence[float] | Array

_STEP = 2e-3  # how far beside a surface its two sides are looked at


class _Slab(NamedTuple):
    """A parallelepiped."""

    center: Array  # (3,)
    edges: Array  # (3, 3) rows
    part: int


class _Turned(NamedTuple):
    """A profile turned around an axis."""

    base: Array  # (3,)
    frame: Array  # (3, 3) rows: two across, axis
    profile: Array  # (R, 2) radius and height
    part: int

    @property
    def is_closed(self) -> bool:
        return bool(self.profile[0, 0] == 0 and self.profile[-1, 0] == 0)


class _Tube(NamedTuple):
    """Part of a torus."""

    center: Array  # (3,)
    frame: Array  # (3, 3) rows: the plane's two axes, its normal
    sizes: tuple[float, float, float, float]  # radius, radius of the tube, first and last angle
    part: int


class _Drawn(NamedTuple):
    """Points, and the directions out of their solids."""

    points: Array  # (n, 3)
    normals: Array  # (n, 3) of length 1
    parts: npt.NDArray[np.uint8]  # (n,)


class Solids:
    """A shape under construction: solids, each with the label of its part."""

    def __init__(self) -> None:
        self._slabs: list[_Slab] = []
        self._turned: list[_Turned] = []
        self._tubes: list[_Tube] = []

    def slab(self, part: int, center: Vector, edges: Sequence[Vector] | Array) -> None:
        """A parallelepiped around `center` with three edge vectors."""
        self._slabs.append(
            _Slab(np.asarray(center, np.float64), np.asarray(edges, np.float64), part)
        )

    def box(self, part: int, center: Vector, size: Vector) -> None:
        """A box along the axes."""
        self.slab(part, center, np.diag(np.asarray(size, np.float64)))

    def turned(
        self, part: int, base: Vector, axis: Vector, profile: Sequence[tuple[float, float]]
    ) -> None:
        """A line of (radius, height) points turned around an axis through `base`.

        Solid if it begins and ends on the axis, and goes up on the outside; else a thin skin.
        """
        along = np.asarray(axis, np.float64)
        along = along / np.linalg.norm(along)
        first = np.cross(along, np.eye(3)[np.abs(along).argmin()])
        first /= np.linalg.norm(first)
        frame = np.stack([first, np.cross(along, first), along])
        line = np.asarray(profile, np.float64)
        self._turned.append(_Turned(np.asarray(base, np.float64), frame, line, part))

    def rod(
        self, part: int, start: Vector, end: Vector, radius: float, end_radius: float | None = None
    ) -> None:
        """A cylinder or cone with closed ends, from one point to another."""
        axis = np.asarray(end, np.float64) - np.asarray(start, np.float64)
        length = float(np.linalg.norm(axis))
        last = radius if end_radius is None else end_radius
        self.turned(part, start, axis, [(0, 0), (radius, 0), (last, length), (0, length)])

    def tube(
        self,
        part: int,
        center: Vector,
        plane: tuple[Vector, Vector],
        sizes: tuple[float, float],
        angles: tuple[float, float],
    ) -> None:
        """A tube bent around `center`, in a plane of two orthonormal axes.

        Args:
            part: label.
            center: of the bend.
            plane: first and second axis.
            sizes: radius of the bend and of the tube.
            angles: first and last, from the first axis, in radians.
        """
        first, second = np.asarray(plane, np.float64)
        frame = np.stack([first, second, np.cross(first, second)])
        self._tubes.append(_Tube(np.asarray(center, np.float64), frame, (*sizes, *angles), part))

    def sample(self, n: int, generator: np.random.Generator) -> tuple[Array, npt.NDArray[np.uint8]]:
        """Draw points evenly from all surfaces that can be seen, in random order.

        Args:
            n: how many.
            generator: decides where.

        Returns:
            (n, 3) float64 and the part of each, (n,) uint8.
        """
        kinds: list[_Faces | _Rings | _Bends] = []
        if self._slabs:
            kinds.append(_Faces(self._slabs))
        if self._turned:
            kinds.append(_Rings(self._turned))
        if self._tubes:
            kinds.append(_Bends(self._tubes))
        points, parts, found = [], [], 0
        while found < n:
            drawn = _draw(kinds, n + n // 4, generator)
            visible = ~self._hidden(drawn)
            points.append(drawn.points[visible])
            parts.append(drawn.parts[visible])
            found += int(visible.sum())
        return np.concatenate(points)[:n], np.concatenate(parts)[:n]

    def _hidden(self, drawn: _Drawn) -> Bools:
        """Points with solids on both sides."""
        hidden = self._inside(drawn.points + _STEP * drawn.normals)
        if hidden.any():
            other = drawn.points[hidden] - _STEP * drawn.normals[hidden]
            hidden[hidden] = self._inside(other)
        return hidden

    def _inside(self, points: Array) -> Bools:
        """Which points (n, 3) lie within a slab or a closed turned profile."""
        inside = np.zeros(len(points), np.bool_)
        if self._slabs:
            to_local = np.linalg.inv(np.stack([slab.edges for slab in self._slabs]))
            centers = np.stack([slab.center for slab in self._slabs])
            offsets = np.einsum("sc,scl->ls", centers, to_local)
            # Single precision is plenty beside _STEP, and twice as fast. Not a matrix product: for
            # ones this small, starting threads costs more than they save.
            axes = np.concatenate([to_local.transpose(2, 0, 1), -offsets[:, :, None]], axis=2)
            placed = np.concatenate([points, np.ones((len(points), 1))], axis=1)
            local = np.einsum(  # (3, slabs, n)
                "lsk,kn->lsn", axes.astype(np.float32), placed.T.astype(np.float32, order="C")
            )
            within = np.abs(local, out=local) < 0.5
            inside |= (within[0] & within[1] & within[2]).any(axis=0)
        for solid in self._turned:
            if solid.is_closed:
                inside |= _inside_turned(solid, points)
        return inside


def _inside_turned(solid: _Turned, points: Array) -> Bools:
    """By how many surfaces lie further out at a point's height: an odd number is inside."""
    local = np.einsum("nc,lc->nl", points - solid.base, solid.frame)
    radius, height = np.hypot(local[:, 0], local[:, 1]), local[:, 2]
    inside = np.zeros(len(points), np.bool_)
    for (r0, h0), (r1, h1) in zip(solid.profile[:-1], solid.profile[1:], strict=True):
        if h0 == h1:
            continue
        share = (height - h0) / (h1 - h0)
        inside ^= (share >= 0) & (share < 1) & (radius < r0 + share * (r1 - r0))
    return inside


def _draw(
    kinds: Sequence[_Faces | _Rings | _Bends], n: int, generator: np.random.Generator
) -> _Drawn:
    """Points on all surfaces, hidden or not."""
    cumulative = np.concatenate([kind.areas for kind in kinds]).cumsum()
    draws = generator.random((n, 4))
    chosen = np.searchsorted(cumulative, draws[:, 0] * cumulative[-1], side="right")
    chosen = np.minimum(chosen, len(cumulative) - 1)
    drawn = _Drawn(np.empty((n, 3)), np.empty((n, 3)), np.empty(n, np.uint8))
    offset = 0
    for kind in kinds:
        mine = (chosen >= offset) & (chosen < offset + len(kind.areas))
        patches = chosen[mine] - offset
        drawn.points[mine], drawn.normals[mine] = kind.place(patches, draws[mine, 1:])
        drawn.parts[mine] = kind.parts[patches]
        offset += len(kind.areas)
    return drawn


class _Faces:
    """The six sides of each slab."""

    def __init__(self, slabs: Sequence[_Slab]):
        edges = np.stack([slab.edges for slab in slabs])  # (s, 3, 3)
        low = np.stack([slab.center for slab in slabs]) - edges.sum(axis=1) / 2
        sides = [(axis, (axis + 1) % 3, (axis + 2) % 3) for axis in range(3)]
        self._corners = np.concatenate(
            [low + far * edges[:, axis] for axis, _, _ in sides for far in (0, 1)]
        )
        self._edges = np.concatenate(
            [edges[:, [first, second]] for _, first, second in sides for _ in (0, 1)]
        )
        normals = np.cross(self._edges[:, 0], self._edges[:, 1])
        self.areas = np.linalg.norm(normals, axis=1)
        outward = np.concatenate(
            [(2 * far - 1) * edges[:, axis] for axis, _, _ in sides for far in (0, 1)]
        )
        normals *= np.sign((normals * outward).sum(axis=1, keepdims=True))
        self._normals = normals / self.areas[:, None]
        self.parts = np.tile(np.array([slab.part for slab in slabs], np.uint8), 6)

    def place(self, patches: npt.NDArray[np.int64], draws: Array) -> tuple[Array, Array]:
        along = np.einsum("ne,nec->nc", draws[:, :2], self._edges[patches])
        return self._corners[patches] + along, self._normals[patches]


class _Rings:
    """The cone frusta, rings and discs of each turned profile."""

    def __init__(self, solids: Sequence[_Turned]):
        counts = [len(solid.profile) - 1 for solid in solids]
        self._base = np.repeat(np.stack([solid.base for solid in solids]), counts, axis=0)
        self._frame = np.repeat(np.stack([solid.frame for solid in solids]), counts, axis=0)
        self._start = np.concatenate([solid.profile[:-1] for solid in solids])
        self._change = np.concatenate([np.diff(solid.profile, axis=0) for solid in solids])
        slant = np.hypot(self._change[:, 0], self._change[:, 1])
        self.areas = np.pi * (2 * self._start[:, 0] + self._change[:, 0]) * slant
        # Across the profile, to the right of its direction: outward, up and down included.
        across = np.stack([self._change[:, 1], -self._change[:, 0]], axis=1)
        self._across = across / np.maximum(slant, 1e-12)[:, None]
        self.parts = np.repeat(np.array([solid.part for solid in solids], np.uint8), counts)

    def place(self, patches: npt.NDArray[np.int64], draws: Array) -> tuple[Array, Array]:
        first, change = self._start[patches, 0], self._change[patches, 0]
        # The surface widens linearly from one rim to the other.
        radius = np.sqrt(first**2 + draws[:, 0] * change * (2 * first + change))
        is_cone = np.abs(change) > 1e-9
        share = np.where(is_cone, (radius - first) / np.where(is_cone, change, 1.0), draws[:, 0])
        height = self._start[patches, 1] + share * self._change[patches, 1]
        angle = 2 * np.pi * draws[:, 1]
        round_ = np.stack([np.cos(angle), np.sin(angle)], axis=1)
        local = np.column_stack([radius[:, None] * round_, height])
        across = self._across[patches]
        normal = np.column_stack([across[:, :1] * round_, across[:, 1]])
        frame = self._frame[patches]
        points = self._base[patches] + np.einsum("nl,nlc->nc", local, frame)
        return points, np.einsum("nl,nlc->nc", normal, frame)


class _Bends:
    """The bent tubes, without their ends."""

    def __init__(self, tubes: Sequence[_Tube]):
        self._center = np.stack([tube.center for tube in tubes])
        self._frame = np.stack([tube.frame for tube in tubes])
        self._sizes = np.array([tube.sizes for tube in tubes])
        radius, thick, first, last = self._sizes.T
        self.areas = 2 * np.pi * thick * radius * (last - first)
        self.parts = np.array([tube.part for tube in tubes], np.uint8)

    def place(self, patches: npt.NDArray[np.int64], draws: Array) -> tuple[Array, Array]:
        radius, thick, first, last = self._sizes[patches].T
        along = first + draws[:, 0] * (last - first)
        around = 2 * np.pi * draws[:, 1]
        # The outer side is larger: points go to the opposite side with the probability that
        # makes their density grow like 1 + thick / radius * cos(around).
        around += np.pi * (draws[:, 2] > (1 + thick / radius * np.cos(around)) / 2)
        out = np.stack([np.cos(along), np.sin(along)], axis=1)
        normal = np.column_stack([np.cos(around)[:, None] * out, np.sin(around)])
        local = thick[:, None] * normal
        local[:, :2] += radius[:, None] * out
        frame = self._frame[patches]
        points = self._center[patches] + np.einsum("nl,nlc->nc", local, frame)
        return points, np.einsum("nl,nlc->nc", normal, frame)
