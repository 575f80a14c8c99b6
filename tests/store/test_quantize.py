import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from i2pmae.config import StoreConfig
from i2pmae.store.quantize import RELATIVE_STEP, dequantize, encode, quantize, round_points

SMALL = st.floats(-8, 8, width=32)


def test_round_points_by_hand():
    points = np.float32([[[0.75, 0.25 + 2.0**-18, 2.0**-17 * 1.01]]])  # bounded by 1: step 2^-16
    expected = np.float32([[[0.75, 0.25, 2.0**-16]]])
    np.testing.assert_array_equal(round_points(points), expected)


def test_a_largest_coordinate_that_is_a_power_of_two_bounds_itself():
    points = np.float32([[[1.0, 2.0**-16, 0.0]]])
    np.testing.assert_array_equal(round_points(points), points)
    above = np.float32([[[1.0001, 2.0**-16, 0.0]]])  # bounded by 2: step 2^-15
    assert round_points(above)[0, 0, 1] in (0, 2.0**-15)


def test_every_shape_has_its_own_step():
    points = np.random.default_rng(0).standard_normal((2, 5, 3)).astype(np.float32)
    points[1] *= 1000
    np.testing.assert_array_equal(round_points(points)[:1], round_points(points[:1]))
    np.testing.assert_array_equal(round_points(points)[1:], round_points(points[1:]))


@given(hnp.arrays(np.float32, (2, 4, 3), elements=SMALL))
def test_rounding_is_close_and_final(points):
    rounded = round_points(points)
    bound = 2 * np.abs(points).max(axis=(1, 2), keepdims=True) * 2.0**-17
    assert (np.abs(rounded - points) <= bound).all()
    np.testing.assert_array_equal(round_points(rounded), rounded)


def test_a_shape_at_the_origin_stays_there():
    points = np.zeros((1, 4, 3), np.float32)
    np.testing.assert_array_equal(round_points(points), points)


def test_quantize_by_hand():
    features = np.zeros((1, 1, 1, 3, 2), np.float32)
    features[0, 0, 0, 0] = [3, 1]  # one patch is read: each channel's root mean square is itself
    codes, scale = quantize(features)
    np.testing.assert_allclose(scale, [[0.3, 0.1]], rtol=1e-6)
    np.testing.assert_array_equal(codes[0, 0, 0], [[10, 10], [0, 0], [0, 0]])


def test_the_setting_has_the_step_that_stores_do_not_record():
    assert StoreConfig().int8_step == RELATIVE_STEP


def test_patches_that_are_not_read_change_no_scale():
    rng = np.random.default_rng(0)
    features = rng.standard_normal((1, 1, 1, 6, 4)).astype(np.float32)
    features[:, :, :, 3:] = 0
    _, scale = quantize(features)
    np.testing.assert_array_equal(quantize(features[:, :, :, :3])[1], scale)


@given(hnp.arrays(np.float32, (2, 1, 2, 2, 3), elements=SMALL))
def test_values_come_back_within_half_a_scale(features):
    codes, scale = quantize(features)
    assert codes.min() >= -127
    assert (scale > 0).all()
    error = np.abs(dequantize(codes, scale) - features)
    assert (error <= scale[:, None, None, None] * 0.5001).all()


def test_an_outlier_fits():
    features = np.full((1, 1, 20, 20, 1), 0.001, np.float32)
    features[0, 0, 0, 0] = 1000
    codes, scale = quantize(features)
    assert codes[0, 0, 0, 0] == 127
    np.testing.assert_allclose(dequantize(codes, scale)[0, 0, 0, 0], 1000, rtol=1e-6)


@pytest.mark.parametrize("distribution", ["standard_normal", "standard_exponential", "random"])
def test_targets_keep_their_direction(distribution):
    rng = np.random.default_rng(0)
    features = getattr(rng, distribution)((2, 3, 8, 8, 64)).astype(np.float32)
    features *= rng.lognormal(0, 2, 64).astype(np.float32)  # a few channels dominate
    values = dequantize(*quantize(features))
    cosine = (values * features).sum(-1) / (
        np.linalg.norm(values, axis=-1) * np.linalg.norm(features, axis=-1)
    )
    assert cosine.mean() > 0.999


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_floats_are_stored_as_they_are(dtype):
    features = np.random.default_rng(0).standard_normal((1, 1, 2, 2, 3)).astype(np.float32)
    encoded = encode(features, dtype)
    assert list(encoded) == ["features"]
    np.testing.assert_array_equal(encoded["features"], features.astype(dtype))


def test_int8_comes_with_its_scale():
    features = np.ones((1, 1, 2, 2, 3), np.float32)
    encoded = encode(features, "int8")
    assert encoded["features"].dtype == np.int8
    np.testing.assert_allclose(encoded["feature_scale"], np.full((1, 3), 0.1), rtol=1e-6)
