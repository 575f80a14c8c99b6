"""A head of one hidden layer, fitted to a pre-trained encoder's features before any training."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Generator, Tensor, nn

from i2pmae.config import FinetuneConfig
from i2pmae.evaluation.probes import hidden_layer_probe
from i2pmae.model.classifier import Classifier
from i2pmae.progress import track
from i2pmae.training.labeled import Batch, Clouds, draw_points, draw_spread_points
from i2pmae.training.prediction import predict
from i2pmae.training.seeding import step_seed

_MOST_DRAWS = 4
_SEEN = 8000  # drawn clouds in all, where shapes are many
_DRAWS = 3  # counter of the draws


def fit_head(
    model: Classifier,
    clouds: Clouds,
    config: FinetuneConfig,
    weights: Tensor | None,
    dtype: torch.dtype,
) -> None:
    """Fit the head to the features of a pre-trained encoder.

    Args:
        model: on its device, with the weights that training starts from.
        clouds: to train on, prepared.
        config: settings.
        weights: (classes,) by which a shape of each class counts; None: 1.
        dtype: of the network's products.

    Source: Kumar et al., Fine-Tuning can Distort Pretrained Features and Underperform
        Out-of-Distribution (2022): fine-tuning after probing, there with a linear head.
    """
    n_draws = max(1, min(_MOST_DRAWS, _SEEN // len(clouds.labels)))
    batches = track(_draws(clouds, config, n_draws), "features of the probe")
    seen = [
        (found.features, found.batch.labels)
        for found in predict(model, batches, config.points, dtype=dtype)
        if found.features is not None
    ]
    features, labels = (torch.cat(column).numpy() for column in zip(*seen, strict=True))
    layers = hidden_layer_probe(
        features,
        labels,
        len(model.class_names),
        config.head.width,
        None if weights is None else weights.numpy(),
        config.seed,
    )
    linear = [layer for layer in model.head if isinstance(layer, nn.Linear)]
    with torch.no_grad():
        for layer, (weight, bias) in zip(linear, layers, strict=True):
            layer.weight.copy_(torch.from_numpy(weight))
            layer.bias.copy_(torch.from_numpy(bias))


def _draws(clouds: Clouds, config: FinetuneConfig, n_draws: int) -> Iterator[Batch]:
    """All clouds as evaluation sees them, then several random draws of their points."""
    yield from clouds.in_order(config.batch_size)
    generator = Generator().manual_seed(step_seed(config.seed, _DRAWS))
    draw = draw_spread_points if config.sampling == "spread" else draw_points
    size = min(config.batch_size, len(clouds.labels))
    for epoch in range(n_draws):
        for batch in clouds.batches(size, seed=config.seed, epoch=epoch):
            yield draw(batch, config.points, generator)
