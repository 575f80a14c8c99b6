"""Frozen features of any data set, in one file."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from i2pmae import __version__
from i2pmae.config import EmbedConfig, EncoderConfig, to_plain
from i2pmae.datasets import Shape, ShapeSource, open_source
from i2pmae.device import pick_device, pick_dtype
from i2pmae.errors import DataError
from i2pmae.evaluation.features import extract_features
from i2pmae.evaluation.vectors import Vectors, check_target, write_vectors
from i2pmae.image_model.weights import file_hash
from i2pmae.loading import load_encoder
from i2pmae.progress import note, warn

SOURCE_POINTS = 8192  # centre and scale of a shape come from as many points, however few are used
_AHEAD = 64  # shapes read before they are needed


def run(config: EmbedConfig) -> dict[str, Any]:
    """Encode every shape of a data set and write ids, labels, splits and vectors.

    A shape's vector is what the linear SVM sees of it. Shapes with fewer points than the others
    have theirs repeated.

    Args:
        config: settings.

    Returns:
        `out`, `shapes`, `channels`, `points`, `repeated` (shapes with fewer points), `skipped`
        (ids), `seconds`.

    Raises:
        CheckpointError: if the checkpoint holds no encoder.
        DataError: if shapes cannot be used and `on_error` is `stop`, or the file cannot be
            written; nothing is written then.
    """
    started = time.monotonic()
    check_target(config.out)
    device = pick_device(config.device)
    source = open_source(
        config.data,
        layout=config.layout,
        split=config.split,
        limit=config.limit,
        points=max(SOURCE_POINTS, config.points or 0),
        seed=config.seed,
    )
    for message in source.notes:
        note(message)
    encoder = load_encoder(config.checkpoint, config.pooling)
    clouds = CloudReader(source, config.points or source.svm_points, config.on_error == "skip")
    vectors = extract_features(
        encoder.to(device),
        clouds.read(encoder.config),
        batch_size=config.batch_size,
        device=device,
        dtype=pick_dtype(config.precision, device),
        description="embed",
        total=len(source),
    )
    if clouds.n_repeated:
        warn(
            f"{clouds.n_repeated} shapes have fewer than {clouds.n_points} points; theirs were "
            "repeated"
        )
    kept = clouds.kept
    write_vectors(
        config.out,
        Vectors(
            ids=[source.ids[index] for index in kept],
            labels=np.array([source.labels[index] for index in kept], dtype=np.int64),
            splits=[source.splits[index] for index in kept],
            vectors=vectors,
            class_names=source.class_names,
            settings=_settings(config, source, clouds.n_points),
        ),
    )
    note(
        f"{config.out}: {len(kept)} vectors of {vectors.shape[1]}; next: i2pmae similar "
        f"{config.out} {source.ids[kept[0]]}"
    )
    return {
        "out": str(config.out),
        "shapes": len(kept),
        "channels": vectors.shape[1],
        "points": clouds.n_points,
        "repeated": clouds.n_repeated,
        "skipped": clouds.skipped,
        "seconds": round(time.monotonic() - started, 2),
    }


class CloudReader:
    """Reads the clouds of a source with equally many points, and keeps count of its shapes.

    Attributes:
        n_points: of every cloud; if None was asked, as many as the first shape has.
        kept: indices of the shapes that were read.
        skipped: ids of those that cannot be used.
        n_repeated: shapes with too few points.
    """

    def __init__(self, source: ShapeSource, n_points: int | None, skip_bad: bool = False) -> None:
        self.n_points = n_points
        self.kept: list[int] = []
        self.skipped: list[str] = []
        self.n_repeated = 0
        self._source = source
        self._skip_bad = skip_bad

    def read(self, encoder: EncoderConfig) -> Iterator[NDArray[np.float32]]:
        """Yield the clouds, (N, 3) each, read ahead in several threads.

        Args:
            encoder: that is to see them.

        Raises:
            DataError: at a shape that cannot be used, unless these are to be skipped.
            ConfigError: if the encoder needs more points.
        """
        for index, shape in enumerate(_load_all(self._source)):
            try:
                points = shape.result().points
            except DataError as error:
                if not self._skip_bad:
                    raise DataError(
                        f"{error} Or add --on-error skip; i2pmae check-data lists all such shapes."
                    ) from None
                warn(f"skipped {self._source.ids[index]}: {error}")
                self.skipped.append(self._source.ids[index])
                continue
            if self.n_points is None:
                self.n_points = len(points)
            encoder.require_points(self.n_points)
            self.kept.append(index)
            self.n_repeated += len(points) < self.n_points
            yield points[np.arange(self.n_points) % len(points)]


def _load_all(source: ShapeSource) -> Iterator[Future[Shape]]:
    """All shapes in order, a few of them under way."""
    waiting: deque[Future[Shape]] = deque()
    with ThreadPoolExecutor(thread_name_prefix="load shapes") as pool:
        try:
            for index in range(len(source)):
                waiting.append(pool.submit(source.load, index))
                if len(waiting) > _AHEAD:
                    yield waiting.popleft()
            yield from waiting
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _settings(config: EmbedConfig, source: ShapeSource, n_points: int | None) -> dict[str, Any]:
    """How the vectors were made, for `i2pmae similar` and for people."""
    there = config.data.exists()
    return {
        **to_plain(config),
        "checkpoint": str(config.checkpoint.absolute()),
        "checkpoint_sha256": file_hash(config.checkpoint),
        "data": str(config.data.absolute() if there else config.data),
        "layout": source.layout,
        "points": n_points,
        "source_fingerprint": source.fingerprint(),
        "i2pmae": __version__,
    }
