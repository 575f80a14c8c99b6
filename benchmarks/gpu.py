"""Everything that runs on a GPU, checked against the CPU, then timed: one command, no data.

- `equality`: every stage on the GPU and on the CPU, in float32 without tf32: points to pixels and
  depth maps, farthest points and neighbors, masks, losses, gradients, what a store holds.
- `step`: the pre-training step of the paper's network and of the recipe `pretrain-small`, batches
  in GPU memory; and `i2pmae pretrain` as a whole.
- `extract`: stage one with ViT-B/16 and random weights, the encoding alone and into a store.
- `reader`: decoded shapes/s by the number of threads.
- `finetune`: a fine-tuning step with ModelNet40's settings, and features of a frozen encoder.
- `curves`: the losses of real steps on the built-in shapes, in both precisions and of two seeds.
- `compiled`: the step as a CUDA graph, compiled, and both.
- `profile`: where the time of an eager step goes, kernel by kernel.

A row that fails is recorded with its error and stops no other. Rows are printed as they come, and
the JSON file is written again after each. A section ends when its time is up, and so does all at
`--minutes`. Without a GPU, rows that need one say so.
"""

from __future__ import annotations

import argparse
import copy
import gc
import json
import os
import platform
import re
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple

import extract
import finetune_step
import numpy as np
import torch
from reader import rates_by_threads, write_store
from step import THREE_D_ONLY, TrainingStep
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from i2pmae.atomic_write import atomic_write
from i2pmae.config import (
    EncoderConfig,
    ExtractConfig,
    FinetuneConfig,
    ImageModelConfig,
    PretrainConfig,
)
from i2pmae.datasets import open_source
from i2pmae.extraction.encoding import (
    Encoder,
    encode_batch,
    encode_features,
    load_encoder,
    to_device,
    to_host,
)
from i2pmae.extraction.local import several_at_once
from i2pmae.extraction.shards import encode_shape
from i2pmae.geometry.grouping import group, nearest_neighbors
from i2pmae.geometry.projection import fit_pixels, patches_read, pixels, render, view_axes
from i2pmae.geometry.sampling import HAS_TRITON, farthest_points
from i2pmae.geometry.sampling_torch import farthest_points_torch
from i2pmae.image_model import ImageModel, load_image_model
from i2pmae.model.classifier import Classifier
from i2pmae.model.pretraining import PretrainingModel
from i2pmae.progress import configure, print_table
from i2pmae.recipes import load_config
from i2pmae.stages import extract_2d, pretrain
from i2pmae.store.reader import StoreReader
from i2pmae.store.schema import StoreSpec
from i2pmae.training import pretraining
from i2pmae.training.optim import set_learning_rate
from i2pmae.training.seeding import step_seed

Figures = dict[str, Any]  # by name, of one row
WARM_UP, TURNS = 3, 5
PROFILED = 3  # steps
NO_DEVICE = "no CUDA device"


PAPER = EncoderConfig()


@dataclass(frozen=True)
class Sizes:
    """How large everything is."""

    encoder: EncoderConfig = PAPER
    image_model: ImageModelConfig = extract.MODELS["vit_b16"]
    stored: int = 8192  # points of a stored shape
    points: int = 2048  # of a training step
    shapes: int = 512  # of the store
    extracted: int = 4096  # shapes, so that starting up counts little
    compared: int = 8  # shapes on both devices
    batches: tuple[int, ...] = (64, 256)  # of the step
    encoded: tuple[int, ...] = (8, 64)  # shapes per call of the image model
    finetuned: int = 32
    turn_seconds: float = 0.25
    steps: int = 200  # of a loss curve
    threads: tuple[int, ...] = (1, 2, 4, 8, 16)


QUICK = Sizes(
    encoder=EncoderConfig(
        n_centers=(32, 16, 8),
        group_sizes=(8, 4, 4),
        widths=(12, 24, 48),
        depths=(1, 1, 1),
        embedding_width=8,
    ),
    image_model=ImageModelConfig(name="timm:test_vit", pretrained="random", image_size=64),
    stored=256,
    points=128,
    shapes=32,
    extracted=8,
    compared=2,
    batches=(2, 4),
    encoded=(2,),
    finetuned=4,
    turn_seconds=0.0,
    steps=4,
    threads=(1, 2),
)


class Row(NamedTuple):
    """A measurement to make."""

    name: str
    work: Callable[[], Figures]
    needs_cuda: bool = False


