"""Linear SVM on frozen features: the field's measure of a pre-trained encoder (section 4.2)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple, TypedDict

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from i2pmae.checkpoints.checkpoint import notes_on_axes
from i2pmae.checkpoints.networks import load_encoder, random_encoder
from i2pmae.config import EncoderConfig, SvmCheckConfig, SvmConfig, to_plain
from i2pmae.datasets import ShapeSource, open_labeled_splits
from i2pmae.device import pick_device, pick_dtype
from i2pmae.evaluation.clouds import read_points, source_points
from i2pmae.evaluation.features import extract_features, parts_of_points
from i2pmae.evaluation.metrics import mean_class_accuracy
from i2pmae.evaluation.svm import CANDIDATES, SvmResult, choose_c, linear_svm
from i2pmae.model.pretraining import PretrainingModel
from i2pmae.progress import note, print_class_table
from i2pmae.urls import as_typed

Features = Callable[[Tensor], Tensor]


class Result(TypedDict):
    """Accuracies in percent, and what they are of."""

    command: Literal["svm"]
    accuracy: float
    mean_class_accuracy: float | None
    per_class: dict[str, float]
    n_train: int
    n_test: int
    C: float
    points: int | None  # asked of every shape; None: as many as the shortest has
    pooling: str
    checkpoint: str | None
    random_weights: bool
    config: dict[str, object]


def run(config: SvmConfig, *, table: bool = True) -> Result:
    """Fit a linear SVM on the training split's frozen features and score the test split.

    Args:
        config: settings.
        table: print accuracies per class.

    Returns:
        See `Result`.

    Raises:
        DataError: if a split or its labels are missing.
        CheckpointError: if the checkpoint holds no encoder.
    """
    device = pick_device(config.device)
    train, test = _labeled_splits(config, config.limit)
    if config.checkpoint is None:
        encoder = random_encoder(config.encoder, config.seed, config.pooling)
        name = "random weights"
    else:
        encoder = load_encoder(config.checkpoint, config.pooling)
        for message in notes_on_axes(encoder.up, train.up):
            note(message)
        name = as_typed(config.checkpoint)
        if config.random_weights:
            encoder = random_encoder(encoder.config, config.seed, config.pooling)
            name = f"random weights, network of {name}"
    n_points = config.points or train.svm_points
    if n_points is not None:
        encoder.config.require_points(n_points)
    for message in train.notes:
        note(message)
    note(f"{name}: features of {len(train)} training and {len(test)} test shapes")
    result, c = _score(
        encoder.to(device),
        *(_read(source, n_points, spare=config.draws > 1) for source in (train, test)),
        n_points=n_points,
        n_classes=len(train.class_names),
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
    mean = mean_class_accuracy(per_class)
    if table:
        print_class_table(
            f"Linear SVM, {name}",
            ["class", "accuracy %"],
            [[label, f"{value:.2f}"] for label, value in per_class.items()],
            [["all", f"{result.accuracy:.2f}"], ["mean over classes", f"{mean:.2f}"]],
        )
    return {
        "command": "svm",
        "accuracy": result.accuracy,
        "mean_class_accuracy": mean,
        "per_class": per_class,
        "n_train": len(train),
        "n_test": len(test),
        "C": c,
        "points": n_points,
        "pooling": config.pooling,
        "checkpoint": None if config.checkpoint is None else as_typed(config.checkpoint),
        "random_weights": config.checkpoint is None or config.random_weights,
        "config": to_plain(config),
    }


class Check:
    """Linear SVM during pre-training; shapes are read at the first call and kept.

    Raises:
        DataError: if there are no labeled splits.
        ConfigError: if the encoder needs more points.
    """

    def __init__(self, config: SvmCheckConfig, encoder: EncoderConfig) -> None:
        self._config = config
        self._sources = _labeled_splits(config)
        encoder.require_points(config.points, "svm.points")
        self._splits: tuple[Labeled, Labeled] | None = None

    def __call__(self, model: PretrainingModel, device: torch.device) -> float:
        """Accuracy in percent, in float32; the model stays in training mode."""
        if self._splits is None:
            train, test = (_read(source, self._config.points) for source in self._sources)
            self._splits = train, test
        was_training = model.training
        model.eval()
        result, _ = _score(
            model.features,
            *self._splits,
            n_points=self._config.points,
            n_classes=len(self._sources[0].class_names),
            draws=1,
            c=self._config.C,
            batch_size=32,
            device=device,
            dtype=torch.float32,
        )
        model.train(was_training)
        return result.accuracy


class Labeled(NamedTuple):
    """Clouds and their classes."""

    points: NDArray[np.float32]  # (S, N, 3)
    labels: NDArray[np.int64]  # (S,)


def _read(source: ShapeSource, n_points: int | None, *, spare: bool = False) -> Labeled:
    return Labeled(
        read_points(source, n_points, spare=spare), np.asarray(source.labels, dtype=np.int64)
    )


def _labeled_splits(
    config: SvmConfig | SvmCheckConfig, limit: int | None = None
) -> tuple[ShapeSource, ShapeSource]:
    data = config.data
    assert data is not None
    points = source_points(config.points)
    return open_labeled_splits(data, "a linear SVM", limit=limit, points=points, **config.reading)


def _score(
    encoder: Features,
    train: Labeled,
    test: Labeled,
    *,
    n_points: int | None,
    n_classes: int,
    draws: int,
    c: float | None,
    batch_size: int,
    device: torch.device,
    dtype: torch.dtype,
) -> tuple[SvmResult, float]:
    """Result of a linear SVM, and its C: `c`, or a chosen one."""
    features = []
    for points, _ in (train, test):
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
    if c is None:
        c = choose_c(features[0], train.labels)
        how = "chosen by cross-validation on the training shapes"
        if c is None:
            c, how = CANDIDATES[0], "as no two classes have the three shapes that choosing takes"
        note(f"C = {c:g}, {how}")
    result = linear_svm(
        features[0], train.labels, features[1], test.labels, C=c, n_classes=n_classes
    )
    return result, c
