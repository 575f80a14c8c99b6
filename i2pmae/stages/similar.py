"""Nearest neighbors of a shape among the vectors of a data set."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import NamedTuple, TypedDict

import numpy as np
from numpy.typing import NDArray

from i2pmae.checkpoints.names import file_of
from i2pmae.checkpoints.networks import load_encoder
from i2pmae.config import SimilarConfig
from i2pmae.datasets import open_source
from i2pmae.datasets.opening import read_like
from i2pmae.datasets.stored import StoredShapes
from i2pmae.device import pick_device, pick_dtype
from i2pmae.errors import CheckpointError, DataError
from i2pmae.evaluation.clouds import CloudReader, source_points
from i2pmae.evaluation.features import extract_features
from i2pmae.evaluation.vectors import Vectors, cosine_texts, nearest, read_vectors
from i2pmae.evaluation.whitening import Whitening, percentiles
from i2pmae.image_model.weights import file_hash
from i2pmae.progress import note, print_table
from i2pmae.urls import as_typed

_DRAWN_POINTS = 2048
_SETTINGS = ("checkpoint", "checkpoint_sha256", "data", "layout", "points", "precision", "seed")


class _Query(NamedTuple):
    """The query."""

    name: str
    place: int | None  # among the vectors; None for a file
    vector: NDArray[np.float32]  # (C,)
    path: str  # its file if that holds nothing else, else ''


Neighbor = TypedDict(
    "Neighbor",
    {"id": str, "class": str | None, "split": str | None, "score": float, "percentile": float},
)


class Result(TypedDict):
    """The shapes nearest to one."""

    query: dict[str, str | None]  # `id` or `file`, `class`, `split`
    duplicates: list[str]  # ids of the same shape, under other names or in the query's file
    neighbors: list[Neighbor]  # the nearest first
    picture: str | None


def run(config: SimilarConfig) -> Result:
    """Find the shapes whose whitened vectors have the largest cosine with a shape's.

    The score is that cosine, 0 on average; `percentile` is the percent of all pairs of shapes that
    are less similar. The shape itself and copies of it are named apart.

    Args:
        config: settings.

    Returns:
        See `Result`.

    Raises:
        DataError: if the vectors or the query cannot be read, or there is no such shape.
        CheckpointError: if the checkpoint is not the one that made the vectors.
    """
    values = read_vectors(config.vectors)
    missing = [name for name in _SETTINGS if name not in values.settings]
    if missing:
        raise DataError(
            f"{config.vectors} does not say how it was made ({', '.join(missing)} missing). Write "
            "it again with i2pmae embed."
        )
    query = _find(config, values)
    whitening = values.whitening or Whitening.of(values.vectors)
    directions = whitening.apply(values.vectors)
    order, scores = nearest(directions, whitening.apply(query.vector[None])[0], len(directions))
    copies = values.copies_of(query.vector, query.path) - {query.place}
    is_find = ~np.isin(order, [*copies, -1 if query.place is None else query.place])
    neighbors, shown = order[is_find][: config.top].tolist(), scores[is_find][: config.top]
    if not neighbors:
        raise DataError(f"{config.vectors} holds no other shape than {query.name}. Embed more.")
    rows: list[Neighbor] = [
        {
            "id": values.ids[index],
            "class": values.class_of(index) or None,
            "split": values.splits[index] or None,
            "score": round(float(score), 6),
            "percentile": round(float(percent), 4),
        }
        for index, score, percent in zip(
            neighbors, shown, percentiles(directions, shown), strict=True
        )
    ]
    own_class = values.class_of(query.place) if query.place is not None else ""
    print_table(
        f"Nearest to {query.name}" + (f" ({own_class})" if own_class else ""),
        ["", "shape", "class", "split", "score", "above % of pairs"],
        [
            *(["same", *_about(values, index), "", ""] for index in sorted(copies)),
            *(
                [rank, *_about(values, index), text, f"{row['percentile']:.2f}"]
                for rank, (index, row, text) in enumerate(
                    zip(neighbors, rows, cosine_texts(shown), strict=True), start=1
                )
            ),
        ],
    )
    if config.picture is not None:
        _draw(config, values, query, neighbors, cosine_texts(shown))
        note(f"picture: {config.picture}")
    return {
        "query": {
            "id" if query.place is not None else "file": query.name,
            "class": own_class or None,
            "split": (query.place is not None and values.splits[query.place]) or None,
        },
        "duplicates": [values.ids[index] for index in sorted(copies)],
        "neighbors": rows,
        "picture": None if config.picture is None else str(config.picture),
    }


def _about(values: Vectors, index: int) -> tuple[str, str, str]:
    """Id, class and split of a shape for the table."""
    return values.ids[index], values.class_of(index) or "-", values.splits[index] or "-"


def _find(config: SimilarConfig, values: Vectors) -> _Query:
    """The query's vector: read if its id is known, computed if it is a file."""
    if config.query in values.ids:
        index = values.ids.index(config.query)
        path = values.paths[index] if values.paths else ""
        alone = path if values.paths and values.paths.count(path) == 1 else ""
        return _Query(config.query, index, values.vectors[index], alone)
    if Path(config.query).is_file():
        return _Query(config.query, None, _encode(config, values), config.query)
    near = [shape for shape in values.ids if shape.endswith(f"/{config.query}")]
    near = near or difflib.get_close_matches(config.query, values.ids, n=3)
    hint = f"did you mean {' or '.join(near[:3])}?" if near else f"ids look like {values.ids[0]}"
    raise DataError(
        f"{config.query} is neither the id of a shape in {config.vectors} nor a file; {hint}"
    )