@dataclass(frozen=True)
class Bench:
    """What the sections share."""

    sizes: Sizes
    device: torch.device
    folder: Path
    quick: bool

    @cached_property
    def store(self) -> Path:
        """A store of random features."""
        path = self.folder / "random.zarr"
        write_store(path, self.sizes.shapes, self.sizes.stored)
        return path

    @cached_property
    def shapes(self) -> Path:
        """Shapes as files, for stage one."""
        path = self.folder / "shapes"
        extract.write_shapes(path, self.sizes.extracted, self.sizes.stored)
        return path

    @cached_property
    def _image_models(self) -> dict[str, ImageModel]:
        return {}

    def image_model(self, precision: str) -> ImageModel:
        """The image model, loaded when it is first asked for."""
        if precision not in self._image_models:
            wanted = self.sizes.image_model
            self._image_models[precision] = load_image_model(
                wanted.name,
                wanted.pretrained,
                wanted.image_size,
                device=self.device,
                dtype=dtype_of(precision),
            )
        return self._image_models[precision]

    @cached_property
    def clouds(self) -> Tensor:
        """(B, N, 3) built-in shapes in the unit sphere, different ones."""
        n_shapes = max(*self.sizes.encoded, self.sizes.compared)
        source = open_source(Path("procedural"), limit=n_shapes, points=self.sizes.stored)
        return torch.from_numpy(np.stack([source.load(i).points for i in range(len(source))]))

    def config(self, **settings: Any) -> PretrainConfig:
        """Settings of pre-training."""
        values = {"cache": self.store, "out": self.folder / "run", "points": self.sizes.points}
        return PretrainConfig.model_validate({**values, "encoder": self.sizes.encoder, **settings})

    def synchronize(self) -> None:
        """Wait until the device has done its work."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def timed(self, work: Callable[[], object], n_shapes: int) -> Figures:
        """Median milliseconds of some work after warming up, its shapes/s and peak memory."""
        is_cuda = self.device.type == "cuda"
        if is_cuda:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        for _ in range(1 if self.quick else WARM_UP):
            work()

        def seconds(n_calls: int) -> float:
            self.synchronize()
            begin = time.perf_counter()
            for _ in range(n_calls):
                work()
            self.synchronize()
            return (time.perf_counter() - begin) / n_calls

        n_calls = max(1, round(self.sizes.turn_seconds / seconds(1)))
        median = float(np.median([seconds(n_calls) for _ in range(1 if self.quick else TURNS)]))
        figures = {"ms": 1e3 * median, "shapes_per_s": n_shapes / median}
        return (
            {**figures, "peak_gb": torch.cuda.max_memory_allocated() / 1e9} if is_cuda else figures
        )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="file for all figures; default: none")
    parser.add_argument("--quick", action="store_true", help="does it run: everything small")
    parser.add_argument("--minutes", type=float, default=7.5, help="when to stop")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=[*SECTIONS])
    parser.add_argument(
        "--device", choices=("cuda", "cpu"), help="default: cuda where there is one"
    )
    parser.add_argument("--folder", type=Path, help="where to put stores; default: temporary")
    options = parser.parse_args()
    started = time.monotonic()
    configure(quiet=True)
    gc.freeze()  # what is imported stays; collecting after each row is then quick
    device = torch.device(options.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    report = Report(options.json, facts(device), started, started + 60 * options.minutes)
    sizes = QUICK if options.quick else Sizes()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        bench = Bench(sizes, device, Path(folder), options.quick)
        for name in options.only:
            make_rows, share = SECTIONS[name]
            report.run(name, make_rows(bench), 60 * options.minutes * share, device)
    report.finish()


def facts(device: torch.device) -> Figures:
    """What the figures were measured with."""
    found = {
        "device": platform.processor() or platform.machine(),
        "cpu_cores": os.cpu_count(),
        "cpu_threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "triton": HAS_TRITON,
        "commit": first_line("git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"),
        "load_average": os.getloadavg()[0],
    }
    if device.type == "cuda":
        about = torch.cuda.get_device_properties(device)
        found |= {
            "device": about.name,
            "memory_gb": about.total_memory / 1e9,
            "cuda": torch.version.cuda,
            "driver": first_line(
                "nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"
            ),
        }
    return found


def first_line(*command: str) -> str:
    """Of what a command prints; `unknown` if it cannot."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[0]
    except (OSError, subprocess.CalledProcessError, IndexError):
        return "unknown"


class Report:
    """Rows as they come: printed, and kept in a file.

    Args:
        path: of the file; None: none.
        machine: what the figures were measured with.
        started, end: `time.monotonic()` of the beginning and of the latest end.
    """

    def __init__(self, path: Path | None, machine: Figures, started: float, end: float) -> None:
        self._path, self._started, self._end = path, started, end
        self.found: Figures = {"machine": machine, "complete": False, "seconds": {}, "rows": []}
        self._print(" ".join(f"{key}={shown(value)}" for key, value in machine.items()))

    def run(self, section: str, rows: Iterator[Row], budget: float, device: torch.device) -> None:
        """Make a section's measurements, until its time is up."""
        began = time.monotonic()
        end = min(began + budget, self._end)
        row: Row | None = None
        while True:
            begin = time.monotonic()
            name = "next row" if row is None else f"after {row.name}"
            try:
                with time_limit(end - begin):
                    row = next(rows, None)
                    if row is None:
                        break
                    name = row.name
                    figures = row.work() if device.type == "cuda" or not row.needs_cuda else None
            except (Exception, TimeIsUpError) as error:  # the other rows are wanted
                figures = {"error": one_line(error), "traceback": traceback.format_exc()[-4000:]}
            figures = {"error": NO_DEVICE} if figures is None else figures
            seconds = time.monotonic() - begin
            self._add({"section": section, "row": name, **figures, "seconds": seconds})
            gc.collect()
            if row is None or name != row.name or time.monotonic() >= end:
                break  # the section's preparation failed, or its time is up
        self.found["seconds"][section] = time.monotonic() - began
        self._write()

    def finish(self) -> None:
        """Print all rows in one table."""
        self.found["complete"] = True
        self.found["seconds"]["all"] = time.monotonic() - self._started
        self._write()
        cells = [[row["section"], row["row"], told(row)] for row in self.found["rows"]]
        print_table("", ("section", "row", "figures"), cells)
        sys.stdout.flush()

    def _add(self, row: Figures) -> None:
        self.found["rows"].append(row)
        self._print(f"{row['section']:9} {row['row']:34} {told(row)} ({row['seconds']:.1f} s)")
        self._write()

    def _print(self, line: str) -> None:
        print(f"{time.monotonic() - self._started:6.1f} s  {line}", file=sys.stderr, flush=True)

    def _write(self) -> None:
        if self._path is not None:
            with atomic_write(self._path) as file:
                file.write_text(json.dumps(self.found, indent=1, default=str))


