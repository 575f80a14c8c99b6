"""What a pre-training will cost, measured by a few steps on random clouds."""

from __future__ import annotations

import time
from functools import partial
from typing import TypedDict

import torch
from torch import Tensor

from i2pmae.config import PretrainConfig
from i2pmae.device import pick_device, pick_dtype
from i2pmae.geometry.projection import fit_pixels, view_axes
from i2pmae.model.pretraining import PretrainingModel
from i2pmae.training.compiled_step import WARM_UP, Batch, CompiledStep, Step, forward_backward
from i2pmae.training.pretraining import pretraining_step

_BATCH = 4  # shapes of a step on a CPU, whose time grows with them; a GPU takes the run's batches
_STEPS = 2  # measured, after those that warm up


class Cost(TypedDict):
    """What a pre-training would take."""

    epochs: int
    seconds_per_epoch: float
    seconds: float
    shapes_per_s: float
    parameters: int


def pretraining_cost(
    config: PretrainConfig, *, n_shapes: int, n_views: int, channels: int, image_size: int
) -> Cost:
    """How long `pretrain` would take: a few steps on random clouds, forward and backward.

    On a GPU the steps are as large as those of the run, and replayed from a CUDA graph if its are.

    Args:
        config: settings of the pre-training.
        n_shapes: shapes of the store.
        n_views, channels, image_size: of the store's features.

    Returns:
        See `Cost`.

    Raises:
        ConfigError: if clouds have too few points for the encoder.
    """
    config.encoder.require_points(config.points, "points")
    device = pick_device(config.device)
    replays = device.type == "cuda" and config.compile in ("auto", "cuda-graph")
    dtype = pick_dtype(config.precision, device)
    model = PretrainingModel(
        config.encoder,
        config.masking,
        config.targets,
        n_views=n_views,
        image_channels=channels,
        image_size=image_size,
        embed=config.embed,
    ).to(device)
    axes = view_axes(n_views)
    n_batch = _BATCH if device.type == "cpu" else config.batch_size // config.accumulate
    batch = _random_batch(config, n_batch, axes, channels, image_size)
    batch = {name: tensor.to(device) for name, tensor in batch.items()}
    axes = axes.to(device)

    def losses(batch: Batch) -> Tensor:
        with torch.autocast(device.type, torch.bfloat16, enabled=dtype == torch.bfloat16):
            return pretraining_step(model, batch, config, axes, None).loss[None]

    step: Step = partial(forward_backward, losses)
    if replays:  # compiling would take longer than all other measurements
        step = partial(CompiledStep(losses, model.parameters(), "cuda-graph"), seed=config.seed)
    started, n_warm = 0.0, WARM_UP + 1 if replays else 1
    torch.manual_seed(config.seed)
    for k in range(n_warm + _STEPS):
        float(step([batch]))  # waits for the device
        if k + 1 == n_warm:
            started = time.perf_counter()
    per_shape = (time.perf_counter() - started) / (_STEPS * n_batch)
    return {
        "epochs": config.epochs,
        "seconds_per_epoch": round(per_shape * n_shapes, 1),
        "seconds": round(per_shape * n_shapes * config.epochs, 1),
        "shapes_per_s": round(1 / per_shape, 3),
        "parameters": sum(tensor.numel() for tensor in model.parameters()),
    }


def _random_batch(
    config: PretrainConfig, n_shapes: int, axes: Tensor, channels: int, image_size: int
) -> dict[str, Tensor]:
    """Arrays of a store, filled by chance."""
    generator = torch.Generator().manual_seed(config.seed)
    points = torch.randn(n_shapes, config.points, 3, generator=generator)
    points = torch.nn.functional.normalize(points, dim=2)
    pixel_map = fit_pixels(points, axes, image_size)
    side = max(image_size // 16, 1)
    shape = (n_shapes, len(axes), side, side)
    return {
        "points": points,
        "saliency": torch.rand(shape, generator=generator),
        "features": torch.randint(
            -127, 127, (*shape, channels), dtype=torch.int8, generator=generator
        ),
        "feature_scale": torch.full((n_shapes, channels), 0.1),
        "pixel_origin": pixel_map.origin,
        "pixel_size": pixel_map.size,
        "pixel_shift": pixel_map.shift,
    }
