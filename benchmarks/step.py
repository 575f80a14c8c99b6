"""A full pre-training step, in units.

Reads a batch of 8 from a store of 3x14x14x512 int8 features, decodes, augments, groups, runs the
paper's network forward and backward, and AdamW, as `i2pmae pretrain` does. One unit is the float32
forward pass of open_clip's ViT-B-16 image tower on 24 images of 224 pixels, what the official code
adds to every such step; its step takes about 2 units (2.05 where it was measured).

All ways and the unit take turns in one process that keeps freed memory, as the commands do.
`units_*`: median seconds of a step over the median of a unit; `*_all` and `*_visible`: groups that
are embedded, the others with the default; `3d_only`: neither guided masking nor 2D targets.
`peak_rss_mb` is that of a process that does nothing but 20 float32 steps.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from output import show
from reader import peak_megabytes, write_store
from torch import Tensor

from i2pmae.allocator import keep_freed_memory
from i2pmae.checkpoints.official import official_name
from i2pmae.config import PretrainConfig
from i2pmae.model.pretraining import PretrainingModel
from i2pmae.store.reader import StoreReader
from i2pmae.training.compiled_step import compile_losses
from i2pmae.training.optim import make_optimizer
from i2pmae.training.pretraining import build_model, pretraining_step

BATCH = 8
IMAGES = 3 * BATCH  # of a unit
WARM_UP = 3  # steps before any is timed
PER_TURN = 3  # steps of each way between two units; their median counts
PEAK_STEPS = 20
# Measured for the official code on two cores, in units of that run, which took 7.06 s:
OFFICIAL_STEP = 2.0  # 13.7 s, its 2D and 3D parts together
OFFICIAL_3D_STEP = 0.44  # 3.0 s, that of its 3D-only parent
THREE_D_ONLY: dict[str, Any] = {"masking": {"strategy": "random"}, "targets": {"kind": "3d"}}
WAYS: dict[str, tuple[torch.dtype, dict[str, Any]]] = {
    "fp32": (torch.float32, {}),
    "bf16": (torch.bfloat16, {}),
    "3d_only_fp32": (torch.float32, THREE_D_ONLY),
    "fp32_all": (torch.float32, {"embed": "all"}),
    "bf16_all": (torch.bfloat16, {"embed": "all"}),
    "fp32_visible": (torch.float32, {"embed": "visible"}),
    "bf16_visible": (torch.bfloat16, {"embed": "visible"}),
    "fp32_compiled": (torch.float32, {"compile": "default"}),
    "bf16_compiled": (torch.bfloat16, {"compile": "default"}),
}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object only")
    parser.add_argument("--quick", action="store_true", help="does it run: one turn")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=[*WAYS][:7])
    parser.add_argument("--shapes", type=int, default=512, help="in the store")
    parser.add_argument("--turns", type=int, default=7, help="measurements of each way")
    parser.add_argument("--folder", type=Path, help="where to put the store; default: temporary")
    parser.add_argument("--peak-of", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    keep_freed_memory()
    if options.peak_of:
        step = make_step(options.peak_of, *WAYS["fp32"])
        for _ in range(PEAK_STEPS):
            step()
        print(peak_megabytes())
        return
    if options.quick:
        options.turns, options.shapes = 1, 64
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        store = Path(folder) / "step.zarr"
        write_store(store, options.shapes, 2048)
        result = measure(store, options.ways, options.turns)
        result["peak_rss_mb"] = peak_in_child(store)
    show(result, as_json=options.json)


def measure(store: Path, names: list[str], turns: int) -> dict[str, float]:
    """Units of each way, and the seconds of a unit."""
    seconds = beside_unit({name: make_step(store, *WAYS[name]) for name in names}, turns)
    unit_seconds = seconds.pop("unit")
    result = {f"units_{name}": median / unit_seconds for name, median in seconds.items()}
    for name in {"fp32", "bf16"} & seconds.keys():
        units = result[f"units_{name}"]
        result[f"speedup_{name}"] = OFFICIAL_STEP / units
        result[f"speedup_of_sum_{name}"] = (OFFICIAL_STEP + OFFICIAL_3D_STEP) / units
    if {"fp32", "3d_only_fp32"} <= seconds.keys():
        result["guidance_cost"] = seconds["fp32"] / seconds["3d_only_fp32"] - 1
    return {**result, "unit_seconds": unit_seconds}


def beside_unit(steps: Mapping[str, Callable[[], float]], turns: int) -> dict[str, float]:
    """Median seconds of each step and of the unit; they take turns, after some to warm up."""
    unit = make_unit()
    unit()
    for step in steps.values():
        for _ in range(WARM_UP):
            step()
    seconds: dict[str, list[float]] = {name: [] for name in [*steps, "unit"]}
    for _ in range(turns):
        seconds["unit"].append(unit())
        for name, step in steps.items():
            seconds[name].append(float(np.median([step() for _ in range(PER_TURN)])))
    return {name: float(np.median(found)) for name, found in seconds.items()}


def make_step(store: Path, dtype: torch.dtype, settings: dict[str, Any]) -> Callable[[], float]:
    """A training step on the store's next batch; it returns its seconds."""
    reader = StoreReader(store)
    config = PretrainConfig.model_validate(
        {"cache": store, "out": "unused", "batch_size": BATCH, **settings}
    )
    train = TrainingStep(reader, config, dtype)
    batches = endless(reader)
    generator: torch.Generator | None = torch.Generator().manual_seed(0)
    if config.compile == "default":  # a compiled step draws from torch's own generator
        train.losses, generator = compile_losses(train.losses), None

    def step() -> float:
        begin = time.perf_counter()
        train({name: torch.from_numpy(array) for name, array in next(batches).items()}, generator)
        return time.perf_counter() - begin

    return step


