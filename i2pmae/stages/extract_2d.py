"""Stage one: shapes in, a store of what a frozen 2D model sees of them out (section 3.2)."""

from __future__ import annotations

import copy
import queue
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from i2pmae.config import ExtractConfig, to_plain
from i2pmae.datasets import ShapeSource, open_source
from i2pmae.datasets.check import Survey, survey
from i2pmae.device import pick_device, pick_dtype
from i2pmae.errors import DataError, StoreError
from i2pmae.geometry.projection import fit_pixels, patches_read, pixels, render, view_axes
from i2pmae.geometry.transforms import normalize_to_unit_sphere
from i2pmae.image_model import ImageModel, load_image_model
from i2pmae.interrupts import remember_saved
from i2pmae.progress import Progress, note, warn
from i2pmae.store.location import Location
from i2pmae.store.metadata import load_info
from i2pmae.store.quantize import RELATIVE_STEP, encode, round_points
from i2pmae.store.schema import DONE, SKIPPED, StoreSpec, arrays
from i2pmae.store.writer import StoreWriter, open_writer

_LISTED = 10  # unusable shapes that an error names
_NO_INFLUENCE = ("cache", "workers")  # settings that change nothing in a store
_AT_ONCE = 4  # batches, at most

Depth = Literal["sum", "nearest"]
Arrays = dict[str, NDArray[Any]]
Item = TypeVar("Item")
Result = TypeVar("Result")


def run(config: ExtractConfig) -> dict[str, Any]:
    """Render every shape, run the image model on the depth maps, write the store.

    The same settings again continue an interrupted run and end with the same bytes.

    Returns:
        `store`, `shapes`, `skipped`, `points`, `seconds`; of this run `shapes_per_s` and
        `wait_share`, the part of the time in which data was waited for, see `Written`.

    Raises:
        WeightsError: if the image model's weights cannot be had; before anything is rendered.
        DataError: if shapes cannot be used and `on_error` is `stop`; before anything is written.
        StoreError: if the store cannot be written, or was made with other settings.
    """
    started = time.monotonic()
    source = open_data(config)
    for message in source.notes:
        note(message)
    if not config.workers.wanted:
        return _run(config, source, _Alone(config, source), started)
    from i2pmae.stages.workers import crew

    with crew(config, source) as workers:
        return _run(config, source, workers, started)


class Hands(Protocol):
    """Who loads, encodes and writes: this process, or the workers of a cluster.

    Attributes:
        model: what the image model is like.
    """

    model: ImageModelFacts

    def survey(self) -> Survey:
        """Load every shape once, and keep nothing but what is wrong with them."""

    def extract(self, writer: StoreWriter, bad: dict[int, str]) -> Written:
        """Write all pending shards, given shapes known to be unusable, by index, with reasons."""


class Written(NamedTuple):
    """What became of some shards, and where the time of the threads that encode went."""

    skipped: dict[str, str]  # shapes that were left out, by id, with the reasons
    loading: float = 0.0  # seconds, all threads together, in which shapes were read
    encoding: float = 0.0  # seconds, likewise, in which they were rendered and encoded

    def __or__(self, other: Written) -> Written:
        return Written(
            self.skipped | other.skipped,
            self.loading + other.loading,
            self.encoding + other.encoding,
        )

    @property
    def wait_share(self) -> float:
        """Part of the time in which data was waited for, in [0, 1]."""
        return self.loading / max(self.loading + self.encoding, 1e-9)


def _run(
    config: ExtractConfig, source: ShapeSource, hands: Hands, started: float
) -> dict[str, Any]:
    path = store_path(config.cache, config.data)
    shown = Location.of(path).text  # pathlib makes s3:/ of s3://
    bad: dict[int, str] = {}
    n_points = _recorded_points(path)
    if n_points is None:
        n_points, bad = _usable(hands.survey(), source, config)
    spec = StoreSpec(
        n_shapes=len(source),
        n_points=n_points,
        n_views=config.views.n_views,
        image_size=hands.model.image_size,
        grid=hands.model.grid,
        channels=hands.model.channels,
        dtype=config.store.dtype,
        shard_size=config.store.shard_size,
        parts=source.part_names is not None,
    )
    writer = open_writer(
        path,
        spec,
        view_axes=view_axes(config.views.n_views).numpy(),
        settings=_settings(config, source, hands.model),
        provenance=_provenance(config, source, hands.model),
        class_names=source.class_names,
        part_names=source.part_names,
    )
    with writer:
        n_left = writer.n_pending
        if 0 < n_left < len(source):
            note(f"continuing {shown}: {len(source) - n_left} of {len(source)} shapes are done")
        remember_saved(partial(_saved, writer))
        extracted = time.monotonic()
        written = hands.extract(writer, bad)
        seconds = time.monotonic() - extracted
        writer.finish()
        n_skipped = sum(found["skipped"] for found in writer.info.counts.values())
    for name, reason in written.skipped.items():
        warn(f"skipped {name}: {reason}")
    result = {
        "store": shown,
        "shapes": len(source),
        "skipped": n_skipped,
        "points": n_points,
        "seconds": round(time.monotonic() - started, 2),
        "shapes_per_s": round(n_left / seconds, 2) if n_left else 0.0,
        "wait_share": round(written.wait_share, 4),
    }
    done = f"{n_left} shapes in {seconds:.0f} s" if n_left else "nothing left to do"
    note(f"{shown}: {len(source)} shapes, {done}; next: i2pmae pretrain --cache {shown}")
    return result


