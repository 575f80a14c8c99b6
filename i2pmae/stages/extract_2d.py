"""Stage one: shapes in, a store of what a frozen 2D model sees of them out (section 3.2)."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TypedDict

from i2pmae.config import ExtractConfig
from i2pmae.datasets import ShapeSource
from i2pmae.datasets.check import Survey, not_finite_notes, shared_points, survey_headers
from i2pmae.device import pick_device
from i2pmae.errors import DataError, StoreError
from i2pmae.extraction.growth import adopt, in_store_order
from i2pmae.extraction.loading import open_data
from i2pmae.extraction.local import LocalExecutor
from i2pmae.extraction.recorded import provenance, recorded_settings
from i2pmae.extraction.shards import Executor
from i2pmae.extraction.surfaces import require_ray_caster
from i2pmae.geometry.projection import view_axes
from i2pmae.interrupts import remember_saved
from i2pmae.progress import Progress, note, warn
from i2pmae.store.growth import finish_growth
from i2pmae.store.location import METADATA, Location
from i2pmae.store.lock import Part
from i2pmae.store.metadata import StoreInfo, load_info
from i2pmae.store.schema import StoreSpec
from i2pmae.store.writer import StoreWriter, open_writer
from i2pmae.training.recommended import recommend_pretraining
from i2pmae.urls import absolute_path

_LISTED = 10  # unusable shapes that an error names


class Result(TypedDict):
    """The store that was written."""

    store: str
    shapes: int
    skipped: int
    points: int  # of every shape
    complete: bool
    seconds: float
    shapes_per_s: float  # of this run
    wait_share: float  # of this run's time, in which shapes were waited for


def run(config: ExtractConfig) -> Result:
    """Render every shape, run the image model on the depth maps, write the store.

    The same settings again continue an interrupted run and end with the same bytes; so do runs
    that write a `part` each, whichever is last.

    Returns:
        See `Result`.

    Raises:
        WeightsError: if the image model's weights cannot be had; before anything is rendered.
        DataError: if shapes cannot be used and `on_error` is `stop`.
        StoreError: if the store cannot be written, or was made with other settings.
    """
    started = time.monotonic()
    source = open_data(config)
    for message in source.notes:
        note(message)
    if config.views.of_surfaces:
        require_surfaces(source, config)
    path = store_path(config.cache, config.data)
    shown = Location.of(path).text  # pathlib makes s3:/ of s3://
    finish_growth(path, _part(config))
    source = in_store_order(source, path)
    with executor_of(config, source) as executor:
        writer = _open_store(path, config, source, executor)
        with writer:
            n_left = writer.n_pending
            written = shown if config.part is None else f"part {config.part} of {shown}"
            if 0 < n_left < writer.n_shapes:
                n_done = writer.n_shapes - n_left
                note(f"continuing {written}: {n_done} of {writer.n_shapes} shapes are done")
            remember_saved(partial(_saved, writer, written))
            extracted = time.monotonic()
            stats = executor.extract(writer)
            seconds = time.monotonic() - extracted
            writer.finish()
            n_skipped = sum(found["skipped"] for found in writer.info.counts.values())
            complete = writer.info.complete
    for name, reason in stats.skipped.items():
        warn(f"skipped {name}: {reason}")
    for message in not_finite_notes(stats.not_finite):
        note(message)
    result: Result = {
        "store": shown,
        "shapes": len(source),
        "skipped": n_skipped if complete else len(stats.skipped),
        "points": writer.spec.n_points,
        "complete": complete,
        "seconds": round(time.monotonic() - started, 2),
        "shapes_per_s": round(n_left / seconds, 2) if n_left else 0.0,
        "wait_share": round(stats.wait_share, 4),
    }
    done = f"{n_left} shapes in {seconds:.0f} s" if n_left else "nothing left to do"
    if not complete:
        note(f"{shown}: part {config.part}, {done}; complete once all parts are written")
        return result
    counts = writer.info.counts
    n_training = sum(n["done"] for split, n in counts.items() if split not in ("test", "val"))
    advice = recommend_pretraining(shown, n_training, result["points"], pick_device("auto"))
    skipped = f", {n_skipped} skipped" if n_skipped else ""
    n_stored = len(source) - n_skipped
    note(f"{shown}: {n_stored} shapes of {result['points']} points{skipped}, {done}")
    if advice.caution is not None:
        note(advice.caution)
    note(f"next ({advice.why}): {advice.command}")
    return result


def require_surfaces(source: ShapeSource, config: ExtractConfig) -> None:
    """Refuse to draw surfaces of shapes that have none, or without what draws them.

    Raises:
        DataError, ConfigError: naming the reason.
    """
    if not source.has_surfaces:
        raise DataError(
            f"{config.data} (layout {source.layout}) holds points without surfaces, and --draw "
            f"{config.views.draw} draws meshes. Take --draw nearest, or extract the meshes."
        )
    require_ray_caster()


def store_path(cache: Path, data: Path) -> Path:
    """Where the store goes: `cache` itself if it is named *.zarr or is one, else in that folder."""
    location = Location.of(cache)
    if cache.suffix == ".zarr" or location.folder is None or location.has(METADATA):
        return cache
    return cache / f"{absolute_path(data).name.replace(':', '-')}.zarr"


@contextmanager
def executor_of(config: ExtractConfig, source: ShapeSource) -> Iterator[Executor]:
    """This process, or the workers that the settings ask for."""
    if not config.workers.wanted:
        yield LocalExecutor(config, source)
        return
    from i2pmae.extraction.workers import dask_executor

    with dask_executor(config, source) as executor:
        yield executor


def _open_store(
    path: Path, config: ExtractConfig, source: ShapeSource, executor: Executor
) -> StoreWriter:
    """Create the store, or continue the one that is there, with what is new in the data set."""
    model = executor.model
    spec = StoreSpec(
        n_shapes=len(source),
        n_points=_recorded_points(path) or _points_of_all(source, config),
        n_views=config.views.n_views,
        image_size=model.image_size,
        grid=model.grid,
        channels=model.channels,
        dtype=config.store.dtype,
        shard_size=config.store.shard_size,
        parts=source.part_names is not None,
        normals=config.views.draw == "surface-normals",
        visible=config.views.visible_only,
    )
    wanted = StoreInfo(
        spec=spec,
        settings=recorded_settings(config, source, model),
        provenance=provenance(config, source, model),
        class_names=source.class_names,
        part_names=source.part_names,
    )
    part = _part(config)
    wanted = adopt(path, source, wanted, part)
    return open_writer(
        path,
        wanted.spec,
        view_axes=view_axes(config.views.n_views, config.views.pose).numpy(),
        settings=wanted.settings,
        provenance=wanted.provenance,
        class_names=wanted.class_names,
        part_names=wanted.part_names,
        part=part,
    )


def _part(config: ExtractConfig) -> Part | None:
    return None if config.part is None else Part(*map(int, config.part.split("/")))


def _saved(writer: StoreWriter, written: str) -> str:
    """What would be kept if the extraction stopped now."""
    return f"{written} holds {writer.n_shapes - writer.n_pending} of {writer.n_shapes} shapes"


def _recorded_points(path: Path) -> int | None:
    """Points per shape of a store that is already there; its writer says what is wrong with it."""
    try:
        return load_info(Location.of(path)).spec.n_points
    except StoreError:
        return None


def _points_of_all(source: ShapeSource, config: ExtractConfig) -> int:
    """Points that the usable shapes share; raises as `usable`."""
    with Progress("check", total=len(source)) as progress:
        n_points, _ = usable(survey_headers(source, progress.advance), source, config)
    if n_points < config.points:
        note(
            f"{n_points} points per shape are stored, as not all shapes have the {config.points} "
            "of --points"
        )
    return n_points


def usable(found: Survey, source: ShapeSource, config: ExtractConfig) -> tuple[int, dict[int, str]]:
    """Points that the usable shapes share, and the shapes that cannot be used.

    Raises:
        DataError: if there are unusable shapes and `on_error` is `stop`, or nothing else.
    """
    n_points, small = shared_points(found.n_points) if found.n_points else (0, {})
    named = {index: f"{source.ids[index]}: {reason}" for index, reason in small.items()}
    bad = dict(sorted((found.bad | named).items()))
    if bad and (config.on_error == "stop" or n_points == 0):
        listed = "; ".join(list(bad.values())[:_LISTED])
        more = f"; and {len(bad) - _LISTED} more" if len(bad) > _LISTED else ""
        remedy = (
            "repair or remove them"
            if len(bad) == len(source)
            else "repair them, or add --on-error skip"
        )
        if small:
            fewest = min(found.n_points.values())
            remedy += f"; or store as few points of every shape: --points {fewest}"
        raise DataError(
            f"{config.data}: {len(bad)} of {len(source)} shapes cannot be used ({listed}{more}); "
            f"nothing was written; {remedy}"
        )
    return n_points, bad
