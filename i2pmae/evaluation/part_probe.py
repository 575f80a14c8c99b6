"""Parts of points by a linear probe: what features of points are good for."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from i2pmae.evaluation.metrics import part_iou, restrict_to_category
from i2pmae.evaluation.probes import Features, Labels, Percent, standardized

_FIT = 20_000  # points that a probe is fitted to
_PASSES = 200


class PointSamples(NamedTuple):
    """Features and parts of some points of some shapes.

    Attributes:
        chosen: (S,) places of the shapes among all.
        features: kind of features -> (S, P, C).
        truth: kind of features -> (S, P) parts of the same points.
        class_parts: per class, the parts it may have.
    """

    chosen: NDArray[np.int64]
    features: Mapping[str, Features]
    truth: Mapping[str, Labels]
    class_parts: Sequence[Sequence[int]]


def part_probe(
    train: tuple[Features, Labels],
    test: tuple[Features, Labels],
    categories: Labels,
    class_parts: Sequence[Sequence[int]],
    seed: int = 0,
) -> Percent:
    """Mean IoU of every test shape's parts by logistic regression on standardized features.

    One probe for the parts of all classes; the points of a shape choose among those of its class.

    Args:
        train: (S, P, C) features and (S, P) parts of points.
        test: the same of (T, P) points.
        categories: (T,) class of each test shape.
        class_parts: per class, the parts it may have.
        seed: of the points that it is fitted to.

    Returns:
        (T,) percent.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    rows, truth = train[0].reshape(-1, train[0].shape[2]), train[1].ravel()
    if len(rows) > _FIT:
        some = np.random.default_rng(seed).choice(len(rows), _FIT, replace=False)
        rows, truth = rows[some], truth[some]
    rows, tested = standardized(rows, test[0].reshape(-1, rows.shape[1]))
    probe = LogisticRegression(max_iter=_PASSES, tol=1e-3)
    scores = np.full((len(tested), max(map(max, class_parts)) + 1), -np.inf)
    scores[:, np.unique(truth)] = 0
    if len(np.unique(truth)) > 1:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # predictions no longer change
            probe.fit(rows, truth)
        scores[:, probe.classes_] = probe.predict_proba(tested)
    scores = scores.reshape(*test[1].shape, -1)
    found = restrict_to_category(scores, categories, class_parts)
    return part_iou(found, test[1], categories, class_parts).per_shape


def parts_by_chance(
    train: tuple[Labels, Labels],
    test: tuple[Labels, Labels],
    class_parts: Sequence[Sequence[int]],
) -> Percent:
    """The same without looking: the most frequent part of its class everywhere.

    Args:
        train: (S, P) parts of points and (S,) classes.
        test: the same of (T, P) points.
        class_parts: per class, the parts it may have.

    Returns:
        (T,) percent.
    """
    truth, categories = test
    likeliest = np.array([parts[0] for parts in class_parts])
    for category in np.unique(train[1]):
        likeliest[category] = np.bincount(train[0][train[1] == category].ravel()).argmax()
    found = np.broadcast_to(likeliest[categories][:, None], truth.shape)
    return part_iou(found, truth, categories, class_parts).per_shape
