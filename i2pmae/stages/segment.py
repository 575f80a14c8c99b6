"""Part segmentation: an encoder and shapes with part labels in, a segmenter out."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from i2pmae.config import EncoderConfig, FinetuneConfig
from i2pmae.errors import DataError
from i2pmae.evaluation.metrics import PartIou, part_iou, restrict_to_category
from i2pmae.model.segmenter import Segmenter
from i2pmae.progress import note
from i2pmae.stages.labelled import Batch, Clouds, LabelledSet, open_labelled
from i2pmae.stages.run_folder import RunFolder
from i2pmae.stages.supervised import (
    Training,
    begin,
    divide,
    evaluate_both,
    fit,
    load_pretrained,
    outcome,
)

PICTURE = "parts.png"
_DRAWN = 8  # categories in the picture, at most

Parts = Sequence[Sequence[int]]  # per category, the parts that it may have


def run(config: FinetuneConfig, *, resume: bool = False) -> dict[str, Any]:
    """Train a part segmenter.

    The best epoch is the one with the best instance mIoU on a validation part of the training
    split; the test split is evaluated once, with the last and with that epoch's weights. Figures
    are of `points` points per shape.

    Args:
        config: settings; `out` receives `config.json`, `metrics.jsonl`, checkpoints and a picture.
        resume: continue the run in `out`, to the numbers of a run that was never interrupted.

    Returns:
        Percent: `instance_miou`, `category_miou`, `validation_instance_miou`,
        `validation_category_miou` of the best validation epoch, and the same of the last epoch
        (`*_last`); `per_category`; `best_epoch`, `epochs`, `n_train`, `n_validation`, `n_test`,
        `picture`, `checkpoint` and where it came from.

    Raises:
        DataError: if a split, its labels or the parts are missing.
        CheckpointError: if the checkpoint holds no encoder that fits.

    Source: Point-M2AE, section 4.2; Yi et al. for the figures.
    """
    started = time.monotonic()
    pretrained = load_pretrained(config)
    data = open_labelled(config)
    parts, n_parts = _require_parts(config, data)
    names = data.class_names
    folder = RunFolder(config.out)
    folder.start(config, resume=resume)
    train, validation = divide(data.train, config)
    splits = {"train": train, "validation": validation, "test": data.test}
    for clouds in splits.values():
        clouds.prepare()

    def build(encoder: EncoderConfig) -> Segmenter:
        return Segmenter(encoder, n_parts, len(names), config.segment_head)

    extra = {
        "class_names": list(names),
        "part_names": list(data.part_names or ()),
        "class_parts": [list(members) for members in parts],
    }
    training = begin("segmenter", build, config, pretrained, extra)
    if resume:
        training.restore(folder)
    else:
        note(training.report)

    def loss_of(batch: Batch) -> Tensor:
        assert batch.parts is not None  # _require_parts
        scores = training.model(batch.points, batch.labels)
        return F.nll_loss(scores.flatten(0, 1), batch.parts.flatten())

    def validate() -> dict[str, float]:
        found = evaluate(training, validation, parts)
        return {
            "validation_instance_miou": found.instance,
            "validation_category_miou": found.category,
        }

    def test() -> dict[str, Any]:
        found = evaluate(training, data.test, parts)
        return {
            "instance_miou": found.instance,
            "category_miou": found.category,
            "per_category": {
                name: float(value)
                for name, value in zip(names, found.per_category, strict=True)
                if np.isfinite(value)  # the test split has shapes of this category
            },
        }

    fit(training, folder, train, loss_of, validate, "validation_instance_miou")
    figures = evaluate_both(training, folder, test)
    picture = _draw(training, data.test, parts, names, folder.path / PICTURE)
    return {**outcome(training, folder, figures, splits, started), "picture": str(picture)}


class Segmented(NamedTuple):
    """Some shapes with labelled and predicted parts, on the CPU."""

    points: NDArray[np.float32]  # (B, N, 3)
    categories: NDArray[np.int64]  # (B,)
    truth: NDArray[np.int64]  # (B, N)
    predicted: NDArray[np.int64]  # (B, N) among the parts of the shape's category


@torch.inference_mode()
def segment(training: Training[Segmenter], clouds: Clouds, parts: Parts) -> Iterator[Segmented]:
    """Predict the parts of the first `points` points of each cloud, batch by batch."""
    config, model = training.config, training.model
    model.eval()
    for whole in clouds.in_order(config.batch_size):
        batch = whole.first(config.points)
        assert batch.parts is not None  # _require_parts
        with training.autocast():
            scores = model(batch.points.to(training.device), batch.labels.to(training.device))
        categories = batch.labels.numpy()
        predicted = restrict_to_category(scores.cpu().numpy(), categories, parts)
        yield Segmented(batch.points.numpy(), categories, batch.parts.numpy(), predicted)


def evaluate(training: Training[Segmenter], clouds: Clouds, parts: Parts) -> PartIou:
    """Mean IoU of the network as it is."""
    batches = list(segment(training, clouds, parts))
    predicted, truth, categories = (
        np.concatenate([getattr(batch, name) for batch in batches])
        for name in ("predicted", "truth", "categories")
    )
    return part_iou(predicted, truth, categories, parts)


def _draw(
    training: Training[Segmenter],
    test: Clouds,
    parts: Parts,
    names: tuple[str, ...],
    path: Path,
) -> Path:
    """Draw the first test shape of each of the first categories."""
    from i2pmae.pictures.parts import draw_parts

    categories, first = np.unique(test.labels, return_index=True)
    shown = first[:_DRAWN].astype(np.int64)
    batches = list(segment(training, test.select(shown), parts))
    points, truth, predicted = (
        np.concatenate([getattr(batch, name) for batch in batches])
        for name in ("points", "truth", "predicted")
    )
    lowest = np.array([min(parts[category]) for category in categories[:_DRAWN]])[:, None]
    return draw_parts(
        path,
        list(points),
        list(truth - lowest),
        list(predicted - lowest),
        [names[category] for category in categories[:_DRAWN]],
    )


def _require_parts(config: FinetuneConfig, data: LabelledSet) -> tuple[Parts, int]:
    """Parts per category, and how many parts there are in all."""
    if data.part_names is None or data.class_parts is None:
        raise DataError(
            f"{config.shapes}: its shapes have no part labels; segmentation needs them, as "
            "ShapeNetPart or the word 'procedural' gives them"
        )
    return data.class_parts, len(data.part_names)
