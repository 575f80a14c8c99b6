"""Encoders that ship with the package: their license, training data, scores and command."""

from __future__ import annotations

from pathlib import Path
from typing import TypedDict, cast

from i2pmae.checkpoints.names import shipped
from i2pmae.errors import CheckpointError
from i2pmae.progress import note, print_table
from i2pmae.suggest import suggestion


class About(TypedDict):
    """What is known of an encoder."""

    bytes: int
    license: str
    training_data: str
    command: str  # that made it
    scores: dict[str, float]  # percent
    note: str
    sha256: str


class Result(TypedDict):
    """Encoders by name."""

    models: dict[str, About]


def run(name: str | None = None) -> Result:
    """Say what is known of the shipped encoders, or of one.

    Args:
        name: of one; none: all.

    Returns:
        See `Result`.

    Raises:
        CheckpointError: if there is no encoder of that name.
    """
    known = shipped()
    if name is not None and name not in known:
        hint = suggestion(name, list(known), n=3) or "this version ships none yet"
        raise CheckpointError(f"no shipped encoder is called {name}; {hint}")
    found = {
        each: cast(About, {"bytes": _size(encoder.path), **encoder.model_dump(exclude={"file"})})
        for each, encoder in known.items()
        if name in (None, each)
    }
    for each, about in found.items():
        rows = [
            ["size", f"{about['bytes'] / 1e6:.1f} MB"],
            *(
                [key.replace("_", " "), str(value)]
                for key, value in about.items()
                if value and key not in ("bytes", "scores")
            ),
            *([measure, f"{score:.1f} %"] for measure, score in about["scores"].items()),
        ]
        print_table(each, ["what", "value"], rows)
    if not found:
        note("no encoder ships with this version yet; hf://owner/name loads one from the Hub")
    return {"models": found}


def _size(file: Path) -> int:
    return file.stat().st_size if file.is_file() else 0
