import numpy as np
import pytest
import torch

from i2pmae.geometry.projection import fit_pixels, render, view_axes
from i2pmae.pictures.depth import draw_depth_maps, upright


def test_depth_and_saliency_are_shown(tmp_path, pixels):
    depth = np.full((1, 2, 32, 32), 128, dtype=np.uint8)
    depth[0, 0, :16] = 255
    saliency = np.zeros((1, 2, 4, 4), dtype=np.float32)
    saliency[0, 1, 2:, 2:] = 1
    picture = pixels(draw_depth_maps(tmp_path / "a.png", depth, saliency, ["chair/train/1"]))
    columns = np.array_split(picture[60:-90, 70:], 4, axis=1)
    first, first_over, second, second_over = (column[:-10, 60:-60] for column in columns)
    assert first[5:50].mean() > 0.95  # the white half
    assert first[-50:].mean() == pytest.approx(128 / 255, abs=0.02)
    assert np.ptp(second, axis=2).max() < 0.01  # grey
    assert np.ptp(first_over, axis=2).max() < 0.02  # nothing salient: the depth map alone
    corner = second_over[-40:, -40:]
    assert corner.mean() < 0.4
    assert second_over[5:40, 5:40].mean() > 0.8


def test_float_and_uint8_depth_give_the_same_picture(tmp_path):
    codes = np.random.default_rng(0).integers(0, 256, (2, 1, 16, 16)).astype(np.uint8)
    saliency = np.random.default_rng(1).random((2, 1, 2, 2))
    first = draw_depth_maps(tmp_path / "a.png", codes, saliency, ["a", "b"])
    second = draw_depth_maps(tmp_path / "b.png", codes / 255, saliency, ["a", "b"])
    assert np.array_equal(first.read_bytes(), second.read_bytes())


def test_many_views_take_several_rows(tmp_path, pixels):
    depth = np.zeros((1, 5, 8, 8), dtype=np.uint8)
    depth[0, 4] = 255
    picture = pixels(draw_depth_maps(tmp_path / "a.png", depth, np.ones((1, 5, 2, 2)), ["a"]))
    one_row = pixels(
        draw_depth_maps(tmp_path / "b.png", depth[:, :3], np.ones((1, 3, 2, 2)), ["a"])
    )
    assert picture.shape[0] > one_row.shape[0] + 200
    assert picture.shape[1] == one_row.shape[1]
    last = picture[-300:-150]
    assert last[:, 600:700].mean() > 0.95  # the white fifth view
    assert last[:, -100:].mean() > 0.98  # no sixth


def test_even_saliency_is_nothing_special(tmp_path):
    depth = np.zeros((1, 1, 8, 8), dtype=np.float32)
    assert draw_depth_maps(tmp_path / "a.png", depth, np.ones((1, 1, 2, 2)), ["a"]).exists()


@pytest.mark.parametrize(("views", "n_names"), [(2, 1), (1, 2)])
def test_arrays_that_do_not_fit_are_refused(tmp_path, views, n_names):
    with pytest.raises(ValueError, match="names"):
        draw_depth_maps(
            tmp_path / "a.png", np.zeros((1, 1, 8, 8)), np.zeros((1, views, 2, 2)), ["a"] * n_names
        )
    assert not (tmp_path / "a.png").exists()


@pytest.mark.parametrize("up", ["y", "z"])
@pytest.mark.parametrize("n_views", [3, 6, 8])
def test_the_top_of_a_shape_is_at_the_top_of_its_pictures(n_views, up):
    """A cone's tip has fewer pixels than its foot, and nothing is mirrored."""
    generator = np.random.default_rng(0)
    height = generator.random(4000)
    angle = generator.random(4000) * 2 * np.pi
    across = [(1 - height) * np.cos(angle), (1 - height) * np.sin(angle)]
    place = "xyz".index(up)
    cloud = np.insert(np.stack(across), place, height, axis=0).T
    points, axes = torch.from_numpy(cloud).float()[None], view_axes(n_views)
    maps = render(points, fit_pixels(points, axes, 64), axes, 64, draw="nearest")[0].numpy()
    found = upright(maps[None], axes.numpy(), up)[0]
    for view, axis in enumerate(axes.numpy()):
        turns = [np.array_equal(found[view], np.rot90(maps[view], k)) for k in range(4)]
        assert any(turns)
        if abs(axis[:2, place]).max() > 0.9:  # from the side, upright but for such turns
            rows = (found[view] > 0).sum(axis=1)
            assert rows[:32].sum() < rows[32:].sum()
