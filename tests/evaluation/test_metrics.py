import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from i2pmae.evaluation.metrics import (
    accuracy,
    confusion,
    mean_class_accuracy,
    mean_std,
    part_iou,
    per_class_accuracy,
    restrict_to_category,
)

LABELS = np.array([0, 0, 0, 1, 3])
PREDICTIONS = np.array([0, 0, 1, 1, 0])


def test_accuracies_worked_by_hand():
    assert accuracy(PREDICTIONS, LABELS) == pytest.approx(60)
    per_class = per_class_accuracy(PREDICTIONS, LABELS, 4)
    np.testing.assert_allclose(per_class, [200 / 3, 100, np.nan, 0])


def test_confusion_has_true_classes_as_rows():
    expected = [[2, 1, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0], [1, 0, 0, 0]]
    assert confusion(PREDICTIONS, LABELS, 4).tolist() == expected


@pytest.mark.parametrize("predictions", [np.array([], dtype=int), np.array([1])])
def test_accuracy_of_nothing_or_of_another_number_is_refused(predictions):
    with pytest.raises(ValueError, match="predictions"):
        accuracy(predictions, np.array([], dtype=int))


def test_predictions_are_restricted_to_the_category():
    logits = np.array([[[9.0, 1, 2, 8]], [[9.0, 1, 2, 8]]])
    parts = restrict_to_category(logits, np.array([1, 0]), [[0, 3], [1, 2]])
    assert parts.tolist() == [[2], [0]]


def test_part_iou_worked_by_hand():
    parts = [[0, 1], [2, 3, 4]]
    truth = np.array([[0, 0, 1, 1], [2, 2, 2, 3], [0, 0, 0, 0]])
    predicted = np.array([[0, 1, 1, 1], [2, 2, 2, 2], [0, 0, 0, 0]])
    result = part_iou(predicted, truth, np.array([0, 1, 0]), parts)
    first = 100 * (1 / 2 + 2 / 3) / 2
    second = 100 * (3 / 4 + 0 + 1) / 3  # part 4 is in neither: 1
    np.testing.assert_allclose(result.per_shape, [first, second, 100])
    np.testing.assert_allclose(result.per_category, [(first + 100) / 2, second])
    assert result.instance == pytest.approx((first + second + 100) / 3)
    assert result.category == pytest.approx(((first + 100) / 2 + second) / 2)


def slow_part_iou(predictions, truth, categories, parts):
    per_shape = []
    for predicted, true, category in zip(predictions, truth, categories, strict=True):
        ious = []
        for part in parts[category]:
            shared = sum(p == part and t == part for p, t in zip(predicted, true, strict=True))
            either = sum(p == part or t == part for p, t in zip(predicted, true, strict=True))
            ious.append(1.0 if either == 0 else shared / either)
        per_shape.append(100 * sum(ious) / len(ious))
    return per_shape


@settings(max_examples=30)
@given(st.integers(0, 2**32 - 1), st.integers(1, 8), st.integers(1, 12))
def test_part_iou_agrees_with_the_slow_version(seed, n_shapes, n_points):
    generator = np.random.default_rng(seed)
    parts = [[0], [1, 2, 3], [4, 5]]
    categories = generator.integers(0, 3, n_shapes)
    draw = [generator.choice(parts[c], (2, n_points)) for c in categories]
    truth, predictions = (np.stack([pair[i] for pair in draw]) for i in (0, 1))
    result = part_iou(predictions, truth, categories, parts)
    np.testing.assert_allclose(
        result.per_shape, slow_part_iou(predictions, truth, categories, parts)
    )
    perfect = part_iou(truth, truth, categories, parts)
    assert perfect.instance == perfect.category == 100


def test_a_category_without_shapes_is_left_out_of_the_mean():
    truth = np.zeros((1, 3), dtype=int)
    result = part_iou(truth, truth, np.array([0]), [[0], [1]])
    np.testing.assert_array_equal(result.per_category, [100, np.nan])
    assert result.category == 100


def test_part_iou_of_nothing_is_refused():
    with pytest.raises(ValueError, match="no shapes"):
        part_iou(np.zeros((0, 3), int), np.zeros((0, 3), int), np.zeros(0, int), [[0]])


def test_mean_and_sample_deviation():
    result = mean_std([92.0, 94.0, 96.0])
    assert (result.mean, result.std, result.n) == (94.0, 2.0, 3)
    assert str(result) == "94.0 ± 2.0"
    assert str(mean_std([93.66])) == "93.7"
    with pytest.raises(ValueError, match="no values"):
        mean_std([])


def test_rare_classes_count_as_much_as_frequent_ones():
    assert mean_class_accuracy({"chair": 100.0, "lamp": 50.0}) == 75
    assert mean_class_accuracy({}) is None