def open_data(config: ExtractConfig) -> ShapeSource:
    """The shapes to extract."""
    return open_source(
        config.data,
        layout=config.layout,
        split=config.split,
        limit=config.limit,
        points=config.points,
        seed=config.seed,
    )


def _saved(writer: StoreWriter) -> str:
    """What would be kept if the extraction stopped now."""
    n_shapes = writer.spec.n_shapes
    return f"{writer.path} holds {n_shapes - writer.n_pending} of {n_shapes} shapes"


def store_path(cache: Path, data: Path) -> Path:
    """Where the store goes: `cache` itself if it is named *.zarr, else a store in that folder."""
    if cache.suffix == ".zarr" or Location.of(cache).folder is None:
        return cache
    return cache / f"{data.absolute().name}.zarr"


@torch.inference_mode()
def encode_batch(
    points: Tensor, axes: Tensor, image_model: ImageModel, depth: Depth, sum_points: int
) -> dict[str, Tensor]:
    """What the store holds of some clouds, before quantization.

    Args:
        points: (B, N, 3) float32 in the unit sphere, on the image model's device.
        axes: (V, 3, 3) from `view_axes`.
        image_model: the frozen 2D network.
        depth: `sum` draws the first `sum_points` points, `nearest` all.
        sum_points: see `depth`.

    Returns:
        `depth` (B, V, H, W) in [0, 1], `features` (B, V, h, w, C) with zeros where no point reads
        a patch, `saliency` (B, V, h, w), `pixel_origin`, `pixel_size`, `pixel_shift`; on the CPU.

    Source: section 3.2 of the paper. Differs: once per shape, not once per step.
    """
    size = image_model.image_size
    pixel_map = fit_pixels(points, axes, size)
    drawn = points[:, :sum_points] if depth == "sum" else points
    depth_maps = render(drawn, pixel_map, axes, size, depth)
    features, saliency = image_model(depth_maps.flatten(0, 1))
    views = depth_maps.shape[:2]
    features, saliency = features.unflatten(0, views), saliency.unflatten(0, views)
    read = patches_read(pixels(points, pixel_map, axes, size), image_model.grid, size)
    encoded = {
        "depth": depth_maps,
        "features": features * read[..., None],
        "saliency": saliency,
        "pixel_origin": pixel_map.origin,
        "pixel_size": pixel_map.size,
        "pixel_shift": pixel_map.shift,
    }
    return {name: tensor.cpu() for name, tensor in encoded.items()}


@dataclass(frozen=True)
class ImageModelFacts:
    """What a store's sizes, settings and provenance say of the image model; see `ImageModel`."""

    image_size: int
    grid: tuple[int, int]
    channels: int
    pretrained: str
    weights_hash: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    saliency_kind: str
    block: int | None
    precision: str
    device: str


@dataclass(frozen=True)
class Encoder:
    """The image model, and the view axes on its device."""

    image_model: ImageModel
    axes: Tensor
    facts: ImageModelFacts


def load_encoder(config: ExtractConfig, device: torch.device) -> Encoder:
    """Load the image model.

    Raises:
        ConfigError, WeightsError: as `load_image_model`.
    """
    dtype = pick_dtype(config.precision, device)
    image_model = load_image_model(
        config.image_model.name,
        config.image_model.pretrained,
        config.image_model.image_size,
        config.image_model.normalization,
        device,
        dtype,
        config.image_model.block,
    )
    facts = ImageModelFacts(
        image_size=image_model.image_size,
        grid=image_model.grid,
        channels=image_model.channels,
        pretrained=image_model.pretrained,
        weights_hash=image_model.weights_hash,
        mean=image_model.mean,
        std=image_model.std,
        saliency_kind=image_model.saliency_kind,
        block=image_model.block,
        precision=str(dtype).removeprefix("torch."),
        device=device.type,
    )
    return Encoder(image_model, view_axes(config.views.n_views).to(device), facts)


