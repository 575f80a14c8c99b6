"""Stage one of meshes: pictures of surfaces against pictures of points, with a free 2D network.

The 2D network gives made-up features at once, so what is measured is all the rest: parsing meshes,
drawing, quantizing, writing. `ms_*`: processor milliseconds per shape for each `views.draw`, median
over turns; `speed_*`: those of `sum` over them. Meshes are tori of 4,608 faces; `--data` takes real
ones.
"""

from __future__ import annotations

import argparse
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from extract import FreeImageModel, alternate, load, loaded
from loaders import off
from output import show

from i2pmae.config import ExtractConfig, ImageModelConfig, ViewConfig
from i2pmae.progress import configure
from i2pmae.stages import extract_2d

DRAWS = ("sum", "nearest", "surface-depth", "surface-normals", "surface-shaded")
RINGS, SIDES = 96, 24  # of a torus


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object only")
    parser.add_argument("--quick", action="store_true", help="does it run: few and small")
    parser.add_argument("--data", type=Path, help="meshes; default: made on the spot")
    parser.add_argument("--shapes", type=int, default=64, help="of each turn")
    parser.add_argument("--points", type=int, default=2048, help="of each shape")
    parser.add_argument("--turns", type=int, default=7, help="measurements of each way")
    options = parser.parse_args()
    configure(quiet=True)
    torch.set_num_threads(1)
    if options.quick:
        options.shapes, options.points, options.turns = 4, 256, 1
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if options.data is None:
            options.data = folder / "meshes"
            write_tori(options.data, options.shapes)
        result = measure(options, folder)
    show(result, as_json=options.json)


def measure(options: argparse.Namespace, folder: Path) -> dict[str, float]:
    """Milliseconds by way to draw, and speeds against `sum`."""
    network = ImageModelConfig(
        name="timm:test_vit", pretrained="random", image_size=64 if options.quick else 224
    )
    config = ExtractConfig(
        data=options.data,
        limit=options.shapes,
        points=options.points,
        precision="fp32",
        loaders=0,
        image_model=network,
    )
    image_model = FreeImageModel(load(config).info)
    _, seconds = alternate(
        {draw: partial(extract, config, image_model, draw, folder) for draw in DRAWS}, options.turns
    )
    each = {draw: 1000 * float(np.median(seconds[draw])) / options.shapes for draw in DRAWS}
    return {
        **{f"ms_{draw}": value for draw, value in each.items()},
        **{f"speed_{draw}": each["sum"] / value for draw, value in each.items() if draw != "sum"},
    }


def extract(config: ExtractConfig, image_model: FreeImageModel, draw: Any, folder: Path) -> None:
    """One run of stage one, all but the loading of the image model."""
    with tempfile.TemporaryDirectory(dir=folder) as name, loaded(image_model):
        update = {"cache": Path(name) / "turn.zarr", "views": ViewConfig(draw=draw)}
        extract_2d.run(config.model_copy(update=update))


def write_tori(folder: Path, count: int) -> None:
    """Tori of different sizes as OFF files."""
    folder.mkdir()
    around, about = np.meshgrid(np.arange(RINGS), np.arange(SIDES), indexing="ij")
    here = (around * SIDES + about).ravel()
    right = ((around + 1) % RINGS * SIDES + about).ravel()
    over = (around * SIDES + (about + 1) % SIDES).ravel()
    across = ((around + 1) % RINGS * SIDES + (about + 1) % SIDES).ravel()
    faces = np.concatenate([np.stack([here, right, across], 1), np.stack([here, across, over], 1)])
    u, v = 2 * np.pi * around.ravel() / RINGS, 2 * np.pi * about.ravel() / SIDES
    for number, thickness in enumerate(np.linspace(0.1, 0.5, count)):
        radius = 1 + thickness * np.cos(v)
        points = np.stack([radius * np.cos(u), thickness * np.sin(v), radius * np.sin(u)], 1)
        (folder / f"{number:03}.off").write_bytes(off(points.round(6), faces))


if __name__ == "__main__":
    main()
