from itertools import permutations

import numpy as np
import pytest

from i2pmae.evaluation import probes

LINE = np.array([[0.0, 0], [1, 0], [10, 0], [11, 0]])
TWO = np.array([0, 0, 1, 1])


def test_few_labels_find_the_nearest_class_mean():
    test = np.array([[2.0, 0], [9, 0], [9, 0]])
    found = probes.few_labels(LINE, TWO, test, np.array([0, 1, 0]), 1, draws=4)
    assert found.tolist() == [100, 100, 0]
    # 5.5 is nearer to 8 and to the mean of 0 and 8 than to 10, but not nearer to 0.
    train, labels = np.array([[0.0], [8], [10]]), np.array([0, 0, 1])
    share = probes.few_labels(train, labels, np.array([[5.5]]), np.array([0]), 1, draws=100)[0]
    assert 30 < share < 70
    more = probes.few_labels(train, labels, np.array([[5.5]]), np.array([0]), 5)
    assert more.tolist() == [100]  # all of a class that has fewer


def test_many_classes_of_one_label_are_nothing_to_warn_of():
    found = probes.few_labels(np.eye(30), np.arange(30), np.eye(30), np.arange(30), 1, draws=1)
    assert found.tolist() == [100] * 30


def test_nearest_neighbors_by_direction():
    angles = np.radians([0, 10, 20, 180, 190, 200])
    train = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    labels = np.array([0, 0, 0, 1, 1, 1])
    test = np.array([[1, 0.2], [-5, -1], [-5, -1]])
    found = probes.nearest_neighbors(train, labels, test, np.array([0, 1, 0]))
    assert found.tolist() == [100, 100, 0]
    few = probes.nearest_neighbors(train[1:5], labels[1:5], test, np.array([0, 1, 0]))
    assert few.tolist() == [100, 100, 0]  # of all, where there are fewer than five


def test_retrieval_by_hand(monkeypatch):
    monkeypatch.setattr(probes, "standardized", lambda features: [features])
    angles = np.radians([0, 1, 10, 11])
    features = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    found = probes.retrieval(features, np.array([0, 0, 0, 1]))
    # 0 -> 1, 10 | 11; 1 -> 0, 10 | 11; 10 -> | 11, then 1, 0; 11 is alone in its class.
    np.testing.assert_allclose(found["p_at_1"], [100, 100, 0, np.nan])
    np.testing.assert_allclose(found["p_at_5"], [200 / 3] * 3 + [np.nan])
    np.testing.assert_allclose(found["map"], [100, 100, 100 * (1 / 2 + 2 / 3) / 2, np.nan])
    monkeypatch.setattr(probes, "_AT_ONCE", 3)
    again = probes.retrieval(features, np.array([0, 0, 0, 1]))
    np.testing.assert_array_equal(again["map"], found["map"])


def test_retrieval_by_chance_is_the_mean_over_all_orders():
    labels = np.array([0, 0, 0, 1, 1])
    found = probes.retrieval_by_chance(labels)
    right = np.array([*permutations([1, 1, 0, 0])])  # for a query of class 0
    precision = np.cumsum(right, axis=1) / np.arange(1, 5)
    assert found["map"][0] == pytest.approx(100 * ((precision * right).sum(axis=1) / 2).mean())
    assert found["p_at_1"].tolist() == [50, 50, 50, 25, 25]
    assert np.isnan(probes.retrieval_by_chance(np.array([0, 0, 1]))["map"][2])
    assert probes.retrieval_by_chance(np.array([0, 0]))["map"].tolist() == [100, 100]


def test_identification_by_hand(monkeypatch):
    rng = np.random.default_rng(0)
    features = rng.normal(size=(6, 8))
    near = features + 0.01 * rng.normal(size=(6, 8))
    assert probes.identification(near, features).tolist() == [100] * 6
    swapped = near[[1, 0, 2, 3, 4, 5]]
    monkeypatch.setattr(probes, "_AT_ONCE", 4)
    assert probes.identification(swapped, features).tolist() == [0, 0, 100, 100, 100, 100]


def test_folds_share_out_every_class():
    labels = np.array([0] * 10 + [1] * 5 + [2] * 2)
    found = probes.folds(labels, 5)
    for label, counts in ((0, [2] * 5), (1, [1] * 5), (2, [0, 0, 0, 1, 1])):
        assert sorted(np.bincount(found[labels == label], minlength=5)) == counts
    assert not np.array_equal(found, probes.folds(labels, 5, seed=1))


@pytest.mark.parametrize("classes", [[0, 2], [0, 1, 3]])
def test_a_hidden_layer_probe_maps_features_as_they_are(classes):
    rng = np.random.default_rng(0)
    labels = np.repeat(classes, 40)
    features = rng.normal(labels[:, None] * [5.0, 0, 100], [1.0, 0.1, 30], (len(labels), 3))
    layers = probes.hidden_layer_probe(features, labels, 4, 16, None, seed=0)
    assert [part.shape for layer in layers for part in layer] == [(16, 3), (16,), (4, 16), (4,)]
    assert (logits(layers, features).argmax(axis=1) == labels).mean() > 0.97
    again = probes.hidden_layer_probe(features, labels, 4, 16, None, seed=0)
    assert np.array_equal(layers[1][0], again[1][0])


def test_a_wide_probe_is_the_mean_of_several():
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1, 3], 40)
    features = rng.normal(labels[:, None] * [1.0, 0], 1, (120, 2))
    wide = probes.hidden_layer_probe(features, labels, 4, 256, None, seed=0)
    assert [part.shape for layer in wide for part in layer] == [(256, 2), (256,), (4, 256), (4,)]
    (narrow, bias), (last, _) = probes.hidden_layer_probe(features, labels, 4, 64, None, seed=0)
    np.testing.assert_allclose(wide[0][0][:64], narrow)
    np.testing.assert_allclose(wide[0][1][:64], bias)
    np.testing.assert_allclose(4 * wide[1][0][:, :64], last)
    assert not np.allclose(wide[0][0][64:128], narrow)


def logits(layers, features):
    (first, first_bias), (last, last_bias) = layers
    return np.maximum(features @ first.T + first_bias, 0) @ last.T + last_bias


def test_a_hidden_layer_probe_counts_rare_classes_more_where_asked():
    features = np.concatenate([np.zeros((90, 1)), np.ones((10, 1))])
    features += np.random.default_rng(0).normal(size=(100, 1))
    labels = np.repeat([0, 1], [90, 10])
    shares = []
    for weights in (None, np.array([0.5, 5.0])):
        layers = probes.hidden_layer_probe(features, labels, 2, 8, weights, seed=0)
        shares.append((logits(layers, features).argmax(axis=1) == 1).mean())
    assert shares[0] < 0.15 < 0.25 < shares[1]
