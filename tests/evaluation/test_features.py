import numpy as np
import pytest
import torch

from i2pmae.errors import DataError
from i2pmae.evaluation.features import extract_features, parts_of_points


def clouds(n, n_points=6):
    return np.random.default_rng(0).random((n, n_points, 3), dtype=np.float32)


def test_features_come_in_order_whatever_the_batch_size():
    points = clouds(7)
    for batch_size in (1, 3, 7, 50):
        features = extract_features(lambda x: x.amax(dim=1), iter(points), batch_size=batch_size)
        np.testing.assert_array_equal(features, points.max(axis=1))
        assert features.dtype == np.float32


def test_batches_have_the_asked_size_and_no_gradients():
    sizes = []
    layer = torch.nn.Linear(3, 2)

    def encode(points):
        sizes.append(len(points))
        return layer(points).amax(dim=1)

    extract_features(encode, clouds(5), batch_size=2)
    assert sizes == [2, 2, 1]


def test_bfloat16_is_close_and_comes_back_as_float32():
    layer = torch.nn.Linear(3, 4)
    seen = []

    def encode(points):
        output = layer(points)
        seen.append(output.dtype)
        return output.amax(dim=1)

    exact = extract_features(encode, clouds(4))
    rounded = extract_features(encode, clouds(4), dtype=torch.bfloat16)
    assert seen == [torch.float32, torch.bfloat16]
    assert rounded.dtype == np.float32
    np.testing.assert_allclose(rounded, exact, atol=0.02)


def test_a_bar_is_shown_on_request(capsys):
    extract_features(lambda x: x.amax(dim=1), clouds(3), description="features", total=3)
    assert capsys.readouterr().err.startswith("features 3/3")


def test_another_number_of_points_is_named_even_in_a_later_batch():
    mixed = [*clouds(4), *clouds(1, n_points=5)]
    with pytest.raises(DataError, match="shape 4 has 5 points, those before it have 6"):
        extract_features(lambda x: x.amax(dim=1), mixed, batch_size=2)


def test_features_that_are_not_finite_are_counted():
    clouds = np.ones((5, 8, 3), dtype=np.float32)
    clouds[3, 0, 0] = np.nan
    with pytest.raises(DataError, match="features of 1 of 5 shapes are not finite"):
        extract_features(lambda points: points.sum(dim=1), clouds)


def test_no_shapes_is_an_error():
    with pytest.raises(DataError, match="no shapes"):
        extract_features(lambda x: x.amax(dim=1), [])


def test_parts_of_points_begin_with_the_first_and_use_all_before_any_twice():
    parts = list(parts_of_points(10, 4, 5))
    np.testing.assert_array_equal(parts[0], np.arange(4))
    np.testing.assert_array_equal(parts[1], np.arange(4, 8))
    assert all(len(set(part)) == 4 for part in parts)
    assert not set(parts[2]) & set(parts[3])  # of one random order
    assert list(parts[2]) != sorted(parts[2])
    np.testing.assert_array_equal(parts[4], list(parts_of_points(10, 4, 5))[4])
