import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from i2pmae.errors import DataError
from i2pmae.evaluation.split import labeled_part, spread_evenly, validation_split


def test_every_class_gives_its_share():
    labels = np.repeat([0, 1, 2], [100, 50, 10])
    training, validation = validation_split(labels, 0.1, seed=0)
    assert np.bincount(labels[validation]).tolist() == [10, 5, 1]
    assert sorted([*training, *validation]) == list(range(160))


def test_the_seed_decides():
    labels = np.arange(100) % 4
    first, again, other = (validation_split(labels, 0.2, seed=s)[1] for s in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


@settings(max_examples=40)
@given(st.lists(st.integers(0, 4), min_size=12, max_size=60), st.floats(0.05, 0.4))
def test_the_parts_are_disjoint_complete_and_hold_every_class(labels, share):
    labels = np.array([*labels, 0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4, 9])
    training, validation = validation_split(labels, share, seed=3)
    assert sorted([*training, *validation]) == list(range(len(labels)))
    assert set(labels[training]) == set(labels)
    assert len(validation) >= round(share * len(labels))
    assert 9 not in labels[validation]  # its only shape is trained on


@pytest.mark.parametrize("share", [0.01, 0.1, 0.9])
def test_rare_classes_are_in_both_parts(share):
    labels = np.repeat([0, 1, 2], [1000, 2, 3])
    for seed in range(10):
        for part in validation_split(labels, share, seed):
            assert set(labels[part]) == {0, 1, 2}


def test_small_classes_give_one_shape_each():
    assert len(validation_split([0, 0, 1, 1, 2], 0.1, seed=0)[1]) == 2


@pytest.mark.parametrize("labels", [[0, 1, 2], []])
def test_single_shapes_cannot_be_divided(labels):
    with pytest.raises(DataError, match="cannot be divided"):
        validation_split(labels, 0.1, seed=0)


def test_too_large_a_share_is_one_line():
    with pytest.raises(DataError, match="validation part of 90%"):
        validation_split([0, 0, 0, 1, 1, 1], 0.9, seed=0)


@settings(max_examples=40)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=200), st.floats(0.01, 1))
def test_a_part_with_labels_holds_its_share_of_every_class(labels, share):
    labels = np.array(labels)
    kept = labeled_part(labels, share, seed=5)
    assert np.array_equal(kept, np.unique(kept))
    for name, count in zip(*np.unique(labels, return_counts=True), strict=True):
        assert (labels[kept] == name).sum() == max(1, round(share * count))


def test_more_labels_are_added_to_fewer():
    labels = np.arange(300) % 3
    small, large, other = (labeled_part(labels, *how) for how in ((0.1, 0), (0.5, 0), (0.1, 1)))
    assert set(small) < set(large)
    assert set(small) != set(other)


def test_shapes_are_spread_evenly_over_the_classes():
    labels = np.repeat([0, 1, 2], [100, 3, 50])
    chosen = spread_evenly(labels, 13, seed=0)
    assert np.bincount(labels[chosen]).tolist() == [5, 3, 5]
    assert len(set(chosen.tolist())) == 13
    assert sorted(labels[chosen]) == labels[chosen].tolist()
    assert len(spread_evenly(labels, 1000, seed=0)) == 153
