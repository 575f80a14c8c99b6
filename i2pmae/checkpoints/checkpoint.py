"""Checkpoints: saved atomically, loaded from our files and official ones.

A checkpoint holds tensors and plain Python values only, so reading one never runs code.
"""

from __future__ import annotations

import contextlib
import json
import platform
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, get_args

import numpy as np
import safetensors.torch
import torch
from torch import Tensor, nn

from i2pmae.atomic_write import atomic_write
from i2pmae.checkpoints.names import file_of
from i2pmae.checkpoints.official import IMAGE_MODEL_PREFIX, Kind, from_official, to_official
from i2pmae.errors import CheckpointError, one_line, reason
from i2pmae.untrusted.limits import ForbiddenError, parse_json
from i2pmae.untrusted.tensors import read_tensors
from i2pmae.version import __version__

FORMAT = "i2pmae-checkpoint"
FORMAT_VERSION = 1

_OFFICIAL_HOMES = ("base_model", "model_state_dict")  # where official files keep the weights
_REMEDY = (
    "expected a checkpoint of i2pmae, an official .pth or a .safetensors file; "
    "if it should be one, copy or download it again"
)


@dataclass(frozen=True)
class Checkpoint:
    """A trained network, and what is needed to continue its training.

    Attributes:
        kind: which network the weights belong to.
        config: resolved settings as plain values; empty in an official file.
        model: weights under our names, on the CPU after loading.
        optimizer: its state dict; None where training cannot continue from here.
        epoch: finished epochs.
        step: finished steps, counted over all epochs.
        metrics: plain values worth keeping, such as the best accuracy so far.
        extra: other plain values, such as the provenance of the store it was trained from.
        versions: software that wrote it.
        official: whether it was read from an official file.
        notes: what happened while reading, for the user.
    """

    kind: Kind
    config: dict[str, Any]
    model: dict[str, Tensor]
    optimizer: dict[str, Any] | None = None
    epoch: int = 0
    step: int = 0
    metrics: dict[str, Any] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    official: bool = False
    notes: tuple[str, ...] = ()

    @property
    def up(self) -> str:
        """Axis that pointed up in the files of the shapes that it was trained on."""
        store = self.extra.get("store")
        for recorded in (self.extra, store if isinstance(store, dict) else {}, self.config):
            if recorded.get("up") in ("x", "z"):
                return str(recorded["up"])
        return "y"


def notes_on_axes(trained: str, read: str) -> list[str]:
    """A warning if shapes are read with another axis up than those of a checkpoint."""
    if trained == read:
        return []
    return [
        f"the checkpoint was trained on shapes read with --up {trained}, these are read with "
        f"--up {read}: right if {read} points up in their files"
    ]


@dataclass(frozen=True)
class LoadReport:
    """Which weights of a checkpoint were loaded.

    Attributes:
        loaded: names copied into the network.
        parameters: how many numbers these are, without BatchNorm's statistics.
        initial: names in the network that keep their initial values.
        unused: names in the checkpoint that the network has no place for.
    """

    loaded: tuple[str, ...]
    parameters: int
    initial: tuple[str, ...]
    unused: tuple[str, ...]

    def __str__(self) -> str:
        parts = [f"loaded {len(self.loaded)} tensors ({self.parameters / 1e6:.2f} M parameters)"]
        if self.initial:
            parts.append(f"new: {_by_module(self.initial)}")
        if self.unused:
            parts.append(f"left out: {_by_module(self.unused)}")
        return "; ".join(parts)


def save(
    path: Path,
    *,
    kind: Kind,
    config: dict[str, Any],
    model: Mapping[str, Tensor],
    optimizer: dict[str, Any] | None = None,
    epoch: int = 0,
    step: int = 0,
    metrics: dict[str, Any] | None = None,
    extra: dict[str, Any] | None = None,
) -> None:
    """Write a checkpoint; at every instant `path` is the old file or the whole new one.

    A `.safetensors` file gets everything but the optimizer's state.

    Args:
        path: file to write; its folder is made if need be.
        kind, config, model, optimizer, epoch, step, metrics, extra: see `Checkpoint`.

    Raises:
        CheckpointError: if the disk is full or the folder cannot be written.
        TypeError: if something in it is neither a tensor nor a plain value.
    """
    weights = {name: tensor.detach() for name, tensor in model.items()}
    plain = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "kind": kind,
        "config": config,
        "epoch": epoch,
        "step": step,
        "metrics": metrics or {},
        "extra": extra or {},
        "versions": versions(),
    }
    payload = {**plain, "model": weights, "optimizer": optimizer}
    _require_plain(payload, "checkpoint")
    with _written(path) as file:
        if path.suffix == ".safetensors":
            contiguous = {name: tensor.contiguous() for name, tensor in weights.items()}
            about = {"format": "pt", FORMAT: json.dumps(plain)}  # "pt": what other readers ask for
            file.write(safetensors.torch.save(contiguous, about))
        else:
            torch.save(payload, file)


