import numpy as np
import pytest

from i2pmae.datasets import open_source
from i2pmae.datasets.upright import guess_up, mirror_likeness
from i2pmae.geometry.coordinates import turned


def chair(rng):
    """A seat, a back and legs of random sizes, y up."""
    width, depth, height, back = rng.uniform(0.4, 0.6, 4)
    parts = [
        ([0, height, 0], [width, 0.05, depth]),
        ([0, height, 0], [width, back, 0.05]),
        *[([x, 0, z], [0.05, height, 0.05]) for x in (0, width) for z in (0, depth)],
    ]
    return np.concatenate([np.array(at) + rng.random((300, 3)) * size for at, size in parts])


def test_likeness_of_a_shape_that_is_its_own_mirror_image():
    rng = np.random.default_rng(0)
    points = rng.random((4000, 3)) * (1, 2, 3)
    points = np.concatenate([points, points * (-1, 1, 1)])
    found = mirror_likeness(points)
    assert found[0] == pytest.approx(1)
    points[points[:, 2] > 1, 0] *= 0.1
    assert mirror_likeness(points)[2] < 0.7


@pytest.mark.parametrize("up", ["x", "y", "z"])
def test_the_axis_is_told(up):
    rng = np.random.default_rng(0)
    likenesses = []
    for _ in range(12):
        points = chair(rng)
        if up != "y":  # the inverse of turning
            back = turned(turned(turned(points, up), up), up)
            np.testing.assert_allclose(turned(back, up), points)
            points = back
        likenesses.append(mirror_likeness(points))
    guess = guess_up(likenesses)
    assert guess.axis == up
    assert f"along {up}" in guess.reason
    assert guess_up(likenesses[:5]) is None


def test_balls_have_no_upper_side():
    rng = np.random.default_rng(0)
    assert guess_up([mirror_likeness(rng.standard_normal((500, 3))) for _ in range(20)]) is None


@pytest.mark.parametrize("set_", ["shapes_hdf5", "furniture"])
def test_real_shapes(request, set_):
    source = open_source(request.getfixturevalue(set_), split="test", limit=60, points=1024)
    likenesses = [mirror_likeness(source.load(index).points) for index in range(len(source))]
    guess = guess_up(likenesses)
    assert guess is None or guess.axis == {"shapes_hdf5": "z", "furniture": "y"}[set_]


def test_turning_never_mirrors():
    points = np.eye(3)
    for up, axis in {"x": 0, "y": 1, "z": 2}.items():
        np.testing.assert_array_equal(turned(points, up)[axis], [0, 1, 0])
        assert np.linalg.det(turned(points, up)) == pytest.approx(1)


def test_shapes_are_turned_when_they_are_read(tmp_path):
    points = np.random.default_rng(0).random((50, 3)) * (1, 2, 3)
    np.save(tmp_path / "a.npy", points)
    stands = open_source(tmp_path).load(0).points
    found = open_source(tmp_path, up="z").load_with_original(0)
    np.testing.assert_allclose(found[0].points, turned(stands, "z"), atol=1e-6)
    np.testing.assert_array_equal(found[1], points)
