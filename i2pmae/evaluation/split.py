"""Choosing shapes by their labels: a validation part, a labeled part, some of every class."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from i2pmae.errors import DataError


def validation_split(
    labels: Sequence[int] | NDArray[np.integer], share: float, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Divide shapes into a part to train on and a part to validate on, class by class.

    A class with a single shape stays in training. Of every other class both parts get at least
    one, so in a small set validation may be larger than `share`.

    Args:
        labels: (S,) class of each shape.
        share: of the shapes that go to validation, between 0 and 1.
        seed: the same seed gives the same split.

    Returns:
        Two sorted (.,) int64 arrays of indices, training and validation, together all shapes.

    Raises:
        DataError: if no class has two shapes, or too few are left to train on.
    """
    from sklearn.model_selection import train_test_split

    labels = np.asarray(labels)
    classes, class_of, counts = np.unique(labels, return_inverse=True, return_counts=True)
    divisible = np.flatnonzero(counts[class_of] > 1)
    n_validation = max(round(share * len(labels)), int((counts > 1).sum()))
    if n_validation == 0 or len(divisible) - n_validation < (counts > 1).sum():
        raise DataError(
            f"{len(labels)} training shapes of {len(classes)} classes cannot be divided into a "
            f"training part and a validation part of {share:.0%}; lower the share, use more of the "
            "labels, or add shapes"
        )
    _, validation = train_test_split(
        divisible, test_size=n_validation, random_state=seed, stratify=labels[divisible]
    )
    is_held_out = np.zeros(len(labels), dtype=bool)
    is_held_out[validation] = True
    for name in classes[counts > 1]:  # rare ones may be on one side only
        members = np.flatnonzero(labels == name)
        if is_held_out[members].all() or not is_held_out[members].any():
            is_held_out[members[0]] ^= True
    return np.flatnonzero(~is_held_out), np.flatnonzero(is_held_out)


def labeled_part(
    labels: Sequence[int] | NDArray[np.integer], share: float, seed: int
) -> NDArray[np.int64]:
    """A share of the shapes, class by class, as if only they had labels.

    Args:
        labels: (S,) class of each shape.
        share: of the shapes of a class, above 0; at least one of each is kept.
        seed: the same seed gives the same part, and a larger share one that holds it.

    Returns:
        (.,) int64 sorted indices.
    """
    labels = np.asarray(labels)
    drawn = np.random.default_rng(seed).permutation(len(labels))
    kept = [
        of_class[: max(1, round(share * len(of_class)))]
        for of_class in (drawn[labels[drawn] == name] for name in np.unique(labels))
    ]
    return np.sort(np.concatenate(kept)).astype(np.int64)


def spread_evenly(labels: NDArray[np.int64], n_chosen: int, seed: int) -> NDArray[np.int64]:
    """Choose places (n,) evenly over the labels, by chance within them, sorted by label."""
    generator = np.random.default_rng(seed)
    shuffled = generator.permutation(len(labels))
    by_label = shuffled[np.argsort(labels[shuffled], kind="stable")]
    _, first, counts = np.unique(labels[by_label], return_index=True, return_counts=True)
    turn = np.arange(len(by_label)) - np.repeat(first, counts)  # a place's turn in its class
    chosen = by_label[np.argsort(turn, kind="stable")[:n_chosen]]
    return chosen[np.lexsort((chosen, labels[chosen]))]
