import numpy as np
import pytest

from i2pmae.procedural.surfaces import Solids

UP = (0, 1, 0)


def sampled(build, n=20_000):
    shape = Solids()
    build(shape)
    return shape.sample(n, np.random.default_rng(0))


def test_a_box_gets_points_in_proportion_to_its_sides():
    points, parts = sampled(lambda shape: shape.box(3, (1, 0, 0), (2, 1, 4)))
    assert set(parts) == {3}
    np.testing.assert_allclose(points.min(axis=0), [0, -0.5, -2], atol=1e-3)
    np.testing.assert_allclose(points.max(axis=0), [2, 0.5, 2], atol=1e-3)
    shares = [
        np.isclose(points[:, axis], side).mean()
        for axis, sides in enumerate([(0, 2), (-0.5, 0.5), (-2, 2)])
        for side in sides
    ]
    assert shares == pytest.approx(np.array([4, 4, 8, 8, 2, 2]) / 28, abs=0.01)


def test_a_sheared_slab():
    edges = [(1, 0, 0), (1, 1, 0), (0, 0, 1)]
    points, _ = sampled(lambda shape: shape.slab(0, (0, 0, 0), edges))
    local = points @ np.linalg.inv(np.array(edges, float))
    np.testing.assert_allclose(np.abs(local).max(axis=1), 0.5)
    ends = np.isclose(np.abs(local[:, 0]), 0.5).mean()
    assert ends == pytest.approx(np.sqrt(2) / (2 + np.sqrt(2)), abs=0.01)


def test_a_cylinder_has_side_and_ends():
    points, _ = sampled(lambda shape: shape.rod(0, (0, 0, 0), (0, 3, 0), 1))
    radius = np.hypot(points[:, 0], points[:, 2])
    side = np.isclose(radius, 1)
    assert side.mean() == pytest.approx(6 / 8, abs=0.01)
    assert np.isin(points[~side, 1].round(9), (0, 3)).all()
    assert (radius[~side] ** 2).mean() == pytest.approx(0.5, abs=0.02)
    assert points[side, 1].mean() == pytest.approx(1.5, abs=0.03)


def test_a_cone_is_denser_where_it_is_wider():
    points, _ = sampled(lambda shape: shape.turned(0, (0, 0, 0), UP, [(1, 0), (0, 2)]))
    radius = np.hypot(points[:, 0], points[:, 2])
    np.testing.assert_allclose(points[:, 1], 2 * (1 - radius), atol=1e-9)
    assert radius.mean() == pytest.approx(2 / 3, abs=0.01)


def test_axes_may_point_anywhere():
    start, end = np.array([1.0, 2, 3]), np.array([2.0, 0, 3.5])
    points, _ = sampled(lambda shape: shape.rod(0, start, end, 0.3, 0.1))
    axis = (end - start) / np.linalg.norm(end - start)
    height = (points - start) @ axis
    radius = np.linalg.norm(points - start - height[:, None] * axis, axis=1)
    length = np.linalg.norm(end - start)
    side = (height > 1e-9) & (height < length - 1e-9)
    np.testing.assert_allclose(radius[side], 0.3 - 0.2 * height[side] / length, atol=1e-9)


def test_a_bent_tube_is_even():
    plane = ((1, 0, 0), (0, 1, 0))
    points, _ = sampled(lambda shape: shape.tube(0, (0, 0, 0), plane, (2, 1), (0, np.pi)))
    reach = np.hypot(points[:, 0], points[:, 1])
    np.testing.assert_allclose(np.hypot(reach - 2, points[:, 2]), 1, atol=1e-9)
    assert points[:, 1].min() > -1e-9
    # Pappus: the centroid of the weighted circle lies at radius + tube^2 / (2 radius).
    assert reach.mean() == pytest.approx(2.25, abs=0.02)


def test_parts_share_points_by_area():
    def build(shape):
        shape.box(0, (0, 0, 0), (1, 1, 1))
        shape.box(1, (5, 0, 0), (2, 2, 2))

    _, parts = sampled(build)
    assert (parts == 1).mean() == pytest.approx(0.8, abs=0.01)


def test_hidden_surfaces_get_no_points():
    def build(shape):
        shape.box(0, (0, 0, 0), (2, 2, 2))
        shape.box(1, (0, 1.5, 0), (1, 1, 1))  # stands on it
        shape.box(2, (0, 0, 0), (1, 1, 1))  # within it
        shape.rod(3, (0, -1.5, 0), (0, 0.5, 0), 0.2)  # leads into it

    points, parts = sampled(build)
    assert 2 not in parts
    assert points[parts == 3, 1].max() < -0.99
    beneath = (np.abs(points[:, [0, 2]]) < 0.49).all(axis=1) & np.isclose(points[:, 1], 1)
    assert not beneath.any()
    disc = np.pi * 0.2**2
    areas = [24 - 1 - disc, 5, 0, 2 * np.pi * 0.2 * 0.5 + disc]
    shares = np.bincount(parts, minlength=4) / len(parts)
    assert shares == pytest.approx(np.array(areas) / sum(areas), abs=0.01)


def test_flush_surfaces_stay():
    def build(shape):
        shape.box(0, (0, 0, 0), (2, 1, 1))
        shape.box(1, (0.5, 0, 0), (2, 1, 1))

    points, _ = sampled(build)
    top = np.isclose(points[:, 1], 0.5)
    assert top.mean() > 0.2
    assert points[top, 0].min() < -0.99
    assert points[top, 0].max() > 1.49


def test_hollow_profiles_have_an_inner_side():
    cup = [(0, 0), (1, 0), (1, 2), (0.8, 2), (0.8, 0.2), (0, 0.2)]

    def build(shape):
        shape.turned(0, (0, 0, 0), UP, cup)
        shape.rod(1, (0, 0.5, 0), (0, 1, 0), 0.5)  # floats within the cavity
        shape.rod(2, (0.9, 0.5, 0), (0.9, 1, 0), 0.05)  # within the wall

    points, parts = sampled(build)
    assert set(parts) == {0, 1}
    radius = np.hypot(points[:, 0], points[:, 2])
    assert np.isclose(radius[parts == 0], 0.8).mean() > 0.2


def test_thin_skins_hide_nothing():
    def build(shape):
        shape.turned(0, (0, 0, 0), UP, [(1, 0), (1, 2)])
        shape.box(1, (0, 1, 0), (0.2, 0.2, 0.2))

    _, parts = sampled(build)
    assert (parts == 1).mean() == pytest.approx(0.24 / (4 * np.pi + 0.24), abs=0.005)


@pytest.mark.parametrize("n", [1, 2, 33])
def test_exactly_as_many_points_as_asked_for(n):
    points, parts = sampled(lambda shape: shape.box(0, (0, 0, 0), (1, 1, 1)), n)
    assert (points.shape, parts.shape) == ((n, 3), (n,))
