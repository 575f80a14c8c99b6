import numpy as np
import pytest

from i2pmae.evaluation.comparison import CHANCE, PRETRAINED, UNTRAINED, measure_parts
from i2pmae.evaluation.part_probe import PointSamples, part_probe, parts_by_chance

RNG = np.random.default_rng(0)
CLASS_PARTS = ((0, 1), (2, 3, 4))
LABELS = np.repeat([0, 1], 6)
TRUTH = np.stack([RNG.choice(CLASS_PARTS[label], 40) for label in LABELS])
GOOD = np.eye(5)[TRUTH] + 0.05 * RNG.normal(size=(12, 40, 5))
NOISE = RNG.normal(size=(12, 40, 5))


def test_features_that_tell_parts_find_them():
    train, test = slice(0, 12, 2), slice(1, 12, 2)
    for features, low, high in ((GOOD, 99.9, 100), (NOISE, 0, 60)):
        found = part_probe(
            (features[train], TRUTH[train]),
            (features[test], TRUTH[test]),
            LABELS[test],
            CLASS_PARTS,
        )
        assert found.shape == (6,)
        assert low <= found.mean() <= high


def test_points_choose_among_the_parts_of_their_class():
    misleading = GOOD.copy()
    misleading[6:] = GOOD[:6]  # looks like parts that the second class has not
    found = part_probe((GOOD, TRUTH), (misleading[6:], TRUTH[6:]), LABELS[6:], CLASS_PARTS)
    assert found.mean() > 0  # some of its own parts are right by accident
    unseen = part_probe((GOOD[:6], TRUTH[:6]), (GOOD[6:], TRUTH[6:]), LABELS[6:], CLASS_PARTS)
    assert unseen.mean() < 10


def test_a_single_part_in_training_needs_no_probe():
    truth = np.zeros((3, 4), dtype=np.int64)
    found = part_probe((NOISE[:3, :4], truth), (NOISE[:3, :4], truth), truth[:, 0], ((0, 1),))
    assert found.tolist() == [100] * 3


def test_chance_is_the_most_frequent_part_of_the_class():
    train = np.array([[0, 0, 1], [3, 3, 2]])
    test = np.array([[0, 0, 0, 1], [2, 2, 2, 2]])
    found = parts_by_chance((train, np.array([0, 1])), (test, np.array([0, 1])), CLASS_PARTS)
    # Of the first shape 3 of 4 points, and nothing of its other part; of the second shape part 4,
    # which neither has.
    assert found == pytest.approx([100 * 0.75 / 2, 100 / 3])


def test_of_all_shapes_those_with_points_are_measured():
    points = PointSamples(
        np.arange(0, 24, 2),
        {PRETRAINED: GOOD, UNTRAINED: NOISE},
        dict.fromkeys((PRETRAINED, UNTRAINED), TRUTH),
        CLASS_PARTS,
    )
    labels = np.repeat(LABELS, 2)
    place = np.arange(24)
    place[2] = -1  # without a class
    fold = np.arange(24) // 2 % 3
    parts = [(np.flatnonzero(fold != k), np.flatnonzero(fold == k)) for k in range(3)]
    found = measure_parts(points, place, labels, parts)
    assert set(found) == {PRETRAINED, UNTRAINED, CHANCE}
    known = np.isfinite(found[PRETRAINED])
    assert np.flatnonzero(known).tolist() == [0, *range(4, 24, 2)]
    assert found[PRETRAINED][known].min() > 99
    assert found[CHANCE][known].mean() < 50
