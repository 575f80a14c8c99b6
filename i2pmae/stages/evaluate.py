"""Compare a frozen encoder with an untrained one, 2D features and chance."""

from __future__ import annotations

import contextlib
import shlex
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from i2pmae.checkpoints.checkpoint import notes_on_axes
from i2pmae.checkpoints.names import recorded, shipped
from i2pmae.checkpoints.networks import load_encoder, random_encoder
from i2pmae.config import EvaluateConfig, to_plain
from i2pmae.datasets import ShapeSource, locate, open_source
from i2pmae.datasets.source import SplitError
from i2pmae.datasets.stored import StoredShapes
from i2pmae.device import pick_device, pick_dtype
from i2pmae.errors import StoreMismatchError
from i2pmae.evaluation.bootstrap import Estimate
from i2pmae.evaluation.clouds import CloudReader, source_points
from i2pmae.evaluation.comparison import (
    IMAGE,
    PRETRAINED,
    UNTRAINED,
    compare,
    conclusions,
    measure_by_class,
    measure_by_identification,
)
from i2pmae.evaluation.features import extract_features
from i2pmae.evaluation.image_features import pooled_image_features
from i2pmae.evaluation.part_probe import PointSamples
from i2pmae.evaluation.point_samples import have_parts, sample_points, stored_points
from i2pmae.model.frozen import FrozenEncoder
from i2pmae.progress import note, print_lines, print_table
from i2pmae.report.evaluations import Evaluation, Scores, evaluation_table, keep_evaluation
from i2pmae.store import StoreReader, resolve_store


def run(config: EvaluateConfig) -> Evaluation:
    """Measure frozen features of a data set, and say in plain sentences what they are worth.

    With classes, the test split is tested, or every shape by cross-validation where there is none.
    Without, one half of a shape's points is to find the other half among those of all shapes.

    Args:
        config: settings.

    Returns:
        See `Evaluation`.

    Raises:
        CheckpointError: if the checkpoint holds no encoder.
        DataError: if shapes cannot be read and `on_error` is `stop`, or there are too few.
        StoreMismatchError: if the store lacks shapes of the data set.
    """
    trained = load_encoder(config.checkpoint, config.pooling)
    encoders = trained, random_encoder(trained.config, config.seed, config.pooling)
    sources = _sources(config)
    if config.cache is None and isinstance(sources[0], StoredShapes):
        config = config.model_copy(update={"cache": config.data})
    for message in (*notes_on_axes(trained.up, sources[0].up), *sources[0].notes):
        note(message)
    n_classes = [len({*source.labels} - {-1}) for source in sources]
    by_class = n_classes[0] >= 2 and n_classes[-1] >= 1
    if not by_class and (n := len(sources[0].class_names)) > 1:
        more = "" if config.limit is None else "; read more with --limit"
        note(
            f"{min(n_classes)} of {n} classes in what is read, too few to classify: halves of "
            f"shapes are told apart instead{more}"
        )
    read = [_encode(config, source, encoders, halves=not by_class) for source in sources]
    protocol = measure_by_class if by_class else measure_by_identification
    points = _points(config, sources, read, encoders) if by_class and have_parts(sources) else None
    found = protocol(
        [part.labels for part in read],
        {kind: [part.features[kind] for part in read] for kind in read[0].features},
        points=points,
        n_folds=config.folds,
        seed=config.seed,
    )
    if found.n_left_out:
        note(f"left out: {found.n_left_out} shapes without a class, or alone in theirs")
    compared = compare(found.measures, found.labels, draws=config.bootstrap, seed=config.seed)
    result: Evaluation = {
        "protocol": found.protocol,
        "n_train": found.n_train,
        "n_test": found.n_test,
        "classes": n_classes[0],
        "points": read[0].n_points,
        "skipped": [name for part in read for name in part.skipped],
        "scores": _plain(compared.scores),
        "differences": _plain(compared.differences),
        "conclusions": conclusions(
            compared, found.n_test, is_shipped=recorded(config.checkpoint) in shipped()
        ),
        "config": to_plain(config),
    }
    table = evaluation_table(result)
    print_table(table.title, table.columns, table.rows)
    print_lines(result["conclusions"])
    if (kept := keep_evaluation(config, result)) is not None:
        note(f"{kept}: on the page of i2pmae report {shlex.quote(str(kept.parent))}")
    return result


