"""Stage one from end to end against the bare image model.

Shapes of 8192 points lie on disk in ShapeNet-55's layout. Stage one checks, loads, renders,
encodes, quantizes and writes them into a new store; the bare image model is called on ready-made
depth maps of the same number, size and dtype. The two take turns, after one turn to warm up; the
image model is loaded once, before, for both. `*_overhead`: seconds of stage one over those of the
bare model for as many shapes, median over the turns; `overhead`: that of the worse model;
`*_cpu_overhead`: the same of processor seconds, which other programs disturb less.

`--memory` measures instead how the peak memory of stage one grows from 500 to 5000 shapes, each
in a process of its own.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from output import show
from reader import peak_megabytes

from i2pmae.allocator import keep_freed_memory
from i2pmae.config import ExtractConfig, ImageModelConfig
from i2pmae.datasets import open_source
from i2pmae.device import pick_device, pick_dtype
from i2pmae.extraction.encoding import encode_batch
from i2pmae.geometry.projection import view_axes
from i2pmae.image_model import ImageModel, ImageModelInfo, load_image_model
from i2pmae.progress import configure
from i2pmae.stages import extract_2d

MODELS = {
    "vit_b16": ImageModelConfig(name="ViT-B-16", pretrained="random"),
    "lite0": ImageModelConfig(name="efficientnet-lite0-packaged", pretrained="packaged"),
}
SHAPES = {"vit_b16": 32, "lite0": 256}  # per turn: 7 turns extract 224 and 1792
QUICK_SIZE = 64  # pixels
CLOUDS = 96  # different ones; a longer list repeats them


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object only")
    parser.add_argument("--quick", action="store_true", help="does it run: few and small")
    parser.add_argument("--memory", action="store_true", help="measure memory instead")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=[*MODELS])
    parser.add_argument("--data", type=Path, help="shapes to extract; default: made on the spot")
    parser.add_argument("--shapes", type=int, help="per turn; default: by model")
    parser.add_argument("--points", type=int, default=8192, help="stored per shape")
    parser.add_argument("--precision", choices=("auto", "fp32", "bf16"), default="auto")
    parser.add_argument("--turns", type=int, default=7, help="measurements of each way")
    parser.add_argument("--few", type=int, default=500, help="shapes, with --memory")
    parser.add_argument("--many", type=int, default=5000, help="shapes, with --memory")
    parser.add_argument("--folder", type=Path, help="where to put shapes and stores")
    parser.add_argument(
        "--keep-memory", action="store_true", help="set the allocator for both, as the command does"
    )
    parser.add_argument("--peak", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    configure(quiet=True)
    if options.keep_memory:
        keep_freed_memory()
    if options.quick:
        options.shapes, options.points, options.turns = 8, 512, 1
        options.few, options.many, options.models = 8, 24, ["lite0"]
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        if options.peak is not None:
            print(peak_of_extraction(options, folder))
            return
        n_shapes = options.many if options.memory else options.shapes or max(SHAPES.values())
        if options.data is None:
            options.data = folder / "shapes"
            write_shapes(options.data, n_shapes, options.points)
        result = memory(options) if options.memory else speed(options, folder)
    show(result, as_json=options.json)


def speed(options: argparse.Namespace, folder: Path) -> dict[str, float]:
    """Rates of both ways with each image model, and what lies between them."""
    result: dict[str, float] = {}
    for model in options.models:
        config = extract_config(options, model)
        image_model = load(config)
        n_shapes = options.shapes or SHAPES[model]
        seconds, cpu_seconds = alternate(
            {
                "stage": lambda config=config, image_model=image_model, n_shapes=n_shapes: extract(
                    config, image_model, n_shapes, folder
                ),
                "bare": bare(config, image_model, n_shapes),
            },
            options.turns,
        )
        result |= {
            f"{model}_overhead": float(np.median(seconds["stage"] / seconds["bare"])),
            f"{model}_cpu_overhead": float(np.median(cpu_seconds["stage"] / cpu_seconds["bare"])),
            f"{model}_shapes_per_s": n_shapes / float(np.median(seconds["stage"])),
            f"{model}_bare_shapes_per_s": n_shapes / float(np.median(seconds["bare"])),
        }
    overhead = max(result[f"{model}_overhead"] for model in options.models)
    return {"overhead": overhead, **result}


def extract_config(options: argparse.Namespace, model: str) -> ExtractConfig:
    """Settings of stage one; the image model's size is its own."""
    image_model = MODELS[model]
    if options.quick:
        image_model = image_model.model_copy(update={"image_size": QUICK_SIZE})
    return ExtractConfig(
        data=options.data,
        points=options.points,
        precision=options.precision,
        image_model=image_model,
    )


