import numpy as np
import pytest
from sklearn.model_selection import StratifiedKFold
from sklearn.svm import SVC

from i2pmae.errors import DataError
from i2pmae.evaluation import svm
from i2pmae.evaluation.svm import CANDIDATES, choose_c, linear_svm

ROW = np.array([[-2.0, 0], [-1, 0], [1, 0], [2, 0]], dtype=np.float32)


def test_worked_by_hand():
    # The widest margin between -1 and 1 is at 0; the last test shape lies on the wrong side.
    test = np.array([[-0.1, 5], [0.1, -5], [3, 0]], dtype=np.float32)
    result = linear_svm(ROW, np.array([0, 0, 1, 1]), test, np.array([0, 1, 0]), C=10)
    assert result.predictions.tolist() == [0, 1, 0 + 1]
    assert result.accuracy == pytest.approx(200 / 3)
    np.testing.assert_allclose(result.per_class, [50, 100])


def test_agrees_with_one_against_one_voting_of_two_class_machines():
    from sklearn.svm import SVC

    generator = np.random.default_rng(0)
    labels = np.arange(90) % 3
    x = (generator.normal(size=(3, 5))[labels] + generator.normal(size=(90, 5))).astype("f4")
    train, test = slice(0, 60), slice(60, 90)
    result = linear_svm(x[train], labels[train], x[test], labels[test], C=0.1)
    votes = np.zeros((30, 3))
    for pair in ([0, 1], [0, 2], [1, 2]):
        chosen = np.isin(labels[train], pair)
        machine = SVC(C=0.1, kernel="linear").fit(x[train][chosen], labels[train][chosen])
        votes[np.arange(30), machine.predict(x[test])] += 1
    clear = votes.max(axis=1) == 2
    assert clear.sum() > 20
    np.testing.assert_array_equal(result.predictions[clear], votes.argmax(axis=1)[clear])


def test_a_class_that_training_lacks_counts_as_mistake():
    result = linear_svm(ROW, np.array([0, 0, 1, 1]), ROW, np.array([0, 0, 1, 2]), C=1, n_classes=5)
    assert result.accuracy == 75
    np.testing.assert_allclose(result.per_class, [100, 100, 0, np.nan, np.nan])


@pytest.mark.parametrize(
    ("train_x", "train_y", "message"),
    [
        (ROW[:0], [], "no training shapes"),
        (ROW, [3, 3, 3, 3], "all 4 training shapes are of class 3"),
        (np.where(ROW == 2, np.nan, ROW), [0, 0, 1, 1], "1 of 4 training shapes are not finite"),
    ],
)
def test_unusable_features_are_one_line(train_x, train_y, message):
    with pytest.raises(DataError, match=message):
        linear_svm(train_x, np.array(train_y, dtype=int), ROW, np.array([0, 0, 1, 1]), C=1)


def test_other_numbers_of_features_and_labels_are_refused():
    with pytest.raises(ValueError, match="4 training features, 3 labels"):
        linear_svm(ROW, np.array([0, 0, 1]), ROW, np.array([0, 0, 1, 1]), C=1)


def test_regularization_is_chosen_for_features_that_lie_close_together():
    # Too strong a value sends all shapes to the larger class.
    labels = np.repeat([0, 1], [60, 12])
    features = labels[:, None] + 0.1 * np.random.default_rng(0).standard_normal((72, 3))
    assert choose_c(features, labels) < choose_c(0.1 * features, labels)


def slow_choice(features, labels, n_repeats):
    state, divisions = np.random.RandomState(0), []
    for _ in range(n_repeats):
        folds = StratifiedKFold(3, shuffle=True, random_state=state)
        divisions += folds.split(features, labels)
    reached = [
        [
            SVC(C=c, kernel="linear").fit(features[a], labels[a]).score(features[b], labels[b])
            for a, b in divisions
        ]
        for c in CANDIDATES
    ]
    return CANDIDATES[int(np.argmax(np.mean(reached, axis=1)))]


@pytest.mark.parametrize(("most", "n_repeats"), [(2000, 10), (300, 5), (119, 1)])
def test_few_shapes_are_divided_several_times(monkeypatch, most, n_repeats):
    """In some draws of features, the first division alone chooses otherwise."""
    monkeypatch.setattr(svm, "_MOST", most)
    labels, differ = np.repeat(np.arange(3), 20), 0
    for seed in range(12):
        noise = np.random.default_rng(seed).standard_normal((60, 6))
        features = 0.3 * (np.eye(6)[labels] + noise)
        expected = slow_choice(features, labels, n_repeats)
        assert choose_c(features, labels) == expected
        differ += expected != slow_choice(features, labels, 1)
    assert (differ > 0) == (n_repeats > 1)


@pytest.mark.parametrize("n_of_second", [0, 1, 2])
def test_lone_shapes_choose_no_regularization(n_of_second):
    labels = np.repeat([0, 1], [4, n_of_second])
    assert choose_c(np.eye(len(labels)), labels) is None


def test_regularization_of_many_shapes_is_chosen_on_some(monkeypatch):
    monkeypatch.setattr(svm, "_MOST", 40)
    generator = np.random.default_rng(0)
    labels = np.repeat(np.arange(2), 100)
    features = labels[:, None] + 0.1 * generator.standard_normal((200, 2))
    assert choose_c(features, labels) in CANDIDATES


@pytest.mark.parametrize("n_rare", [1, 2, 3, 5])
@pytest.mark.parametrize("n_shapes", [39, 41, 43, 400])
def test_rare_classes_neither_stop_nor_decide_the_choice(monkeypatch, n_rare, n_shapes):
    """Features whose two large classes want a weak regularization, and a third class."""
    monkeypatch.setattr(svm, "_MOST", 40)
    generator = np.random.default_rng(0)
    labels = np.repeat(np.arange(3), [n_shapes - n_shapes // 4, n_shapes // 4, n_rare])
    features = 0.05 * labels[:, None] + 0.001 * generator.standard_normal((len(labels), 2))
    assert choose_c(features, labels) > CANDIDATES[0]
