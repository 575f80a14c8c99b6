"""Linear SVM on frozen features: how good an encoder is before any fine-tuning."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from i2pmae.errors import DataError
from i2pmae.evaluation.metrics import accuracy, per_class_accuracy


@dataclass(frozen=True)
class SvmResult:
    """What a linear SVM reached on the test shapes.

    Attributes:
        accuracy: percent of test shapes.
        per_class: (classes,) percent per label, NaN where no test shape has it.
        predictions: (S,) int64 labels.
    """

    accuracy: float
    per_class: NDArray[np.float64]
    predictions: NDArray[np.int64]


CANDIDATES = (0.01, 0.1, 1.0, 10.0, 100.0)
_FOLDS = 3
_MOST = 2000  # shapes that decide; libsvm's time grows with their square
_REPEATS = 10  # at most: where shapes are few, a single division chooses almost by chance


def choose_c(
    train_x: NDArray[np.floating], train_y: NDArray[np.integer], seed: int = 0
) -> float | None:
    """Choose the SVM's regularization by cross-validation on training shapes alone.

    Published values belong to the features of the published networks; how strong a value is
    depends on how far apart features lie.

    Classes with fewer than three shapes have no say. Fewer than 1000 shapes are divided several
    times, up to ten.

    Args:
        train_x: (S, C) features of the training shapes.
        train_y: (S,) labels.
        seed: of the folds, and of the subset where there are more than 2000 shapes.

    Returns:
        One of `CANDIDATES`, the smallest of equally good ones; None where fewer than two classes
        have three shapes.
    """
    from sklearn.model_selection import (
        RepeatedStratifiedKFold,
        cross_val_score,
        train_test_split,
    )
    from sklearn.svm import SVC

    classes, counts = np.unique(train_y, return_counts=True)
    classes = classes[counts >= _FOLDS]
    if len(classes) < 2:
        return None
    chosen = np.flatnonzero(np.isin(train_y, classes))
    most = max(_MOST, _FOLDS * len(classes))
    if len(chosen) >= most + len(classes):  # else it cannot be divided, and all are hardly more
        some, _ = train_test_split(
            chosen, train_size=most, stratify=train_y[chosen], random_state=seed
        )
        lacking = {name: max(0, _FOLDS - int((train_y[some] == name).sum())) for name in classes}
        others = np.setdiff1d(chosen, some)
        chosen = np.concatenate(
            [some, *(others[train_y[others] == name][:n] for name, n in lacking.items())]
        )
    train_x, train_y = train_x[chosen], train_y[chosen]
    repeats = min(max(_MOST // len(chosen), 1), _REPEATS)
    split = RepeatedStratifiedKFold(n_splits=_FOLDS, n_repeats=repeats, random_state=seed)
    scores = [
        cross_val_score(SVC(C=c, kernel="linear"), train_x, train_y, cv=split).mean()
        for c in CANDIDATES
    ]
    return CANDIDATES[int(np.argmax(scores))]


def linear_svm(
    train_x: NDArray[np.floating],
    train_y: NDArray[np.integer],
    test_x: NDArray[np.floating],
    test_y: NDArray[np.integer],
    C: float | None,  # noqa: N803 - the name that everybody knows
    n_classes: int | None = None,
) -> SvmResult:
    """Train a linear SVM and score it once.

    One libsvm classifier per pair of classes on unscaled features, as in the field's published
    figures. liblinear's one-against-rest (`LinearSVC`) gives other numbers and stops unconverged
    at these features; libsvm runs to its tolerance and has no randomness.

    Args:
        train_x: (S, C) features of the training shapes.
        train_y: (S,) labels, 0 or more.
        test_x: (T, C) features of the test shapes.
        test_y: (T,) labels; one that no training shape has counts as a mistake.
        C: regularization, smaller is stronger; None: `choose_c`, or the smallest candidate where
            that cannot choose.
        n_classes: length of `per_class`; None takes the largest label plus one.

    Raises:
        DataError: if there are no shapes, fewer than two training classes, or features that are
            not finite.

    Source: section 4.1 of the paper; scikit-learn's `SVC(kernel="linear")` in the official code.
    """
    from sklearn.svm import SVC

    for name, features, labels in (("training", train_x, train_y), ("test", test_x, test_y)):
        if len(features) == 0:
            raise DataError(f"linear SVM: there are no {name} shapes")
        if len(features) != len(labels):
            raise ValueError(f"{len(features)} {name} features, {len(labels)} labels")
        if not np.isfinite(features).all():
            bad = int((~np.isfinite(features)).any(axis=1).sum())
            raise DataError(
                f"linear SVM: features of {bad} of {len(features)} {name} shapes are not finite; "
                "the checkpoint is damaged or its training diverged"
            )
    classes = np.unique(train_y)
    if len(classes) < 2:
        raise DataError(
            f"linear SVM: all {len(train_y)} training shapes are of class {classes[0]}; "
            "at least two classes are needed (a --limit may have cut the others off)"
        )
    if C is None:
        C = choose_c(train_x, train_y) or CANDIDATES[0]  # noqa: N806
    svm = SVC(C=C, kernel="linear", cache_size=1000)  # MB; the default of 200 is slow at 10k shapes
    svm.fit(train_x, train_y)
    predictions = svm.predict(test_x).astype(np.int64)
    if n_classes is None:
        n_classes = int(max(classes.max(), np.max(test_y))) + 1
    return SvmResult(
        accuracy=accuracy(predictions, test_y),
        per_class=per_class_accuracy(predictions, test_y, n_classes),
        predictions=predictions,
    )
