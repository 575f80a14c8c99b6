"""Frozen features of any data set, in one file."""

from __future__ import annotations

import base64
import shlex
import time
from collections.abc import Sequence
from typing import TypedDict

import numpy as np

from i2pmae.checkpoints.checkpoint import notes_on_axes
from i2pmae.checkpoints.names import file_of, recorded
from i2pmae.checkpoints.networks import load_encoder
from i2pmae.config import EmbedConfig
from i2pmae.datasets import Shape, ShapeSource
from i2pmae.datasets.stored import StoredShapes
from i2pmae.device import pick_device, pick_dtype
from i2pmae.errors import DataError
from i2pmae.evaluation.clouds import CloudReader, open_clouds
from i2pmae.evaluation.dense_files import DenseFiles
from i2pmae.evaluation.features import extract_features
from i2pmae.evaluation.journal import Journal, Row, kept_settings
from i2pmae.evaluation.split import spread_evenly
from i2pmae.evaluation.streaming import stream
from i2pmae.evaluation.tables import check_target
from i2pmae.evaluation.vectors import FORMATS, Vectors, write_vectors
from i2pmae.image_model.weights import file_hash
from i2pmae.progress import note
from i2pmae.training.run_folder import run_lock
from i2pmae.urls import absolute_if_there
from i2pmae.version import __version__

_N_DRAWN = 6  # shapes


class Result(TypedDict):
    """What was written."""

    out: str
    shapes: int
    channels: int
    points: int | None  # of every shape
    repeated: int  # shapes with fewer points
    skipped: list[str]  # ids
    dense: str | None  # folder with the features of every shape's points
    picture: str | None  # of some shapes, colored by these
    seconds: float


def run(config: EmbedConfig) -> Result:
    """Encode every shape of a data set and write ids, labels, splits and vectors.

    A shape's vector is what the linear SVM sees of it. Shapes with fewer points than the others
    have theirs repeated.

    Args:
        config: settings.

    Returns:
        See `Result`.

    Raises:
        CheckpointError: if the checkpoint holds no encoder.
        DataError: if shapes cannot be used and `on_error` is `stop`, or the file cannot be
            written; nothing is written then.
    """
    started = time.monotonic()
    check_target(config.out, FORMATS, "vectors")
    device = pick_device(config.device)
    source = open_clouds(config, config.data)
    for message in source.notes:
        note(message)
    encoder = load_encoder(config.checkpoint, config.pooling)
    for message in notes_on_axes(encoder.up, source.up):
        note(message)
    dtype = pick_dtype(config.precision, device)
    encoder.to(device)
    dense = DenseFiles(config, source, encoder, device, dtype) if config.dense else None

    def rows(shapes: Sequence[Shape], indices: Sequence[int]) -> list[Row]:
        points = [shape.points for shape in shapes]
        if dense is not None:
            dense.write(points, indices)
        vectors = extract_features(
            encoder, points, batch_size=len(points), device=device, dtype=dtype
        )
        return [
            {
                "index": index,
                "vector": base64.b64encode(vector).decode(),
                "points": len(cloud),
                "repeated": index in clouds.repeated,
            }
            for index, cloud, vector in zip(indices, points, vectors, strict=True)
        ]

    settings = _settings(config, source)
    resumable = {**settings, "source_times": source.times()}
    with run_lock(config.out), Journal(config.out, resumable, len(source)) as journal:
        clouds = CloudReader(
            source,
            config.points or source.svm_points,
            on_error=config.on_error,
            require=encoder.config.require_points,
            indices=journal.missing,
        )
        stream(source, clouds, journal, rows, batch_size=config.batch_size, description="embed")
        rows_of_all = list(journal.rows())
        found = [row for row in rows_of_all if "error" not in row]
        skipped = [str(row["id"]) for row in rows_of_all if "error" in row]
        if not found:
            raise DataError(f"none of the {len(skipped)} shapes of {config.data} can be read")
        kept = [row["index"] for row in found]
        picture = None if dense is None else _draw(config, source, dense, kept)
        n_points = int(found[0]["points"])
        vectors = np.stack(
            [np.frombuffer(base64.b64decode(row["vector"]), np.float32) for row in found]
        )
        write_vectors(
            config.out,
            Vectors(
                ids=[source.ids[index] for index in kept],
                labels=np.array([source.labels[index] for index in kept], dtype=np.int64),
                splits=[source.splits[index] for index in kept],
                paths=[absolute_if_there(source.entries[index].file) for index in kept],
                vectors=vectors,
                class_names=source.class_names,
                settings={**settings, "points": n_points},
            ),
        )
        journal.finish()
    following = shlex.join(["i2pmae", "similar", str(config.out), source.ids[kept[0]]])
    note(f"{config.out}: {len(kept)} vectors of {vectors.shape[1]}; next: {following}")
    return {
        "out": str(config.out),
        "shapes": len(kept),
        "channels": vectors.shape[1],
        "points": n_points,
        "repeated": sum(row["repeated"] for row in found),
        "skipped": skipped,
        "dense": None if dense is None else str(dense.files.folder),
        "picture": picture,
        "seconds": round(time.monotonic() - started, 2),
    }


def _draw(config: EmbedConfig, source: ShapeSource, dense: DenseFiles, kept: list[int]) -> str:
    """Draw some shapes of every class in the colors of their points' features."""
    from i2pmae.pictures.shapes import draw_features

    labels = np.array([source.labels[index] for index in kept])
    chosen = [kept[place] for place in spread_evenly(labels, _N_DRAWN, config.seed)]
    saved = [np.load(dense.files.file(index)) for index in chosen]
    return str(
        draw_features(
            dense.files.picture,
            np.stack([shape["points"] for shape in saved]),
            np.stack([shape["features"].astype(np.float32) for shape in saved]),
            [source.ids[index].rpartition("/")[2] for index in chosen],
        )
    )


def _settings(config: EmbedConfig, source: ShapeSource) -> dict[str, object]:
    """How the vectors were made, for `i2pmae similar` and for people."""
    stored = {}
    if isinstance(source, StoredShapes):
        stored = {"stored_layout": source.stored_layout, "stored_points": source.stored_points}
    return {
        **kept_settings(config),
        "checkpoint": recorded(config.checkpoint),
        "checkpoint_sha256": file_hash(file_of(config.checkpoint)),
        **stored,
        "data": absolute_if_there(config.data),
        "layout": source.layout,
        "up": source.up,
        "source_fingerprint": source.fingerprint(),
        "i2pmae": __version__,
    }
