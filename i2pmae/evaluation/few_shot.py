"""Few-shot classification: episodes of a few classes with a few labeled shapes each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from i2pmae.errors import DataError


@dataclass(frozen=True)
class Episode:
    """One small classification task.

    Attributes:
        classes: (ways,) int64 labels of the source; the episode's own labels are 0 to ways - 1
            in this order.
        train: (ways * shots,) int64 indices of shapes, class by class.
        test: (ways * tests,) int64 indices of other shapes, class by class.
        train_labels: (ways * shots,) int64 labels of the episode.
        test_labels: (ways * tests,) int64 labels of the episode.
    """

    classes: NDArray[np.int64]
    train: NDArray[np.int64]
    test: NDArray[np.int64]
    train_labels: NDArray[np.int64]
    test_labels: NDArray[np.int64]


def sample_episodes(
    labels: Sequence[int] | NDArray[np.integer],
    ways: int,
    shots: int,
    *,
    folds: int = 10,
    tests: int = 20,
    seed: int = 0,
    splits: Sequence[str] | NDArray[np.str_] | None = None,
) -> list[Episode]:
    """Draw episodes; within one no shape is used twice.

    Fold i depends on the seed and i alone, so more folds leave the first ones as they are.

    Args:
        labels: (S,) class of each shape of a labeled source.
        ways: classes per episode.
        shots: labeled shapes per class.
        folds: how many episodes.
        tests: test shapes per class.
        seed: the same seed gives the same episodes.
        splits: (S,) split of each shape. If any is `test`, test shapes are drawn from these and
            the others from the rest; else both from all.

    Raises:
        DataError: if fewer than `ways` classes have enough shapes.

    Source: section 4.2 of the paper; protocol of Sharma and Kaul, Self-supervised few-shot
        learning on point clouds.
    """
    labels = np.asarray(labels)
    is_test = np.zeros(len(labels), bool) if splits is None else np.asarray(splits) == "test"
    classes = np.unique(labels[labels >= 0])
    pools = {}
    for label in classes.tolist():
        own = labels == label
        learn, test = np.flatnonzero(own & ~is_test), np.flatnonzero(own & is_test)
        if not is_test.any():
            enough = len(learn) >= shots + tests
        else:
            enough = len(learn) >= shots and len(test) >= tests
        if enough:
            pools[label] = (learn, test)
    if len(pools) < ways:
        raise DataError(
            f"{ways}-way {shots}-shot episodes need {ways} classes with {shots + tests} shapes "
            f"({shots} to learn from, {tests} to test on); {len(pools)} of {len(classes)} "
            "classes have as many. Use fewer ways, shots or tests."
        )
    return [
        _draw(pools, ways, shots, tests, np.random.default_rng([seed, fold]))
        for fold in range(folds)
    ]


def _draw(
    pools: dict[int, tuple[NDArray[np.int64], NDArray[np.int64]]],
    ways: int,
    shots: int,
    tests: int,
    generator: np.random.Generator,
) -> Episode:
    """One episode from each class's shapes to learn from and to test on, these maybe none."""
    classes = generator.choice(list(pools), ways, replace=False).astype(np.int64)
    train, test = [], []
    for label in classes.tolist():
        learnable, testable = pools[label]
        if len(testable):
            train.append(generator.choice(learnable, shots, replace=False))
            test.append(generator.choice(testable, tests, replace=False))
        else:
            both = generator.choice(learnable, shots + tests, replace=False)
            train.append(both[:shots])
            test.append(both[shots:])
    own = np.arange(ways)
    return Episode(
        classes=classes,
        train=np.concatenate(train),
        test=np.concatenate(test),
        train_labels=np.repeat(own, shots),
        test_labels=np.repeat(own, tests),
    )
