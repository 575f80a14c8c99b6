"""Pictures of what the pipeline sees of stored shapes, as files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypedDict

import numpy as np

from i2pmae.checkpoints.networks import load_pretraining
from i2pmae.config import ShowConfig
from i2pmae.errors import StoreError
from i2pmae.progress import print_table
from i2pmae.report import stage_views
from i2pmae.store import StoreReader, resolve_store
from i2pmae.suggest import suggestion
from i2pmae.urls import as_typed

_UNASKED = 5  # shapes that are shown where none are named
_POINTS = 2048  # per shape, unless the store has fewer


class Result(TypedDict):
    """What was drawn."""

    store: str
    shapes: list[str]  # ids
    checkpoint: str | None
    pictures: dict[str, str]  # files by name


def run(config: ShowConfig, *, table: bool = True) -> Result:
    """Draw shapes of a store: depth maps, saliency, features, masks; with a checkpoint more.

    Args:
        config: settings; without ids the first shape of each of the first classes is shown.
        table: print which pictures there are.

    Returns:
        See `Result`.

    Raises:
        StoreError: if there is no finished store, or no such shape in it.
        CheckpointError: if the checkpoint is of no pre-training on stores like this one.
        DataError: if a picture cannot be written.
    """
    from i2pmae.pictures.depth import draw_depth_maps, upright
    from i2pmae.pictures.reconstruction import draw_reconstructions
    from i2pmae.pictures.shapes import draw_masks, draw_predicted_features, draw_seen

    reader = StoreReader(resolve_store(config.cache))
    ids = [str(name) for name in reader.read_all("id")]
    chosen = find_shapes(reader, ids, config.ids)
    names = [_short_name(reader, ids[index], index) for index in chosen]
    n_points = min(config.points or _POINTS, reader.n_points)
    model = None
    if config.checkpoint is not None:
        model = load_pretraining(config.checkpoint)
        stage_views.require_fit(model, reader, n_points, as_typed(config.checkpoint))
    views = stage_views.read_shapes(reader, chosen, n_points, config.seed)
    points, saliency, features = (
        array.numpy() for array in (views.points, views.saliency, views.features)
    )
    pictures: dict[str, Path] = {}

    def draw(name: str, function: Callable[..., Path], *values: Any, **options: Any) -> None:
        path = config.out / f"{name}.{config.format}"
        pictures[name] = function(path, *values, names, **options)

    maps = (
        upright(found, reader.view_axes, config.up)
        for found in (views.pictures, views.saliency_maps)
    )
    draw("depth", draw_depth_maps, *maps)
    draw("features", draw_seen, points, saliency, features, up=config.up)
    if model is None:
        hidden = stage_views.draw_masks(views, seed=config.seed)
    else:
        reconstructed = stage_views.reconstruct(model, views, config.seed)
        hidden = reconstructed.hidden
        if any(map(len, reconstructed.made)):
            draw(
                "reconstruction",
                draw_reconstructions,
                reconstructed.visible,
                reconstructed.made,
                list(points),
                up=config.up,
            )
        if any(map(len, reconstructed.centers)):
            draw(
                "predicted-features",
                draw_predicted_features,
                points,
                reconstructed.centers,
                reconstructed.targets,
                reconstructed.predicted,
                up=config.up,
            )
    draw("masks", draw_masks, points, hidden.centers, hidden.masked, up=config.up)
    if table:
        print_table("", ["picture", "file"], [[name, str(path)] for name, path in pictures.items()])
    return {
        "store": str(reader.path),
        "shapes": [ids[index] for index in chosen],
        "checkpoint": None if config.checkpoint is None else as_typed(config.checkpoint),
        "pictures": {name: str(path) for name, path in pictures.items()},
    }


def find_shapes(reader: StoreReader, ids: Sequence[str], wanted: Sequence[str]) -> list[int]:
    """Places of shapes in a store, by id or by the end of it.

    Args:
        reader: the store.
        ids: of all its shapes.
        wanted: ids; none: the first shape of each of the first classes.

    Raises:
        StoreError: if there is no such shape, several could be meant, or it was skipped.
    """
    usable = reader.indices()
    if not wanted:
        labels = reader.read_all("label")[usable]
        first = np.sort(np.unique(labels, return_index=True)[1])
        if len(first) < _UNASKED:  # few classes, or none are known
            first = np.union1d(first, np.arange(min(_UNASKED, len(usable))))
        return [int(index) for index in usable[first[:_UNASKED]]]
    return [_find_shape(reader, ids, {*usable.tolist()}, name) for name in wanted]


def _find_shape(reader: StoreReader, ids: Sequence[str], usable: set[int], name: str) -> int:
    found = [place for place, known in enumerate(ids) if known == name]
    found = found or [place for place, known in enumerate(ids) if known.endswith(f"/{name}")]
    if len(found) > 1:
        raise StoreError(
            f"{reader.path} holds {len(found)} shapes that are called {name}, such as "
            f"{ids[found[0]]} and {ids[found[1]]}; give the whole id"
        )
    if not found:
        raise StoreError(f"{reader.path} holds no shape {name}; {suggestion(name, ids, n=3)}")
    if found[0] not in usable:
        raise StoreError(f"{reader.path}: shape {name} was skipped, so there is nothing to show")
    return found[0]


def _short_name(reader: StoreReader, shape_id: str, index: int) -> str:
    """Caption of a shape: the end of its id, after its class if that says more."""
    label = int(reader.read_all("label")[index])
    class_name = reader.class_names[label] if label >= 0 else ""
    end = shape_id.rpartition("/")[2]
    return end if class_name in end else f"{class_name} {end}"
