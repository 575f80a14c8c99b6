"""Results of `i2pmae evaluate`, kept beside the checkpoints and shown on the page of the run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TypedDict, cast

from pydantic import BaseModel, ValidationError

from i2pmae.atomic_write import atomic_write
from i2pmae.config import EvaluateConfig
from i2pmae.errors import one_line
from i2pmae.evaluation.bootstrap import Estimate
from i2pmae.evaluation.comparison import KINDS, MEASURES, PRETRAINED, UNTRAINED
from i2pmae.report.page import Answer, Page, Table
from i2pmae.training.run_folder import CONFIG
from i2pmae.urls import as_typed

_NAMES = "evaluation-*.json"
_LARGEST = 1 << 20  # bytes
_MOST, _LONGEST = 8, 500  # evaluations and sentences on a page, and characters of each

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

    Returns:
        The file; None where the checkpoint lies in no run's folder, or that cannot be written.
    """
    checkpoint = Path(config.checkpoint)
    if not checkpoint.is_file() or not (checkpoint.parent / CONFIG).is_file():
        return None
    data = Path(as_typed(config.data).rstrip("/")).name.replace(":", "-") or "data"
    path = checkpoint.parent / _NAMES.replace("*", data)
    try:
        with atomic_write(path) as file:
            file.write_text(json.dumps(found, indent=1), encoding="utf-8")
    except OSError:
        return None
    return path


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
    for path in sorted(folder.glob(_NAMES))[:_MOST]:
        try:
            with path.open("rb") as file:
                kept = _Kept.model_validate_json(file.read(_LARGEST))
            found = cast(Evaluation, kept.model_dump())
            table = evaluation_table(found)
        except (OSError, ValidationError, KeyError, TypeError):
            page.notes.append(f"{path.name} is left out: it is damaged; evaluate again")
            continue
        data = one_line(as_typed(str(found["config"].get("data", ""))), _LONGEST)
        title = one_line(f"{data}: {table.title}", 2 * _LONGEST)
        page.results.append(Table(title, table.columns, table.rows))
        said = [one_line(sentence, _LONGEST) for sentence in found["conclusions"][:_MOST]]
        page.answers.append(Answer(f"Is the encoder any good on {data}?", said))
