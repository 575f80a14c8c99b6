import numpy as np
import pytest

from i2pmae.evaluation.whitening import Whitening, percentiles


@pytest.fixture
def vectors():
    """Features as encoders give them: one large common direction, axes of very different size."""
    rng = np.random.default_rng(0)
    return (50 + rng.standard_normal((400, 12)) * np.geomspace(10, 0.1, 12)).astype(np.float32)


def test_unrelated_shapes_have_a_cosine_around_zero(vectors):
    lengths = np.linalg.norm(vectors, axis=1)
    upper = np.triu_indices(400, 1)
    assert np.median((vectors @ vectors.T / np.outer(lengths, lengths))[upper]) > 0.9
    found = Whitening.of(vectors).apply(vectors)
    assert found.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    assert abs(np.median((found @ found.T)[upper])) < 0.1


def test_axes_are_divided_by_their_variance_plus_the_mean_variance(vectors):
    values = vectors.astype(np.float64)
    variances, axes = np.linalg.eigh(np.cov(values.T, bias=True))
    expected = (values - values.mean(axis=0)) @ axes / np.sqrt(variances + variances.mean())
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    found = Whitening.of(vectors).apply(vectors)
    np.testing.assert_allclose(found @ found.T, expected @ expected.T, atol=1e-4)


def test_few_shapes_have_as_many_axes_as_they_can_tell_apart(vectors):
    for n, n_axes in ((1, 1), (2, 1), (5, 4), (400, 12)):
        found = Whitening.of(vectors[:n])
        assert found.matrix.shape == (12, n_axes)
        assert np.isfinite(found.apply(vectors)).all()
    assert np.isfinite(Whitening.of(np.ones((3, 4), np.float32)).matrix).all()


def test_percentiles_are_among_all_pairs():
    angles = np.deg2rad([0, 10, 30, 90])
    directions = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    scores = np.cos(np.deg2rad([95, 25, 5]))
    np.testing.assert_allclose(percentiles(directions, scores), [0, 100 * 4 / 6, 100])
