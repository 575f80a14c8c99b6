"""Comparison of kinds of features: measures with intervals, paired differences, conclusions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from i2pmae.errors import DataError
from i2pmae.evaluation.bootstrap import Estimate, estimate, resampled_means
from i2pmae.evaluation.part_probe import PointSamples, part_probe, parts_by_chance
from i2pmae.evaluation.probes import (
    Features,
    Labels,
    Percent,
    few_labels,
    folds,
    identification,
    nearest_neighbors,
    retrieval,
    retrieval_by_chance,
)
from i2pmae.evaluation.svm import linear_svm

PRETRAINED, UNTRAINED, IMAGE, CHANCE = "pretrained", "untrained", "image_features", "chance"
KINDS = {
    PRETRAINED: "pre-trained",
    UNTRAINED: "untrained",
    IMAGE: "2D features",
    CHANCE: "chance",
}
SVM, NEAREST, MAP, IDENTIFICATION = "svm", "nearest", "map", "identification"
PARTS = "parts"
MEASURES = {
    SVM: "linear SVM, accuracy",
    "svm_class_mean": "linear SVM, mean over classes",
    NEAREST: "5 nearest neighbors, accuracy",
    "nearest_class_mean": "5 nearest neighbors, mean over classes",
    "labels_1": "1 label per class, accuracy",
    "labels_5": "5 labels per class, accuracy",
    "labels_10": "10 labels per class, accuracy",
    "p_at_1": "retrieval, P@1",
    "p_at_5": "retrieval, P@5",
    MAP: "retrieval, mAP",
    PARTS: "parts by a linear probe, IoU",
    IDENTIFICATION: "identification by the other half",
}
_FEW = {"labels_1": 1, "labels_5": 5, "labels_10": 10}
_CLASS_MEANS = {"svm_class_mean": SVM, "nearest_class_mean": NEAREST}
_PAIRS = ((PRETRAINED, UNTRAINED), (PRETRAINED, IMAGE), (PRETRAINED, CHANCE), (IMAGE, UNTRAINED))
_TOO_FEW = 10  # shapes below which resampling says nothing: all right or all wrong is mere luck
_UNCERTAIN = 5.0  # points of half an interval beyond which more shapes are what is lacking

Part = tuple[NDArray[np.int64], NDArray[np.int64]]  # shapes to train on, shapes to test
Measures = dict[str, Percent]


class Comparison(NamedTuple):
    """What features reach, and what they differ by.

    Attributes:
        scores: kind of features -> measure -> percent.
        differences: such as `pretrained_minus_untrained` -> measure -> points.
    """

    scores: dict[str, dict[str, Estimate]]
    differences: dict[str, dict[str, Estimate]]


class Measured(NamedTuple):
    """All measures of the tested shapes.

    Attributes:
        protocol: how shapes are tested, in words.
        measures: kind of features -> measure -> (T,) percent.
        labels: (T,) classes of the tested shapes; None without classes.
        n_train: training shapes; of the first fold.
        n_test: T.
        n_left_out: shapes that cannot be tested.
    """

    protocol: str
    measures: dict[str, Measures]
    labels: Labels | None
    n_train: int
    n_test: int
    n_left_out: int


def measure_by_class(
    labels: Sequence[Labels],
    features: Mapping[str, Sequence[Features]],
    points: PointSamples | None = None,
    *,
    n_folds: int = 5,
    seed: int = 0,
) -> Measured:
    """Measures of the test split, or of all shapes by cross-validation.

    Args:
        labels: of the training split and of the test split, if there is one; -1 unknown.
        features: kind -> those of the same shapes.
        points: of some of these shapes, where parts are labeled.
        n_folds: of cross-validation, over folds that share out every class evenly.
        seed: of the folds.

    Raises:
        DataError: if there are no two classes to tell apart, or no shape to test.
    """
    all_labels = np.concatenate(labels)
    usable = all_labels >= 0
    if len(labels) == 1:
        usable &= np.bincount(all_labels + 1)[all_labels + 1] > 1
    is_test = np.repeat([False, True], [len(labels[0]), len(all_labels) - len(labels[0])])[usable]
    kept = all_labels[usable]
    if len(np.unique(kept[~is_test])) < 2 or (len(labels) > 1 and not is_test.any()):
        raise DataError(
            f"evaluate: {len(np.unique(kept[~is_test]))} classes of the training shapes can be used"
            f" and {is_test.sum()} test shapes; expected two classes or more, of two shapes each "
            "where there is no test split. Add shapes."
        )
    if len(labels) > 1:
        parts, protocol = [(np.flatnonzero(~is_test), np.flatnonzero(is_test))], "test split"
    else:
        fold = folds(kept, min(n_folds, len(kept)), seed)
        parts = [(np.flatnonzero(fold != k), np.flatnonzero(fold == k)) for k in np.unique(fold)]
        protocol = f"{len(parts)}-fold cross-validation"
    measures = {
        kind: measure(np.concatenate(found)[usable], kept, parts)
        for kind, found in features.items()
    }
    measures[CHANCE] = measure_chance(kept, parts)
    tested = _tested(parts)
    if points is not None:
        place = np.full(len(all_labels), -1)
        place[usable] = np.arange(usable.sum())
        for kind, values in measure_parts(points, place, kept, parts, seed).items():
            measures[kind][PARTS] = values[tested]
    return Measured(
        protocol, measures, kept[tested], len(parts[0][0]), len(tested), int((~usable).sum())
    )


def measure_by_identification(
    labels: Sequence[Labels], features: Mapping[str, Sequence[Features]], **_: object
) -> Measured:
    """Whether one half of a shape's points finds the other half among those of all shapes.

    Args:
        labels: of each split; only their number counts.
        features: kind -> (2 S, C) of each split, of the halves in turn.

    Raises:
        DataError: if there is one shape only.
    """
    n = sum(map(len, labels))
    if n < 2:
        raise DataError("evaluate: one shape cannot be told from others. Add shapes.")
    measures: dict[str, Measures] = {}
    for kind, found in features.items():
        halves = np.concatenate(found)
        measures[kind] = {IDENTIFICATION: identification(halves[::2], halves[1::2])}
    measures[CHANCE] = {IDENTIFICATION: np.full(n, 100 / n)}
    return Measured("identification among all", measures, None, 0, n, 0)


def measure(features: Features, labels: Labels, parts: Sequence[Part]) -> Measures:
    """Everything that labeled shapes tell about features.

    Args:
        features: (S, C).
        labels: (S,).
        parts: one for a test split, several for cross-validation; no shape is tested twice.

    Returns:
        Measure -> (T,) percent of the tested shapes, in their order.
    """
    few = _few_that_exist(labels, parts)
    found = {name: np.full(len(labels), np.nan) for name in (SVM, NEAREST, *few)}
    for train, test in parts:
        split = (features[train], labels[train], features[test], labels[test])
        found[SVM][test] = 100.0 * (linear_svm(*split, C=None).predictions == labels[test])
        found[NEAREST][test] = nearest_neighbors(*split)
        for name, n_labels in few.items():
            found[name][test] = few_labels(*split, n_labels)
    tested = _tested(parts)
    return {name: values[tested] for name, values in found.items()} | retrieval(
        features[tested], labels[tested]
    )


def measure_parts(
    points: PointSamples,
    place: NDArray[np.int64],
    labels: Labels,
    parts: Sequence[Part],
    seed: int = 0,
) -> dict[str, Percent]:
    """Mean IoU of the parts of labeled shapes, by a linear probe of every kind of features.

    Args:
        points: of some shapes.
        place: of every shape that may be among them, among the labeled ones; -1: it is none.
        labels: (S,) classes of these.
        parts: see `measure`.
        seed: of the probe.

    Returns:
        Kind of features, and chance -> (S,) percent; NaN for shapes without points.
    """
    places = place[points.chosen]
    found = {kind: np.full(len(labels), np.nan) for kind in (*points.features, CHANCE)}
    for train, test in parts:
        fitted, tested = (np.flatnonzero(np.isin(places, some)) for some in (train, test))
        if not len(fitted) or not len(tested):
            continue
        classes = labels[places[tested]]
        for kind, features in points.features.items():
            truth = points.truth[kind]
            found[kind][places[tested]] = part_probe(
                (features[fitted], truth[fitted]),
                (features[tested], truth[tested]),
                classes,
                points.class_parts,
                seed,
            )
        truth = points.truth[PRETRAINED]
        found[CHANCE][places[tested]] = parts_by_chance(
            (truth[fitted], labels[places[fitted]]), (truth[tested], classes), points.class_parts
        )
    return found


def measure_chance(labels: Labels, parts: Sequence[Part]) -> Measures:
    """The same without looking: always the most frequent class, and a random order.

    In cross-validation it is the most frequent of all labels: that of a training part is too often
    the one that is rare in the rest. Equally frequent classes share their hits.
    """
    few = _few_that_exist(labels, parts)
    found = {name: np.full(len(labels), np.nan) for name in (SVM, NEAREST, *few)}
    for train, test in parts:
        classes = np.unique(labels[train])
        seen, counts = np.unique(labels if len(parts) > 1 else labels[train], return_counts=True)
        most = seen[counts == counts.max()]
        found[SVM][test] = 100.0 * np.isin(labels[test], most) / len(most)
        for name in few:
            found[name][test] = 100.0 * np.isin(labels[test], classes) / len(classes)
    found[NEAREST] = found[SVM]
    tested = _tested(parts)
    return {name: values[tested] for name, values in found.items()} | retrieval_by_chance(
        labels[tested]
    )


def _tested(parts: Sequence[Part]) -> NDArray[np.int64]:
    """All shapes that are tested, in ascending order."""
    return np.sort(np.concatenate([test for _, test in parts]))


def compare(
    measures: Mapping[str, Measures],
    labels: Labels | None,
    *,
    pairs: Sequence[tuple[str, str]] = _PAIRS,
    draws: int = 1000,
    seed: int = 0,
) -> Comparison:
    """Intervals of all measures, and of their differences shape by shape.

    Args:
        measures: kind of features -> measure -> (T,) percent.
        labels: (T,) classes of the tested shapes, for means over classes; None without classes.
        pairs: kinds whose difference is taken, where both are there.
        draws, seed: of the bootstrap.
    """
    scores: dict[str, dict[str, Estimate]] = {kind: {} for kind in measures}
    pairs = [(a, b) for a, b in pairs if a in measures and b in measures]
    differences: dict[str, dict[str, Estimate]] = {f"{a}_minus_{b}": {} for a, b in pairs}
    for name in MEASURES:
        source = _CLASS_MEANS.get(name, name)
        rows = {kind: found[source] for kind, found in measures.items() if source in found}
        if not rows or not np.isfinite(np.stack([*rows.values()])).any():
            continue
        groups = labels if name in _CLASS_MEANS else None
        means = resampled_means(np.stack([*rows.values()]), groups, draws=draws, seed=seed)
        column = dict(zip(rows, means.T, strict=True))
        for kind in rows:
            scores[kind][name] = estimate(column[kind])
        for a, b in pairs:
            if a in rows and b in rows:
                differences[f"{a}_minus_{b}"][name] = estimate(column[a] - column[b])
    return Comparison(scores, differences)


def conclusions(found: Comparison, n_tested: int, *, is_shipped: bool = False) -> list[str]:
    """Against the untrained network, against 2D features or chance, parts, what next.

    A sentence each; parts have one where they are labeled.

    Args:
        found: what was measured.
        n_tested: shapes.
        is_shipped: whether it is a shipped encoder, which nobody is advised to train longer.
    """
    name = SVM if SVM in found.scores[PRETRAINED] else IDENTIFICATION
    other = IMAGE if name in found.scores.get(IMAGE, {}) else CHANCE
    gain = found.differences[f"{PRETRAINED}_minus_{UNTRAINED}"][name]
    title = MEASURES[name].split(",")[0]
    parts = {PARTS} & found.scores[PRETRAINED].keys()
    return [
        f"{title[0].upper()}{title[1:]}: " + _beside(found, name, UNTRAINED, n_tested),
        f"Beside {'the pooled 2D features' if other == IMAGE else 'chance'}: "
        + _beside(found, name, other, n_tested),
        *(f"Parts of points: {_beside(found, key, UNTRAINED, n_tested)}" for key in parts),
        "Next: " + _advice(found, name, gain, n_tested, is_shipped),
    ]


def _beside(found: Comparison, name: str, other: str, n_tested: int) -> str:
    """The pre-trained encoder against something else."""
    reached, theirs = (found.scores[kind][name].value for kind in (PRETRAINED, other))
    by = found.differences[f"{PRETRAINED}_minus_{other}"][name]
    figures = f"pre-trained {reached:.1f} %, {KINDS[other]} {theirs:.1f} %"
    if n_tested < _TOO_FEW:
        return f"{figures}; {n_tested} tested shapes are too few to tell."
    if not by.is_significant:
        return f"{figures}; the difference, {by.signed} points, is not significant."
    verdict = "better" if by.value > 0 else "worse"
    return f"{figures}; it is significantly {verdict}, {by.signed} points."


def _advice(found: Comparison, name: str, gain: Estimate, n_tested: int, is_shipped: bool) -> str:
    more = (
        "pre-train on shapes like these, if there are a thousand or more (i2pmae doctor --data "
        "SHAPES)"
        if is_shipped
        else "compare with the shipped encoder (i2pmae evaluate SHAPES); if yours is better, "
        "pre-train for more epochs or on more shapes"
    )
    if n_tested < _TOO_FEW:
        return f"test more shapes, {_TOO_FEW} or more."
    own = found.scores[PRETRAINED][name]
    half = (own.high - own.low) / 2
    over_untrained = found.differences.get(f"{IMAGE}_minus_{UNTRAINED}", {})
    over_images = found.differences.get(f"{PRETRAINED}_minus_{IMAGE}", {})
    lacking = [
        MEASURES[key] for key in (name, MAP) if key in over_images and over_images[key].high < 0
    ]
    if lacking:
        advice = (
            f"{more}: the 2D features hold more than the encoder has learned "
            f"({'; '.join(lacking)})."
        )
    elif over_untrained and all(
        over_untrained[key].low <= 0 for key in (name, MAP) if key in over_untrained
    ):
        advice = (
            "another image model: the 2D features that the encoder learns from are not "
            "significantly better than an untrained encoder."
        )
    elif gain.low > 0:
        advice = f"i2pmae finetune if there are labels; else {more}."
    else:
        advice = f"{more}."
    if half > _UNCERTAIN:
        advice += (
            f" {n_tested} tested shapes leave figures uncertain by {half:.0f} points either way; "
            "more of them would tell smaller differences."
        )
    return advice


def _few_that_exist(labels: Labels, parts: Sequence[Part]) -> dict[str, int]:
    """Numbers of labels that at least one class has in every training part."""
    most = min(int(np.unique(labels[train], return_counts=True)[1].max()) for train, _ in parts)
    return {name: n_labels for name, n_labels in _FEW.items() if n_labels <= most}