class TimeIsUpError(BaseException):
    """Nothing that a library does about errors, or about its own time limits, is meant for it."""


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise a TimeIsUpError in the block, between two lines of Python, when its time is up."""

    def stop(*_: object) -> None:
        raise TimeIsUpError(f"stopped after {seconds:.0f} s, when the section's time was up")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 0.01))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def one_line(error: BaseException) -> str:
    """Type and message of an error."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]


def told(row: Mapping[str, Any]) -> str:
    """The figures of a row in one line."""
    left_out = ("section", "row", "seconds", "traceback", "longest_ms", "all")
    return ", ".join(f"{key} {shown(value)}" for key, value in row.items() if key not in left_out)


def shown(value: object) -> str:
    """A figure with four digits that count."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {shown(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(shown, value)) + "]"
    if not isinstance(value, float):
        return str(value)
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


# Equality


def equality(bench: Bench) -> Iterator[Row]:
    """Every stage on the CPU and on the device."""
    for n_views in (3, 10):
        yield Row(f"projection, {n_views} views", partial(projection, bench, n_views))
    for name, (points, n_centers) in sampling_cases(bench).items():
        yield Row(f"sampling, {name}", partial(sampling, bench, points, n_centers))
    yield Row("neighbors", partial(neighbors, bench))
    yield Row("grouping", partial(grouping, bench))
    yield Row("step inputs", partial(step_inputs, bench))
    for embed in ("all", "visible"):
        yield Row(f"losses and gradients, embed {embed}", partial(gradients, bench, embed))
    for precision in ("fp32", "bf16"):
        yield Row(f"stored shapes, {precision}", partial(stored_shapes, bench, precision))


def on_both(bench: Bench, work: Callable[[torch.device], Any]) -> tuple[Any, Any]:
    """What some work gives on the CPU and on the device, without tf32."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False  # of products it is off anyway
    try:
        return work(torch.device("cpu")), work(bench.device)
    finally:
        torch.backends.cudnn.allow_tf32 = before


def differ(expected: Tensor, found: Tensor) -> int:
    """How many entries are not the same."""
    return int((expected.cpu() != found.cpu()).sum())


def largest_error(expected: Tensor, found: Tensor) -> float:
    """Largest absolute difference."""
    return float((expected.cpu().double() - found.cpu().double()).abs().max())


def relative_error(expected: Tensor, found: Tensor) -> float:
    """Norm of the difference over that of what is expected."""
    expected, found = expected.cpu().double(), found.cpu().double()
    return float((found - expected).norm() / expected.norm().clamp(min=1e-30))


def projection(bench: Bench, n_views: int) -> Figures:
    """Pixels, depth maps of both kinds, patches that are read."""
    clouds = bench.clouds[: bench.sizes.compared]

    def project(device: torch.device) -> tuple[Tensor, ...]:
        points, axes = clouds.to(device), view_axes(n_views).to(device)
        pixel_map = fit_pixels(points, axes)
        at = pixels(points, pixel_map, axes)
        maps = [
            render(points[:, : bench.sizes.points], pixel_map, axes, draw="sum"),
            render(points, pixel_map, axes, draw="nearest"),
        ]
        return at, *maps, patches_read(at, (14, 14))

    expected, found = on_both(bench, project)
    return {
        "pixels": expected[0].numel(),
        "pixels_differ": differ(expected[0], found[0]),
        "sum_error": largest_error(expected[1], found[1]),
        "nearest_error": largest_error(expected[2], found[2]),
        "patches_differ": differ(expected[3], found[3]),
    }


