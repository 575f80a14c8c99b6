"""What a trained network says of clouds: for training, reports and whoever has shapes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor

from i2pmae.evaluation.metrics import restrict_to_category
from i2pmae.evaluation.voting import vote
from i2pmae.model.classifier import Classifier
from i2pmae.model.segmenter import Segmenter
from i2pmae.training.labeled import Batch

Parts = Sequence[Sequence[int]]  # per category, the parts that it may have


class Prediction(NamedTuple):
    """Some clouds and what a network says of them, on the CPU."""

    batch: Batch  # points that the network saw
    scores: Tensor  # float32; classifiers: logits (B, classes); segmenters: log-p. (B, N, parts)
    features: Tensor | None  # (B, C) float32, what a classifier's head saw; None of votes


class Voting(NamedTuple):
    """Votes instead of one look at a cloud's first points; see `evaluation.voting.vote`."""

    n_draws: int
    augment: Callable[[Tensor, Generator], Tensor]
    seed: int  # of the draws


@torch.inference_mode()
def predict(
    network: Classifier | Segmenter,
    clouds: Iterable[Batch],
    n_points: int,
    *,
    dtype: torch.dtype = torch.float32,
    voting: Voting | None = None,
) -> Iterator[Prediction]:
    """Classify clouds, or label their points, batch by batch.

    Args:
        network: on any device; it is left in evaluation mode.
        clouds: batches of clouds, as `Clouds.in_order` yields them.
        n_points: of every cloud that the network sees, the first ones.
        dtype: bfloat16 runs the network under autocast.
        voting: of classifiers alone.
    """
    network.eval()
    device = next(network.parameters()).device
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=dtype == torch.bfloat16)
    generator = None
    if voting is not None:
        generator = Generator(device=device).manual_seed(voting.seed)
    for whole in clouds:
        batch, features = whole.first(n_points), None
        points = batch.points.to(device)
        with autocast:
            if isinstance(network, Segmenter):
                scores = network(points, batch.labels.to(device))
            elif voting is None or generator is None:
                features = network.pooled(points)
                scores = network.head(features)
            else:
                scores = vote(
                    network,
                    whole.points.to(device),
                    voting.augment,
                    generator,
                    n_points=n_points,
                    n_draws=voting.n_draws,
                )
        features = None if features is None else features.float().cpu()
        yield Prediction(batch, scores.float().cpu(), features)


class Classified(NamedTuple):
    """Clouds and what a classifier says of them."""

    points: NDArray[np.float32]  # (S, N, 3)
    truth: NDArray[np.int64]  # (S,)
    predicted: NDArray[np.int64]  # (S,)
    confidence: NDArray[np.float32]  # (S,) softmax of the predicted class
    features: NDArray[np.float32]  # (S, C) what the head sees; C = 0 of votes


def classified(predictions: Iterable[Prediction], n_points: int | None = None) -> Classified:
    """A classifier's predictions as arrays; of each cloud the first `n_points` points."""
    rows = []
    for batch, scores, features in predictions:
        confidence, predicted = scores.softmax(dim=1).max(dim=1)
        seen = scores[:, :0] if features is None else features
        rows.append((batch.points[:, :n_points], batch.labels, predicted, confidence, seen))
    return Classified(*(torch.cat(column).numpy() for column in zip(*rows, strict=True)))


class Segmented(NamedTuple):
    """Clouds with labeled and predicted parts."""

    points: NDArray[np.float32]  # (S, N, 3)
    categories: NDArray[np.int64]  # (S,)
    truth: NDArray[np.int64]  # (S, N)
    predicted: NDArray[np.int64]  # (S, N) among the parts of the cloud's category


def segmented(predictions: Iterable[Prediction], class_parts: Parts) -> Segmented:
    """A segmenter's predictions of labeled clouds as arrays."""
    rows = []
    for batch, scores, _ in predictions:
        assert batch.parts is not None  # who asks has labeled parts
        categories = batch.labels.numpy()
        predicted = restrict_to_category(scores.numpy(), categories, class_parts)
        rows.append((batch.points.numpy(), categories, batch.parts.numpy(), predicted))
    return Segmented(*(np.concatenate(column) for column in zip(*rows, strict=True)))
