"""What both stages will cost, measured on a few shapes before anything is started."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from i2pmae.config import ExtractConfig, PretrainConfig, WorkersConfig
from i2pmae.device import pick_device, pick_dtype
from i2pmae.geometry.projection import fit_pixels, view_axes
from i2pmae.image_model.present import weights_present
from i2pmae.model.pretraining import PretrainingModel
from i2pmae.progress import format_seconds, print_table, quietly
from i2pmae.stages import extract_2d
from i2pmae.stages.inspect import readable_bytes
from i2pmae.stages.pretrain import pretraining_step
from i2pmae.store.location import Location
from i2pmae.store.metadata import load_info

_SAMPLE = 8  # shapes that are really extracted
_BATCH = 4  # shapes of a measured training step
_STEPS = 2  # measured, after one that warms up
_HERE = "here"
_NOT_HERE = "not here: downloaded at first use, or pass a file with --pretrained"


def run(config: ExtractConfig) -> dict[str, Any]:
    """Say what `extract-2d` with these settings would read and write, and how long it would take.

    A few shapes are extracted into a temporary store; nothing of it stays.

    Args:
        config: settings of the extraction.

    Returns:
        `data`, `layout`, `split`, `shapes`, `points` (per shape), `images`, `store`, `bytes`,
        `free_bytes`, `seconds`, `shapes_per_s`, `measured_on` (shapes), `sizes` (of the features),
        `weights_here`.

    Raises:
        DataError: if the data set or its first shapes cannot be used.
        ConfigError: if the image model is unknown.
        WeightsError: if its weights file is missing.
    """
    found = extraction(config)
    free = found["free_bytes"]
    print_table(
        "Dry run: nothing is written",
        ["what", "value"],
        [
            ["data", f"{found['data']} ({found['layout']}, split {found['split']})"],
            ["shapes", f"{found['shapes']:,}"],
            ["points per shape", f"{found['points']:,}"],
            ["images through the 2D model", f"{found['images']:,}"],
            ["store", found["store"]],
            ["its size, about", readable_bytes(found["bytes"])],
            ["free there", "unknown" if free is None else readable_bytes(free)],
            ["rate of one process here", f"{found['shapes_per_s']:.3g} shapes/s"],
            ["time, about", format_seconds(found["seconds"])],
            ["2D weights", _HERE if found["weights_here"] else _NOT_HERE],
        ],
    )
    return found


def extraction(config: ExtractConfig) -> dict[str, Any]:
    """The figures of `run`, without a table."""
    source = extract_2d.open_data(config)
    store = extract_2d.store_path(config.cache, config.data)
    sample = config.model_copy(
        update={
            "limit": min(_SAMPLE, len(source)),
            "layout": source.layout,
            "workers": WorkersConfig(),  # a cluster is not asked for so few
        }
    )
    here = weights_present(config.image_model.name, config.image_model.pretrained)
    if not here:  # a dry run fetches nothing; random weights take as long
        image_model = config.image_model.model_copy(update={"pretrained": "random"})
        sample = sample.model_copy(update={"image_model": image_model})
    measured = _extract_sample(sample)
    share = len(source) / measured["shapes"]
    return {
        "data": str(config.data),
        "layout": source.layout,
        "split": config.split,
        "shapes": len(source),
        "points": measured["points"],
        "images": len(source) * config.views.n_views,
        "store": str(store),
        "bytes": round(measured["bytes"] * share),
        "free_bytes": free_bytes(store),
        "seconds": round(measured["seconds"] * share, 1),
        "shapes_per_s": round(measured["shapes"] / measured["seconds"], 3),
        "measured_on": measured["shapes"],
        "sizes": measured["sizes"],
        "weights_here": here,
    }


def training(
    config: PretrainConfig, *, n_shapes: int, n_views: int, channels: int, image_size: int
) -> dict[str, Any]:
    """How long `pretrain` would take: a few steps on random clouds, forward and backward.

    Args:
        config: settings of the pre-training.
        n_shapes: shapes of the store.
        n_views, channels, image_size: of the store's features.

    Returns:
        `epochs`, `seconds_per_epoch`, `seconds`, `shapes_per_s`, `parameters`.
    """
    device = pick_device(config.device)
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
    batch = _random_batch(config, axes, channels, image_size)
    batch = {name: tensor.to(device) for name, tensor in batch.items()}
    generator = torch.Generator(device).manual_seed(config.seed)
    started = 0.0
    for step in range(1 + _STEPS):
        with torch.autocast(device.type, torch.bfloat16, enabled=dtype == torch.bfloat16):
            output = pretraining_step(model, batch, config, axes.to(device), generator)
        output.loss.backward()
        float(output.loss.detach())  # waits for the device
        if step == 0:
            started = time.perf_counter()
    per_shape = (time.perf_counter() - started) / (_STEPS * _BATCH)
    return {
        "epochs": config.epochs,
        "seconds_per_epoch": round(per_shape * n_shapes, 1),
        "seconds": round(per_shape * n_shapes * config.epochs, 1),
        "shapes_per_s": round(1 / per_shape, 3),
        "parameters": sum(tensor.numel() for tensor in model.parameters()),
    }


def free_bytes(path: Path) -> int | None:
    """Free space where a path would be written; None for object stores, which do not say."""
    folder = Location.of(path).folder
    if folder is None:
        return None
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    return shutil.disk_usage(existing).free


def _extract_sample(config: ExtractConfig) -> dict[str, Any]:
    """Extract a few shapes into a folder that goes away."""
    with tempfile.TemporaryDirectory(prefix="i2pmae-") as folder, quietly():
        store = Path(folder) / "sample.zarr"
        result = extract_2d.run(config.model_copy(update={"cache": store}))
        walked = [os.path.join(at, file) for at, _, files in os.walk(store) for file in files]
        n_bytes = sum(map(os.path.getsize, walked))
        spec = load_info(Location.of(store)).spec
    sizes = {name: getattr(spec, name) for name in ("n_views", "channels", "image_size")}
    rate = result["shapes_per_s"]
    seconds = result["shapes"] / max(rate, 1e-3)
    return {**result, "bytes": n_bytes, "seconds": seconds, "sizes": sizes}


def _random_batch(
    config: PretrainConfig, axes: torch.Tensor, channels: int, image_size: int
) -> dict[str, torch.Tensor]:
    """Arrays of a store, filled by chance."""
    generator = torch.Generator().manual_seed(config.seed)
    points = torch.randn(_BATCH, config.points, 3, generator=generator)
    points = torch.nn.functional.normalize(points, dim=2)
    pixel_map = fit_pixels(points, axes, image_size)
    side = max(image_size // 16, 1)
    shape = (_BATCH, len(axes), side, side)
    return {
        "points": points,
        "saliency": torch.rand(shape, generator=generator),
        "features": torch.randint(-127, 127, (*shape, channels), generator=generator).to(
            torch.int8
        ),
        "feature_scale": torch.full((_BATCH, channels), 0.1),
        "pixel_origin": pixel_map.origin,
        "pixel_size": pixel_map.size,
        "pixel_shift": pixel_map.shift,
    }
