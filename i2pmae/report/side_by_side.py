"""Runs side by side: what their results hold, by heading."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from i2pmae.errors import DataError
from i2pmae.report.results import figure_text, layout_of, published_text
from i2pmae.settings import command_of
from i2pmae.training.result import FinetuneResult

_FILES = ("results.json", "result.json")  # of fine-tuning, of pre-training
_PRETRAINING = (("loss", "loss"), ("linear SVM %", "svm_accuracy"))
_SVM = (("linear SVM %", "accuracy"),)


def read_result(path: Path) -> dict[str, Any]:
    """The result that a folder or a file holds.

    Raises:
        DataError: if it holds none.
    """
    file = path
    if path.is_dir():
        found = [path / name for name in _FILES if (path / name).exists()]
        if not found:
            raise DataError(
                f"{path} holds no finished run: neither {' nor '.join(_FILES)} is in it; let the "
                "run finish, with --resume if it was interrupted"
            )
        file = found[0]
    try:
        result = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{file}: cannot be read ({error.strerror}); give a run's folder") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{file}: not JSON ({error}); give a run's folder") from None
    if not isinstance(result, dict) or command_of(result) is None:
        raise DataError(f"{file}: no result of pretrain, svm or finetune; give a run's folder")
    return result


def cells_of(name: str, result: Mapping[str, Any]) -> dict[str, str]:
    """What is shown of a result, by heading.

    Args:
        name: of the run, for the message.
        result: from `read_result`.

    Raises:
        DataError: if the result is damaged.
    """
    try:
        return _cells(result)
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise DataError(
            f"{name}: its result is damaged or of another version of i2pmae ({error!r}); "
            "finish the run again with --resume"
        ) from error


def _cells(result: Mapping[str, Any]) -> dict[str, str]:
    command = command_of(result)
    if command != "finetune":
        title, figures = (
            ("linear SVM", _SVM) if command == "svm" else ("pre-training", _PRETRAINING)
        )
        shown = {"what": title, "encoder": str(result.get("checkpoint") or "random weights")}
        if result.get("random_weights"):
            shown["encoder"] = "random weights"
        return shown | {heading: figure_text(result, figure) for heading, figure in figures}
    tuned = cast(FinetuneResult, result)
    layout = layout_of(tuned)
    seeds = tuned.get("seeds", [tuned["seed"]] if "seed" in tuned else [])
    shown = {
        "what": layout.title.lower(),
        "data": result["data"],
        "encoder": "random weights" if result["from_scratch"] else str(result["pretrained"]),
        "seeds": ", ".join(map(str, seeds)),
    }
    for heading, figure in layout.columns:
        for row, ending in layout.rows:
            place = heading if not ending else f"{heading}, {row}"
            shown[place] = figure_text(result, figure + ending)
    return shown


def results_table(
    cells: Mapping[str, Mapping[str, str]], results: Mapping[str, Mapping[str, Any]]
) -> tuple[list[str], list[list[str]]]:
    """Columns and rows: a run each, then published figures.

    Args:
        cells: by run, from `cells_of`.
        results: by run, from `read_result`.
    """
    headings = list(dict.fromkeys(heading for row in cells.values() for heading in row))
    rows = [*cells.items(), *_published_rows(results).items()]
    return ["run", *headings], [
        [name, *(row.get(heading, "") for heading in headings)] for name, row in rows
    ]


def _published_rows(results: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, str]]:
    """Rows of published figures, one per recipe that states any."""
    rows = {}
    for result in results.values():
        if command_of(result) == "finetune" and result.get("published"):
            texts = {
                heading: published_text(cast(FinetuneResult, result), figure)
                for heading, figure in layout_of(cast(FinetuneResult, result)).columns
            }
            rows[f"published, {result['recipe']}"] = texts
    return rows
