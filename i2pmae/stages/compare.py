"""Runs side by side."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

from i2pmae.atomic_write import written
from i2pmae.errors import DataError
from i2pmae.progress import note, print_table, warn
from i2pmae.report.results import markdown_table
from i2pmae.report.side_by_side import cells_of, read_result, results_table
from i2pmae.settings import command_of, differences

# What may differ between arms of a comparison; everything else should not.
_ARM = {
    "command",
    "checkpoint",
    "from_scratch",
    "recipe",
    "out",
    "seed",
    "seeds",
    "device",
    "precision",
}


class Result(TypedDict):
    """Runs side by side."""

    runs: dict[str, dict[str, Any]]  # by path, what each one's file holds
    differences: list[str]  # settings that fine-tuning runs of the same task and data do not share


def run(runs: Sequence[Path], out: Path | None = None) -> Result:
    """Show the results of several runs in one table.

    Args:
        runs: folders of runs, or JSON files as `i2pmae svm --json` prints them.
        out: Markdown file to write as well.

    Returns:
        See `Result`.

    Raises:
        DataError: if a path holds no result, or `out` cannot be written.
    """
    results = {str(path): read_result(path) for path in runs}
    cells = {name: cells_of(name, result) for name, result in results.items()}
    columns, rows = results_table(cells, results)
    print_table("", columns, rows)
    differences = _differences(results)
    if differences:
        warn(
            f"the runs differ in {', '.join(differences)}: "
            "a fair comparison changes nothing but the encoder's start"
        )
    if out is not None:
        with written(out, remedy="Choose another --out.") as temporary:
            temporary.write_text(markdown_table(columns, rows), encoding="utf-8")
        note(f"written to {out}")
    return {"runs": results, "differences": differences}


def _differences(results: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Settings that runs of the same task and data do not share."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for name, result in results.items():
        saved = Path(name) / "config.json"
        if command_of(result) == "finetune" and saved.exists():
            try:
                config = dict(json.loads(saved.read_text(encoding="utf-8")))
            except (ValueError, TypeError, RecursionError, OSError) as error:
                raise DataError(f"{saved} is damaged ({error}); restore it from a copy") from None
            groups.setdefault((result["task"], result["data"]), []).append(config)
    different = {
        key
        for first, *others in groups.values()
        for other in others
        for key in differences(first, other, _ARM)
    }
    return sorted(different)