def save_official(path: Path, checkpoint: Checkpoint) -> int:
    """Write the weights of a checkpoint for the official code, as one whole file.

    Args:
        path: file to write; its folder is made if need be.
        checkpoint: of any kind; settings, optimizer and metrics stay behind.

    Returns:
        Number of tensors written.

    Raises:
        CheckpointError: if the official code has no such network, or the file cannot be written.
    """
    weights = to_official(checkpoint.kind, checkpoint.model)
    home = "model_state_dict" if checkpoint.kind == "segmenter" else "base_model"
    with _written(path) as file:
        torch.save({home: weights, "epoch": checkpoint.epoch}, file)
    return len(weights)


def load(path: Path | str) -> Checkpoint:
    """Read one of our checkpoints, an official one, or a `.safetensors` file of either.

    Official weights are renamed to our names. A `module.` prefix is stripped and the image model
    (`clip_model.*`) dropped; `notes` says so.

    Args:
        path: file to read, or another name of a checkpoint; see `names.file_of`.

    Raises:
        CheckpointError: if the file is missing, damaged, of another kind, written by a newer
            version, or holds objects that could run code.
        HubError: if it is of the Hub and cannot be fetched.
    """
    path = file_of(path)
    _require_file(path)
    payload = _read(path)
    if payload.get("format") == FORMAT:
        return _from_payload(path, payload)
    return _from_official(path, payload)


def load_encoder_weights(model: nn.Module, checkpoint: Checkpoint) -> LoadReport:
    """Copy the encoder of a checkpoint into a network that has one, and nothing else.

    Args:
        model: a network with a module `encoder`.
        checkpoint: of any kind.

    Raises:
        CheckpointError: if any weight of the network's encoder is missing from the checkpoint or
            has another shape there; the network is then unchanged.

    Differs: the official loader ignores missing weights and then trains from scratch.
    """
    wanted = {name for name in model.state_dict() if name.startswith("encoder.")}
    return _copy(model, checkpoint, wanted)


def load_weights(model: nn.Module, checkpoint: Checkpoint) -> LoadReport:
    """Copy all weights of a checkpoint into a network of the same kind and size.

    Raises:
        CheckpointError: if any is missing, left over or of another shape; the network is then
            unchanged.
    """
    check_weights(model, checkpoint)
    return _copy(model, checkpoint, set(model.state_dict()))


def check_weights(model: nn.Module, checkpoint: Checkpoint) -> None:
    """What `load_weights` checks, for a network that may be on the device `meta`.

    Raises:
        CheckpointError: as `load_weights`.
    """
    wanted = set(model.state_dict())
    extra = sorted(checkpoint.model.keys() - wanted)
    if extra:
        raise CheckpointError(
            f"the checkpoint ({checkpoint.kind}) holds {len(extra)} tensors that this network has "
            f"no place for: {_summary(extra)}. Use the settings it was trained with."
        )
    _check_shapes(model, checkpoint, wanted)


def restore(
    path: Path, saved: Checkpoint, model: nn.Module, optimizer: torch.optim.Optimizer
) -> None:
    """Restore a network and its optimizer from a checkpoint.

    Args:
        path: of the checkpoint, for messages.
        saved: as `load` returned it, with an optimizer.
        model: of the same kind and size.
        optimizer: over the same parameters.

    Raises:
        CheckpointError: if it is of another network, or damaged.
    """
    assert saved.optimizer is not None
    load_weights(model, saved)
    try:
        optimizer.load_state_dict(saved.optimizer)
        shapes = all(
            state["exp_avg"].shape == state["exp_avg_sq"].shape == parameter.shape
            for parameter, state in optimizer.state.items()
        )
    except Exception as error:  # of a damaged state anything can be missing
        raise CheckpointError(f"{path} is damaged: its optimizer's state; {_REMEDY}") from error
    if not shapes:
        raise CheckpointError(f"{path} is damaged: its optimizer's state; {_REMEDY}")


