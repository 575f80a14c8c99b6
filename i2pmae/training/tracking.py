"""Rows of metrics to TensorBoard and Weights & Biases, behind one small interface."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from i2pmae.errors import ConfigError

Kind = Literal["tensorboard", "wandb"]
Logged = Mapping[str, float | str]  # a row of `metrics.jsonl`
Tracker = Callable[[Logged], None]  # takes figures of an `epoch`, or `setting` and `fold`

_PROJECT = "i2pmae"


def require_trackers(kinds: Sequence[Kind]) -> None:
    """Refuse trackers whose package is missing, before a run begins.

    Raises:
        ConfigError: naming what to install.
    """
    for kind in kinds:
        if find_spec(kind) is None:
            raise ConfigError(
                f"--track {kind}: the package {kind} is not installed: pip install 'i2pmae[{kind}]'"
            )


def open_trackers(
    kinds: Sequence[Kind], folder: Path, settings: Mapping[str, object]
) -> list[Tracker]:
    """Trackers of a run; each writes a row as soon as it gets it.

    Args:
        kinds: which ones.
        folder: of the run; its name is the run's name, a resumed run keeps it.
        settings: of the run.
    """
    makers = {"tensorboard": _tensorboard, "wandb": _wandb}
    return [makers[kind](folder, settings) for kind in kinds]


def _tensorboard(folder: Path, _settings: Mapping[str, object]) -> Tracker:
    from torch.utils.tensorboard.writer import SummaryWriter

    make: Any = SummaryWriter
    writer: Any = make(str(folder / "tensorboard"))

    def track(row: Logged) -> None:
        for name, value in _figures(row).items():
            writer.add_scalar(name, value, row["epoch"] if "epoch" in row else row["fold"])
        writer.flush()

    return track


def _wandb(folder: Path, settings: Mapping[str, object]) -> Tracker:
    import hashlib

    import wandb

    run: Any = wandb.init(
        project=_PROJECT,
        name=folder.name,
        id=hashlib.sha256(str(folder.absolute()).encode()).hexdigest()[:16],
        resume="allow",
        dir=str(folder),
        config=settings,
    )

    def track(row: Logged) -> None:
        run.log(_figures(row), step=row.get("epoch"))  # folds of a setting begin at 0 again

    return track


def _figures(row: Logged) -> dict[str, float]:
    prefix = f"{row['setting']}/" if "setting" in row else ""
    return {
        prefix + name: float(value)
        for name, value in row.items()
        if name not in ("epoch", "fold") and isinstance(value, int | float)
    }
