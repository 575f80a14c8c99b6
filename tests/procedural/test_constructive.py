import numpy as np
import pytest

from i2pmae.procedural.constructive import (
    Assembly,
    Placements,
    box,
    extruded,
    half_space,
    swept,
    turned,
)

HERE = Placements(np.eye(3)[None], np.zeros((1, 3)))
SQUARE = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)], float)
RECTANGLE = np.array([(0, -1), (1, -1), (1, 1), (0, 1)], float)


def at(*center):
    return Placements(np.eye(3)[None], np.array([center], float))


def sampled(*steps, n=20_000):
    """Points and parts of solids that are added, or cut where the part is negative."""
    shape = Assembly()
    for part, solid, where in steps:
        if part < 0:
            shape.cut(solid, where)
        else:
            shape.add(part, solid, where)
    return shape.sample(n, np.random.default_rng(0))


def section(radius, center, n=16):
    angles = 2 * np.pi * np.arange(n) / n
    return radius * np.stack([np.cos(angles), np.sin(angles)], axis=1) + (center, 0)


SOLIDS = {
    "box": box((1, 2, 0.5)),
    "tapered": extruded(SQUARE, 1.5, taper=0.4),
    "hole": extruded(SQUARE, 1.5, taper=0.8, hole=0.6),
    "angle iron": extruded(
        np.array([(0, 0), (2, 0), (2, 0.5), (0.5, 0.5), (0.5, 2), (0, 2)]), 1, kernel=(0.2, 0.2)
    ),
    "cylinder": turned(RECTANGLE),
    "pie": turned(RECTANGLE, angle=2, stretch=(1, 2)),
    "ring": turned(section(0.3, 1)),
    "arc": turned(section(0.3, 1), angle=4),
    "tube": swept(np.array([(0, 0, k / 10) for k in range(20)], float), 0.3),
    "closed tube": swept(
        np.array([(np.cos(a), np.sin(a), 0) for a in np.linspace(0, 2 * np.pi, 41)]), 0.2
    ),
}


@pytest.mark.parametrize("name", SOLIDS)
def test_triangles_lie_between_inside_and_outside_and_face_outward(name):
    solid = SOLIDS[name]
    corners = solid.triangles
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    areas = np.linalg.norm(normals, axis=1)
    normals = (normals / np.maximum(areas, 1e-12)[:, None])[areas > 1e-9]
    middles = corners.mean(axis=1)[areas > 1e-9]
    assert solid.inside(*(middles - 0.04 * normals).T).all()
    assert not solid.inside(*(middles + 0.04 * normals).T).any()
    np.testing.assert_allclose(np.einsum("f,fc->c", areas[areas > 1e-9], normals), 0, atol=1e-9)


def test_a_box_gets_points_in_proportion_to_its_sides():
    points, parts = sampled((3, box((2, 1, 4)), at(1, 0, 0)))
    assert set(parts) == {3}
    shares = [
        np.isclose(points[:, axis], side).mean()
        for axis, sides in enumerate([(0, 2), (-0.5, 0.5), (-2, 2)])
        for side in sides
    ]
    assert shares == pytest.approx(np.array([4, 4, 8, 8, 2, 2]) / 28, abs=0.01)


def test_round_solids_are_sampled_evenly():
    points, _ = sampled((0, turned(RECTANGLE), HERE))
    radius = np.hypot(points[:, 0], points[:, 1])
    side = np.abs(points[:, 2]) < 0.999
    assert side.mean() == pytest.approx(2 / 3, abs=0.01)
    assert (radius[~side] ** 2).mean() == pytest.approx(0.5, abs=0.01)
    points, _ = sampled((0, turned(section(0.3, 1)), HERE))
    outer = np.hypot(points[:, 0], points[:, 1]) > 1
    assert outer.mean() == pytest.approx(0.5 + 0.3 / np.pi, abs=0.01)


def test_copies_share_the_points_by_area():
    both = Placements(np.stack([np.eye(3), np.diag([-1, 1, 1])]), np.array([(0, 0, 0), (3, 0, 0)]))
    points, parts = sampled((0, box((1, 1, 1)), both), (1, box((2, 2, 2)), at(9, 0, 0)))
    assert (parts == 1).mean() == pytest.approx(24 / 36, abs=0.01)
    assert (points[:, 0] < 1).mean() == pytest.approx(6 / 36, abs=0.01)


