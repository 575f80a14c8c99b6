"""Classification of whole shapes: an encoder and labelled shapes in, a classifier out."""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import Generator, Tensor

from i2pmae.config import EncoderConfig, FinetuneConfig
from i2pmae.errors import DataError
from i2pmae.evaluation.metrics import accuracy, per_class_accuracy
from i2pmae.evaluation.voting import vote
from i2pmae.model.classifier import Classifier
from i2pmae.progress import note
from i2pmae.stages.labelled import Batch, Clouds, open_labelled
from i2pmae.stages.run_folder import RunFolder
from i2pmae.stages.supervised import (
    Loss,
    Training,
    augmented,
    begin,
    divide,
    evaluate_both,
    fit,
    load_pretrained,
    outcome,
)
from i2pmae.training.losses import smoothed_cross_entropy
from i2pmae.training.seeding import step_generator

_VOTE = 1  # counter of the vote's draws


def run(config: FinetuneConfig, *, resume: bool = False) -> dict[str, Any]:
    """Fine-tune a classifier.

    The best epoch is the one with the best accuracy on a validation part of the training split;
    the test split is evaluated once, with the last and with that epoch's weights.

    Args:
        config: settings; `out` receives `config.json`, `metrics.jsonl` and checkpoints.
        resume: continue the run in `out`, to the numbers of a run that was never interrupted.

    Returns:
        Percent: `accuracy`, `accuracy_vote` (with voting), `validation_accuracy` of the best
        validation epoch, and the same of the last epoch (`*_last`); `per_class`; `best_epoch`,
        `epochs`, `n_train`, `n_validation`, `n_test`, `checkpoint` and where it came from.

    Raises:
        DataError: if a split or its labels are missing.
        CheckpointError: if the checkpoint holds no encoder that fits.
    """
    started = time.monotonic()
    pretrained = load_pretrained(config)
    data = open_labelled(config)
    names = data.class_names
    if len(names) < 2:
        raise DataError(f"{config.shapes} holds one class only; a classifier needs two or more")
    folder = RunFolder(config.out)
    folder.start(config, resume=resume)
    train, validation = divide(data.train, config)
    splits = {"train": train, "validation": validation, "test": data.test}
    for clouds in splits.values():
        clouds.prepare()

    def build(encoder: EncoderConfig) -> Classifier:
        return Classifier(encoder, config.head, n_classes=len(names))

    training = begin("classifier", build, config, pretrained, {"class_names": list(names)})
    if resume:
        training.restore(folder)
    else:
        note(training.report)

    def validate() -> dict[str, float]:
        predictions = predict(training, validation)
        return {"validation_accuracy": accuracy(predictions.numpy(), validation.labels)}

    fit(training, folder, train, classification_loss(training), validate, "validation_accuracy")
    figures = evaluate_both(training, folder, lambda: _figures(training, data.test, names))
    return outcome(training, folder, figures, splits, started)


def classification_loss(training: Training[Classifier]) -> Loss:
    """Cross-entropy of a classifier, smoothed as the recipe says."""

    def loss_of(batch: Batch) -> Tensor:
        logits = training.model(batch.points)
        return smoothed_cross_entropy(logits.float(), batch.labels, training.config.label_smoothing)

    return loss_of


@torch.inference_mode()
def predict(training: Training[Classifier], clouds: Clouds, *, voting: bool = False) -> Tensor:
    """Predicted labels of clouds, (S,) int64 on the CPU.

    Args:
        training: the network and its settings.
        clouds: their first `points` points are classified as they are.
        voting: take the mean logits of `vote` random draws, augmented as in training, instead.
    """
    config, model = training.config, training.model
    model.eval()
    generator = step_generator(config.seed, _VOTE, device=training.device)

    def change(points: Tensor, generator: Generator) -> Tensor:
        return augmented(points, config, generator)

    def classify(points: Tensor) -> Tensor:
        with training.autocast():
            logits: Tensor = model(points)
        return logits

    predictions = []
    for batch in clouds.in_order(config.batch_size):
        points = batch.points.to(training.device)
        if voting:
            n_points, n_draws = config.points, config.vote
            logits = vote(classify, points, change, generator, n_points=n_points, n_draws=n_draws)
        else:
            logits = classify(points[:, : config.points])
        predictions.append(logits.argmax(dim=1).cpu())
    return torch.cat(predictions)


def _figures(
    training: Training[Classifier], test: Clouds, names: tuple[str, ...]
) -> dict[str, Any]:
    """Accuracies on the test clouds."""
    predictions = predict(training, test).numpy()
    per_class = per_class_accuracy(predictions, test.labels, len(names))
    figures: dict[str, Any] = {
        "accuracy": accuracy(predictions, test.labels),
        "per_class": {
            name: float(value)
            for name, value in zip(names, per_class, strict=True)
            if value == value  # the test split has shapes of this class
        },
    }
    if training.config.vote:
        voted = predict(training, test, voting=True).numpy()
        figures["accuracy_vote"] = accuracy(voted, test.labels)
    return figures
