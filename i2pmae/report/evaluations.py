"""Results of `i2pmae evaluate`, kept beside the checkpoints and shown on the page of the run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TypedDict, cast

from pydantic import BaseModel, ValidationError

from i2pmae.atomic_write import atomic_write
from i2pmae.config import EvaluateConfig, to_plain
from i2pmae.errors import one_line
from i2pmae.evaluation.bootstrap import Estimate
from i2pmae.evaluation.comparison import KINDS, MEASURES, PRETRAINED, UNTRAINED
from i2pmae.report.page import Answer, Page, Table
from i2pmae.settings import differences
from i2pmae.training.run_folder import CONFIG
from i2pmae.urls import absolute_if_there, as_typed

_NAMES = "evaluation-*.json"
_LARGEST = 1 << 20  # bytes
_MOST, _LONGEST = 8, 500  # evaluations and sentences on a page, and characters of each
# Settings that change no figure, and those that names and titles say in other words.
_NOT_TOLD = ("batch_size", "device", "on_error", "checkpoint", "data", "cache")

Scores = dict[str, dict[str, dict[str, float]]]  # kind of features -> measure -> value, low, high


class Evaluation(TypedDict):
    """What `i2pmae evaluate` measures."""

    protocol: str
    n_train: int
    n_test: int
    classes: int
    points: int  # per input of an encoder
    skipped: list[str]  # ids
    scores: Scores  # in percent
    differences: Scores  # in points
    conclusions: list[str]
    config: dict[str, object]


class _Kept(BaseModel):
    """What of it a page shows."""

    protocol: str
    n_test: int
    scores: Scores
    differences: Scores
    conclusions: list[str]
    config: dict[str, object]


def keep_evaluation(config: EvaluateConfig, found: Evaluation) -> Path | None:
    """Write the results into the folder of the run that the checkpoint belongs to.

    Its name holds data, checkpoint and a hash of the settings that decide the figures.

    Returns:
        The file; None where the checkpoint lies in no run's folder, or that cannot be written.
    """
    checkpoint = Path(config.checkpoint)
    if not checkpoint.is_file() or not (checkpoint.parent / CONFIG).is_file():
        return None
    data = Path(as_typed(config.data).rstrip("/")).name.replace(":", "-") or "data"
    read = [
        None if path is None else absolute_if_there(path) for path in (config.data, config.cache)
    ]
    decisive = json.dumps([checkpoint.name, *read, _changed(to_plain(config))])
    short = hashlib.sha256(decisive.encode()).hexdigest()[:8]
    path = checkpoint.parent / _NAMES.replace("*", f"{data}-{checkpoint.stem}-{short}")
    try:
        with atomic_write(path) as file:
            file.write_text(json.dumps(found, indent=1), encoding="utf-8")
    except OSError:
        return None
    return path


def _changed(config: Mapping[str, object]) -> dict[str, object]:
    """Settings that decide the figures, where they are not the defaults."""
    defaults = to_plain(EvaluateConfig(data=Path()))
    found = differences({**defaults, **config}, defaults, _NOT_TOLD)
    return {key: value for key, (value, _) in found.items()}


def evaluation_table(found: Evaluation) -> Table:
    """A row per measure: every kind of features, and what pre-training has changed."""
    scores = found["scores"]
    gains = found["differences"][f"{PRETRAINED}_minus_{UNTRAINED}"]
    rows = [
        [
            title,
            *(str(Estimate(**of[name])) if name in of else "-" for of in scores.values()),
            Estimate(**gains[name]).signed,
        ]
        for name, title in MEASURES.items()
        if name in gains
    ]
    columns = ["measure", *(KINDS[kind] for kind in scores), "pre-trained minus untrained"]
    return Table(f"Percent of {found['n_test']} shapes, {found['protocol']}", columns, rows)


def add_evaluations(page: Page, folder: Path) -> None:
    """Tables and sentences of every evaluation of a run's encoder."""
    paths = sorted(folder.glob(_NAMES))
    if len(paths) > _MOST:
        page.notes.append(f"the first {_MOST} of {len(paths)} evaluations are shown")
    for path in paths[:_MOST]:
        try:
            with path.open("rb") as file:
                kept = _Kept.model_validate_json(file.read(_LARGEST))
            found = cast(Evaluation, kept.model_dump())
            table = evaluation_table(found)
        except (OSError, ValidationError, KeyError, TypeError):
            page.notes.append(f"{path.name} is left out: it is damaged; evaluate again")
            continue
        settings = found["config"]
        checkpoint = one_line(Path(str(settings.get("checkpoint", "encoder"))).name, _LONGEST)
        data = one_line(as_typed(str(settings.get("data", ""))), _LONGEST)
        if changed := ", ".join(f"{key} {value}" for key, value in _changed(settings).items()):
            data = one_line(f"{data} ({changed})", 2 * _LONGEST)
        title = one_line(f"{checkpoint} on {data}: {table.title}", 3 * _LONGEST)
        page.results.append(Table(title, table.columns, table.rows))
        said = [one_line(sentence, _LONGEST) for sentence in found["conclusions"][:_MOST]]
        page.answers.append(Answer(f"Is {checkpoint} any good on {data}?", said))
