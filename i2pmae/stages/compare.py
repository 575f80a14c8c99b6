"""Runs side by side."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from i2pmae.errors import DataError
from i2pmae.progress import note, print_table, warn
from i2pmae.stages.results import figure_text, layout_of, markdown_table, published_text

_FILES = ("results.json", "result.json")  # of fine-tuning, of pre-training
# What may differ between arms of a comparison; everything else should not.
_ARM = {"checkpoint", "from_scratch", "recipe", "out", "seed", "seeds", "device", "precision"}
_PRETRAINING = (("loss", "loss"), ("linear SVM %", "svm_accuracy"))
_SVM = (("linear SVM %", "accuracy"),)


def run(paths: Sequence[Path], out: Path | None = None) -> dict[str, Any]:
    """Show the results of several runs in one table.

    Args:
        paths: folders of runs, or JSON files as `i2pmae svm --json` prints them.
        out: Markdown file to write as well.

    Returns:
        `runs`: by path, what each one's file holds; `differences`: settings that fine-tuning runs
        of the same task and data do not share.

    Raises:
        DataError: if a path holds no result, or `out` cannot be written.
    """
    results = {str(path): _read(path) for path in paths}
    cells = {}
    for name, result in results.items():
        try:
            cells[name] = _cells(result)
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise DataError(
                f"{name}: its result is damaged or of another version of i2pmae ({error!r}); "
                "finish the run again with --resume"
            ) from error
    headings = list(dict.fromkeys(heading for row in cells.values() for heading in row))
    rows = [[name, *(row.get(heading, "") for heading in headings)] for name, row in cells.items()]
    for name, published in _published(results).items():
        rows.append([name, *(published.get(heading, "") for heading in headings)])
    columns = ["run", *headings]
    print_table("", columns, rows)
    differences = _differences(results)
    if differences:
        warn(
            f"the runs differ in {', '.join(differences)}: "
            "a fair comparison changes nothing but the encoder's start"
        )
    if out is not None:
        try:
            out.parent.mkdir(parents=True, exist_ok=True)
            out.write_text(markdown_table(columns, rows), encoding="utf-8")
        except OSError as error:
            raise DataError(f"cannot write {out}: {error.strerror}; choose another --out") from None
        note(f"written to {out}")
    return {"runs": results, "differences": differences}


def _read(path: Path) -> dict[str, Any]:
    """The result that a folder or a file holds."""
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
    if not isinstance(result, dict) or not ({"task", "loss", "C"} & result.keys()):
        raise DataError(f"{file}: no result of pretrain, svm or finetune; give a run's folder")
    return result


def _cells(result: Mapping[str, Any]) -> dict[str, str]:
    """What is shown of a result, by heading."""
    if "task" not in result:
        title, figures = ("linear SVM", _SVM) if "C" in result else ("pre-training", _PRETRAINING)
        shown = {"what": title, "encoder": str(result.get("checkpoint") or "random weights")}
        if result.get("random_weights"):
            shown["encoder"] = "random weights"
        return shown | {heading: figure_text(result, figure) for heading, figure in figures}
    layout = layout_of(result)
    seeds = result.get("seeds", [result["seed"]] if "seed" in result else [])
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


def _published(results: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, str]]:
    """Rows of published figures, one per recipe that states any."""
    rows = {}
    for result in results.values():
        if "task" in result and result.get("published"):
            texts = {
                heading: published_text(result, figure)
                for heading, figure in layout_of(result).columns
            }
            rows[f"published, {result['recipe']}"] = texts
    return rows


def _differences(results: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Settings that runs of the same task and data do not share."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for name, result in results.items():
        saved = Path(name) / "config.json"
        if "task" in result and saved.exists():
            try:
                config = dict(json.loads(saved.read_text(encoding="utf-8")))
            except (ValueError, TypeError, RecursionError, OSError) as error:
                raise DataError(f"{saved} is damaged ({error}); restore it from a copy") from None
            groups.setdefault((result["task"], result["data"]), []).append(config)
    different = {
        key
        for first, *others in groups.values()
        for other in others
        for key in first.keys() | other.keys()
        if key not in _ARM and first.get(key) != other.get(key)
    }
    return sorted(different)