def other_versions(saved: Checkpoint) -> list[str]:
    """What to tell the user of a checkpoint that other software wrote; empty where none did."""
    ours = versions()
    changed = [
        f"{name} {one_line(saved.versions.get(name, 'unknown'), 20)} (now {version})"
        for name, version in ours.items()
        if saved.versions.get(name) != version
    ]
    if not changed:
        return []
    return [f"the checkpoint was written by {', '.join(changed)}; numbers may differ by rounding"]


def _check_shapes(model: nn.Module, checkpoint: Checkpoint, wanted: set[str]) -> None:
    ours = model.state_dict()
    missing = sorted(wanted - checkpoint.model.keys())
    if missing or not wanted:
        raise CheckpointError(
            f"the checkpoint ({checkpoint.kind}) lacks {len(missing)} of {len(wanted)} tensors "
            f"that this network needs: {_summary(missing)}. Its {len(checkpoint.model)} tensors: "
            f"{_summary(sorted(checkpoint.model))}."
        )
    for name in sorted(wanted):
        expected, found = tuple(ours[name].shape), tuple(checkpoint.model[name].shape)
        if expected != found:
            raise CheckpointError(
                f"{name} has shape {one_line(found, 40)} in the checkpoint and {expected} in this "
                "network. Use the settings the checkpoint was trained with."
            )
        problem = _not_numbers(checkpoint.model[name], ours[name])
        if problem:
            raise CheckpointError(f"the checkpoint is damaged: {name} {problem}; {_REMEDY}")


def _not_numbers(found: Tensor, expected: Tensor) -> str:
    """Why a tensor cannot become the values of another of the same shape; empty where it can."""
    if found.is_floating_point() != expected.is_floating_point():
        return f"is of {found.dtype}, expected {expected.dtype}"
    if not found.isfinite().all():
        return "holds values that are not finite"
    return ""


def _copy(model: nn.Module, checkpoint: Checkpoint, wanted: set[str]) -> LoadReport:
    _check_shapes(model, checkpoint, wanted)
    ours = model.state_dict()
    model.load_state_dict({name: checkpoint.model[name] for name in wanted}, strict=False)
    parameters = dict(model.named_parameters())
    return LoadReport(
        loaded=tuple(sorted(wanted)),
        parameters=sum(parameters[name].numel() for name in wanted if name in parameters),
        initial=tuple(sorted(ours.keys() - wanted)),
        unused=tuple(sorted(checkpoint.model.keys() - wanted)),
    )


def _from_payload(path: Path, payload: Mapping[str, Any]) -> Checkpoint:
    version = payload.get("format_version")
    if not isinstance(version, int) or version > FORMAT_VERSION:
        raise CheckpointError(
            f"{path} has format version {one_line(version, 20)}, this i2pmae {__version__} reads "
            f"up to {FORMAT_VERSION}: update i2pmae."
        )
    expected: dict[str, Any] = {
        "config": dict,
        "model": dict,
        "optimizer": (dict, type(None)),
        "epoch": int,
        "step": int,
        "metrics": dict,
        "extra": dict,
        "versions": dict,
    }
    for name, types in expected.items():
        if not isinstance(payload.get(name), types):
            raise CheckpointError(f"{path} is damaged: no usable '{name}' in it; {_REMEDY}")
    if payload.get("kind") not in get_args(Kind) or not _is_state_dict(payload["model"]):
        raise CheckpointError(f"{path} is damaged: it holds no weights of a known kind; {_REMEDY}")
    return Checkpoint(
        kind=payload["kind"],
        model=dict(payload["model"]),
        **{name: payload[name] for name in expected if name != "model"},
    )


