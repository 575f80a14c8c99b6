import numpy as np
import pytest

from i2pmae.evaluation.flat_map import flat_map


def test_groups_stay_together():
    generator = np.random.default_rng(0)
    kinds = np.repeat([0, 1], 15)
    vectors = generator.normal(size=(2, 20))[kinds] * 5 + generator.normal(size=(30, 20))
    places = flat_map(vectors)
    assert places.shape == (30, 2)
    assert places.min() == 0
    assert places.max() == 1
    middle = [places[kinds == kind].mean(axis=0) for kind in (0, 1)]
    spread = max(np.linalg.norm(places[kinds == k] - middle[k], axis=1).mean() for k in (0, 1))
    assert np.linalg.norm(middle[0] - middle[1]) > 2 * spread


def test_the_same_vectors_give_the_same_map():
    vectors = np.random.default_rng(0).normal(size=(20, 5))
    np.testing.assert_array_equal(flat_map(vectors), flat_map(vectors))


@pytest.mark.parametrize("n_vectors", [1, 2, 3, 6, 7])
def test_few_vectors_have_a_place(n_vectors):
    places = flat_map(np.random.default_rng(0).normal(size=(n_vectors, 4)).astype(np.float32))
    assert places.shape == (n_vectors, 2)
    assert np.isfinite(places).all()


@pytest.mark.parametrize("value", [0.0, 0.1, 1e30])
@pytest.mark.parametrize("noise", [0.0, 1e-8])
def test_equal_vectors_share_a_place(value, noise):
    vectors = value * (1 + noise * np.random.default_rng(0).normal(size=(40, 100)))
    assert not flat_map(vectors.astype(np.float32)).any()
