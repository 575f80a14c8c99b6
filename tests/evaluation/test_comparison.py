import numpy as np
import pytest

from i2pmae.errors import DataError
from i2pmae.evaluation.bootstrap import Estimate
from i2pmae.evaluation.comparison import (
    Comparison,
    compare,
    conclusions,
    measure_by_class,
    measure_by_identification,
)

RNG = np.random.default_rng(0)
LABELS = np.repeat([0, 1, 2], 8)
GOOD = np.eye(3)[LABELS] + 0.01 * RNG.normal(size=(24, 3))
NOISE = RNG.normal(size=(24, 3))


def both(labels, *splits):
    features = {
        "pretrained": [GOOD[some] for some in splits],
        "untrained": [NOISE[some] for some in splits],
    }
    return measure_by_class([labels[some] for some in splits], features)


def test_a_test_split_is_tested():
    found = both(LABELS, np.arange(24) % 2 == 0, np.arange(24) % 2 == 1)
    assert (found.protocol, found.n_train, found.n_test) == ("test split", 12, 12)
    assert found.measures["pretrained"]["svm"].tolist() == [100] * 12
    assert found.measures["pretrained"]["map"].tolist() == [100] * 12
    chance = found.measures["chance"]
    assert [chance[name].mean() for name in ("svm", "labels_1")] == pytest.approx([100 / 3] * 2)
    assert chance["p_at_1"].tolist() == pytest.approx([300 / 11] * 12)
    assert "labels_5" not in found.measures["pretrained"]  # no class has five training shapes


def test_without_a_test_split_every_shape_is_tested_once():
    labels = LABELS.copy()
    labels[[0, 8]] = 3, -1  # alone in its class; without a class
    found = both(labels, slice(None))
    assert (found.protocol, found.n_test, found.n_left_out) == ("5-fold cross-validation", 22, 2)
    assert found.labels.tolist() == [0] * 7 + [1] * 7 + [2] * 8
    assert found.measures["pretrained"]["svm"].tolist() == [100] * 22
    assert found.measures["untrained"]["svm"].mean() < 90
    assert "labels_5" in found.measures["pretrained"]
    assert set(found.measures["chance"]) == set(found.measures["pretrained"])


@pytest.mark.parametrize(("n_classes", "n_each"), [(5, 4), (2, 3), (10, 7)])
def test_equally_frequent_classes_share_chance(n_classes, n_each):
    labels = np.repeat(np.arange(n_classes), n_each)
    features = {"pretrained": [RNG.normal(size=(len(labels), 3))]}
    chance = measure_by_class([labels], features).measures["chance"]
    assert chance["svm"].mean() == pytest.approx(100 / n_classes)


@pytest.mark.parametrize("labels", [[0, 0, 0, 1], [-1, -1, 0, 0]])
def test_two_classes_are_needed(labels):
    with pytest.raises(DataError, match=r"1 classes .* two classes or more"):
        measure_by_class([np.array(labels)], {"pretrained": [GOOD[:4]]})


def test_identification_over_all_splits():
    halves = np.repeat(GOOD + NOISE, 2, axis=0)
    features = {"pretrained": [halves[:10], halves[10:]], "untrained": [halves[:10], halves[10:]]}
    found = measure_by_identification([np.full(5, -1), np.full(19, -1)], features)
    assert found.measures["pretrained"]["identification"].tolist() == [100] * 24
    assert found.measures["chance"]["identification"].mean() == pytest.approx(100 / 24)
    said = conclusions(compare(found.measures, None), 24)
    assert said[0] == (
        "Identification by the other half: pre-trained 100.0 %, untrained 100.0 %; the difference, "
        "+0.0 [+0.0, +0.0] points, is not significant."
    )
    assert said[1].startswith(
        "Beside chance: pre-trained 100.0 %, chance 4.2 %; it is significantly better"
    )
    with pytest.raises(DataError, match="one shape"):
        measure_by_identification([np.full(1, -1)], features)


def test_better_is_said_only_where_it_is_significant():
    found = both(LABELS, slice(None))
    compared = compare(found.measures, found.labels)
    assert compared.scores["pretrained"]["svm_class_mean"] == (100, 100, 100)
    said = conclusions(compared, 24)
    assert "it is significantly better" in said[0]
    swapped = {
        "pretrained": found.measures["untrained"],
        "untrained": found.measures["pretrained"],
    }
    said = conclusions(compare({**found.measures, **swapped}, found.labels), 24)
    assert "it is significantly worse" in said[0]
    same = {**found.measures, "pretrained": found.measures["untrained"]}
    said = conclusions(compare(same, found.labels), 24)
    assert "is not significant" in said[0]
    assert said[2].startswith("Next: compare with the shipped encoder")
    assert "24 tested shapes leave figures uncertain" in said[2]


def test_few_shapes_tell_nothing():
    found = both(LABELS, slice(4, 12))
    compared = compare({**found.measures, "untrained": found.measures["chance"]}, found.labels)
    assert conclusions(compared, 8) == [
        "Linear SVM: pre-trained 100.0 %, untrained 50.0 %; 8 tested shapes are too few to tell.",
        "Beside chance: pre-trained 100.0 %, chance 50.0 %; 8 tested shapes are too few to tell.",
        "Next: test more shapes, 10 or more.",
    ]


def difference(value, in_retrieval=None):
    values = {"svm": value, "map": value if in_retrieval is None else in_retrieval}
    return {name: Estimate(value, value - 1, value + 1) for name, value in values.items()}


@pytest.mark.parametrize(
    ("over_untrained", "over_images", "advice"),
    [
        (5, 2, "i2pmae finetune if there are labels; else compare with the shipped encoder"),
        (5, -5, "compare with the shipped encoder"),
        (0, -5, "compare with the shipped encoder"),
        (5, 5, "another image model"),
        (0, 0, "another image model"),
        (-5, 5, "another image model"),
    ],
)
def test_what_would_help_next(over_untrained, over_images, advice):
    score = {"svm": Estimate(50, 49, 51)}
    kinds = ("pretrained", "untrained", "image_features", "chance")
    found = Comparison(
        dict.fromkeys(kinds, score),
        {
            "pretrained_minus_untrained": difference(over_untrained),
            "pretrained_minus_image_features": difference(over_images),
            "image_features_minus_untrained": difference(over_untrained - over_images),
        },
    )
    said = conclusions(found, 1000)
    retrieved = {**found.differences, "pretrained_minus_image_features": difference(0, -9)}
    assert "(retrieval, mAP)" in conclusions(found._replace(differences=retrieved), 1000)[2]
    assert said[1].startswith("Beside the pooled 2D features: ")
    assert said[2].startswith(f"Next: {advice}")
    assert "the shipped encoder" not in conclusions(found, 1000, is_shipped=True)[2]
    assert "uncertain" not in said[2]
