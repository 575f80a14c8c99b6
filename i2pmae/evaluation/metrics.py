"""How good predictions are: accuracies, confusion, part IoU, mean and standard deviation."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Labels = NDArray[np.integer]


def accuracy(predictions: Labels, labels: Labels) -> float:
    """Percent of predictions that are right.

    Raises:
        ValueError: if there are none, or their number differs from that of the labels.
    """
    if len(predictions) == 0 or predictions.shape != labels.shape:
        raise ValueError(f"predictions {predictions.shape}, labels {labels.shape}")
    return 100 * float(np.mean(predictions == labels))


def per_class_accuracy(predictions: Labels, labels: Labels, n_classes: int) -> NDArray[np.float64]:
    """(n_classes,) percent of each class's shapes that are recognized; NaN without shapes."""
    shapes = np.bincount(labels, minlength=n_classes)
    hits = np.bincount(labels[predictions == labels], minlength=n_classes)
    percent = np.full(n_classes, np.nan)
    percent[shapes > 0] = 100 * hits[shapes > 0] / shapes[shapes > 0]
    return percent


def mean_class_accuracy(per_class: Mapping[str, float]) -> float | None:
    """Mean percent over the classes that have shapes; rare ones count as much as frequent ones."""
    return statistics.fmean(per_class.values()) if per_class else None


def confusion(predictions: Labels, labels: Labels, n_classes: int) -> NDArray[np.int64]:
    """(n_classes, n_classes) int64 counts: row = true class, column = predicted class."""
    from sklearn.metrics import confusion_matrix

    counts: NDArray[np.int64] = confusion_matrix(labels, predictions, labels=range(n_classes))
    return counts


class PartIou(NamedTuple):
    """Intersection over union of part segmentation, in percent.

    Attributes:
        per_shape: (S,) mean over the parts of the shape's category.
        per_category: (categories,) mean over its shapes; NaN without shapes.
        instance: mean over shapes.
        category: mean over categories that have shapes.
    """

    per_shape: NDArray[np.float64]
    per_category: NDArray[np.float64]
    instance: float
    category: float


def restrict_to_category(
    logits: NDArray[np.floating], categories: Labels, parts: Sequence[Sequence[int]]
) -> NDArray[np.int64]:
    """Likeliest part of every point among those its shape's category has.

    Args:
        logits: (S, N, P) score of every part at every point.
        categories: (S,) category of each shape.
        parts: per category, the parts it may have.

    Returns:
        (S, N) int64 parts.
    """
    allowed = np.zeros((len(parts), logits.shape[2]), dtype=bool)
    for category, members in enumerate(parts):
        allowed[category, list(members)] = True
    scores = np.where(allowed[categories][:, None], logits, -np.inf)
    best: NDArray[np.int64] = scores.argmax(axis=2)
    return best


def part_iou(
    predictions: Labels, truth: Labels, categories: Labels, parts: Sequence[Sequence[int]]
) -> PartIou:
    """Mean IoU over shapes and over categories, as ShapeNetPart defines them.

    A part that neither truth nor prediction has in a shape counts 1.

    Args:
        predictions: (S, N) part of each point, of the shape's category; see
            `restrict_to_category`.
        truth: (S, N) true parts.
        categories: (S,) category of each shape.
        parts: per category, the parts it may have.

    Raises:
        ValueError: if there are no shapes.

    Source: Yi et al., A scalable active framework for region annotation in 3D shape collections.
    """
    if len(truth) == 0:
        raise ValueError("part_iou of no shapes")
    per_shape = np.empty(len(truth))
    per_category = np.full(len(parts), np.nan)
    for category, members in enumerate(parts):
        chosen = np.flatnonzero(categories == category)
        if len(chosen) == 0:
            continue
        is_part = np.asarray(members)[:, None, None]
        predicted, true = predictions[chosen] == is_part, truth[chosen] == is_part  # (P, S, N)
        shared = (predicted & true).sum(axis=2)
        either = (predicted | true).sum(axis=2)
        iou = np.where(either == 0, 1.0, shared / np.maximum(either, 1))
        per_shape[chosen] = 100 * iou.mean(axis=0)
        per_category[category] = per_shape[chosen].mean()
    return PartIou(
        per_shape, per_category, float(per_shape.mean()), float(np.nanmean(per_category))
    )


class MeanStd(NamedTuple):
    """Mean and sample standard deviation (n - 1) of repeated runs; prints as `93.4 ± 0.2`."""

    mean: float
    std: float  # NaN for a single run
    n: int

    def __str__(self) -> str:
        return f"{self.mean:.1f}" if math.isnan(self.std) else f"{self.mean:.1f} ± {self.std:.1f}"


def mean_std(values: Iterable[float]) -> MeanStd:
    """Summarise the same figure over seeds or folds.

    Raises:
        ValueError: if there are no values.
    """
    numbers = np.asarray(list(values), dtype=np.float64)
    if len(numbers) == 0:
        raise ValueError("mean_std of no values")
    std = float(numbers.std(ddof=1)) if len(numbers) > 1 else math.nan
    return MeanStd(float(numbers.mean()), std, len(numbers))
