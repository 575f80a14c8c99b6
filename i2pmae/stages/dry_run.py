"""What an extraction will cost, measured on a few shapes before anything is started."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import NamedTuple, TypedDict

from i2pmae.config import ExtractConfig, WorkersConfig
from i2pmae.datasets import survey_headers
from i2pmae.device import pick_device
from i2pmae.extraction.loading import open_data
from i2pmae.image_model.present import weights_present
from i2pmae.interrupts import forget_saved
from i2pmae.progress import Progress, format_bytes, format_seconds, print_table, quietly
from i2pmae.stages import extract_2d
from i2pmae.store.location import Location
from i2pmae.store.metadata import load_info
from i2pmae.store.schema import StoreSpec

_SAMPLE = 8  # shapes that are really extracted
_SMALL_SAMPLE = 3  # the same where seconds count
_HERE = "here"
_NOT_HERE = "not here: downloaded at first use, or pass a file with --pretrained"


class Sizes(TypedDict):
    """Sizes of a store's features."""

    n_views: int
    channels: int
    image_size: int


class Result(TypedDict):
    """What an extraction would read, write and take."""

    data: str
    layout: str
    split: str
    shapes: int
    training_shapes: int  # of them, by their splits
    skipped: int | None  # None: not surveyed
    points: int  # per shape
    images: int
    store: str
    bytes: int
    free_bytes: int | None  # None for object stores, which do not say
    seconds: float
    shapes_per_s: float
    measured_on: int  # shapes
    sizes: Sizes
    weights_here: bool


class _Sample(NamedTuple):
    """What extracting a few shapes took."""

    n_shapes: int
    seconds: float
    n_bytes: int
    spec: StoreSpec


def run(config: ExtractConfig) -> Result:
    """Say what `extract-2d` with these settings would read and write, and how long it would take.

    A few shapes are extracted into a temporary store; nothing of it stays.

    Args:
        config: settings of the extraction.

    Returns:
        See `Result`.

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
            ["skipped, as far as known", f"{found['skipped']:,}"],
            ["points per shape", f"{found['points']:,}"],
            ["images through the 2D model", f"{found['images']:,}"],
            ["store", found["store"]],
            ["its size, about", format_bytes(found["bytes"])],
            [
                "free there",
                ("unknown" if free is None else format_bytes(free))
                + ("" if fits(found) else ", too little"),
            ],
            ["rate of one process here", f"{found['shapes_per_s']:.3g} shapes/s"],
            ["time, about", format_seconds(found["seconds"])],
            ["2D weights", _HERE if found["weights_here"] else _NOT_HERE],
        ],
    )
    return found


def fits(found: Result) -> bool:
    """Whether there is room for the store, as far as is known."""
    return found["free_bytes"] is None or found["free_bytes"] > 1.2 * found["bytes"]


def extraction(config: ExtractConfig, *, survey: bool = True) -> Result:
    """The figures of `run`, without a table.

    Args:
        config: settings of the extraction.
        survey: look at every shape for what cannot be used; else at the few that are measured.
    """
    source = open_data(config)
    bad: dict[int, str] = {}
    if survey:
        with Progress("check", total=len(source)) as progress:
            found = survey_headers(source, progress.advance)
        n_points, bad = extract_2d.usable(found, source, config)
        config = config.model_copy(update={"points": n_points})
    store = extract_2d.store_path(config.cache, config.data)
    on_gpu = pick_device(config.device).type == "cuda"
    n_sample = 2 * config.batch_size if on_gpu else _SAMPLE if survey else _SMALL_SAMPLE
    sample = config.model_copy(
        update={
            "limit": min(n_sample, len(source)),
            "on_error": "skip" if bad or not survey else config.on_error,
            "layout": source.layout,
            "loaders": 0,
            "workers": WorkersConfig(),  # a cluster is not asked for so few
        }
    )
    here = weights_present(config.image_model.name, config.image_model.pretrained)
    if not here:  # a dry run fetches nothing; random weights take as long
        image_model = config.image_model.model_copy(update={"pretrained": "random"})
        sample = sample.model_copy(update={"image_model": image_model})
    if on_gpu:
        _extract_sample(sample)  # loads kernels, which takes longer than all the rest
    measured = _extract_sample(sample)
    share, spec = len(source) / measured.n_shapes, measured.spec
    return {
        "data": str(config.data),
        "layout": source.layout,
        "split": config.split,
        "shapes": len(source),
        "training_shapes": sum(split not in ("test", "val") for split in source.splits),
        "skipped": len(bad) if survey else None,
        "points": spec.n_points,
        "images": len(source) * config.views.n_views,
        "store": str(store),
        "bytes": round(measured.n_bytes * share),
        "free_bytes": Location.of(store).free_bytes(),
        "seconds": round(measured.seconds * share, 1),
        "shapes_per_s": round(measured.n_shapes / measured.seconds, 3),
        "measured_on": measured.n_shapes,
        "sizes": Sizes(n_views=spec.n_views, channels=spec.channels, image_size=spec.image_size),
        "weights_here": here,
    }


def _extract_sample(config: ExtractConfig) -> _Sample:
    """Extract a few shapes into a folder that goes away."""
    with tempfile.TemporaryDirectory(prefix="i2pmae-") as folder, quietly():
        store = Path(folder) / "sample.zarr"
        try:
            result = extract_2d.run(config.model_copy(update={"cache": store}))
        finally:
            forget_saved()  # a sample is nothing to resume
        walked = [os.path.join(at, file) for at, _, files in os.walk(store) for file in files]
        n_bytes = sum(map(os.path.getsize, walked))
        spec = load_info(Location.of(store)).spec
    seconds = result["shapes"] / max(result["shapes_per_s"], 1e-3)
    return _Sample(result["shapes"], seconds, n_bytes, spec)