class _Read(NamedTuple):
    """Features of one split."""

    indices: list[int]  # of the shapes in their source
    ids: list[str]
    labels: NDArray[np.int64]
    features: dict[str, NDArray[np.float32]]  # kind -> (S, C), or (2 S, C) of halves in turn
    n_points: int
    skipped: list[str]


def _sources(config: EvaluateConfig) -> list[ShapeSource]:
    """The training split, and the test split if there is one."""
    options = {"limit": config.limit, "seed": config.seed, **config.reading}
    data = locate(config.data, config.layout)
    sources = [open_source(data, split="train", **options)]
    with contextlib.suppress(SplitError):
        sources.append(open_source(data, split="test", **options))
    return sources


def _encode(
    config: EvaluateConfig,
    source: ShapeSource,
    encoders: tuple[FrozenEncoder, FrozenEncoder],
    *,
    halves: bool,
) -> _Read:
    """Features of both encoders in one pass over the shapes; of the halves of their points."""
    device = pick_device(config.device)
    n_points = config.points or source.svm_points
    source.points = source_points((1 + halves) * (n_points or 0))
    clouds = CloudReader(
        source,
        n_points,
        halves=halves,
        on_error=config.on_error,
        require=encoders[0].config.require_points,
    )
    for encoder in encoders:
        encoder.to(device)

    def encode(points: Tensor) -> Tensor:
        return torch.cat([encoder(points) for encoder in encoders], dim=1)

    both = extract_features(
        encode,
        clouds,
        batch_size=config.batch_size,
        device=device,
        dtype=pick_dtype(config.precision, device),
        description="features",
        total=(1 + halves) * len(source),
    )
    ids = [source.ids[index] for index in clouds.kept]
    features = dict(zip((PRETRAINED, UNTRAINED), np.hsplit(both, 2), strict=True))
    if config.cache is not None and not halves:
        features[IMAGE] = _image_features(config, ids)
    labels = np.array([source.labels[index] for index in clouds.kept], dtype=np.int64)
    assert clouds.n_points is not None  # a shape has been read
    return _Read(clouds.kept, ids, labels, features, clouds.n_points, clouds.skipped)


def _points(
    config: EvaluateConfig,
    sources: list[ShapeSource],
    read: list[_Read],
    encoders: tuple[FrozenEncoder, FrozenEncoder],
) -> PointSamples:
    """Features and parts of some points of shapes, of all kinds of features."""
    found = sample_points(
        sources,
        [part.indices for part in read],
        dict(zip((PRETRAINED, UNTRAINED), encoders, strict=True)),
        read[0].n_points,
        batch_size=config.batch_size,
        dtype=pick_dtype(config.precision, pick_device(config.device)),
        seed=config.seed,
    )
    if config.cache is None:
        return found
    ids = [name for part in read for name in part.ids]
    reader, rows = _stored(config, [ids[place] for place in found.chosen])
    if not reader.info.spec.parts:
        return found
    features, truth = stored_points(reader, rows, config.seed)
    return found._replace(
        features={**found.features, IMAGE: features}, truth={**found.truth, IMAGE: truth}
    )


def _image_features(config: EvaluateConfig, ids: list[str]) -> NDArray[np.float32]:
    """Pooled 2D features (S, V C) of the same shapes from the store."""
    reader, rows = _stored(config, ids)
    return pooled_image_features(reader, rows, description="2D features").reshape(len(rows), -1)


def _stored(config: EvaluateConfig, ids: list[str]) -> tuple[StoreReader, NDArray[np.int64]]:
    """The store, and its rows of the same shapes."""
    assert config.cache is not None
    reader = StoreReader(resolve_store(config.cache))
    usable, names = reader.indices("all"), reader.read_all("id")
    place = {str(names[index]): index for index in usable}
    missing = [name for name in ids if name not in place]
    if missing:
        raise StoreMismatchError(
            f"{config.cache} lacks {len(missing)} of {len(ids)} shapes of {config.data}, such as "
            f"{missing[0]}. Extract them with i2pmae extract-2d {shlex.quote(str(config.data))} "
            "--split all, or leave out --cache."
        )
    return reader, np.array([place[name] for name in ids], dtype=np.int64)


def _plain(found: dict[str, dict[str, Estimate]]) -> Scores:
    return {
        kind: {name: value._asdict() for name, value in measures.items()}
        for kind, measures in found.items()
    }