def sampling_cases(bench: Bench) -> dict[str, tuple[Tensor, int]]:
    """Clouds, and how many points to choose; symmetric ones have many points equally far."""
    generator = torch.Generator().manual_seed(0)

    def random(batch: int, n_points: int) -> Tensor:
        return torch.randn(batch, n_points, 3, generator=generator)

    side, factor = (4, 16) if bench.quick else (16, 1)
    lattice = torch.cartesian_prod(*[torch.linspace(-1, 1, side)] * 3)[None]
    angle = torch.arange(256) * (2 * torch.pi / 256)
    ring = torch.stack([angle.cos(), torch.zeros(256), angle.sin()], dim=1)
    heights = torch.linspace(-1, 1, 8).view(-1, 1, 1) * torch.tensor([0.0, 1.0, 0.0])
    half = random(8, 512)
    mirrored = torch.cat([half * torch.tensor([sign, 1.0, 1.0]) for sign in (1.0, -1.0)], dim=1)
    swapped = torch.cat([mirrored, mirrored[..., [2, 1, 0]]], dim=1)
    cases = {
        "64 of 2048": (random(64, 2048), 512),
        "16 of 8192": (random(16, 8192), 512),
        "4 of 16384": (random(4, 16384), 128),
        "2 of 17000 (no kernel)": (random(2, 17000), 64),
        "32 of 1200": (random(32, 1200), 1024),
        "lattice": (lattice, 512),
        "cylinder": ((ring + heights).reshape(1, -1, 3), 512),
        "mirrored and swapped": (swapped, 512),
        "few distinct points": (random(4, 64).repeat(1, 16, 1), 256),
    }
    return {
        name: (points, min(n_centers // factor, points.shape[1]))
        for name, (points, n_centers) in cases.items()
    }


def sampling(bench: Bench, points: Tensor, n_centers: int) -> Figures:
    """Farthest points: the CPU's, the device's and those of the version in tensor operations."""
    expected, found = on_both(bench, lambda device: farthest_points(points.to(device), n_centers))
    here = points.to(bench.device)
    plain = farthest_points_torch(here, n_centers)
    timed = bench.timed(lambda: farthest_points(here, n_centers), len(points))
    return {
        "chosen": expected.numel(),
        "differ": differ(expected, found),
        "plain_differ": differ(expected, plain),
        "ms": timed["ms"],
    }


def neighbors(bench: Bench) -> Figures:
    """Nearest neighbors of the same centers."""
    points = bench.clouds[: bench.sizes.compared, : bench.sizes.points]
    centers, size = (
        points[:, : bench.sizes.encoder.n_centers[0]],
        bench.sizes.encoder.group_sizes[0],
    )
    expected, found = on_both(
        bench, lambda device: nearest_neighbors(centers.to(device), points.to(device), size)
    )
    return {"neighbors": expected.numel(), "differ": differ(expected, found)}


def grouping(bench: Bench) -> Figures:
    """Centers and neighbors of all levels."""
    points, encoder = (
        bench.clouds[: bench.sizes.compared, : bench.sizes.points],
        bench.sizes.encoder,
    )
    expected, found = on_both(
        bench, lambda device: group(points.to(device), encoder.n_centers, encoder.group_sizes)
    )
    return {
        f"{name}_differ": [differ(*pair) for pair in zip(expected[i], found[i], strict=True)]
        for i, name in ((0, "centers"), (2, "neighbors"))
    }


class Inputs(PretrainingModel):
    """Takes down what a step calls the network with."""

    def forward(self, *given: Tensor, feature_scale: Tensor, **_: Any) -> Any:
        """Compute nothing."""
        self.given, self.feature_scale = given, feature_scale


def inputs_of_step(bench: Bench, config: PretrainConfig, device: torch.device) -> Inputs:
    """What the network of a step is given on a device, the draws being the CPU's."""
    reader = StoreReader(bench.store)
    stored = reader.read(np.arange(bench.sizes.compared))
    batch = {name: torch.from_numpy(array).to(device) for name, array in stored.items()}
    sizes = pretraining.network_sizes(reader)
    inputs = Inputs(config.encoder, config.masking, config.targets, **sizes)
    axes, generator = torch.from_numpy(reader.view_axes), torch.Generator().manual_seed(0)
    pretraining.pretraining_step(inputs, batch, config, axes.to(device), generator)
    return inputs


def step_inputs(bench: Bench) -> Figures:
    """Points, features, saliency, pixels."""
    config = bench.config()
    expected, found = on_both(bench, partial(inputs_of_step, bench, config))
    return {
        "points_error": largest_error(expected.given[0], found.given[0]),
        "pixels": expected.given[3].numel(),
        "pixels_differ": differ(expected.given[3], found.given[3]),
    }


def gradients(bench: Bench, embed: str) -> Figures:
    """Masks, losses and gradients of the network from the same inputs, and losses in bfloat16."""
    encoder = bench.sizes.encoder.model_copy(update={"drop_path": 0.0})  # it draws on the device
    config = bench.config(encoder=encoder, embed=embed)
    inputs = inputs_of_step(bench, config, torch.device("cpu"))

    def step(device: torch.device, dtype: torch.dtype = torch.float32) -> tuple[Any, Any]:
        torch.manual_seed(0)
        model = pretraining.build_model(config, StoreReader(bench.store)).to(device).train()
        with torch.autocast(device.type, torch.bfloat16, enabled=dtype == torch.bfloat16):
            output = model(
                *(tensor.to(device) for tensor in inputs.given),
                generator=torch.Generator().manual_seed(1),
                feature_scale=inputs.feature_scale.to(device),
            )
        output.loss.backward()
        named = model.named_parameters()
        return output, {name: p.grad.cpu() for name, p in named if p.grad is not None}

    (expected, slopes), (found, found_slopes) = on_both(bench, step)
    half, half_slopes = step(bench.device, torch.bfloat16)
    # A bias before a normalization has gradient 0, to rounding: less than this share counts as it.
    least = 1e-4 * float(joined(slopes).norm())
    errors = {
        name: float((slope - found_slopes[name]).norm() / slope.norm().clamp(min=least))
        for name, slope in slopes.items()
    }
    worst = max(errors, key=lambda name: errors[name])
    return {
        "masks_differ": [differ(*pair) for pair in zip(expected.masks, found.masks, strict=True)],
        "loss_2d_error": relative_error(expected.loss_2d.detach(), found.loss_2d.detach()),
        "loss_3d_error": relative_error(expected.loss_3d.detach(), found.loss_3d.detach()),
        "gradient_error": relative_error(joined(slopes), joined(found_slopes)),
        "largest_gradient_error": errors[worst],
        "of": worst,
        "bf16_loss_error": relative_error(expected.loss.detach(), half.loss.detach()),
        "bf16_gradient_error": relative_error(joined(slopes), joined(half_slopes)),
    }


def joined(tensors: Mapping[str, Tensor]) -> Tensor:
    """All entries in a row."""
    return torch.cat([tensor.flatten() for tensor in tensors.values()])


def stored_shapes(bench: Bench, precision: str) -> Figures:
    """What a store holds of some shapes: the CPU's in float32 against the device's."""
    n_shapes, sizes = min(bench.sizes.compared, 4), bench.sizes
    source = open_source(Path("procedural"), limit=n_shapes, points=sizes.stored)

    def encode(device: torch.device) -> dict[str, Tensor]:
        config = extract_config(bench, "fp32" if device.type == "cpu" else precision)
        encoder = load_encoder(config, device)
        model = encoder.image_model.info
        spec = StoreSpec(
            n_shapes=n_shapes,
            n_points=sizes.stored,
            n_views=config.views.n_views,
            image_size=model.image_size,
            grid=model.grid,
            channels=model.channels,
            parts=source.part_names is not None,
        )
        shapes = [encode_shape(source, spec, encoder, i) for i in range(n_shapes)]
        return {
            name: torch.from_numpy(np.concatenate([s[name] for s in shapes])) for name in shapes[0]
        }

    expected, found = on_both(bench, encode)
    values = [x["features"] * x["feature_scale"][:, None, None, None] for x in (expected, found)]
    exact = ("points", "depth", "pixel_origin", "pixel_size", "pixel_shift")
    return {
        "codes_differ": differ(expected["features"], found["features"])
        / expected["features"].numel(),
        "largest_code_error": largest_error(expected["features"], found["features"]),
        "features_error": relative_error(*values),
        "saliency_error": relative_error(expected["saliency"], found["saliency"]),
        **{f"{name}_differ": differ(expected[name], found[name]) for name in exact},
    }


# The step


def step_rows(bench: Bench) -> Iterator[Row]:
    """Pre-training steps on batches in the device's memory."""
    for n_shapes in bench.sizes.batches:
        for precision in ("bf16", "fp32"):
            settings = {"batch_size": n_shapes}
            yield Row(f"{precision}, {n_shapes} shapes", partial(step, bench, precision, settings))
    n_shapes = bench.sizes.batches[0]
    for name, settings in (("visible groups", {"embed": "visible"}), ("3D only", THREE_D_ONLY)):
        settings = {"batch_size": n_shapes, **settings}
        yield Row(f"bf16, {n_shapes} shapes, {name}", partial(step, bench, "bf16", settings))
    yield Row(f"tf32, {n_shapes} shapes", partial(tf32, bench, n_shapes), needs_cuda=True)
    for n_shapes in (16, bench.sizes.batches[0]):
        small = partial(step, bench, "bf16", {"batch_size": n_shapes}, "pretrain-small")
        yield Row(f"pretrain-small, bf16, {n_shapes} shapes", small)
    yield Row("i2pmae pretrain", partial(whole_command, bench, "off"))
    graph = partial(whole_command, bench, "cuda-graph")
    yield Row("i2pmae pretrain --compile cuda-graph", graph, needs_cuda=True)


def make_step(
    bench: Bench, precision: str, settings: dict[str, Any], recipe: str | None = None
) -> tuple[TrainingStep, Callable[[], Tensor]]:
    """The training step on one batch, again and again, as a run draws for it."""
    config = bench.config(**settings)
    if recipe is not None and not bench.quick:
        options = {"cache": bench.store, "out": "unused", **settings}
        config = load_config(PretrainConfig, "pretrain", recipe=recipe, options=options)
    reader = StoreReader(bench.store)
    train = TrainingStep(reader, config, dtype_of(precision), bench.device.type)
    batch = {
        name: torch.from_numpy(array).to(bench.device)
        for name, array in reader.read(np.arange(config.batch_size) % len(reader)).items()
    }
    generator = torch.Generator(bench.device).manual_seed(0)
    return train, partial(train, batch, generator)


def dtype_of(precision: str) -> torch.dtype:
    """Of the name that recipes give it."""
    return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]


def step(
    bench: Bench, precision: str, settings: dict[str, Any], recipe: str | None = None
) -> Figures:
    """Time and memory of a step."""
    _, work = make_step(bench, precision, settings, recipe)
    return bench.timed(work, settings["batch_size"])


def tf32(bench: Bench, n_shapes: int) -> Figures:
    """The same in float32 with tf32 products."""
    torch.set_float32_matmul_precision("high")
    try:
        return step(bench, "fp32", {"batch_size": n_shapes})
    finally:
        torch.set_float32_matmul_precision("highest")


CLASSES = {  # of kernels, by the first pattern that their names contain
    "copies": r"Memcpy|Memset|copy_kernel|CatArray",
    "sampling": r"^_sample",
    "attention": r"fmha|flash|sdpa|attention",
    "optimizer": r"multi_tensor_apply|[Aa]dam",
    "sort, top-k": r"[Ss]ort|top_?[kK]|[Rr]adix|[Bb]itonic",
    "matrix products": r"gemm|gemv|nvjet|cutlass|cublas|xmma|splitK|dot_kernel",
    "gather, scatter, index": r"index|[Gg]ather|[Ss]catter|[Ee]mbedding|[Cc]ompute_grad_weight",
    "normalization": r"[Nn]orm|GammaBeta",
    "pooling": r"pool",
    "compiled": r"^triton_",
    "random numbers": r"distribution|philox",
    "reductions": r"reduce|[Ss]can|[Ss]oft[Mm]ax",
    "elementwise": r"elementwise|unrolled|where",
}


def profile(bench: Bench) -> Figures:
    """Where the time of an eager bfloat16 step goes, and how often the host waits in it."""
    _, work = make_step(bench, "bf16", {"batch_size": bench.sizes.batches[0]})
    for _ in range(WARM_UP):
        work()
    waits = count_waits(work)
    with FlopCounterMode(display=False) as counted:
        work()
    torch.cuda.synchronize()
    begin = time.perf_counter()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profiled:
        for _ in range(PROFILED):
            work()
        torch.cuda.synchronize()
    seconds = time.perf_counter() - begin
    trace = bench.folder / "trace.json"
    profiled.export_chrome_trace(str(trace))
    events = json.loads(trace.read_text())["traceEvents"]
    return {
        **by_class(events, PROFILED),
        "ms_profiled": 1e3 * seconds / PROFILED,
        "gflop": counted.get_total_flops() / 1e9,
        "waits": waits,
    }


def by_class(events: Iterable[Mapping[str, Any]], n_steps: int) -> Figures:
    """Milliseconds of a step's kernels by class, their number, and the longest by name.

    Args:
        events: of a trace in Chrome's format.
        n_steps: that they are of.
    """
    on_device = [e for e in events if e.get("cat") in ("kernel", "gpu_memcpy", "gpu_memset")]
    seconds: Counter[str] = Counter()
    names: Counter[str] = Counter()
    for event in on_device:
        matches = (kind for kind, pattern in CLASSES.items() if re.search(pattern, event["name"]))
        seconds[next(matches, "other")] += event["dur"] / 1e3 / n_steps
        names[event["name"][:120]] += event["dur"] / 1e3 / n_steps
    return {
        "ms_busy": sum(seconds.values()),
        "kernels": sum(e["cat"] == "kernel" for e in on_device) / n_steps,
        "copies": sum(e["cat"] != "kernel" for e in on_device) / n_steps,
        "ms_by_class": dict(seconds.most_common()),
        "longest_ms": dict(names.most_common(15)),
    }


def count_waits(work: Callable[[], object]) -> int:
    """How often the host waits for the GPU."""
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            work()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return sum("synchroniz" in str(warning.message) for warning in caught)


def whole_command(bench: Bench, mode: str) -> Figures:
    """Training from the store, as the command does it: the last epoch's rate."""
    config = bench.config(
        out=bench.folder / f"run-{mode}",
        batch_size=bench.sizes.batches[0],
        epochs=2 if bench.quick else 6,
        device=bench.device.type,
        compile=mode,
    )
    result = pretrain.run(config)
    return {name: result[name] for name in ("shapes_per_s", "wait_share", "loss")}


# Stage one


def extract_rows(bench: Bench) -> Iterator[Row]:
    """Encoding alone, then everything."""
    rates: dict[str, float] = {}
    for precision in ("bf16", "fp32"):
        for n_shapes in bench.sizes.encoded:
            given = (bench, n_shapes, rates, precision)
            yield Row(f"encoding, {precision}, {n_shapes} shapes", partial(encode, *given))
            work = partial(encode_in_thread, *given)
            yield Row(f"encoding in its thread, {precision}, {n_shapes} shapes", work)
    yield Row("image model, fp16", partial(image_model_alone, bench, "fp16"), needs_cuda=True)
    for precision in ("bf16", "fp32"):
        for n_shapes in bench.sizes.encoded if precision == "bf16" else bench.sizes.encoded[-1:]:
            work = partial(into_store, bench, n_shapes, rates, precision)
            yield Row(f"into a store, {precision}, {n_shapes} shapes", work)


def extract_config(bench: Bench, precision: str, **settings: Any) -> ExtractConfig:
    """Settings of stage one."""
    values = {"data": "procedural", "points": bench.sizes.stored, "device": bench.device.type}
    values |= {"image_model": bench.sizes.image_model, "precision": precision}
    return ExtractConfig.model_validate({**values, **settings})


def make_encoder(bench: Bench, precision: str) -> Encoder:
    """What stage one encodes with."""
    with extract.loaded(bench.image_model(precision)):
        return load_encoder(extract_config(bench, precision), bench.device)


def encode(bench: Bench, n_shapes: int, rates: dict[str, float], precision: str) -> Figures:
    """Clouds of the host to rows of a store on the host, against the image model alone."""
    encoder = make_encoder(bench, precision)
    image_model = encoder.image_model
    host = bench.clouds[:n_shapes].numpy()
    clouds, axes = bench.clouds[:n_shapes].to(bench.device), encoder.axes
    size, drawn = image_model.info.image_size, clouds[:, : encoder.sum_points]
    pixel_map = fit_pixels(clouds, axes, size)
    depth_maps = render(drawn, pixel_map, axes, size).flatten(0, 1)
    at = pixels(clouds, pixel_map, axes, size)
    features = image_model(depth_maps)[0].unflatten(0, clouds.shape[:1] + axes.shape[:1])
    codes = encode_features(features, encoder.dtype, encoder.int8_step)
    parts: dict[str, Callable[[], object]] = {
        "to device": lambda: to_device(host, bench.device),
        "fit pixels": lambda: fit_pixels(clouds, axes, size),
        "render": lambda: render(drawn, pixel_map, axes, size),
        "image model": lambda: image_model(depth_maps),
        "pixels": lambda: pixels(clouds, pixel_map, axes, size),
        "patches read": lambda: patches_read(at, image_model.info.grid, size),
        "quantize": lambda: encode_features(features, encoder.dtype, encoder.int8_step),
        "to host": lambda: to_host(codes),
        "all before the host": lambda: encode_batch(
            clouds, axes, image_model, encoder.draw, encoder.sum_points
        ),
    }
    ms = {name: bench.timed(part, n_shapes)["ms"] for name, part in parts.items()}
    alone = 1e3 * n_shapes / ms["image model"]
    rates[precision] = max(alone, rates.get(precision, 0.0))
    found = bench.timed(lambda: encoder(host), n_shapes)
    return {
        **found,
        "image_model_shapes_per_s": alone,
        "share_of_image_model": ms["image model"] / found["ms"],
        "ms_by_part": ms,
    }


def encode_in_thread(
    bench: Bench, n_shapes: int, rates: dict[str, float], precision: str
) -> Figures:
    """The same in the thread of stage one, with the next batch waiting."""
    encoder = make_encoder(bench, precision)
    host = bench.clouds[:n_shapes].numpy()
    n_batches = 2 if bench.quick else 16

    def work() -> None:
        for _ in several_at_once(lambda _, mine: mine(host), range(n_batches), encoder):
            pass

    found = bench.timed(work, n_batches * n_shapes)
    rate = rates.get(precision, float("nan"))
    return {**found, "share_of_image_model": found["shapes_per_s"] / rate}


def image_model_alone(bench: Bench, precision: str, compiled: bool = False) -> Figures:
    """The image model alone, as it is or compiled."""
    n_shapes = bench.sizes.encoded[-1]
    image_model = bench.image_model(precision)
    if compiled:
        image_model = copy.copy(image_model)  # the other is not to be compiled
        reset_compiler()
        image_model.compile(3 * n_shapes)
    images = torch.rand(3 * n_shapes, image_model.info.image_size, image_model.info.image_size)
    images = images.to(bench.device)
    with torch.inference_mode():  # as in stage one; in another mode it would be compiled again
        return bench.timed(lambda: image_model(images), n_shapes)


def into_store(bench: Bench, n_shapes: int, rates: dict[str, float], precision: str) -> Figures:
    """Stage one from files into a store, all but the loading of the image model."""
    config = extract_config(bench, precision, batch_size=n_shapes, data=bench.shapes)
    image_model = bench.image_model(precision)
    found = extract.extract(config, image_model, bench.sizes.extracted, bench.folder)
    found = {name: found[name] for name in ("shapes_per_s", "wait_share", "seconds")}
    rate = rates.get(precision, float("nan"))
    return {
        "shapes_per_s": found["shapes_per_s"],
        "share_of_image_model": found["shapes_per_s"] / rate,
        "wait_share": found["wait_share"],
        "seconds_with_check": found["seconds"],
    }


# Reading, fine-tuning, losses


def reader_rows(bench: Bench) -> Iterator[Row]:
    """Random batches from a store."""

    def rates() -> Figures:
        threads = [n for n in bench.sizes.threads if n <= (os.cpu_count() or 1)]
        found = rates_by_threads(bench.store, threads, turns=1 if bench.quick else 5)
        return {"shapes_per_s_by_threads": found}

    yield Row(f"{bench.sizes.stored} points", rates)


def finetune_rows(bench: Bench) -> Iterator[Row]:
    """ModelNet40's recipe from scratch."""
    options = {"data": "unused", "out": "unused"}
    recipe = "finetune-modelnet40"
    config = load_config(FinetuneConfig, "finetune", recipe=recipe, options=options)
    if bench.quick:
        config = config.model_copy(
            update={"encoder": bench.sizes.encoder, "points": bench.sizes.points}
        )

    def train(precision: str) -> Figures:
        torch.manual_seed(0)
        points = finetune_step.clouds(1, bench.sizes.finetuned, config.points).to(bench.device)
        model = Classifier(config.encoder, config.head, n_classes=40)
        work = finetune_step.make_step(model, config, dtype_of(precision), points)
        found = bench.timed(work, bench.sizes.finetuned)
        return {**found, "waits": count_waits(work)} if bench.device.type == "cuda" else found

    def features() -> Figures:
        torch.manual_seed(0)
        model = pretraining.build_model(bench.config(), StoreReader(bench.store)).to(bench.device)
        points = finetune_step.clouds(1, 4 * bench.sizes.finetuned, config.points)
        points = points.to(bench.device)
        with torch.inference_mode(), torch.autocast(bench.device.type, torch.bfloat16):
            return bench.timed(lambda: model.eval().features(points), len(points))

    for precision in ("bf16", "fp32"):
        yield Row(f"{precision}, {bench.sizes.finetuned} shapes", partial(train, precision))
    yield Row(f"features, bf16, {4 * bench.sizes.finetuned} shapes", features)


def curve_rows(bench: Bench) -> Iterator[Row]:
    """The same steps in both precisions; another seed shows what chance does."""
    store = bench.folder / "procedural.zarr"
    image_model = bench.image_model("fp32")
    config = extract_config(bench, "fp32", cache=store, points=bench.sizes.points)
    if bench.quick:
        config = config.model_copy(update={"limit": bench.sizes.shapes})
    with extract.loaded(image_model):
        extract_2d.run(config)
    curves: dict[str, Tensor] = {}
    for name, precision, seed in (("fp32", "fp32", 0), ("bf16", "bf16", 0), ("seed 1", "fp32", 1)):
        yield Row(name, partial(curve, bench, store, precision, seed, curves, name))


def curve(
    bench: Bench, store: Path, precision: str, seed: int, curves: dict[str, Tensor], name: str
) -> Figures:
    """Losses of real steps: at some, the mean of the last tenth, and how far from float32's."""
    n_steps, reader = bench.sizes.steps, StoreReader(store)
    n_shapes = min(bench.sizes.batches[0], len(reader))
    config = bench.config(
        batch_size=n_shapes, optim={"schedule": "step", "warmup_epochs": 5, "cosine_epochs": 400}
    )
    train = TrainingStep(reader, config, dtype_of(precision), bench.device.type, seed)
    n_epoch = len(reader) // n_shapes
    whole = {
        key: torch.from_numpy(array).to(bench.device)
        for key, array in reader.read(np.arange(len(reader))).items()
    }
    losses = []
    for k in range(n_steps):
        torch.manual_seed(step_seed(seed, k))
        order = torch.randperm(len(reader), generator=torch.Generator().manual_seed(k // n_epoch))
        first = k % n_epoch * n_shapes
        chosen = order[first : first + n_shapes].to(bench.device)
        generator = torch.Generator(bench.device).manual_seed(step_seed(seed, k))
        set_learning_rate(train.optimizer, config.optim, k // n_epoch, k % n_epoch / n_epoch)
        losses.append(train({key: x[chosen] for key, x in whole.items()}, generator))
    found = torch.stack(losses).cpu()[:, 0]
    curves[name] = found
    last = n_steps // 10 or 1
    figures: Figures = {
        "loss_at": {k: float(found[k - 1]) for k in (1, 50, 100, 200) if k <= n_steps},
        "last_tenth": float(found[-last:].mean()),
        "all": [round(value, 5) for value in found.tolist()],
    }
    if name != "fp32" and "fp32" in curves:
        away = (found - curves["fp32"]) / curves["fp32"]
        figures |= {
            "largest_difference": float(away.abs().max()),
            "last_tenth_difference": float(away[-last:].mean()),
        }
    return figures


# Graphs and compiled steps


def compiled_rows(bench: Bench) -> Iterator[Row]:
    """Fewer launches, fewer passes through memory."""
    first, last = bench.sizes.batches[0], bench.sizes.batches[-1]
    for n_shapes in (first, last):
        graph = partial(captured_eager, bench, n_shapes)
        yield Row(f"CUDA graph, bf16, {n_shapes} shapes", graph, needs_cuda=True)
    kept: dict[str, CompiledStep] = {}
    for mode, precision, n_shapes in (
        ("default", "bf16", first),
        ("reduce-overhead", "bf16", first),
        ("default", "bf16", last),
        ("default", "fp32", first),
    ):
        name = f"{mode}, {precision}, {n_shapes} shapes"
        yield Row(name, partial(compiled, bench, mode, precision, n_shapes, kept), needs_cuda=True)
        if mode == "default":
            graph = partial(captured_compiled, bench, kept)
            yield Row(f"CUDA graph of {name}", graph, needs_cuda=True)
        kept.clear()
    alone = partial(image_model_alone, bench, "bf16", compiled=True)
    yield Row("image model, bf16", alone, needs_cuda=True)


class CompiledStep(NamedTuple):
    """A step that has been compiled, and its shapes."""

    train: TrainingStep
    batch: dict[str, Tensor]


def profile_rows(bench: Bench) -> Iterator[Row]:
    """Last of all: what follows a profile is slower, for the profiler keeps watching launches."""
    yield Row("time by kernel", partial(profile, bench), needs_cuda=True)


def captured_eager(bench: Bench, n_shapes: int) -> Figures:
    """The whole eager step, optimizer included, as one CUDA graph."""
    train, _ = make_step(bench, "bf16", {"batch_size": n_shapes})
    return captured(bench, train, batch_of(bench, n_shapes))


def captured_compiled(bench: Bench, kept: Mapping[str, CompiledStep]) -> Figures:
    """The same of the step that was compiled last."""
    if not kept:
        raise ValueError("the step was not compiled")
    return captured(bench, *kept["last"])


def captured(bench: Bench, train: TrainingStep, batch: dict[str, Tensor]) -> Figures:
    """A step as one CUDA graph."""
    for parameters in train.optimizer.param_groups:
        parameters["capturable"] = True
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for _ in range(WARM_UP):
            train(batch)
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        losses = train(batch)
    found = bench.timed(graph.replay, len(batch["points"]))
    return {**found, "loss": float(losses[0])}


def compiled(
    bench: Bench, mode: str, precision: str, n_shapes: int, kept: dict[str, CompiledStep]
) -> Figures:
    """Forward and backward pass by `torch.compile`, the optimizer as it is."""
    train, _ = make_step(bench, precision, {"batch_size": n_shapes})
    counters = reset_compiler()
    batch = batch_of(bench, n_shapes)
    train.losses = torch.compile(train.losses, mode=mode, fullgraph=True, dynamic=False)
    last = torch.zeros(3)

    def work() -> None:
        nonlocal last
        torch.compiler.cudagraph_mark_step_begin()
        last = train(batch)

    bench.synchronize()
    begin = time.perf_counter()
    work()
    bench.synchronize()
    seconds = time.perf_counter() - begin
    found = bench.timed(work, n_shapes)
    kept["last"] = CompiledStep(train, batch)
    return {
        **found,
        "compile_seconds": seconds,
        "graphs": counters["stats"]["unique_graphs"],
        "without_cuda_graph": counters["inductor"]["cudagraph_skips"],
        "loss": float(last[0]),
    }


def reset_compiler() -> dict[str, Counter[str]]:
    """Forget what was compiled; returns the compiler's counters, all 0."""
    from torch._dynamo.utils import counters  # seconds to import

    torch.compiler.reset()
    counters.clear()
    return counters


def batch_of(bench: Bench, n_shapes: int) -> dict[str, Tensor]:
    """Shapes of the store, on the device."""
    reader = StoreReader(bench.store)
    stored = reader.read(np.arange(n_shapes) % len(reader))
    return {name: torch.from_numpy(array).to(bench.device) for name, array in stored.items()}


SECTIONS: dict[str, tuple[Callable[[Bench], Iterator[Row]], float]] = {  # and share of the time
    "equality": (equality, 0.25),
    "step": (step_rows, 0.3),
    "extract": (extract_rows, 0.25),
    "reader": (reader_rows, 0.08),
    "finetune": (finetune_rows, 0.1),
    "curves": (curve_rows, 0.25),
    "compiled": (compiled_rows, 0.6),
    "profile": (profile_rows, 1.0),
}


if __name__ == "__main__":
    main()
    sys.stdout.flush()
    os._exit(0)  # processes that still compile a step that was given up would be waited for
