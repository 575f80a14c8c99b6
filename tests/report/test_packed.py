import base64
import io

import numpy as np
import pytest
from PIL import Image

from i2pmae.report.packed import (
    pack_colors,
    pack_directions,
    pack_kinds,
    pack_points,
    pack_scale,
    ramp,
    view_strip,
)


def unpacked(text, dtype):
    return np.frombuffer(base64.b64decode(text), dtype)


def test_points_come_back_centered_and_scaled():
    points = np.random.default_rng(0).normal(size=(50, 3)) * [1, 4, 1] + 7
    found = unpacked(pack_points(points), "<i2").reshape(-1, 3) / 32767
    low, high = points.min(axis=0), points.max(axis=0)
    expected = points - (low + high) / 2
    expected /= np.linalg.norm(expected, axis=1).max()
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_a_single_point_lies_in_the_middle():
    assert not unpacked(pack_points(np.ones((1, 3))), "<i2").any()


def test_values_run_from_0_to_255_between_the_ends_and_are_cut_beyond():
    found = unpacked(pack_scale(np.array([-1.0, 0, 1, 2, 9]), 0, 2), np.uint8)
    assert found.tolist() == [0, 0, 128, 255, 255]
    assert unpacked(pack_scale(np.ones(2), 1, 1), np.uint8).tolist() == [0, 0]


def test_directions_colors_and_categories():
    assert unpacked(pack_directions(np.array([[0, -1.0, 0.5]])), np.int8).tolist() == [0, -127, 64]
    assert unpacked(pack_colors(np.array([[0, 1.0, 2]])), np.uint8).tolist() == [0, 255, 255]
    assert unpacked(pack_kinds(np.array([True, False])), np.uint8).tolist() == [1, 0]


def test_a_ramp_has_256_colors():
    found = unpacked(ramp(lambda values: np.stack([values] * 4, axis=1)), np.uint8).reshape(-1, 3)
    assert found[:, 0].tolist() == list(range(256))


@pytest.mark.parametrize(("n_views", "n_shown"), [(3, 3), (9, 6)])
def test_views_lie_side_by_side_with_saliency_below(n_views, n_shown):
    depth = np.zeros((n_views, 32, 32), np.uint8)
    depth[1] = 255
    saliency = np.zeros((n_views, 4, 4))
    saliency[0] = 1

    def red(values):
        return np.stack([np.ones_like(values), 0 * values, 0 * values, values], axis=-1)

    url = view_strip(depth, saliency, red)
    picture = Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2])))
    assert picture.size == (n_shown * 96, 2 * 96)
    assert min(picture.getpixel((96 + 48, 48))) > 245  # white
    assert max(picture.getpixel((48, 48))) < 10  # black
    assert picture.getpixel((48, 96 + 48))[1] < 20  # red: all salient
    assert abs(picture.getpixel((200, 96 + 48))[1] - 184) < 8  # faint: 0.72 of white
