import numpy as np
import pytest

from i2pmae.errors import DataError
from i2pmae.evaluation.few_shot import sample_episodes

LABELS = np.random.default_rng(0).permutation(np.repeat(np.arange(6), [30, 30, 30, 30, 30, 5]))


def test_an_episode_has_distinct_shapes_of_its_classes():
    for episode in sample_episodes(LABELS, ways=3, shots=10, folds=5):
        assert len(set(episode.classes)) == 3
        assert 5 not in episode.classes  # too few shapes
        assert len({*episode.train, *episode.test}) == 3 * 10 + 3 * 20
        own = episode.classes
        np.testing.assert_array_equal(LABELS[episode.train], own[episode.train_labels])
        np.testing.assert_array_equal(LABELS[episode.test], own[episode.test_labels])
        assert np.bincount(episode.train_labels).tolist() == [10] * 3
        assert np.bincount(episode.test_labels).tolist() == [20] * 3


def test_folds_differ_and_depend_on_seed_and_number_alone():
    few = sample_episodes(LABELS, 3, 5, folds=2, seed=4)
    many = sample_episodes(LABELS, 3, 5, folds=6, seed=4)
    for first, second in zip(few, many, strict=False):
        assert np.array_equal(first.train, second.train)
        assert np.array_equal(first.test, second.test)
    assert len({episode.train.tobytes() for episode in many}) == 6
    other = sample_episodes(LABELS, 3, 5, folds=2, seed=5)
    assert not np.array_equal(few[0].train, other[0].train)


def test_unlabeled_shapes_are_never_drawn():
    labels = np.array([-1] * 50 + [0] * 3 + [1] * 3)
    (episode,) = sample_episodes(labels, 2, 1, folds=1, tests=2)
    assert min(*episode.train, *episode.test) >= 50


@pytest.mark.parametrize(("ways", "shots", "tests"), [(6, 10, 20), (2, 11, 20), (2, 10, 21)])
def test_too_few_shapes_are_one_line(ways, shots, tests):
    with pytest.raises(DataError, match=f"{ways}-way {shots}-shot .* of 6 classes have as many"):
        sample_episodes(LABELS, ways, shots, tests=tests)


def test_shapes_to_test_on_come_from_the_test_split_where_there_is_one():
    splits = np.where(np.arange(len(LABELS)) % 2, "test", "train")
    for episode in sample_episodes(LABELS, ways=3, shots=5, tests=7, folds=4, splits=splits):
        assert set(splits[episode.train]) == {"train"}
        assert set(splits[episode.test]) == {"test"}
        np.testing.assert_array_equal(LABELS[episode.test], episode.classes[episode.test_labels])
    with pytest.raises(DataError, match="of 6 classes have as many"):
        sample_episodes(LABELS, ways=3, shots=2, tests=25, splits=splits)


def test_sources_without_a_test_split_give_the_same_episodes_as_without_splits():
    plain = sample_episodes(LABELS, 3, 5, folds=2)
    unsplit = sample_episodes(LABELS, 3, 5, folds=2, splits=[""] * len(LABELS))
    for first, second in zip(plain, unsplit, strict=True):
        assert np.array_equal(first.train, second.train)
        assert np.array_equal(first.test, second.test)
