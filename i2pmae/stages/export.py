"""A trained network as a file for other programs: its weights, or the whole computation."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypedDict

import torch
from torch import Tensor, nn

from i2pmae import hub
from i2pmae.atomic_write import written
from i2pmae.checkpoints import checkpoint
from i2pmae.checkpoints.names import file_of
from i2pmae.checkpoints.networks import (
    load_classifier,
    load_encoder,
    load_segmenter,
    understood,
)
from i2pmae.checkpoints.official import Kind
from i2pmae.checkpoints.on_hub import (
    CARD,
    SETTINGS,
    Described,
    Dtype,
    OnHub,
    save_network,
    write_settings,
)
from i2pmae.errors import CheckpointError
from i2pmae.hub import HubName
from i2pmae.model.segmenter import Segmenter
from i2pmae.progress import note
from i2pmae.report import model_card
from i2pmae.version import __version__

WEIGHTS, PROGRAM = ".safetensors", ".pt2"
DESCRIPTION = "i2pmae.json"  # beside the program, within a `.pt2` file
# Largest difference that is rounding, as a share of the largest output.
TOLERANCES: dict[Dtype, float] = {"float32": 1e-4, "float16": 1e-2}

_LOADERS: dict[Kind, Callable[[Path], OnHub]] = {
    "encoder": load_encoder,
    "classifier": load_classifier,
    "segmenter": load_segmenter,
}


class Result(TypedDict):
    """What was written."""

    out: str | None
    kind: Kind
    bytes: int
    difference: float  # from the checkpoint's outputs on random clouds, the largest
    card: str | None  # the page beside it
    pushed: str | None  # hf://owner/name@COMMIT


def run(
    source: Path,
    out: Path | None = None,
    *,
    card: bool = True,
    dtype: Dtype = "float32",
    push: Path | None = None,
    private: bool = False,
) -> Result:
    """Export a checkpoint, and compare what was written with what was read.

    `.safetensors` holds weights, settings and class names; every command that takes a checkpoint
    reads it. `.pt2` is a program of `torch.export`, which `torch.export.load(FILE).module()` runs
    without i2pmae on any number of clouds and points, on the CPU until
    `torch.export.passes.move_to_device_pass`; `i2pmae.json` inside says what goes in and out. A
    later torch may not read it: keep the `.safetensors` file too.

    Args:
        source: checkpoint of any kind. Of pre-training, the encoder is exported.
        out: file to write, replaced if it is there; its ending decides.
        card: write a model card, `README.md`, beside it.
        dtype: of the weights in a `.safetensors` file; networks compute in float32.
        push: `hf://owner/name[@branch]`, for weights, `config.json` and card.
        private: whether a repository that is made for this is.

    Returns:
        See `Result`.

    Raises:
        CheckpointError: if the checkpoint cannot be read, the ending is unknown, the file cannot
            be written, or gives other outputs than the checkpoint; nothing is written then.
        HubError: if the Hub cannot be reached, or refuses it.
    """
    repository = None if push is None else HubName.of(push)
    file = file_of(source)
    result: Result | None = None
    if out is not None:
        result = _export(file, out, card, dtype)
        note(_told(str(out), result))
    if repository is None:
        if result is None:
            raise CheckpointError("export: give --out FILE, --push hf://OWNER/NAME, or both")
        return result
    with TemporaryDirectory(prefix="i2pmae-") as name:
        weights = Path(name) / hub.WEIGHTS
        pushed = _export(file, weights, True, dtype, repository)
        write_settings(weights.with_name(SETTINGS), _LOADERS[pushed["kind"]](weights).described())
        message = f"Export of {file.name} by i2pmae {__version__}"
        commit = str(hub.send_folder(repository, Path(name), message, private=private))
    note(_told(commit, pushed))
    return {**(result or {**pushed, "out": None, "card": None}), "pushed": commit}


def _export(
    file: Path, out: Path, card: bool, dtype: Dtype, repository: HubName | None = None
) -> Result:
    """A file, and its card beside it."""
    _check_target(file, out, dtype)
    page = out.with_name(CARD) if card else None
    if page is not None:
        model_card.check_target(page)
    saved = checkpoint.load(file)
    for message in saved.notes:
        note(message)
    with understood(file):
        kind: Kind = saved.kind if saved.kind in _LOADERS else "encoder"
        model = _LOADERS[kind](file).requires_grad_(False)
        described = model.described()
        text = model_card.card(file, saved, kind, model, out, repository) if card else ""
    remedy = "Nothing that was there is changed. Make room, or choose another folder."
    with written(out, CheckpointError, remedy) as temporary:
        if out.suffix == WEIGHTS:
            save_network(temporary, model, dtype=dtype, epoch=saved.epoch)
        else:
            _write_program(model, described, temporary)
        difference = _difference(model, temporary, TOLERANCES[dtype])
        size = temporary.stat().st_size
    if page is not None:
        model_card.write(page, text, out)
    return {
        "out": str(out),
        "kind": kind,
        "bytes": size,
        "difference": difference,
        "card": None if page is None else str(page),
        "pushed": None,
    }


def _told(where: str, result: Result) -> str:
    return (
        f"{where}: {result['kind']}, {result['bytes'] / 1e6:.1f} MB; loaded again, its outputs "
        f"differ from the checkpoint's by {result['difference']:.1g} at most"
    )


def _check_target(source: Path, out: Path, dtype: Dtype) -> None:
    if out.suffix not in (WEIGHTS, PROGRAM):
        raise CheckpointError(
            f"--out {out}: the ending decides what is written; give {WEIGHTS} (weights) or "
            f"{PROGRAM} (a program of torch.export), not {out.suffix!r}"
        )
    if out.suffix == PROGRAM and dtype != "float32":
        raise CheckpointError(f"--dtype {dtype} is for {WEIGHTS}; a program computes in float32")
    if out.is_dir():
        raise CheckpointError(f"--out {out} is a folder; give a file to write")
    if out.exists() and source.exists() and out.samefile(source):
        raise CheckpointError(f"--out {out} is the checkpoint itself; give another file")


def _inputs(model: nn.Module, config: Mapping[str, Any], n: int, seed: int) -> tuple[Tensor, ...]:
    """Random clouds in the unit sphere, and for a segmenter their categories."""
    generator = torch.Generator().manual_seed(seed)
    n_points = 2 * config["encoder"]["n_centers"][0] + seed
    points = torch.rand(n, n_points, 3, generator=generator) * 2 - 1
    points = points / points.norm(dim=2, keepdim=True).clamp(min=1)
    if not isinstance(model, Segmenter):
        return (points,)
    return points, torch.arange(n) % model.n_categories


def _write_program(model: nn.Module, described: Described, path: Path) -> None:
    inputs = _inputs(model, described.config, n=3, seed=0)
    size = torch.export.Dim.DYNAMIC
    names = ("points", "category")[: len(inputs)]
    shapes = {"points": {0: size, 1: size}, "category": {0: size}}
    with torch.no_grad():
        program = torch.export.export(
            model, inputs, dynamic_shapes={name: shapes[name] for name in names}
        )
    output = {
        "encoder": "features (B, channels)",
        "classifier": "logits (B, classes)",
        "segmenter": "log-probabilities (B, N, parts)",
    }[described.kind]
    about = {
        "kind": described.kind,
        "config": described.config,
        "points": "(B, N, 3) float32 in the unit sphere",
        **({"category": "(B,) int64 of the objects"} if "category" in names else {}),
        "output": f"{output} float32",
        **described.names,
        "versions": checkpoint.versions(),
    }
    buffer = io.BytesIO()  # torch ends the process where it cannot write a file
    torch.export.save(program, buffer, extra_files={DESCRIPTION: json.dumps(about, indent=2)})
    path.write_bytes(buffer.getbuffer())


@torch.no_grad()
def _difference(model: OnHub, path: Path, tolerance: float) -> float:
    """Largest difference between the outputs of a file and those of the checkpoint.

    Raises:
        CheckpointError: if it is more than rounding.
    """
    kind, config, _ = model.described()
    inputs = _inputs(model, config, n=2, seed=1)
    expected = model(*inputs)
    is_program = path.suffix == PROGRAM
    loaded: nn.Module = torch.export.load(path).module() if is_program else _LOADERS[kind](path)
    found = loaded(*inputs)
    difference = float((found - expected).abs().max())
    largest = float(expected.abs().max())
    if not difference <= tolerance * max(largest, 1.0):  # also where one is not a number
        raise CheckpointError(
            f"{path.name}, written and loaded again, gives other outputs than the checkpoint: they "
            f"differ by {difference:.3g}, the largest is {largest:.3g}. Nothing was kept; check "
            "the checkpoint with i2pmae svm, and tell us if it is sound"
        )
    return difference
