import numpy as np
import pytest

from i2pmae.pictures import points as module
from i2pmae.pictures.points import draw_points, shape_rows
from i2pmae.pictures.style import panels, save


def drawn(cloud, colors="#0072B2", **options):
    """Positions and colors of the discs in the order they are drawn."""
    _, axes = panels(1, 1)
    draw_points(axes[0, 0], cloud, colors, **options)
    (discs,) = axes[0, 0].collections
    return np.asarray(discs.get_offsets()), discs.get_facecolors(), axes[0, 0]


def test_up_is_up_and_right_is_right():
    corners = np.array([[0.0, 0, 0], [0, 1, 0], [1, 0, 0]])
    origin, top, right = module._look_at(corners, "y")
    assert top[1] > origin[1]
    assert top[0] == origin[0]
    assert right[0] > origin[0]


def test_z_up_is_the_same_cloud_turned(cloud):
    lying = cloud[:, [2, 0, 1]]  # y, which was up, becomes z
    np.testing.assert_allclose(module._look_at(lying, "z"), module._look_at(cloud, "y"))


def test_looking_keeps_distances(cloud):
    seen = module._look_at(cloud, "y")
    expected = np.linalg.norm(cloud[:50, None] - cloud[None, :50], axis=2)
    np.testing.assert_allclose(np.linalg.norm(seen[:50, None] - seen[None, :50], axis=2), expected)


def test_near_points_are_drawn_last_and_far_ones_fade():
    seen_direction = np.linalg.pinv(module._look_at(np.eye(3), "y").T)[:, 2]
    line = np.array([[0.5], [-0.5], [0.0]]) * seen_direction  # near, far, between
    _, colors, _ = drawn(line, "black")
    darkness = 1 - colors[:, :3].mean(axis=1)
    assert darkness[0] < darkness[1] < darkness[2] == 1


def test_every_point_lies_in_the_panel_whatever_its_shape(cloud):
    for stretch in ([1, 1, 1], [5, 1, 1], [1, 9, 1]):
        offsets, _, axes = drawn(cloud * stretch)
        for axis, limits in enumerate((axes.get_xlim(), axes.get_ylim())):
            assert limits[0] < offsets[:, axis].min()
            assert offsets[:, axis].max() < limits[1]
        width, height = np.ptp(axes.get_xlim()), np.ptp(axes.get_ylim())
        assert width == pytest.approx(height)  # a unit is as long across as upward


def test_a_frame_gives_two_panels_the_same_scale(cloud):
    _, _, whole = drawn(cloud)
    _, _, part = drawn(cloud[:20], frame=cloud)
    assert whole.get_xlim() == part.get_xlim()
    assert whole.get_ylim() == part.get_ylim()


def test_light_depends_on_the_surface_not_on_the_order_of_points(cloud):
    light = module._light(cloud, "y")
    assert light.min() >= 0
    assert light.max() <= 1
    assert np.ptp(light) > 0.3
    order = np.random.default_rng(1).permutation(len(cloud))
    np.testing.assert_allclose(module._light(cloud[order], "y"), light[order], atol=1e-6)


def test_a_plane_is_lit_evenly():
    plane = np.random.default_rng(0).random((200, 3)) * [1, 0, 1]
    light = module._light(plane, "y")
    np.testing.assert_allclose(light, light[0], atol=1e-5)
    assert light[0] > 0.8  # light comes from above


def test_without_relief_colors_are_as_given(cloud):
    colors = np.random.default_rng(0).random((len(cloud), 3))
    _, shown, _ = drawn(cloud, colors, relief=0)
    assert {tuple(c) for c in np.round(shown[:, :3], 6)} == {tuple(c) for c in np.round(colors, 6)}


@pytest.mark.parametrize("n_points", [0, 1, 5])
def test_few_points_can_be_drawn(tmp_path, cloud, n_points):
    figure, axes = panels(1, 1)
    draw_points(axes[0, 0], cloud[:n_points], "black", frame=cloud)
    assert save(figure, tmp_path / "a.png").exists()


def test_a_single_point_is_its_own_frame():
    offsets, _, axes = drawn(np.ones((1, 3)))
    assert axes.get_xlim()[0] < offsets[0, 0] < axes.get_xlim()[1]


def test_rows_are_as_high_as_their_shapes_and_named(cloud):
    clouds = [cloud, cloud * [1, 0.1, 1], cloud * [1, 0, 0.1]]
    figure, axes = shape_rows(clouds, ["ball", "disc", "rod"], ["seen", "hidden"], width=2.0)
    ball, disc, rod = (panel.get_position().height * figure.get_figheight() for panel in axes[:, 1])
    assert ball == pytest.approx(2)
    assert disc < 2
    assert rod == pytest.approx(0.8)
    assert [panel.get_ylabel() for panel in axes[:, 0]] == ["ball", "disc", "rod"]
    assert [panel.get_title() for panel in axes[0]] == ["seen", "hidden"]
    with pytest.raises(ValueError, match="shorter"):
        shape_rows(clouds, ["ball"], ["seen"], width=2.0)
