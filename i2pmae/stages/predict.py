"""A trained network applied to shapes: class by class, or part by part."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

from i2pmae.checkpoints.checkpoint import notes_on_axes
from i2pmae.checkpoints.names import file_of
from i2pmae.config import PredictConfig
from i2pmae.errors import DataError
from i2pmae.evaluation.clouds import CloudReader, open_clouds, source_points
from i2pmae.evaluation.journal import Journal, kept_settings
from i2pmae.evaluation.split import spread_evenly
from i2pmae.evaluation.streaming import stream
from i2pmae.evaluation.tables import TABLES, check_target, write_table
from i2pmae.image_model.weights import file_hash
from i2pmae.progress import note, print_class_table, print_table
from i2pmae.training.predictors import (
    ClassFigures,
    ClassPredictor,
    PartFigures,
    PartPredictor,
    load_predictor,
)
from i2pmae.training.run_folder import run_lock
from i2pmae.version import __version__

_N_DRAWN = 8  # shapes in the picture of parts
_MOST_CONFUSED = 5  # pairs of classes in the table


class Result(TypedDict):
    """What was predicted."""

    out: str
    shapes: int  # predicted ones
    skipped: list[str]  # ids
    counts: dict[str, int]  # shapes per class
    figures: ClassFigures | PartFigures | None  # where shapes are labeled
    picture: str | None  # of parts
    seconds: float


def run(config: PredictConfig) -> Result:
    """Predict every shape, batch by batch, and write a row for each; see `predictors`.

    Args:
        config: settings.

    Returns:
        See `Result`.

    Raises:
        CheckpointError: if the checkpoint holds no classifier and no segmenter.
        DataError: if there are no shapes, or one cannot be used and `on_error` is `stop`.
    """
    started = time.monotonic()
    check_target(config.out, TABLES, "predictions")
    source = open_clouds(config, *config.shapes)
    predictor = load_predictor(config, source)
    source.points = source_points(predictor.n_points)
    for message in (*source.notes, *notes_on_axes(predictor.network.up, source.up)):
        note(message)
    about = {
        **kept_settings(config),
        "checkpoint_sha256": file_hash(file_of(config.checkpoint)),
        "points": predictor.used,
        "fingerprint": source.fingerprint(),
        "i2pmae": __version__,
    }
    resumable = {**about, "source_times": source.times()}
    with run_lock(config.out), Journal(config.out, resumable, len(source)) as journal:
        clouds = CloudReader(
            source,
            predictor.n_points,
            on_error=config.on_error,
            choose=predictor.choose,
            indices=journal.missing,
        )
        stream(
            source,
            clouds,
            journal,
            predictor.rows,
            batch_size=config.batch_size,
            description="predict",
        )
        picture = _draw(config, predictor, journal)
        columns = {**predictor.columns, "error": "text"}
        write_table(config.out, columns, journal.rows(), about)
        counts = Counter(row[predictor.kind] for row in journal.rows() if predictor.kind in row)
        skipped = [row["id"] for row in journal.rows() if "error" in row]
        if not counts:
            raise DataError(f"none of the {len(skipped)} shapes can be read, such as {skipped[0]}")
        figures = predictor.measure(journal.rows())
        journal.finish()
    _show(predictor.kind, counts, figures)
    n_seen = sum(split in source.train_splits for split in source.splits)
    if figures is not None and n_seen:
        note(
            f"{n_seen} of these shapes belong to the training split; if the network was trained on "
            "them, use --split test to see how good it is"
        )
    failed = f"; {len(skipped)} could not be read (column error)" if skipped else ""
    note(f"{config.out}: {counts.total()} shapes{failed}")
    return {
        "out": str(config.out),
        "shapes": counts.total(),
        "skipped": skipped,
        "counts": dict(counts.most_common()),
        "figures": figures,
        "picture": picture,
        "seconds": round(time.monotonic() - started, 2),
    }


def _show(kind: str, counts: Counter[str], found: ClassFigures | PartFigures | None) -> None:
    """Shapes per class; where there are labels, accuracy per class and what is confused."""
    if found is None:
        print_class_table("Predicted", [kind, "shapes"], counts.most_common())
        return
    if "accuracy" in found:
        unit, per_class = "accuracy %", found["per_class"]
        totals = {"all": found["accuracy"], "mean over classes": found["mean_class_accuracy"]}
    else:
        unit, per_class = "mIoU %", found["per_category"]
        totals = {"all": found["instance_miou"], "mean over categories": found["category_miou"]}
    print_class_table(
        f"Predicted, {found['n_labeled']} labeled shapes",
        [kind, unit, "predicted so"],
        [[name, f"{value:.2f}", counts[name]] for name, value in per_class.items()],
        [[name, f"{value:.2f}", ""] for name, value in totals.items()],
    )
    if "confusion" in found:
        _show_confusion(found["classes"], np.array(found["confusion"]))


def _show_confusion(names: Sequence[str], matrix: NDArray[np.int64]) -> None:
    """The pairs of classes that are confused most."""
    wrong = matrix - np.diag(np.diag(matrix))
    worst = [divmod(int(k), len(names)) for k in np.argsort(-wrong, axis=None, kind="stable")]
    pairs = [[names[t], names[p], wrong[t, p]] for t, p in worst[:_MOST_CONFUSED] if wrong[t, p]]
    if pairs:
        print_table("Most confused", ["class", "taken for", "shapes"], pairs)


def _draw(
    config: PredictConfig, predictor: ClassPredictor | PartPredictor, journal: Journal
) -> str | None:
    """A picture of the parts of some shapes of every category."""
    if isinstance(predictor, ClassPredictor):
        return None
    from i2pmae.pictures.parts import draw_parts

    places = [place for place, row in enumerate(journal.rows()) if "error" not in row]
    if not places:
        return None
    categories = np.array([predictor.categories[place] for place in places])
    chosen = [places[k] for k in spread_evenly(categories, _N_DRAWN, config.seed)]
    shapes = [predictor.read(index) for index in chosen]
    lowest = [min(predictor.class_parts[predictor.categories[index]]) for index in chosen]
    parts = [
        predictor.parts([shape], [index])[0] for shape, index in zip(shapes, chosen, strict=True)
    ]
    truth = [shape.parts for shape in shapes if shape.parts is not None]
    return str(
        draw_parts(
            predictor.files.picture,
            [shape.points for shape in shapes],
            [labels.astype(np.int64) - low for labels, low in zip(truth, lowest, strict=True)]
            if predictor.knows_parts
            else None,
            [found - low for found, low in zip(parts, lowest, strict=True)],
            [predictor.category_name(predictor.categories[index]) for index in chosen],
        )
    )
