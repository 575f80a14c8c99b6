import numpy as np
import pytest
import torch

from i2pmae.errors import DataError
from i2pmae.geometry.clouds import normalized_clouds
from i2pmae.geometry.coordinates import to_unit_sphere

CLOUD = 5e6 + np.random.default_rng(0).random((100, 3))  # map coordinates: float32 has half meters


@pytest.mark.parametrize("kind", [np.asarray, torch.from_numpy, np.ndarray.tolist])
def test_points_that_are_not_finite_are_left_out(kind):
    gaps = CLOUD.copy()
    gaps[0, 1], gaps[[7, 50], 2] = np.nan, np.inf
    is_gap = np.isin(np.arange(100), [0, 7, 50])
    clouds, finite = normalized_clouds(kind(np.stack([CLOUD, gaps])), least=64)
    assert finite.tolist() == [[True] * 100, (~is_gap).tolist()]
    np.testing.assert_array_equal(clouds[0], to_unit_sphere(CLOUD).astype(np.float32))
    scaled = to_unit_sphere(CLOUD[~is_gap]).astype(np.float32)
    np.testing.assert_array_equal(clouds[1, ~is_gap], scaled)
    np.testing.assert_array_equal(clouds[1, is_gap], scaled[:3])


@pytest.mark.parametrize(
    ("points", "reason"),
    [
        (np.empty((0, 3)), "cloud 0: holds no points"),
        (np.full((2, 70, 3), np.nan), "cloud 0: none of its 70 points is finite"),
        ([CLOUD, np.where(np.arange(100)[:, None] < 63, CLOUD, np.nan)], "cloud 1: has 63 finite "),
        (np.ones((70, 3)), "cloud 0: all 70 points coincide"),
        (CLOUD[:, :2], r"cloud 0: holds an array of shape \(100, 2\)"),
        (
            CLOUD[0],
            r"the clouds are float64 of shape \(3,\); expected numbers of shape \(B, N, 3\)",
        ),
        ([CLOUD, CLOUD[:99]], "the clouds differ in their number of points"),
        (["a"], "the clouds are <U1 of shape"),
    ],
)
def test_clouds_that_cannot_be_used_are_one_line(points, reason):
    with pytest.raises(DataError, match=reason):
        normalized_clouds(points, least=64)