class _Alone:
    """This process, on its own."""

    def __init__(self, config: ExtractConfig, source: ShapeSource) -> None:
        self._config, self._source = config, source
        self._encoder = load_encoder(config, pick_device(config.device))
        self.model = self._encoder.facts

    def survey(self) -> Survey:
        with Progress("check", total=len(self._source)) as progress:
            return survey(self._source, progress=progress.advance)

    def extract(self, writer: StoreWriter, bad: dict[int, str]) -> Written:
        shards = list(writer.pending)
        with Progress("extract-2d", total=writer.n_pending) as progress:
            return write_shards(
                self._config, self._source, self._encoder, writer, shards, bad, progress
            )


@dataclass(frozen=True)
class _Batch:
    """Some shapes of one shard, and where they go."""

    shard: int
    rows: slice  # of the shard, shapes
    values: Arrays  # of the whole shard
    indices: range

    @property
    def is_last(self) -> bool:
        """Whether the shard ends with it."""
        return self.indices.stop == int(self.rows.stop)


def write_shards(
    config: ExtractConfig,
    source: ShapeSource,
    encoder: Encoder,
    writer: StoreWriter,
    shards: list[int],
    bad: dict[int, str],
    progress: Progress | None = None,
) -> Written:
    """Write shards; batches of one are encoded while the one before is written.

    Args:
        config: settings of the stage.
        source: the shapes.
        encoder: the image model.
        writer: of the store.
        shards: which ones.
        bad: shapes known to be unusable, by index, with the reasons.
        progress: counts shapes once they are encoded, and shows what is waited for.

    Raises:
        DataError: if a shape cannot be used and `on_error` is `stop`.
        StoreError: if the store cannot be written.
    """
    spec = writer.spec
    written = Written({})
    write: Future[None] | None = None

    def fill(batch: _Batch, image_model: ImageModel) -> Written:
        return _fill(batch, config, source, spec, encoder.axes, image_model, bad)

    batches = _batches(config, source, spec, shards)
    with (
        ThreadPoolExecutor(max_workers=1) as pool,
        closing(_several_at_once(fill, batches, encoder.image_model)) as filled,
    ):
        for batch, filling in filled:
            written |= filling
            if batch.is_last:
                if write is not None:
                    write.result()
                write = pool.submit(writer.write_shard, batch.shard, batch.values)
            if progress is not None:
                progress.advance(len(batch.indices))
                progress.describe(f"waiting {written.wait_share:.1%}")
        if write is not None:
            write.result()
    return written


