"""What a page says about a training run: curves, results, predictions."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ValidationError

from i2pmae.checkpoints.networks import load_classifier, load_pretraining, load_segmenter
from i2pmae.config import FinetuneConfig, ReportConfig
from i2pmae.device import pick_device
from i2pmae.errors import ConfigError, I2PMAEError
from i2pmae.evaluation.metrics import confusion, part_iou
from i2pmae.evaluation.split import spread_evenly
from i2pmae.geometry.normals import surface_normals
from i2pmae.model.classifier import Classifier
from i2pmae.model.segmenter import Segmenter
from i2pmae.progress import track
from i2pmae.report.evaluations import add_evaluations
from i2pmae.report.packed import pack_directions, pack_kinds, pack_points
from i2pmae.report.page import Balance, Chart, Confusion, Layer, Page, Series, Shape, Table
from i2pmae.report.reconstructions import evenly, upright
from i2pmae.report.results import figure_of, group_table, layout_of, results_of, summary_table
from i2pmae.report.stores import (
    PLAIN,
    POINTS,
    add_gallery,
    add_map,
    add_store,
    color_ramps,
    encoder_vectors,
    shape_map,
    spread_over_classes,
)
from i2pmae.settings import flat_rows
from i2pmae.store import StoreReader, resolve_store
from i2pmae.training.labeled import Clouds, LabeledSet, open_labeled
from i2pmae.training.prediction import Prediction, classified, predict, segmented
from i2pmae.training.result import FinetuneResult
from i2pmae.training.run_folder import BEST, Row, RunFolder
from i2pmae.urls import absolute_path, as_typed

_BATCH = 16
_CLASSES = 64  # in a confusion matrix
_VALUES = 500  # in a curve
_PARTS = 16  # parts of a category that have a name in the legend
_CHARTS = {  # by key of a row of metrics: title, unit, factor
    "loss": ("Loss", "", 1.0),
    "loss_2d": ("2D loss, features", "", 1.0),
    "loss_3d": ("3D loss, points", "", 1.0),
    "lr": ("Learning rate", "", 1.0),
    "svm_accuracy": ("Linear SVM accuracy", "%", 1.0),
    "validation_accuracy": ("Validation accuracy", "%", 1.0),
    "validation_instance_miou": ("Validation instance mIoU", "%", 1.0),
    "validation_category_miou": ("Validation category mIoU", "%", 1.0),
    "shapes_per_s": ("Throughput", "shapes/s", 1.0),
    "wait_share": ("Time spent waiting for data", "%", 100.0),
}
_COUNTERS = ("epoch", "step")


def pretraining_page(config: ReportConfig, saved: dict[str, Any]) -> Page:
    """The page of a pre-training run; without its store it has no shapes."""
    folder = RunFolder(config.subject)
    rows = folder.rows()
    page = Page(
        title=absolute_path(config.subject).name,
        kind="Pre-training run",
        facts=[[f"{rows[-1].get('epoch', 0) if rows else 0} of {saved['epochs']}", "epochs"]],
        charts=charts_of({"": folder}),
        ramps=color_ramps(),
    )
    page.facts += [[f"{row['loss']:.4f}", "loss"] for row in rows[-1:] if "loss" in row]
    page.facts += [
        [f"{row['svm_accuracy']:.1f} %", "linear SVM"]
        for row in [row for row in rows if "svm_accuracy" in row][-1:]
    ]
    page.provenance.append(settings_table(config.subject, saved))
    add_evaluations(page, config.subject)
    try:
        reader = StoreReader(store_of(config, saved))
    except I2PMAEError as error:
        page.notes.append(f"no shapes, as the run's store cannot be read: {error} Or pass --cache.")
        return page
    add_store(page, reader)
    if not folder.last.exists():
        page.notes.append(f"no reconstructions yet: {folder.last} is written after an epoch")
        add_gallery(page, reader, config)
        return page
    model = load_pretraining(folder.last)
    add_gallery(page, reader, config, model)
    chosen = spread_over_classes(reader, config.map, config.seed)
    add_map(
        page,
        reader,
        chosen,
        encoder_vectors(model, reader, chosen),
        config,
        "Frozen features of the pre-trained encoder, which never saw a label.",
    )
    return page


def finetuning_page(config: ReportConfig, saved: dict[str, Any]) -> Page:
    """The page of a fine-tuning run; without its shapes or weights it has no predictions."""
    folder = RunFolder(config.subject)
    result = results_of(folder)
    page = Page(
        title=absolute_path(config.subject).name,
        kind=f"Fine-tuning run, {saved['task']}",
        facts=[[f"{saved['epochs']}", "epochs"]],
        charts=charts_of({"": folder}),
        ramps=color_ramps(),
    )
    page.provenance.append(settings_table(config.subject, saved))
    if result is None:
        page.notes.append("no results yet: the run is not finished; add --resume to its command")
    else:
        _add_results(page, result)
    add_evaluations(page, config.subject)
    if saved["task"] == "few-shot":  # which keeps no network
        return page
    try:
        run_config = _run_config(config, saved)
        weights = _weights_of(folder)
        data = open_labeled(run_config)
        data.test.prepare()
        page.balance = _balance(data)
        if run_config.task == "segmentation":
            _add_segmented(page, config, run_config, data, weights)
        else:
            _add_classified(page, config, run_config, data, weights)
    except I2PMAEError as error:
        page.notes.append(f"no predictions, as they cannot be made again: {error}")
    return page


def charts_of(folders: Mapping[str, RunFolder]) -> list[Chart]:
    """Every figure that runs logged once per epoch; runs and their seeds share the charts.

    Args:
        folders: runs by name.
    """
    runs: dict[str, list[Row]] = {}
    for name, folder in folders.items():
        runs[name] = folder.rows()
        if not runs[name]:
            for path in sorted(folder.path.glob("*/metrics.jsonl")):
                seed = path.parent.name
                runs[f"{name}, {seed}" if name else seed] = RunFolder(path.parent).rows()
    logged = dict.fromkeys(key for rows in runs.values() for row in rows for key in row)
    charts = []
    for key in sorted(logged, key=_place):
        series = [_series(name, key, rows) for name, rows in runs.items()]
        series = [line for line in series if line.x]
        if key not in _COUNTERS and series:
            title, unit, _ = _CHARTS.get(key, (key.replace("_", " "), "", 1.0))
            charts.append(Chart(title, unit, series))
    return charts


def store_of(config: ReportConfig, saved: dict[str, Any]) -> str | Path:
    """The store that a pre-training run was trained from.

    Raises:
        I2PMAEError: if there is none, or it is not on this machine.
    """
    return resolve_store(config.cache or _here(saved["cache"]))


def _add_classified(
    page: Page, config: ReportConfig, run_config: FinetuneConfig, data: LabeledSet, weights: Path
) -> None:
    """Confusion, shapes with the worst mistakes first, and a map."""
    model = load_classifier(weights).to(pick_device(run_config.device))
    found = classified(_predict(model, data.test, run_config.points), POINTS)
    names, ids = list(data.class_names), data.test.ids
    counts = confusion(found.predicted, found.truth, len(names))
    page.confusion = confusion_of(counts, names)
    wrong = found.predicted != found.truth
    chosen = _mistakes_and_others(wrong, found.confidence, found.truth, config)
    page.layers = [PLAIN]
    normals = surface_normals(torch.from_numpy(found.points[chosen])).numpy()
    for place, index in enumerate(chosen.tolist()):
        page.shapes.append(
            Shape(
                id=ids[index],
                class_name=names[found.truth[index]],
                split="test",
                n=found.points.shape[1],
                points=pack_points(upright(found.points[index], config.up)),
                normals=pack_directions(upright(normals[place], config.up)),
                layers={},
                facts=[["confidence", f"{found.confidence[index]:.0%}"]],
                predicted=names[found.predicted[index]],
                wrong=bool(wrong[index]),
                rank=float(found.confidence[index]) if wrong[index] else 0.0,
            )
        )
    page.shapes_note = (
        f"{int(wrong[chosen].sum())} of {int(wrong.sum()):,} mistakes, the surest ones, and "
        f"{int((~wrong[chosen]).sum())} of {int((~wrong).sum()):,} shapes that are right."
    )
    on_map = spread_evenly(found.truth, config.map, config.seed)
    if len(on_map) >= 3:
        page.map = shape_map(
            found.features[on_map],
            found.points[on_map],
            names,
            found.truth[on_map].tolist(),
            [ids[index] for index in on_map],
            wrong[on_map].tolist(),
            f"Features of {len(on_map):,} test shapes before the classifier's head; mistakes are "
            "outlined.",
            config,
        )


def confusion_of(counts: NDArray[np.int64], names: Sequence[str]) -> Confusion:
    """The classes that occur; of very many, those with the most mistakes.

    Args:
        counts: (K, K), true classes in rows.
        names: of the K classes.
    """
    occur = counts.sum(axis=0) + counts.sum(axis=1)
    present, note = np.flatnonzero(occur), ""
    if len(present) > _CLASSES:
        note = f"The {_CLASSES} of {len(present):,} classes with the most mistakes."
        mistakes = occur - 2 * counts.diagonal()
        present = np.sort(np.argsort(-mistakes, kind="stable")[:_CLASSES])
    return Confusion(
        [names[label] for label in present.tolist()],
        counts[np.ix_(present, present)].tolist(),
        note,
    )


def _predict(model: Classifier | Segmenter, test: Clouds, n_points: int) -> Iterator[Prediction]:
    """What a network says of the test shapes, from the first points as at the end of its run."""
    total = math.ceil(len(test.labels) / _BATCH)
    return predict(model, track(test.in_order(_BATCH), "test batches", total), n_points)


def _add_segmented(
    page: Page, config: ReportConfig, run_config: FinetuneConfig, data: LabeledSet, weights: Path
) -> None:
    """Shapes with labeled and predicted parts, the worst first."""
    assert data.class_parts is not None  # a run of segmentation had them
    parts, names, ids = data.class_parts, data.class_names, data.test.ids
    model = load_segmenter(weights).to(pick_device(run_config.device))
    points, categories, truth, predicted = segmented(
        _predict(model, data.test, min(run_config.points, 2 * POINTS)), parts
    )
    scores = part_iou(predicted, truth, categories, parts).per_shape
    page.layers = [
        Layer("predicted", "predicted parts", "kinds", kinds=_part_names()),
        Layer("truth", "labeled parts", "kinds", kinds=_part_names()),
        Layer("mistakes", "mistakes", "kinds", kinds=["right", "wrong"]),
        PLAIN,
    ]
    half = config.shapes // 2
    worst = np.argsort(scores, kind="stable")[:half]
    others = spread_evenly(categories, config.shapes - half, config.seed)
    chosen = np.unique(np.concatenate([worst, others]))
    chosen = chosen[np.argsort(scores[chosen], kind="stable")]
    normals = surface_normals(torch.from_numpy(points[chosen])).numpy()
    for place, index in enumerate(chosen.tolist()):
        first = min(parts[categories[index]])
        layers = {
            "predicted": pack_kinds(predicted[index] - first),
            "truth": pack_kinds(truth[index] - first),
            "mistakes": pack_kinds(predicted[index] != truth[index]),
        }
        page.shapes.append(
            Shape(
                id=ids[index],
                class_name=names[categories[index]],
                split="test",
                n=points.shape[1],
                points=pack_points(upright(points[index], config.up)),
                normals=pack_directions(upright(normals[place], config.up)),
                layers=layers,
                facts=[["mean IoU of its parts", f"{scores[index]:.1f} %"]],
                rank=float(100 - scores[index]) if index in worst else 0.0,
            )
        )
    page.shapes_note = (
        f"{len(chosen)} of {len(ids):,} test shapes: the worst, and others of every category."
    )


def _mistakes_and_others(
    wrong: NDArray[np.bool_],
    confidence: NDArray[np.float32],
    truth: NDArray[np.int64],
    config: ReportConfig,
) -> NDArray[np.int64]:
    """The surest mistakes, then shapes of every class that are right."""
    mistakes = np.flatnonzero(wrong)
    surest = mistakes[np.argsort(-confidence[mistakes], kind="stable")][: config.shapes // 2]
    right = np.flatnonzero(~wrong)
    others = right[spread_evenly(truth[right], config.shapes - len(surest), config.seed)]
    return np.concatenate([surest, others])


def _add_results(page: Page, result: FinetuneResult) -> None:
    columns, rows = summary_table(result)
    layout = layout_of(result)
    page.results.append(Table("Results, percent", columns, rows))
    for title, key in layout.columns:
        if key in result:
            page.facts.append([f"{figure_of(result, key):.2f}", title])
    grouped = group_table(result)
    if grouped is not None:
        page.per_class = Table(f"Per {grouped[0][0]}", *grouped)


def _balance(data: LabeledSet) -> Balance:
    """Shapes per class of both splits."""
    n_classes = len(data.class_names)
    splits = {"train": data.train, "test": data.test}
    counts = [np.bincount(part.labels, minlength=n_classes) for part in splits.values()]
    return Balance(list(splits), list(data.class_names), np.stack(counts, axis=1).tolist())


def _run_config(config: ReportConfig, saved: dict[str, Any]) -> FinetuneConfig:
    """Settings of the run, with its shapes where they are now."""
    values = {**saved, "device": config.device, "seeds": None}
    values.pop("command", None)
    if config.data is not None:
        values |= {"data": config.data, "cache": None}
    if config.cache is not None:
        values |= {"cache": config.cache, "data": None}
    for name in ("data", "cache"):
        if getattr(config, name) is None and isinstance(values.get(name), str):
            _here(values[name])
    try:
        return FinetuneConfig.model_validate(values)
    except ValidationError as error:
        raise ConfigError(
            f"{config.subject}: its settings are of another version of i2pmae "
            f"({error.errors()[0]['msg']})"
        ) from None


def _here(place: str) -> str:
    """A path that a run's settings name, if it is local: the settings may be untrusted.

    Raises:
        ConfigError: if it is a URL, or a share of another machine.
    """
    is_local = as_typed(place).startswith("file:///") or "://" not in as_typed(place)
    if not is_local or place.startswith(("\\\\", "//")):
        raise ConfigError(
            f"the run names {as_typed(place)}, which is not on this machine and is opened only on "
            "demand: pass it with --cache."
        )
    return place


def _weights_of(folder: RunFolder) -> Path:
    """Weights of the best epoch; of several seeds the first one's."""
    found = sorted([folder.path / BEST, *folder.path.glob(f"*/{BEST}")], key=lambda p: len(p.parts))
    existing = [path for path in found if path.exists()]
    if not existing:
        raise ConfigError(f"{folder.path} holds no {BEST}, the weights of the best epoch")
    return existing[0]


def settings_table(path: Path, saved: dict[str, Any], title: str = "Run") -> Table:
    """Where a run lies, and its settings."""
    return Table(title, ["what", "value"], [["path", str(absolute_path(path))], *flat_rows(saved)])


def _series(name: str, key: str, rows: list[Row]) -> Series:
    factor = _CHARTS.get(key, ("", "", 1.0))[2]
    found = [
        (row["epoch"], row[key] * factor)
        for row in rows  # a few-shot run's are of folds
        if "epoch" in row and isinstance(row.get(key), int | float) and np.isfinite(row[key])
    ]
    found = [found[place] for place in evenly(len(found), _VALUES)]
    return Series(name, [float(x) for x, _ in found], [float(f"{y:.6g}") for _, y in found])


def _place(key: str) -> tuple[int, str]:
    known = list(_CHARTS)
    return (known.index(key) if key in known else len(known), key)


def _part_names() -> list[str]:
    return [f"part {number}" for number in range(1, _PARTS + 1)]
