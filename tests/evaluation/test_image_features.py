import numpy as np

from i2pmae.evaluation.image_features import mean_patches, pooled_image_features
from i2pmae.store import StoreReader, open_cache


def test_mean_patches_by_hand():
    features = np.zeros((1, 1, 2, 2, 2), np.int8)
    features[0, 0, 0, 1], features[0, 0, 1, 1] = (100, 0), (120, -4)
    means = mean_patches(features, np.array([[0.5, 2]], np.float32))
    np.testing.assert_array_equal(means, [[[55, -4]]])
    assert mean_patches(np.zeros((1, 1, 2, 2, 2), np.int8), None).tolist() == [[[0, 0]]]


def test_pooled_features_are_means_over_kept_patches_in_the_order_asked(store):
    found = pooled_image_features(StoreReader(store), np.array([3, 0, 5]), batch_size=2)
    stored = open_cache(store)["features"][0, 1].compute()
    stored = stored.reshape(-1, stored.shape[-1])
    expected = stored[stored.any(axis=1)].mean(axis=0)
    np.testing.assert_allclose(found[1, 1], expected, rtol=1e-4, atol=1e-5)