def test_what_lies_within_another_solid_is_hidden():
    points, parts = sampled((0, box((2, 2, 2)), HERE), (1, box((1, 1, 2)), at(0, 0, 1)))
    assert np.isclose(points[parts == 0, 2], 1).sum() < (parts == 0).mean() * 20_000 * 4 / 20
    assert (np.abs(points[parts == 0]).max(axis=1) > 0.999).all()
    assert points[parts == 1, 2].min() > 1
    outer = 24 - 1 + 4  # the big one's sides without the foot of the small one, and its own sides
    assert (parts == 1).mean() == pytest.approx((4 + 1) / (outer + 1), abs=0.01)


def test_faces_in_contact_are_hidden():
    points, _ = sampled((0, box((1, 1, 1)), HERE), (1, box((1, 1, 1)), at(0, 0, 1)))
    assert not np.isclose(points[:, 2], 0.5, atol=1e-6).any()


def test_a_cut_lays_bare_walls_of_the_part_that_was_cut():
    steps = [(2, box((2, 2, 2)), HERE), (-1, box((1, 1, 3)), HERE)]
    points, parts = sampled(*steps)
    assert set(parts) == {2}
    within = np.abs(points[:, :2]).max(axis=1)
    assert within.min() == pytest.approx(0.5)
    assert (within < 0.51).mean() == pytest.approx(8 / (16 + 6 + 8), abs=0.015)
    points, parts = sampled(*steps, (1, box((0.2, 0.2, 0.2)), HERE))  # added after the cut: whole
    assert (parts == 1).mean() == pytest.approx(0.24 / 30.24, abs=0.003)


def test_a_half_space_cuts_everything_above():
    points, _ = sampled((0, box((2, 2, 2)), HERE), (-1, half_space(3), at(0, 0, 0.5)))
    assert points[:, 2].max() == pytest.approx(0.5)
    assert np.isclose(points[:, 2], 0.5).mean() == pytest.approx(4 / 20, abs=0.01)


def test_nothing_left_is_said():
    assert sampled((0, box((1, 1, 1)), HERE), (-1, box((2, 2, 2)), HERE)) is None


def test_deformed_surfaces_stay_evenly_sampled():
    """Stretched, the sides of a box have other shares; bent to a half ring, so have the halves."""
    shape = Assembly()
    shape.add(0, box((1, 1, 1)), HERE)
    shape.deform(lambda points: points * (4, 1, 2))
    points, _ = shape.sample(20_000, np.random.default_rng(0))
    assert np.isclose(np.abs(points[:, 0]), 2).mean() == pytest.approx(4 / 28, abs=0.01)
    shape = Assembly()
    shape.add(0, box((np.pi, 1, 1)), HERE)

    def bend(points):
        x, y, z = points.T
        return np.stack([(1 - y) * np.sin(x), 1 - (1 - y) * np.cos(x), z], axis=1)

    shape.deform(bend)
    points, _ = shape.sample(20_000, np.random.default_rng(0))
    radius = np.hypot(points[:, 0], points[:, 1] - 1)
    area = np.pi * (1.5 + 0.5) + 2 * np.pi / 2 * (1.5**2 - 0.5**2) + 2
    assert np.isclose(radius, 1.5).mean() == pytest.approx(1.5 * np.pi / area, abs=0.01)
    assert np.isclose(radius, 0.5).mean() == pytest.approx(0.5 * np.pi / area, abs=0.01)


def test_points_are_in_random_order():
    points, parts = sampled((0, box((1, 1, 1)), HERE), (1, box((1, 1, 1)), at(5, 0, 0)), n=4000)
    assert parts[:1000].mean() == pytest.approx(0.5, abs=0.06)
    assert abs(np.corrcoef(points[:-1, 0], points[1:, 0])[0, 1]) < 0.06


def test_bounds_are_those_of_what_was_added():
    shape = Assembly()
    shape.add(0, box((1, 2, 3)), at(1, 0, 0))
    shape.cut(box((9, 9, 9)), at(9, 0, 0))
    np.testing.assert_allclose(shape.bounds, [(0.5, -1, -1.5), (1.5, 1, 1.5)])
