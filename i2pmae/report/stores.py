"""What a page says about a store and its shapes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from i2pmae.config import ReportConfig
from i2pmae.evaluation.image_features import pooled_image_features
from i2pmae.evaluation.split import spread_evenly
from i2pmae.evaluation.vectors import nearest
from i2pmae.evaluation.whitening import Whitening
from i2pmae.geometry.normals import surface_normals
from i2pmae.geometry.sampling import farthest_points
from i2pmae.geometry.transforms import normalize_to_unit_sphere
from i2pmae.model.pretraining import PretrainingModel
from i2pmae.progress import Progress, format_bytes
from i2pmae.report.packed import (
    pack_colors,
    pack_directions,
    pack_kinds,
    pack_points,
    pack_scale,
    ramp,
    view_strip,
)
from i2pmae.report.page import Balance, Layer, Map, Page, Shape, Table
from i2pmae.report.reconstructions import reconstruction_table, upright
from i2pmae.report.stage_views import (
    Reconstruction,
    ShapeViews,
    draw_masks,
    read_shapes,
    reconstruct,
    require_fit,
)
from i2pmae.settings import flat_rows
from i2pmae.store import StoreReader, describe, resolve_store
from i2pmae.store.schema import SKIPPED

Indices = NDArray[np.int64]

POINTS = 1024  # of a shape that turns
THUMBNAIL = 192  # points of a shape on the map
NEIGHBORS = 6  # of a shape on the map
_AT_ONCE = 8  # shapes whose features are in memory together
_MOST_LISTED = 200  # skipped shapes that are named
_UNKNOWN = "unknown"
PLAIN = Layer("plain", "shape alone", "plain")


def store_page(config: ReportConfig) -> Page:
    """The page of a store."""
    path = resolve_store(config.subject)
    reader = StoreReader(path)
    made_by = reader.info.recorded("image_model.name")
    page = Page(
        title=Path(str(path)).name,
        kind="Store of 2D features",
        facts=[[made_by, "image model"]],
        ramps=color_ramps(),
    )
    add_store(page, reader)
    add_gallery(page, reader, config)
    chosen = spread_over_classes(reader, config.map, config.seed)
    add_map(
        page,
        reader,
        chosen,
        patch_vectors(reader, chosen),
        config,
        "Mean image features of each shape: what the 2D model alone makes of it.",
    )
    return page


def color_ramps() -> dict[str, str]:
    """Color maps of scales on light and on dark ground; the attended end stands out on both."""
    import matplotlib as mpl

    from i2pmae.pictures.style import SALIENCY

    magma = mpl.colormaps["magma"]
    return {"light": ramp(SALIENCY), "dark": ramp(lambda value: magma(0.22 + 0.76 * value))}


def add_store(page: Page, reader: StoreReader) -> None:
    """Class balance, sizes, skipped shapes and provenance of a store."""
    found = describe(reader.path)
    spec, labels, splits = reader.info.spec, reader.read_all("label"), reader.read_all("split")
    page.facts += [
        [f"{found['shapes']['done']:,}", "shapes"],
        [f"{spec.n_points:,}", "points per shape"],
        [f"{spec.n_views}", "views"],
        [format_bytes(found["stored_bytes"]), "on disk"],
    ]
    names = sorted({str(split) for split in splits}, key=lambda name: (name != "train", name))
    places = {name: place for place, name in enumerate(names)}
    usable = reader.indices()
    n_classes = len(reader.class_names)
    counts = np.zeros((n_classes + 1, len(names)), dtype=np.int64)
    columns = np.array([places[str(split)] for split in splits[usable]], dtype=np.int64)
    np.add.at(counts, (labels[usable] % (n_classes + 1), columns), 1)  # -1, unknown, is last
    present = counts.sum(axis=1) > 0
    page.balance = Balance(
        [name or "all" for name in names],
        [
            name
            for name, there in zip((*reader.class_names, _UNKNOWN), present, strict=True)
            if there
        ],
        counts[present].tolist(),
    )
    page.sizes = Table(
        "Arrays",
        ["array", "shape", "dtype", "on disk"],
        [
            [
                name,
                " x ".join(f"{length:,}" for length in array["shape"]),
                array["dtype"],
                format_bytes(array["stored_bytes"]),
            ]
            for name, array in found["arrays"].items()
        ],
    )
    skipped = np.flatnonzero(reader.read_all("status") == SKIPPED)
    page.n_skipped = len(skipped)
    if len(skipped):
        ids = reader.read_all("id")
        page.skipped = [str(ids[index]) for index in skipped[:_MOST_LISTED]]
    page.provenance.append(Table("Store", ["what", "value"], [["path", str(reader.path)]]))
    for title, values in (("settings", reader.info.settings), ("origin", reader.info.provenance)):
        page.provenance.append(Table(f"Store, {title}", ["what", "value"], flat_rows(values)))


def add_gallery(
    page: Page,
    reader: StoreReader,
    config: ReportConfig,
    model: PretrainingModel | None = None,
) -> None:
    """Shapes that turn, colored by what the pipeline sees of them.

    Args:
        page: it gets them.
        reader: the store.
        config: how many, and which axis is up.
        model: adds what it reconstructs.
    """
    chosen = spread_over_classes(reader, config.shapes, config.seed)
    if len(chosen) == 0:
        return
    n_points = min(POINTS, reader.n_points)
    if model is not None:
        n_points = points_for(model, reader)
        require_fit(model, reader, n_points, "the checkpoint")
    seen: list[tuple[ShapeViews, Reconstruction | None, NDArray[np.bool_]]] = []
    with Progress("shapes", total=len(chosen)) as progress:
        for some in _in_parts(chosen, _AT_ONCE):
            views = read_shapes(reader, some.tolist(), n_points, config.seed)
            reconstructed = None if model is None else reconstruct(model, views, config.seed)
            hidden = (
                draw_masks(views, seed=config.seed)
                if reconstructed is None
                else reconstructed.hidden
            )
            seen.append((views, reconstructed, hidden.points))
            progress.advance(len(some))
    page.layers = [
        PLAIN,
        Layer("saliency", "saliency", "scale", "ignored", "attended"),
        Layer(
            "features",
            "2D features",
            "colors",
            note="Similar colors: similar features (three principal components).",
        ),
        Layer("mask", "mask", "kinds", kinds=["visible", "hidden"]),
    ]
    errors = [
        reconstruction_errors(views, reconstructed)
        for views, reconstructed, _ in seen
        if reconstructed
    ]
    worst = 0.0
    if errors and model is not None and model.targets.kind != "2d":
        worst = max(float(np.percentile(np.concatenate(errors), 99)), 1e-6)
        page.layers.append(
            Layer(
                "error",
                "reconstruction error",
                "scale",
                "0",
                f"{worst:.2f} or more",
                note="Distance to the nearest visible or reconstructed point; the radius of a "
                "shape is 1.",
            )
        )
    page.shapes = _shapes(reader, chosen, seen, errors if worst else [], worst, config)
    if worst:
        made = [
            (views.points[row].numpy(), reconstructed.visible[row], reconstructed.made[row])
            for views, reconstructed, _ in seen
            if reconstructed
            for row in range(len(views.points))
        ]
        names = [
            f"{shape.class_name} {shape.id.rpartition('/')[2]}".strip() for shape in page.shapes
        ]
        page.clouds = reconstruction_table(names, made, config.up)
    page.shapes_note = _sampled(len(page.shapes), len(reader.indices()))


def reconstruction_errors(views: ShapeViews, reconstructed: Reconstruction) -> NDArray[np.float32]:
    """Distance (S, N) of each point to the nearest point that is visible or reconstructed."""
    found = []
    rows = zip(views.points, reconstructed.visible, reconstructed.made, strict=True)
    for cloud, visible, made in rows:
        there = torch.from_numpy(np.concatenate([visible, made]))
        found.append(torch.cdist(cloud, there).amin(dim=1).numpy())
    return np.stack(found)


def add_map(
    page: Page,
    reader: StoreReader,
    chosen: Indices,
    vectors: NDArray[np.float32],
    config: ReportConfig,
    text: str,
) -> None:
    """Shapes side by side with those that are similar."""
    if len(chosen) < 3:
        return
    points = np.concatenate(
        [reader.read(some, ["points"])["points"] for some in _in_parts(chosen, 64)]
    )
    labels = reader.read_all("label")[chosen]
    ids = [str(name) for name in reader.read_all("id")[chosen]]
    page.map = shape_map(
        vectors,
        points,
        [*reader.class_names, _UNKNOWN],
        [int(label) % (len(reader.class_names) + 1) for label in labels],
        ids,
        [False] * len(ids),
        f"{text} {_sampled(len(ids), len(reader.indices()))}",
        config,
    )


def shape_map(
    vectors: NDArray[np.float32],
    points: NDArray[np.float32],
    names: Sequence[str],
    kinds: Sequence[int],
    ids: list[str],
    wrong: list[bool],
    text: str,
    config: ReportConfig,
) -> Map:
    """A map of shapes by their vectors, classes that do not occur left out."""
    from i2pmae.evaluation.flat_map import flat_map

    places = flat_map(vectors, config.seed)
    present = sorted(set(kinds))
    n_points = min(THUMBNAIL, points.shape[1])
    clouds = torch.from_numpy(points)
    farthest = farthest_points(clouds, n_points)
    few = np.take_along_axis(points, farthest.numpy()[..., None], axis=1)
    directions = Whitening.of(vectors).apply(vectors)
    n_near = min(NEIGHBORS, len(vectors) - 1)
    near = [nearest(directions, one, n_near + 1)[0].tolist() for one in directions]
    return Map(
        note=text,
        x=np.round(places[:, 0], 4).tolist(),
        y=np.round(places[:, 1], 4).tolist(),
        kinds=[present.index(kind) for kind in kinds],
        names=[names[kind] for kind in present],
        ids=ids,
        wrong=wrong,
        neighbors=[[k for k in row if k != i][:n_near] for i, row in enumerate(near)],
        thumbnails=[pack_points(upright(cloud, config.up)) for cloud in few],
        n_points=n_points,
    )


def patch_vectors(reader: StoreReader, chosen: Indices) -> NDArray[np.float32]:
    """Mean image feature (S, C) of shapes over patches and views."""
    views = pooled_image_features(reader, chosen, batch_size=_AT_ONCE, description="2D features")
    vectors: NDArray[np.float32] = views.mean(axis=1)
    return vectors


def points_for(model: PretrainingModel, reader: StoreReader) -> int:
    """How many points of stored shapes a page shows to a network."""
    return min(max(POINTS, model.config.n_centers[0]), reader.n_points)


def encoder_vectors(
    model: PretrainingModel, reader: StoreReader, chosen: Indices
) -> NDArray[np.float32]:
    """Frozen feature (S, C) of shapes, as the linear SVM uses it."""
    n_points = points_for(model, reader)
    found = [np.zeros((0, model.config.widths[-1]), np.float32)]
    with torch.inference_mode(), Progress("3D features", total=len(chosen)) as progress:
        for some in _in_parts(chosen, 4 * _AT_ONCE):
            points = torch.from_numpy(reader.read(some, ["points"])["points"][:, :n_points])
            found.append(model.features(normalize_to_unit_sphere(points)).float().numpy())
            progress.advance(len(some))
    return np.concatenate(found)


def spread_over_classes(reader: StoreReader, n_shapes: int, seed: int) -> Indices:
    """Choose shapes evenly over the classes, by chance within them, sorted by class."""
    usable = reader.indices()
    return usable[spread_evenly(reader.read_all("label")[usable], n_shapes, seed)]


def _shapes(
    reader: StoreReader,
    chosen: Indices,
    seen: Sequence[tuple[ShapeViews, Reconstruction | None, NDArray[np.bool_]]],
    errors: Sequence[NDArray[np.float32]],
    worst: float,
    config: ReportConfig,
) -> list[Shape]:
    from i2pmae.pictures import depth
    from i2pmae.pictures.shapes import FeatureColors

    colors = FeatureColors(np.concatenate([views.features.numpy() for views, _, _ in seen]))
    ids, labels, splits = (reader.read_all(name) for name in ("id", "label", "split"))
    shapes: list[Shape] = []
    for part, (views, _, hidden) in enumerate(seen):
        normals = surface_normals(views.points).numpy()
        pictures, saliency_maps = (
            depth.upright(maps, reader.view_axes, config.up)
            for maps in (views.pictures, views.saliency_maps)
        )
        for row in range(len(views.points)):
            index = chosen[len(shapes)]
            saliency = views.saliency[row].numpy()
            layers = {
                "saliency": pack_scale(
                    saliency, saliency.min(), float(np.percentile(saliency, 99))
                ),
                "features": pack_colors(colors(views.features[row].numpy())),
                "mask": pack_kinds(hidden[row]),
            }
            facts = [["hidden points", f"{hidden[row].mean():.0%}"]]
            if errors:
                layers["error"] = pack_scale(errors[part][row], 0, worst)
                facts.append(["mean reconstruction error", f"{errors[part][row].mean():.3f}"])
            shapes.append(
                Shape(
                    id=str(ids[index]),
                    class_name=reader.class_names[labels[index]] if labels[index] >= 0 else "",
                    split=str(splits[index]),
                    n=len(saliency),
                    points=pack_points(upright(views.points[row].numpy(), config.up)),
                    normals=pack_directions(upright(normals[row], config.up)),
                    layers=layers,
                    views=view_strip(pictures[row], saliency_maps[row], depth.OVERLAY),
                    facts=facts,
                )
            )
    return shapes


def _sampled(n_shown: int, n_all: int) -> str:
    return f"{n_shown:,} of {n_all:,} shapes, spread evenly over the classes."


def _in_parts(indices: Indices, size: int) -> Iterator[Indices]:
    for first in range(0, len(indices), size):
        yield indices[first : first + size]