class TrainingStep:
    """Forward pass, backward pass and AdamW, as `i2pmae pretrain` does them.

    Args:
        reader: of a store; decides the network's sizes.
        config: settings.
        dtype: bfloat16, or float32.
        device: where the network is.
        seed: of its weights.

    Attributes:
        losses: computes the losses of a step; may be replaced by a compiled version.
    """

    def __init__(
        self,
        reader: StoreReader,
        config: PretrainConfig,
        dtype: torch.dtype,
        device: str = "cpu",
        seed: int = 0,
    ) -> None:
        torch.manual_seed(seed)
        self.config, self.device = config, device
        self.model = build_model(config, reader).to(device).train()
        self.optimizer = make_optimizer(
            self.model, config.optim, partial(official_name, "pretraining")
        )
        self.losses = losses
        self._axes = torch.from_numpy(reader.view_axes).to(device)
        self._reduced = dtype == torch.bfloat16

    def __call__(
        self,
        batch: dict[str, Tensor],
        generator: torch.Generator | None = None,
        config: PretrainConfig | None = None,
    ) -> Tensor:
        """Train on a batch; total, 2D and 3D loss (3,), without gradient."""
        with torch.autocast(self.device, torch.bfloat16, enabled=self._reduced):
            found = self.losses(self.model, batch, config or self.config, self._axes, generator)
        found[0].backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return found.detach()


def losses(model: PretrainingModel, *arguments: Any) -> Tensor:
    """Total, 2D and 3D loss (3,) of `pretraining_step`."""
    output = pretraining_step(model, *arguments)
    return torch.stack([output.loss, output.loss_2d, output.loss_3d])


def endless(reader: StoreReader) -> Iterator[dict[str, Any]]:
    """Batches of one epoch after the other."""
    for epoch in count():
        yield from reader.batches(BATCH, seed=0, epoch=epoch)


def make_unit() -> Callable[[], float]:
    """The yardstick; it returns its seconds."""
    tower = open_clip.create_model("ViT-B-16", pretrained=None).visual.eval()
    images = torch.randn(IMAGES, 3, 224, 224)

    @torch.no_grad()
    def unit() -> float:
        begin = time.perf_counter()
        tower(images)
        return time.perf_counter() - begin

    return unit


def peak_in_child(store: Path) -> float:
    """Peak resident MB of a process that only runs steps, imports included."""
    command = [sys.executable, __file__, "--peak-of", str(store)]
    return float(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)


if __name__ == "__main__":
    main()