def _from_official(path: Path, payload: Mapping[str, Any]) -> Checkpoint:
    weights: Any = payload
    for home in _OFFICIAL_HOMES:
        weights = payload.get(home, weights)
    if not _is_state_dict(weights):
        found = _summary([str(name) for name in payload])
        raise CheckpointError(f"{path} holds no weights of a network ({found}); {_REMEDY}")
    notes = []
    if all(name.startswith("module.") for name in weights):
        weights = {name.removeprefix("module."): tensor for name, tensor in weights.items()}
        notes.append(f"stripped the prefix 'module.' from {len(weights)} names")
    kept = {name: w for name, w in weights.items() if not name.startswith(IMAGE_MODEL_PREFIX)}
    if len(kept) < len(weights):
        notes.append(f"dropped the image model: {len(weights) - len(kept)} tensors clip_model.*")
    try:
        kind, model = from_official(kept)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    return Checkpoint(kind=kind, config={}, model=model, official=True, notes=tuple(notes))


def _require_file(path: Path) -> None:
    if path.is_dir():
        inside = sorted(
            file.name for file in path.iterdir() if file.suffix in (".pt", ".pth", ".safetensors")
        )
        held = f"it holds {_summary(inside)}" if inside else "it holds none"
        raise CheckpointError(f"{path} is a folder, not a checkpoint: {held}")
    if not path.exists():
        raise CheckpointError(f"no checkpoint at {path}")
    if path.stat().st_size == 0:
        raise CheckpointError(f"{path} is empty (0 bytes); {_REMEDY}")


def _read(path: Path) -> dict[str, Any]:
    try:
        contents = read_tensors(path)
        if FORMAT in contents.metadata:
            described = parse_json(contents.metadata[FORMAT])
            return {**described, "model": contents.value, "optimizer": None}
    except ForbiddenError as error:
        raise CheckpointError(
            f"{path} holds more than tensors and plain values ({error.name}) and is not read, "
            "because that could run code; ask its author for the weights alone"
        ) from error
    except Exception as error:  # of a damaged file it can be of any kind
        size = path.stat().st_size
        raise CheckpointError(
            f"{path} ({size:,} bytes) cannot be read ({reason(error)}); {_REMEDY}"
        ) from error
    if not isinstance(contents.value, dict):
        kind = type(contents.value).__name__
        raise CheckpointError(f"{path} holds a {kind}, not weights; {_REMEDY}")
    return contents.value


def _is_state_dict(weights: object) -> bool:
    return (
        isinstance(weights, dict)
        and bool(weights)
        and all(isinstance(name, str) for name in weights)
        and all(isinstance(tensor, Tensor) for tensor in weights.values())
    )


def _require_plain(value: object, where: str) -> None:
    if value is None or type(value) in (bool, int, float, str, Tensor):
        return
    if isinstance(value, dict):
        for name, item in value.items():
            _require_plain(name, f"a key of {where}")
            _require_plain(item, f"{where}[{name!r}]")
    elif type(value) in (list, tuple):
        for index, item in enumerate(value):  # type: ignore[arg-type]
            _require_plain(item, f"{where}[{index}]")
    else:
        raise TypeError(f"{where} is a {type(value).__name__}: could not be read back safely")


@contextlib.contextmanager
def _written(path: Path) -> Iterator[BinaryIO]:
    """Write a file, or say in one line that the disk is full and the like."""
    try:
        with atomic_write(path, is_mine=True) as temporary, temporary.open("wb") as file:
            yield file
    except (OSError, RuntimeError) as error:
        # torch's zip writer hides the system's reason in the context of its own error.
        reason = error if isinstance(error, OSError) else error.__context__
        if not isinstance(reason, OSError):
            raise
        raise CheckpointError(
            f"cannot write {path}: {reason.strerror}; nothing that was there is changed. "
            "Make room or choose another folder, then run the same command again."
        ) from error


def versions() -> dict[str, str]:
    """Software that writes a checkpoint now."""
    return {
        "i2pmae": __version__,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "numpy": np.__version__,
    }


def _by_module(names: tuple[str, ...]) -> str:
    counts = Counter(name.partition(".")[0] for name in names)
    return one_line(", ".join(f"{module} ({count})" for module, count in counts.items()), 200)


def _summary(names: list[str] | tuple[str, ...], shown: int = 3) -> str:
    rest = f" and {len(names) - shown} more" if len(names) > shown else ""
    return one_line(", ".join(names[:shown]), 100) + rest if names else "none"