def _encode(config: SimilarConfig, values: Vectors) -> NDArray[np.float32]:
    """The vector of a file's only shape, made as the others were."""
    settings = values.settings
    named = config.checkpoint or str(settings["checkpoint"])
    checkpoint = file_of(named)
    if config.checkpoint is None and not checkpoint.is_file():
        raise CheckpointError(
            f"{checkpoint}, which made {config.vectors}, is not there any more; pass it with "
            "--checkpoint"
        )
    encoder = load_encoder(checkpoint, settings.get("pooling", "max"))  # older files do not say
    if file_hash(checkpoint) != settings["checkpoint_sha256"]:
        raise CheckpointError(
            f"{config.vectors} was made with {settings['checkpoint']}, and {as_typed(named)} is "
            "not that file (any more); pass the right one with --checkpoint or run i2pmae embed "
            "again"
        )
    n_points = int(settings["points"])
    is_stored = settings["layout"] == StoredShapes.layout
    if is_stored and "stored_layout" not in settings:  # in older files
        raise DataError(
            f"{config.vectors} does not say what its store was made of. Write it again with i2pmae "
            "embed to search for files."
        )
    source = open_source(
        config.query,
        split="all",
        points=int(settings["stored_points"]) if is_stored else source_points(n_points),
        seed=int(settings["seed"]),
        up=settings.get("up", "y"),
    )
    # so that a shape's file finds it
    read_like(source, str(settings["stored_layout" if is_stored else "layout"]), stored=is_stored)
    if source.unit_sphere == "never":
        note(f"{config.query}: not scaled, as the shapes of {config.vectors} were not")
    if len(source) != 1:
        raise DataError(f"{config.query} holds {len(source)} shapes. Give a file that holds one.")
    device = pick_device(config.device)
    vectors = extract_features(
        encoder.to(device),
        CloudReader(source, n_points, require=encoder.config.require_points),
        device=device,
        dtype=pick_dtype(settings["precision"], device),
    )
    found: NDArray[np.float32] = vectors[0]
    return found


def _draw(
    config: SimilarConfig,
    values: Vectors,
    query: _Query,
    neighbors: list[int],
    cosines: list[str],
) -> None:
    """Draw the query and its neighbors from the data set they came from."""
    from i2pmae.pictures.retrieval import Drawn, draw_neighbors

    assert config.picture is not None
    settings = values.settings
    data = config.data or Path(settings["data"])
    try:
        source = open_source(
            data,
            layout=settings["layout"],
            prefer=settings.get("prefer"),
            classes=settings.get("classes", "auto"),
            up="y" if settings["layout"] == StoredShapes.layout else settings.get("up", "y"),
            split=settings.get("split", "all"),
            points=_DRAWN_POINTS,
            seed=int(settings["seed"]),
        )
    except DataError as error:
        raise DataError(
            f"the shapes to draw cannot be read: {error} If they lie elsewhere now, pass --data."
        ) from None
    places = {shape: place for place, shape in enumerate(source.ids)}

    def points_of(index: int) -> NDArray[np.float32]:
        if values.ids[index] not in places:
            raise DataError(
                f"{data} holds no shape {values.ids[index]}, which {config.vectors} lists. Pass "
                "the right folder with --data."
            )
        return source.load(places[values.ids[index]]).points

    if query.place is None:
        clouds = open_source(
            config.query, split="all", points=_DRAWN_POINTS, up=settings.get("up", "y")
        )
        drawn = Drawn(clouds.load(0).points, Path(query.name).stem, "")
    else:
        drawn = Drawn(points_of(query.place), query.name, values.class_of(query.place))
    draw_neighbors(
        config.picture,
        drawn,
        [Drawn(points_of(i), values.ids[i], values.class_of(i)) for i in neighbors],
        cosines,
        up=config.up,
    )
