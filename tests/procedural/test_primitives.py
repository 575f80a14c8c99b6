import numpy as np
import pytest

from i2pmae.procedural.draw import Draw
from i2pmae.procedural.primitives import (
    KINDS,
    at,
    mirrored,
    placed,
    primitive,
    ring,
    rods,
    row,
    towards,
    turn_about,
)


@pytest.mark.parametrize("kind", KINDS)
def test_primitives_are_closed_and_fill_their_box(kind):
    for seed in range(60):
        draw = Draw(np.random.default_rng(seed))
        size = np.array([draw.scale(0.05, 1) for _ in range(3)])
        piece = primitive(draw, kind, size, axis=seed % 3)
        corners = []
        for solid, placements in piece:
            for turn, shift in zip(*placements, strict=True):
                corners.append(solid.triangles.reshape(-1, 3) @ turn.T + shift)
            normals = np.cross(*(solid.triangles[:, 1:] - solid.triangles[:, :1]).swapaxes(0, 1))
            np.testing.assert_allclose(normals.sum(axis=0), 0, atol=1e-9)
            volume = (solid.triangles.mean(axis=1) * normals).sum() / 6
            assert volume > 0  # normals point outward
        extents = np.ptp(np.concatenate(corners), axis=0)
        assert (extents < 1.35 * size + 0.1 * size.max()).all()
        assert extents.max() > 0.4 * size.max()


def test_copies_in_rows_rings_and_mirrors():
    np.testing.assert_allclose(row(1, 4, 3).shifts, [(0, -2, 0), (0, 0, 0), (0, 2, 0)])
    np.testing.assert_allclose(row(1, 4, 1).shifts, [(0, 0, 0)])
    around = placed(ring(2, 4), at((1, 0, 5)))
    np.testing.assert_allclose(
        around.shifts, [(1, 0, 5), (0, 1, 5), (-1, 0, 5), (0, -1, 5)], atol=1e-12
    )
    both = mirrored(at((1, 2, 3), turn_about(2, 0.3)), 0)
    np.testing.assert_allclose(both.shifts, [(1, 2, 3), (-1, 2, 3)])
    np.testing.assert_allclose(both.turns[1], np.diag([-1, 1, 1]) @ both.turns[0])
    assert len(mirrored(at((0, 2, 3)), 0).shifts) == 1  # on the mirror


def test_placed_copies_follow_their_outer_ones():
    turn = turn_about(1, 0.7)
    outer, inner = at((1, 0, 0), turn), at((0, 2, 5), turn_about(0, 0.2))
    both = placed(outer, inner)
    point = np.array([0.3, -0.2, 0.9])
    expected = turn @ (inner.turns[0] @ point + inner.shifts[0]) + outer.shifts[0]
    np.testing.assert_allclose(both.turns[0] @ point + both.shifts[0], expected)


@pytest.mark.parametrize("axis", range(3))
def test_solids_turn_towards_an_axis(axis):
    np.testing.assert_array_equal(towards(axis) @ (0, 0, 1), np.eye(3)[axis])
    assert np.linalg.det(towards(axis)) == pytest.approx(1)


def test_rods_reach_from_start_to_end():
    starts = np.array([(0, 0, 0), (1, 1, 1), (0, 0, 0)], float)
    ends = np.array([(3, 0, 0), (1, 4, 1), (1, 1, 1)], float)
    piece = rods(starts, ends, 0.1, is_round=False)
    assert sorted(len(placements.shifts) for _, placements in piece) == [1, 2]
    tips = []
    for solid, (turns, shifts) in piece:
        half = np.array([0, 0, solid.bounds[1, 2]])
        tips += [
            turn @ end + shift
            for turn, shift in zip(turns, shifts, strict=True)
            for end in (half, -half)
        ]
    expected = {tuple(tip) for tip in np.concatenate([starts, ends]).tolist()}
    assert {tuple(tip) for tip in (np.round(tips, 5) + 0.0).tolist()} == expected
