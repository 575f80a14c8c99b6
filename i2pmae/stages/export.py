"""A trained network as a file for other programs: its weights, or the whole computation."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from i2pmae.config import to_plain
from i2pmae.errors import CheckpointError
from i2pmae.loading import (
    encoder_config_of,
    head_config_of,
    load_classifier,
    load_encoder,
    load_segmenter,
    segment_head_config_of,
)
from i2pmae.model.official import Kind
from i2pmae.model.segmenter import Segmenter
from i2pmae.progress import note
from i2pmae.stages import model_card
from i2pmae.training import checkpoint
from i2pmae.training.checkpoint import Checkpoint

WEIGHTS, PROGRAM = ".safetensors", ".pt2"
DESCRIPTION = "i2pmae.json"  # beside the program, within a `.pt2` file
TOLERANCE = 1e-4  # largest difference that is rounding, as a share of the largest output

_LOADERS: dict[Kind, Callable[[Path], nn.Module]] = {
    "encoder": load_encoder,
    "classifier": load_classifier,
    "segmenter": load_segmenter,
}
_NAMES = ("class_names", "part_names", "class_parts")


@dataclass(frozen=True)
class Network:
    """What of a checkpoint others can use.

    Attributes:
        kind: `encoder` for every pre-training checkpoint; its decoder stays behind.
        model: in evaluation mode, without gradients.
        config: what decides the network's sizes.
        names: of classes and parts, where it has any.
    """

    kind: Kind
    model: nn.Module
    config: dict[str, Any]
    names: dict[str, Any]

    def inputs(self, n_clouds: int, seed: int) -> tuple[Tensor, ...]:
        """Random clouds in the unit sphere, and for a segmenter their categories."""
        generator = torch.Generator().manual_seed(seed)
        n_points = 2 * self.config["encoder"]["n_centers"][0] + seed
        points = torch.rand(n_clouds, n_points, 3, generator=generator) * 2 - 1
        points = points / points.norm(dim=2, keepdim=True).clamp(min=1)
        if not isinstance(self.model, Segmenter):
            return (points,)
        return points, torch.arange(n_clouds) % self.model.n_categories


def run(source: Path, out: Path, *, card: bool = True) -> dict[str, Any]:
    """Export a checkpoint, and compare what was written with what was read.

    `.safetensors` holds weights, the network's settings and its class names; `load_encoder`,
    `load_classifier`, `load_segmenter` and every command that takes a checkpoint read it.

    `.pt2` is a program of `torch.export`, farthest-point sampling and neighbor search included:
    `torch.export.load(FILE).module()` runs it without i2pmae, on any number of clouds of any number
    of points. `i2pmae.json` inside says what goes in and what comes out. It runs on the CPU;
    `torch.export.passes.move_to_device_pass` brings it to a GPU. A later torch may not read it:
    keep the `.safetensors` file too.

    Args:
        source: checkpoint of any kind, ours or an official one. Of pre-training, the encoder is
            exported.
        out: file to write, replaced if it is there; its ending decides.
        card: write `README.md` beside it, which is where the Hugging Face Hub looks for a model's
            description.

    Returns:
        `out`, `kind`, `bytes`, `difference` (largest, absolute, on random clouds), `card`.

    Raises:
        CheckpointError: if the checkpoint cannot be read, the ending is unknown, the file cannot
            be written, or gives other outputs than the checkpoint; nothing is written then.
    """
    _check_target(source, out)
    page = out.with_name(model_card.NAME) if card else None
    if page is not None:
        model_card.check_target(page)
    saved = checkpoint.load(source)
    for message in saved.notes:
        note(message)
    network = _network(source, saved)
    text = model_card.card(source, saved, network.kind, network.model, out) if card else ""
    with _in_place_of(out) as written:
        if out.suffix == WEIGHTS:
            _write_weights(network, saved, written)
        else:
            _write_program(network, written)
        difference = _difference(network, written)
        size = written.stat().st_size
    if page is not None:
        model_card.write(page, text, out)
    note(
        f"{out}: {network.kind}, {size / 1e6:.1f} MB; loaded again, its outputs differ from the "
        f"checkpoint's by {difference:.1g} at most"
    )
    return {
        "out": str(out),
        "kind": network.kind,
        "bytes": size,
        "difference": difference,
        "card": None if page is None else str(page),
    }


def _check_target(source: Path, out: Path) -> None:
    if out.suffix not in (WEIGHTS, PROGRAM):
        raise CheckpointError(
            f"--out {out}: the ending decides what is written; give {WEIGHTS} (weights) or "
            f"{PROGRAM} (a program of torch.export), not {out.suffix!r}"
        )
    if out.is_dir():
        raise CheckpointError(f"--out {out} is a folder; give a file to write")
    if out.exists() and source.exists() and out.samefile(source):
        raise CheckpointError(f"--out {out} is the checkpoint itself; give another file")


def _network(source: Path, saved: Checkpoint) -> Network:
    """The network of a checkpoint, ready to be exported."""
    kind: Kind = saved.kind if saved.kind in _LOADERS else "encoder"
    model = _LOADERS[kind](source).requires_grad_(False)
    config = {"encoder": to_plain(encoder_config_of(saved))}
    if kind == "classifier":
        config["head"] = to_plain(head_config_of(saved))
    if kind == "segmenter":
        config["segment_head"] = to_plain(segment_head_config_of(saved))
    names = {name: saved.extra[name] for name in _NAMES if saved.extra.get(name)}
    return Network(kind, model, config, names)


def _write_weights(network: Network, saved: Checkpoint, path: Path) -> None:
    checkpoint.save(
        path,
        kind=network.kind,
        config=network.config,
        model=network.model.state_dict(),
        epoch=saved.epoch,
        extra=network.names,
    )


def _write_program(network: Network, path: Path) -> None:
    inputs = network.inputs(n_clouds=3, seed=0)
    size = torch.export.Dim.DYNAMIC
    names = ("points", "category")[: len(inputs)]
    shapes = {"points": {0: size, 1: size}, "category": {0: size}}
    with torch.no_grad():
        program = torch.export.export(
            network.model, inputs, dynamic_shapes={name: shapes[name] for name in names}
        )
    output = {
        "encoder": "features (B, channels)",
        "classifier": "logits (B, classes)",
        "segmenter": "log-probabilities (B, N, parts)",
    }[network.kind]
    described = {
        "kind": network.kind,
        "config": network.config,
        "points": "(B, N, 3) float32 in the unit sphere",
        **({"category": "(B,) int64 of the objects"} if "category" in names else {}),
        "output": f"{output} float32",
        **network.names,
        "versions": checkpoint.versions(),
    }
    torch.export.save(program, path, extra_files={DESCRIPTION: json.dumps(described, indent=2)})


@torch.no_grad()
def _difference(network: Network, path: Path) -> float:
    """Largest difference between the outputs of a file and those of the checkpoint.

    Raises:
        CheckpointError: if it is more than rounding.
    """
    inputs = network.inputs(n_clouds=2, seed=1)
    expected = network.model(*inputs)
    if path.suffix == WEIGHTS:
        loaded = _LOADERS[network.kind](path)
    else:
        loaded = torch.export.load(path).module()
    found = loaded(*inputs)
    difference = float((found - expected).abs().max())
    largest = float(expected.abs().max())
    if not difference <= TOLERANCE * max(largest, 1.0):  # also where one is not a number
        raise CheckpointError(
            f"{path.name}, written and loaded again, gives other outputs than the checkpoint: they "
            f"differ by {difference:.3g}, the largest is {largest:.3g}. Nothing was kept; check "
            "the checkpoint with i2pmae svm, and tell us if it is sound"
        )
    return difference


@contextmanager
def _in_place_of(path: Path) -> Iterator[Path]:
    """A file of the same name in a folder beside it, which takes its place if the block succeeds.

    Raises:
        CheckpointError: if the disk is full or the folder cannot be written.
    """
    # A fixed name, so that the next export clears away what a killed one has left.
    folder = path.with_name(f".{path.name}.tmp")
    try:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        yield folder / path.name
        (folder / path.name).replace(path)
    except OSError as error:
        raise CheckpointError(
            f"cannot write {path} ({error.strerror}); nothing that was there is changed. Make room "
            "or choose another folder"
        ) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
