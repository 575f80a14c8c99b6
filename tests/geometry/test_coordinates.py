import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from i2pmae.errors import DataError
from i2pmae.geometry.coordinates import to_unit_sphere, unit_sphere_of, usable


def test_unit_sphere_by_hand():
    points = to_unit_sphere(np.array([[1.0, 0, 0], [3, 0, 0], [2, 2, 0], [2, -2, 0]]))
    np.testing.assert_allclose(points, [[-0.5, 0, 0], [0.5, 0, 0], [0, 1, 0], [0, -1, 0]])


@settings(max_examples=40)
@given(st.integers(2, 40), st.floats(-1e3, 1e3), st.floats(1e-6, 1e6), st.integers(0, 2**31))
def test_unit_sphere_undoes_shift_and_scale(n, shift, scale, seed):
    cloud = np.random.default_rng(seed).standard_normal((n, 3))
    points = to_unit_sphere(cloud)
    assert np.sqrt((points**2).sum(axis=1)).max() == pytest.approx(1)
    np.testing.assert_allclose(points.mean(axis=0), 0, atol=1e-12)
    moved = to_unit_sphere((cloud + shift) * scale)
    np.testing.assert_allclose(moved, points, atol=1e-11 / np.ptp(cloud, axis=0).max())


@pytest.mark.parametrize("size", [1e-300, 1e-20, 1e300])
def test_unit_sphere_of_extreme_sizes(size):
    cloud = np.random.default_rng(0).standard_normal((9, 3))
    np.testing.assert_allclose(to_unit_sphere(cloud * size), to_unit_sphere(cloud), atol=1e-9)


def test_unit_sphere_refuses_what_rounding_has_merged():
    with pytest.raises(DataError, match="too close together"):
        to_unit_sphere(np.array([[1e9, 0, 0], [np.nextafter(1e9, 2e9), 0, 0]]))


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (np.zeros((0, 3)), "holds no points"),
        (np.zeros((4, 2)), r"shape \(4, 2\)"),
        (np.zeros((2, 4, 3)), "holds 2 clouds of 4 points; expected one"),
        (np.zeros((3, 2048)), r"expected one point a row.*Transpose it"),
        (np.zeros((6, 100)), "Transpose it"),
        (np.zeros((12, 200)), "Transpose it"),
        (np.zeros((100, 700)), "Transpose it"),
        (np.zeros((4, 3), complex), "holds complex128"),
        (np.zeros((4, 3), object), "holds object"),
        (np.array([[0, 0, 0], [1, np.nan, 0], [np.inf, 0, 0]]), "2 of 3 .* first in row 1"),
        (np.ones((4, 3)), "all 4 points coincide"),
    ],
)
def test_clouds_that_cannot_be_used(values, reason):
    with pytest.raises(DataError, match=reason):
        usable(values)


@pytest.mark.parametrize("shape", [(2, 100), (9, 18), (12, 100), (20, 256)])
def test_few_points_may_have_many_columns(shape):
    assert len(usable(np.random.default_rng(0).random(shape))) == shape[0]


@pytest.mark.parametrize("dtype", ["float16", "int32", "uint8", ">f4", ">f8"])
def test_numbers_of_any_kind_can_be_used(dtype):
    values = np.arange(12, dtype=dtype).reshape(3, 4)
    found = usable(values)
    assert found.dtype in (np.float32, np.float64)
    np.testing.assert_array_equal(found, values[:, :3].astype(float))


def test_other_points_move_with_a_cloud():
    rng = np.random.default_rng(0)
    points = rng.random((50, 3)) * 9 + 100
    around = unit_sphere_of(points[:20])
    np.testing.assert_array_equal(around(points[:20]), to_unit_sphere(points[:20]))
    together = around(points)
    np.testing.assert_allclose(together[:20], to_unit_sphere(points[:20]))
    one, other = (np.linalg.norm(p[30] - p[40]) for p in (points, together))
    assert other / one == pytest.approx(
        np.linalg.norm(together[0] - together[1]) / np.linalg.norm(points[0] - points[1])
    )