def load(config: ExtractConfig) -> ImageModel:
    """The image model as stage one would load it."""
    wanted = config.image_model
    device = pick_device(config.device)
    dtype = pick_dtype(config.precision, device)
    return load_image_model(
        wanted.name, wanted.pretrained, wanted.image_size, wanted.normalization, device, dtype
    )


def extract(
    config: ExtractConfig, image_model: ImageModel, n_shapes: int, folder: Path
) -> dict[str, Any]:
    """One run of stage one, all but the loading of the image model; returns what it returns."""
    with tempfile.TemporaryDirectory(dir=folder) as name, loaded(image_model):
        update = {"cache": Path(name) / "turn.zarr", "limit": n_shapes}
        found = extract_2d.run(config.model_copy(update=update))
    if found["shapes"] != n_shapes:
        raise SystemExit(f"{config.data} holds {found['shapes']} shapes, {n_shapes} are needed")
    return found


def loaded(image_model: ImageModel | FreeImageModel) -> AbstractContextManager[object]:
    """Context in which stage one is given an image model that is there already."""
    return mock.patch("i2pmae.extraction.encoding.load_image_model", return_value=image_model)


class FreeImageModel:
    """An image model whose features take no time."""

    def __init__(self, info: ImageModelInfo) -> None:
        self.info, self._made = info, {}

    def __deepcopy__(self, _memo: Any) -> FreeImageModel:
        return self

    def __call__(self, pictures: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Made-up features and saliency, the same every time."""
        n = len(pictures)
        if n not in self._made:
            h, w = self.info.grid
            features = torch.randn(n, h, w, self.info.channels)
            self._made[n] = features, torch.rand(n, h, w)
        return self._made[n]


def bare(config: ExtractConfig, image_model: ImageModel, n_shapes: int) -> Callable[[], None]:
    """The image model alone, on the depth maps of the first batch again and again."""
    source = open_source(config.data, limit=config.batch_size, points=config.points)
    clouds = torch.from_numpy(np.stack([source.load(i).points for i in range(len(source))]))
    encoded = encode_batch(
        clouds.to(pick_device(config.device)),
        view_axes(config.views.n_views),
        image_model,
        config.views.draw,
        config.views.sum_points,
    )
    depth_maps = encoded["depth"].flatten(0, 1)
    n_images = n_shapes * config.views.n_views

    def call() -> None:
        for start in range(0, n_images, len(depth_maps)):
            features, _ = image_model(depth_maps[: n_images - start])
        features.sum().item()  # a GPU has finished

    return call


def alternate(
    ways: dict[str, Callable[[], None]], turns: int
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Seconds, and processor seconds of all threads, that each way took in each turn."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    cpu_seconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(turns + 1):
        for name, way in ways.items():
            begin, cpu_begin = time.perf_counter(), time.process_time()
            way()
            if turn:
                seconds[name].append(time.perf_counter() - begin)
                cpu_seconds[name].append(time.process_time() - cpu_begin)
    return (
        {name: np.array(found) for name, found in seconds.items()},
        {name: np.array(found) for name, found in cpu_seconds.items()},
    )


def memory(options: argparse.Namespace) -> dict[str, float]:
    """Peak memory of two extractions, and their ratio."""
    peaks = {}
    for n_shapes in (options.few, options.many):
        command = [sys.executable, __file__, "--peak", str(n_shapes), "--data", options.data]
        command += ["--points", str(options.points), "--precision", options.precision]
        command += ["--keep-memory"] * options.keep_memory
        done = subprocess.run(
            [*map(str, command), *["--quick"] * options.quick], stdout=subprocess.PIPE, check=True
        )
        peaks[n_shapes] = float(done.stdout)
    return {
        "memory_growth": peaks[options.many] / peaks[options.few],
        **{f"peak_rss_mb_{n_shapes}": peak for n_shapes, peak in peaks.items()},
    }


def peak_of_extraction(options: argparse.Namespace, folder: Path) -> float:
    """Peak resident memory in MB of this process after an extraction with the Lite0."""
    config = extract_config(options, "lite0")
    extract(config, load(config), options.peak, folder)
    return peak_megabytes()


def write_shapes(folder: Path, n_shapes: int, n_points: int) -> None:
    """Procedural shapes as ShapeNet-55 comes: one `.npy` each, and a list."""
    source = open_source(Path("procedural"), split="all", points=n_points)
    clouds = folder / "shapenet_pc"
    clouds.mkdir(parents=True)
    names = [f"{source.labels[i % CLOUDS]:08d}-{i:08d}.npy" for i in range(n_shapes)]
    for i, name in enumerate(names):
        if i < CLOUDS:
            np.save(clouds / name, source.load(i).points)
        else:
            os.link(clouds / names[i % CLOUDS], clouds / name)
    listing = folder / "ShapeNet-55" / "train.txt"
    listing.parent.mkdir()
    listing.write_text("".join(f"{name}\n" for name in names))


if __name__ == "__main__":
    main()
