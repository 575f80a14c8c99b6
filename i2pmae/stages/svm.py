"""Linear SVM on frozen features: the field's measure of a pre-trained encoder (section 4.2)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from i2pmae.config import EncoderConfig, SvmCheckConfig, SvmConfig, to_plain
from i2pmae.datasets import ShapeSource, open_source
from i2pmae.device import pick_device, pick_dtype
from i2pmae.errors import DataError
from i2pmae.evaluation.features import extract_features, parts_of_points
from i2pmae.evaluation.svm import CANDIDATES, SvmResult, choose_c, linear_svm
from i2pmae.loading import load_encoder, random_encoder
from i2pmae.model.pretraining import PretrainingModel
from i2pmae.progress import note, print_table

Features = Callable[[Tensor], Tensor]


def run(config: SvmConfig, *, table: bool = True) -> dict[str, Any]:
    """Fit a linear SVM on the training split's frozen features and score the test split.

    Args:
        config: settings.
        table: print accuracies per class.

    Returns:
        `accuracy` in percent, `per_class`, `n_train`, `n_test`, `C`, `points`, `checkpoint`.

    Raises:
        DataError: if a split or its labels are missing.
        CheckpointError: if the checkpoint holds no encoder.
    """
    device = pick_device(config.device)
    train, test = _labelled_splits(config.data, config.layout, config.limit)
    if config.checkpoint is None:
        encoder = random_encoder(config.encoder, config.seed, config.pooling)
        name = "random weights"
    else:
        encoder = load_encoder(config.checkpoint, config.pooling)
        name = str(config.checkpoint)
        if config.random_weights:
            encoder = random_encoder(encoder.config, config.seed, config.pooling)
            name = f"random weights, network of {name}"
    n_points = config.points or train.svm_points
    if n_points is not None:
        encoder.config.require_points(n_points)
    note(f"{name}: features of {len(train)} training and {len(test)} test shapes")
    result, c = _score(
        encoder.to(device),
        train,
        test,
        n_points=n_points,
        draws=config.draws,
        c=config.C or train.svm_c,
        batch_size=config.batch_size,
        device=device,
        dtype=pick_dtype(config.precision, device),
    )
    per_class = {
        label: float(value)
        for label, value in zip(train.class_names, result.per_class, strict=True)
        if np.isfinite(value)  # the test split has shapes of this class
    }
    if table:
        print_table(
            f"Linear SVM, {name}",
            ["class", "accuracy %"],
            [
                *[[label, f"{value:.2f}"] for label, value in per_class.items()],
                ["all", f"{result.accuracy:.2f}"],
            ],
        )
    return {
        "accuracy": result.accuracy,
        "per_class": per_class,
        "n_train": len(train),
        "n_test": len(test),
        "C": c,
        "points": n_points,
        "pooling": config.pooling,
        "checkpoint": None if config.checkpoint is None else str(config.checkpoint),
        "random_weights": config.checkpoint is None or config.random_weights,
        "config": to_plain(config),
    }


def require_fits(config: SvmCheckConfig, encoder: EncoderConfig) -> None:
    """Raise an error if `check` could not work: no labelled splits, or too few points."""
    assert config.data is not None
    _labelled_splits(config.data, "auto", None)
    encoder.require_points(config.points, "svm.points")


def check(model: PretrainingModel, config: SvmCheckConfig, device: torch.device) -> float:
    """Accuracy in percent during pre-training, in float32; the model stays in training mode."""
    assert config.data is not None
    train, test = _labelled_splits(config.data, "auto", None)
    was_training = model.training
    model.eval()
    result, _ = _score(
        model.features,
        train,
        test,
        n_points=config.points,
        draws=1,
        c=config.C,
        batch_size=32,
        device=device,
        dtype=torch.float32,
    )
    model.train(was_training)
    return result.accuracy


def load_points(
    source: ShapeSource, n_points: int | None = None, *, spare: bool = False
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """All shapes of a source as arrays.

    Args:
        source: shapes with labels.
        n_points: first points of each shape; None takes what the shortest shape has.
        spare: keep further points, as many as the shortest shape has.

    Returns:
        (S, N, 3) float32 points and (S,) int64 labels.

    Raises:
        DataError: if a shape cannot be read or has fewer points than asked.
    """
    kept = None if spare else n_points
    clouds = [source.load(index).points[:kept] for index in range(len(source))]
    shortest = min(len(cloud) for cloud in clouds)
    if n_points is not None and shortest < n_points:
        index = next(i for i, cloud in enumerate(clouds) if len(cloud) == shortest)
        raise DataError(
            f"{source.root}: shape {source.ids[index]} has {shortest} points, {n_points} are "
            f"asked; set --points {shortest} or fewer"
        )
    points = np.stack([cloud[:shortest] for cloud in clouds]).astype(np.float32, copy=False)
    return points, np.asarray(source.labels, dtype=np.int64)


def _labelled_splits(data: Any, layout: str, limit: int | None) -> tuple[ShapeSource, ShapeSource]:
    train = open_source(data, layout=layout, split="train", limit=limit)
    test = open_source(data, layout=layout, split="test", limit=limit)
    for source, split in ((train, "train"), (test, "test")):
        if len(source) == 0 or min(source.labels) < 0:
            raise DataError(
                f"{data}: no labelled shapes of split '{split}'; a linear SVM needs classes and "
                "a train and a test split"
            )
    return train, test


def _score(
    encoder: Features,
    train: ShapeSource,
    test: ShapeSource,
    *,
    n_points: int | None,
    draws: int,
    c: float | None,
    batch_size: int,
    device: torch.device,
    dtype: torch.dtype,
) -> tuple[SvmResult, float]:
    """Result of a linear SVM, and its C: `c`, or a chosen one."""
    features, labels = [], []
    for source in (train, test):
        points, split_labels = load_points(source, n_points, spare=draws > 1)
        parts = parts_of_points(points.shape[1], n_points or points.shape[1], draws)
        drawn = [
            extract_features(
                encoder,
                points[:, part],
                batch_size=batch_size,
                device=device,
                dtype=dtype,
                description="features",
                total=len(points),
            )
            for part in parts
        ]
        features.append(np.mean(drawn, axis=0))
        labels.append(split_labels)
    if c is None:
        c = choose_c(features[0], labels[0])
        how = "chosen by cross-validation on the training shapes"
        if c is None:
            c, how = CANDIDATES[0], "as no two classes have the three shapes that choosing takes"
        note(f"C = {c:g}, {how}")
    result = linear_svm(
        features[0], labels[0], features[1], labels[1], C=c, n_classes=len(train.class_names)
    )
    return result, c
