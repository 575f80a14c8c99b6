import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from i2pmae.errors import DataError
from i2pmae.formats.polygons import triangulate

from ..measures import area

FILE = Path("a.obj")


def in_space(flat, seed=0):
    """A flat outline (n, 2), turned and moved."""
    turn = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))[0]
    return np.column_stack([flat, np.zeros(len(flat))]) @ turn + [5, -3, 2]


def shoelace(flat):
    x, y = np.asarray(flat, float).T
    return abs((x * np.roll(y, -1) - y * np.roll(x, -1)).sum()) / 2


def cut(flat, seed=0):
    vertices = in_space(np.asarray(flat, float), seed)
    triangles = triangulate(vertices, [np.arange(len(flat))[None]], FILE)
    assert triangles.shape == (len(flat) - 2, 3)
    return vertices[triangles]


OUTLINES = {
    "square": [(0, 0), (1, 0), (1, 1), (0, 1)],
    "arrow": [(0, 0), (2, 1), (0, 2), (1, 1)],
    "L": [(0, 0), (3, 0), (3, 1), (1, 1), (1, 3), (0, 3)],
    "U": [(0, 0), (3, 0), (3, 3), (2, 3), (2, 1), (1, 1), (1, 3), (0, 3)],
    "corners in a line": [(0, 0), (1, 0), (2, 0), (2, 2), (1, 1), (0, 2)],
    "ring with a cut": [
        (0, 0),
        (4, 0),
        (4, 4),
        (0, 4),
        (0, 0),
        (1, 1),
        (1, 3),
        (3, 3),
        (3, 1),
        (1, 1),
    ],
}


@pytest.mark.parametrize("name", OUTLINES)
def test_outlines_from_every_corner_and_both_ways(name):
    outline = OUTLINES[name]
    for first in range(len(outline)):
        for way in (1, -1):
            turned = (outline[first:] + outline[:first])[::way]
            assert area(cut(turned, first)) == pytest.approx(shoelace(outline))


@settings(max_examples=100)
@given(st.integers(4, 30), st.integers(0, 2**31))
def test_random_stars(n, seed):
    draw = np.random.default_rng(seed)
    angles = (np.arange(n) + draw.uniform(0.1, 0.9, n)) * 2 * np.pi / n
    flat = draw.uniform(0.05, 1, (n, 1)) * np.column_stack([np.cos(angles), np.sin(angles)])
    assert area(cut(flat, seed)) == pytest.approx(shoelace(flat), rel=1e-6)


def test_groups_of_several_sizes():
    flat = in_space(np.array(OUTLINES["L"], float))
    groups = [np.array([[0, 1], [1, 2]]), np.array([[0, 1, 2]]), np.array([[2, 3, 4, 5, 0, 1]] * 3)]
    assert triangulate(flat, groups, FILE).shape == (13, 3)
    assert triangulate(flat, [], FILE).shape == (0, 3)


@pytest.mark.parametrize("size", [1e-200, 1e-9, 1e9, 1e200])
def test_sizes(size):
    vertices = in_space(np.array(OUTLINES["U"], float)) * size
    triangles = triangulate(vertices, [np.arange(8)[None]], FILE)
    assert area(vertices[triangles] / size) == pytest.approx(7)


def test_corners_that_are_not_finite_are_left_to_others():
    vertices = in_space(np.array(OUTLINES["U"], float))
    vertices[3, 1] = np.nan
    assert triangulate(vertices, [np.arange(8)[None]], FILE).shape == (6, 3)


def test_corners_that_are_no_vertices():
    for corners in ([[0, 1, 3]], [[0, -1, 2]], np.array([[0, 1, 2**40]]), np.array([[2, 1, 0, 3]])):
        with pytest.raises(DataError, match=r"a.obj: a face names vertex .*; expected 0 to 2"):
            triangulate(np.eye(3), [np.array(corners)], FILE)


def comb(n):
    x = np.arange(n) / n
    return np.concatenate(
        [np.column_stack([x, np.where(np.arange(n) % 2, 1, 0.1)]), [[1, 0], [0, 0]]]
    )


def test_large_outlines_are_cut_in_seconds_or_refused():
    started = time.process_time()
    assert area(cut(comb(10_000))) == pytest.approx(shoelace(comb(10_000)))
    with pytest.raises(DataError, match="too large concave polygons, the last of 20002 corners"):
        cut(comb(20_000))
    some = in_space(np.array(OUTLINES["L"] * 20, float))
    with pytest.raises(DataError, match=r"too many .* of 120 corners"):
        triangulate(some, [np.tile(np.random.default_rng(0).permutation(120), (14_000, 1))], FILE)
    with pytest.raises(DataError, match="polygon of 1000001 corners"):
        triangulate(np.eye(3), [np.zeros((1, 1_000_001), np.int8)], FILE)
    assert time.process_time() - started < 10
