"""What a page says about several runs: results, settings and curves side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

from i2pmae.checkpoints.networks import load_pretraining
from i2pmae.config import ReportConfig
from i2pmae.errors import I2PMAEError
from i2pmae.model.pretraining import PretrainingModel
from i2pmae.report.page import Cloud, CloudRow, CloudTable, Page, Table
from i2pmae.report.reconstructions import KINDS, MOST_ROWS, cloud_of
from i2pmae.report.results import group_table
from i2pmae.report.runs import charts_of, settings_table, store_of
from i2pmae.report.side_by_side import cells_of, read_result, results_table
from i2pmae.report.stage_views import read_shapes, reconstruct, require_fit
from i2pmae.report.stores import points_for, spread_over_classes
from i2pmae.settings import command_of, differences, flat_rows
from i2pmae.store import StoreReader
from i2pmae.training.result import FinetuneResult
from i2pmae.training.run_folder import Row, RunFolder
from i2pmae.urls import absolute_path

_OWN = ("out", "command")  # settings that every run has for itself


class Run(NamedTuple):
    """One of the runs on a page."""

    name: str
    folder: RunFolder
    saved: dict[str, Any]  # its settings


def gallery_page(config: ReportConfig, saved: Sequence[dict[str, Any]]) -> Page:
    """The page of several runs; what one of them lacks is told in a note.

    Args:
        config: which runs.
        saved: their settings, in the same order.
    """
    names = _names(config.subjects)
    runs = [
        Run(name, RunFolder(path), values)
        for name, path, values in zip(names, config.subjects, saved, strict=True)
    ]
    page = Page(
        title=", ".join(names),
        kind="Runs side by side",
        facts=[[f"{len(runs)}", "runs"]],
        charts=charts_of({run.name: run.folder for run in runs}),
    )
    results = _add_results(page, runs)
    page.facts.append([f"{len(results)}", "finished"])
    page.results += [*_per_class(results), *_different_settings(runs)]
    _add_reconstructions(page, config, runs)
    page.provenance += [settings_table(run.folder.path, run.saved, run.name) for run in runs]
    return page


def _names(paths: Sequence[Path]) -> list[str]:
    """Names of folders, whole paths where names are not distinct."""
    short = [absolute_path(path).name for path in paths]
    return short if len({*short}) == len(short) else [str(path) for path in paths]


def _add_results(page: Page, runs: Sequence[Run]) -> dict[str, dict[str, Any]]:
    """A row for every run, finished or not; returns the results of those that are."""
    results: dict[str, dict[str, Any]] = {}
    cells = {}
    for run in runs:
        rows = run.folder.rows()
        cells[run.name] = {"epochs": _epochs(rows, run.saved)}
        try:
            result = read_result(run.folder.path)
            cells[run.name] |= cells_of(run.name, result)
            results[run.name] = result
        except I2PMAEError as error:
            page.notes.append(str(error))
            cells[run.name] |= _unfinished(rows, run.saved)
    page.results.append(Table("Results of all runs", *results_table(cells, results)))
    return results


def _epochs(rows: Sequence[Row], saved: Mapping[str, Any]) -> str:
    done = [row["epoch"] for row in rows if "epoch" in row]
    return f"{done[-1] if done else 0} of {saved['epochs']}"


def _unfinished(rows: Sequence[Row], saved: Mapping[str, Any]) -> dict[str, str]:
    """The last figures of a run that has no result yet."""
    what = "pre-training" if command_of(saved) == "pretrain" else str(saved["task"])
    found = {"what": f"{what}, not finished"}
    for heading, key in (("loss", "loss"), ("linear SVM %", "svm_accuracy")):
        logged = [row[key] for row in rows if isinstance(row.get(key), int | float)]
        if logged:
            found[heading] = f"{logged[-1]:.2f}"
    return found


def _per_class(results: Mapping[str, dict[str, Any]]) -> list[Table]:
    """Figures per class of the fine-tuning runs that have any, a column for each."""
    columns: dict[str, dict[str, str]] = {}
    for name, result in results.items():
        grouped = (
            group_table(cast(FinetuneResult, result)) if command_of(result) == "finetune" else None
        )
        if grouped is not None:
            columns[name] = dict(grouped[1])
    labels = dict.fromkeys(label for column in columns.values() for label in column)
    rows = [[label, *(column.get(label, "") for column in columns.values())] for label in labels]
    return [Table("Per class or category, percent", ["class", *columns], rows)] if rows else []


def _different_settings(runs: Sequence[Run]) -> list[Table]:
    """Settings that the runs do not share; empty where a run has no such setting."""
    keys: set[str] = set()
    for run in runs:  # beside the first of its command: other commands have other settings
        first = next(other for other in runs if command_of(other.saved) == command_of(run.saved))
        keys |= {*differences(first.saved, run.saved, _OWN)}
    values = [dict(flat_rows(run.saved)) for run in runs]
    rows = [[key, *(texts.get(key, "") for texts in values)] for key in sorted(keys)]
    return [Table("Settings that differ", ["setting", *(run.name for run in runs)], rows)]


def _add_reconstructions(page: Page, config: ReportConfig, runs: Sequence[Run]) -> None:
    """The same shapes, hidden by the same seed, as every pre-training run reconstructs them."""
    trained = [run for run in runs if command_of(run.saved) == "pretrain"]
    reader, models = None, {}
    for run in trained:
        try:
            if reader is None:
                reader = StoreReader(store_of(config, run.saved))
            model = load_pretraining(run.folder.last)
            require_fit(model, reader, points_for(model, reader), run.name)
        except I2PMAEError as error:
            page.notes.append(f"no reconstructions of {run.name}: {error}")
            continue
        if model.targets.kind != "2d":
            models[run.name] = model
    if reader is None or not models:
        return
    chosen = spread_over_classes(reader, min(config.shapes, MOST_ROWS), config.seed)
    ids = reader.read_all("id")[chosen]
    columns = [_column(model, reader, chosen.tolist(), config) for model in models.values()]
    page.clouds = CloudTable(
        "The same shapes as each run reconstructs them from what it sees. Clouds of a row turn "
        "together.",
        ["truth", *models],
        KINDS,
        [
            CloudRow(str(name).rpartition("/")[2], [row[0][0], *(cell for _, cell in row)])
            for name, row in zip(ids, zip(*columns, strict=True), strict=True)
        ],
    )


def _column(
    model: PretrainingModel, reader: StoreReader, chosen: list[int], config: ReportConfig
) -> list[tuple[Cloud, Cloud]]:
    """Per shape the true cloud and the reconstructed one."""
    views = read_shapes(reader, chosen, points_for(model, reader), config.seed)
    found = reconstruct(model, views, config.seed)
    cells = []
    for whole, visible, made in zip(views.points, found.visible, found.made, strict=True):
        truth = whole.numpy()
        parts = {"visible": visible, "reconstructed": made}
        cells.append(
            (
                cloud_of({"truth": truth}, truth, config.up),
                cloud_of(parts, truth, config.up),
            )
        )
    return cells
