"""Classification of whole shapes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor, nn

from i2pmae.checkpoints.official import Kind
from i2pmae.config import EncoderConfig, FinetuneConfig
from i2pmae.errors import DataError
from i2pmae.evaluation.metrics import accuracy, mean_class_accuracy, per_class_accuracy
from i2pmae.geometry.transforms import augment
from i2pmae.model.classifier import Classifier
from i2pmae.training.labeled import Batch, LabeledSet
from i2pmae.training.losses import smoothed_cross_entropy
from i2pmae.training.prediction import Prediction, Voting, classified
from i2pmae.training.seeding import step_seed

_VOTE = 1  # counter of the vote's draws


class Classification:
    """The class of a shape; the best epoch is the one with the best accuracy on validation.

    Args:
        config: settings.
        class_names: of the labels.
    """

    kind: Kind = "classifier"
    score = "accuracy"

    def __init__(self, config: FinetuneConfig, class_names: tuple[str, ...]) -> None:
        self.config = config
        self.class_names = class_names
        self.extra: dict[str, Any] = {"class_names": list(class_names)}
        self.weights: Tensor | None = None

    @classmethod
    def of(cls, config: FinetuneConfig, data: LabeledSet) -> Classification:
        """For the classes of a data set.

        Raises:
            DataError: if training shapes are of one only.
        """
        if len(np.unique(data.train.labels)) < 2:
            raise DataError(
                f"{config.shapes}: all training shapes are of one class; a classifier needs two or "
                "more (--limit may have cut off the others)"
            )
        found = cls(config, data.class_names)
        if config.class_weights == "balanced":
            counts = np.bincount(data.train.labels, minlength=len(data.class_names))
            shares = counts * len(counts) / counts.sum()
            found.weights = torch.from_numpy(1 / np.maximum(shares, 1e-6)).float()
        return found

    def build(self, encoder: EncoderConfig) -> Classifier:
        """A network with random weights."""
        return Classifier(encoder, self.config.head, len(self.class_names), self.class_names)

    def loss(self, network: nn.Module, batch: Batch) -> Tensor:
        """Cross-entropy, smoothed and weighted by class as the settings say."""
        logits: Tensor = network(batch.points)
        weights = None if self.weights is None else self.weights.to(logits.device)
        return smoothed_cross_entropy(
            logits.float(), batch.labels, self.config.label_smoothing, weights
        )

    def measure(self, predictions: Iterable[Prediction]) -> dict[str, Any]:
        """In percent: `accuracy`, `mean_class_accuracy`, and `per_class` where there are shapes."""
        found = classified(predictions, n_points=0)
        per_class = per_class_accuracy(found.predicted, found.truth, len(self.class_names))
        named = {
            name: float(value)
            for name, value in zip(self.class_names, per_class, strict=True)
            if value == value
        }
        return {
            "accuracy": accuracy(found.predicted, found.truth),
            "mean_class_accuracy": mean_class_accuracy(named),
            "per_class": named,
        }

    def voting(self) -> Voting | None:
        """How the test clouds are voted on, where the recipe asks for it."""
        config = self.config

        def change(points: Tensor, generator: Generator) -> Tensor:
            return augment(points, **dict(config.augment), generator=generator)

        return Voting(config.vote, change, step_seed(config.seed, _VOTE)) if config.vote else None