def try_shapes(
    config: ExtractConfig,
    source: ShapeSource,
    encoder: Encoder,
    spec: StoreSpec,
    shapes: range,
    bad: dict[int, str],
) -> None:
    """Load and encode shapes of one shard and forget the result; arguments as `write_shards`.

    Raises:
        DataError: if a shape cannot be used and `on_error` is `stop`.
    """
    rows = spec.shard(shapes.start // spec.shard_size)
    for batch in _cut(config, source, spec, rows, shapes):
        _fill(batch, config, source, spec, encoder.axes, encoder.image_model, bad)


def encode_shape(
    config: ExtractConfig, source: ShapeSource, encoder: Encoder, spec: StoreSpec, index: int
) -> Arrays:
    """What the store should hold of one shape; arguments as `write_shards`.

    Returns:
        By name (1, ...), without `label`, `id`, `split` and `status`.

    Raises:
        DataError: if the shape cannot be used.
    """
    rows = slice(index, index + 1)
    batch = _Batch(
        index // spec.shard_size, rows, _empty_shard(spec, source, rows), range(index, index + 1)
    )
    filling = _fill(batch, config, source, spec, encoder.axes, encoder.image_model, {})
    for reason in filling.skipped.values():
        raise DataError(reason)
    return {
        name: values
        for name, values in batch.values.items()
        if name not in ("label", "id", "split", "status")
    }


def _batches(
    config: ExtractConfig, source: ShapeSource, spec: StoreSpec, shards: list[int]
) -> Iterator[_Batch]:
    """What is to be done, in order; a batch never crosses a shard's border."""
    for k in shards:
        rows = spec.shard(k)
        yield from _cut(config, source, spec, rows, range(rows.start, rows.stop))


def _cut(
    config: ExtractConfig, source: ShapeSource, spec: StoreSpec, rows: slice, shapes: range
) -> Iterator[_Batch]:
    """Shapes of one shard in batches that share the shard's arrays."""
    values = _empty_shard(spec, source, rows)
    for start in range(0, len(shapes), config.batch_size):
        indices = shapes[start : start + config.batch_size]
        yield _Batch(rows.start // spec.shard_size, rows, values, indices)


def _several_at_once(
    work: Callable[[Item, ImageModel], Result], items: Iterator[Item], image_model: ImageModel
) -> Generator[tuple[Item, Result], None, None]:
    """Items with what `work` returns for them, in their order; some threads do one item each.

    The threads share the cores. Two batches on one core each take less time than one after the
    other on two cores, which wait for each other after every operation; what is not the image
    model's work fills no core on its own; and a GPU has work while a CPU prepares more.
    """
    n_cores = torch.get_num_threads()
    n_threads = min(n_cores, _AT_ONCE)
    idle: queue.SimpleQueue[ImageModel] = queue.SimpleQueue()
    for copied in _copies(image_model, n_threads):
        idle.put(copied)

    def run(item: Item) -> Result:
        mine = idle.get()
        try:
            return work(item, mine)
        finally:
            idle.put(mine)

    ahead: deque[tuple[Item, Future[Result]]] = deque()
    pool = ThreadPoolExecutor(n_threads, "encode", torch.set_num_threads, (n_cores // n_threads,))
    try:
        for item in items:
            ahead.append((item, pool.submit(run, item)))
            if len(ahead) > n_threads:
                item, future = ahead.popleft()
                yield item, future.result()
        for item, future in ahead:
            yield item, future.result()
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(n_cores)  # threads to come start with the number set last


def _copies(image_model: ImageModel, n: int) -> list[ImageModel]:
    """One image model per thread, for what a call keeps in the network; they share the weights."""
    shared = {
        id(tensor): tensor
        for module in vars(image_model).values()
        if isinstance(module, nn.Module)
        for tensor in (*module.parameters(), *module.buffers())
    }
    return [image_model, *(copy.deepcopy(image_model, dict(shared)) for _ in range(n - 1))]


def _fill(
    batch: _Batch,
    config: ExtractConfig,
    source: ShapeSource,
    spec: StoreSpec,
    axes: Tensor,
    image_model: ImageModel,
    bad: dict[int, str],
) -> Written:
    """Load and encode a batch into its places in the shard."""
    started = time.monotonic()
    loaded = _load(batch.indices, config, source, spec, bad)
    loading = time.monotonic() - started
    skipped = {source.ids[index]: reason for index, reason in loaded.unusable.items()}
    if not loaded.indices:
        return Written(skipped, loading)
    encoded = encode_batch(
        torch.from_numpy(loaded.points).to(axes.device),
        axes,
        image_model,
        config.views.depth,
        config.views.sum_points,
    )
    rows: Arrays = {name: tensor.numpy() for name, tensor in encoded.items()}
    rows["depth"] = np.rint(rows["depth"] * 255).astype(np.uint8)
    rows["pixel_shift"] = rows["pixel_shift"].astype(np.int16)
    rows |= encode(rows["features"], config.store.dtype, config.store.int8_step)
    rows["points"] = loaded.points
    if loaded.parts is not None:
        rows["parts"] = loaded.parts
    places = np.asarray(loaded.indices) - batch.rows.start
    for name, array in rows.items():
        batch.values[name][places] = array
    batch.values["status"][places] = DONE
    return Written(skipped, loading, time.monotonic() - started - loading)


def _empty_shard(spec: StoreSpec, source: ShapeSource, rows: slice) -> Arrays:
    """All arrays of a shard, every shape skipped so far."""
    values = {
        name: np.zeros((rows.stop - rows.start, *array.shape(spec)[1:]), array.dtype_in(spec))
        for name, array in arrays(spec).items()
        if array.layout != "store" and array.dtype != "string"
    }
    values["label"] = np.asarray(source.labels[rows], dtype=np.int64)
    values["id"] = np.asarray(source.ids[rows], dtype=object)
    values["split"] = np.asarray(source.splits[rows], dtype=object)
    values["status"] = np.full(rows.stop - rows.start, SKIPPED, np.uint8)
    return values


@dataclass(frozen=True)
class _Loaded:
    """Shapes as they are stored."""

    indices: list[int]
    points: NDArray[np.float32]  # (B, N, 3)
    parts: NDArray[np.uint8] | None  # (B, N)
    unusable: dict[int, str]


def _load(
    wanted: range,
    config: ExtractConfig,
    source: ShapeSource,
    spec: StoreSpec,
    bad: dict[int, str],
) -> _Loaded:
    """Read some shapes; `bad` names those that are known to be unusable."""
    clouds, parts, indices, unusable = [], [], [], {}
    for index in wanted:
        try:
            if index in bad:
                raise DataError(bad[index])
            shape = source.load(index)
            if len(shape.points) < spec.n_points:
                raise DataError(
                    f"{source.ids[index]} has {len(shape.points)} points, "
                    f"the store {spec.n_points} per shape"
                )
        except DataError as error:
            if config.on_error == "stop":
                raise
            unusable[index] = str(error)
            continue
        indices.append(index)
        clouds.append(shape.points[: spec.n_points])
        if shape.parts is not None:
            parts.append(shape.parts[: spec.n_points])
    points = np.zeros((0, spec.n_points, 3), np.float32)
    if clouds:
        canonical = normalize_to_unit_sphere(torch.from_numpy(np.stack(clouds)))
        points = round_points(canonical.numpy())
    return _Loaded(indices, points, np.stack(parts) if parts else None, unusable)


def _recorded_points(path: Path) -> int | None:
    """Points per shape of a store that is already there; its writer says what is wrong with it."""
    try:
        return load_info(Location.of(path)).spec.n_points
    except StoreError:
        return None


def _usable(
    found: Survey, source: ShapeSource, config: ExtractConfig
) -> tuple[int, dict[int, str]]:
    """Points that all usable shapes have, and the shapes that cannot be used.

    Raises:
        DataError: if there are unusable shapes and `on_error` is `stop`, or nothing else.
    """
    bad, fewest = found
    if bad and (config.on_error == "stop" or fewest is None):
        listed = "; ".join(list(bad.values())[:_LISTED])
        more = f"; and {len(bad) - _LISTED} more" if len(bad) > _LISTED else ""
        remedy = (
            "mend or remove them"
            if len(bad) == len(source)
            else "mend them, or add --on-error skip"
        )
        raise DataError(
            f"{config.data}: {len(bad)} of {len(source)} shapes cannot be used ({listed}{more}); "
            f"nothing was written; {remedy}"
        )
    assert fewest is not None  # open_source refuses a source without shapes
    return fewest, bad


def _settings(
    config: ExtractConfig, source: ShapeSource, image_model: ImageModelFacts
) -> dict[str, Any]:
    """What decides the store's contents; a continued run must bring the same."""
    # Stores made before there was a choice do not name the usual step and the last block; neither
    # do new ones.
    is_told = config.store.dtype == "int8" and config.store.int8_step != RELATIVE_STEP
    image_settings = to_plain(config.image_model)
    if image_model.block is None:
        del image_settings["block"]
    return {
        "layout": source.layout,
        "split": config.split,
        "limit": config.limit,
        "points": config.points,
        "seed": config.seed,
        "source_fingerprint": source.fingerprint(),
        "image_model": {
            **image_settings,
            "image_size": image_model.image_size,
            "pretrained": Path(image_model.pretrained).name,
            "weights_sha256": image_model.weights_hash,
            "mean": list(image_model.mean),
            "std": list(image_model.std),
            "saliency": image_model.saliency_kind,
            "precision": image_model.precision,
        },
        "views": to_plain(config.views),
        **({"int8_step": config.store.int8_step} if is_told else {}),
    }


def _from_anywhere(pretrained: str | None) -> str | None:
    """A file of weights with its whole path, tags as they are."""
    if pretrained is None or not Path(pretrained).is_file():
        return pretrained
    return str(Path(pretrained).absolute())


def _provenance(
    config: ExtractConfig, source: ShapeSource, image_model: ImageModelFacts
) -> dict[str, Any]:
    """What is good to know about a store and does not decide its contents."""
    import platform
    from importlib.metadata import version

    packages = ("i2pmae", "torch", "timm", "open_clip_torch", "zarr", "numpy")
    settings = {key: value for key, value in to_plain(config).items() if key not in _NO_INFLUENCE}
    settings["image_model"]["pretrained"] = _from_anywhere(config.image_model.pretrained)
    return {
        "source": str(config.data.absolute() if config.data.exists() else config.data),
        "finetune_recipe": source.recipe,
        "class_parts": source.class_parts,
        "weights": _from_anywhere(image_model.pretrained),
        "device": image_model.device,
        "config": settings,
        "python": platform.python_version(),
        "versions": {name: version(name) for name in packages},
        "quantization": "code = round(value / feature_scale), one scale per shape and channel"
        if config.store.dtype == "int8"
        else "none",
    }
