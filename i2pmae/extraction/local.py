"""Stage one in one process: shapes are read ahead, encoded by several threads, written behind."""

from __future__ import annotations

import copy
import queue
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from torch import nn

from i2pmae.config import ExtractConfig
from i2pmae.datasets import ShapeSource
from i2pmae.datasets.reading import Outcome, n_available, read_pieces
from i2pmae.device import pick_device
from i2pmae.extraction.encoding import AT_ONCE, Encoder, batches_at_once, load_encoder
from i2pmae.extraction.growth import in_store_order
from i2pmae.extraction.loading import LoadedShapes, ShapeReader
from i2pmae.extraction.shards import Executor, Shard, ShardStats, cut, shapes_of
from i2pmae.image_model import ImageModel
from i2pmae.progress import Progress
from i2pmae.store.writer import StoreWriter

WRITTEN_AT_ONCE = 4  # shards: each is compressed, then waits for the disk a dozen times

Item = TypeVar("Item")


class LocalExecutor(Executor):
    """This process, on its own."""

    def __init__(self, config: ExtractConfig, source: ShapeSource) -> None:
        self._config, self._source = config, source
        self._encoder = load_encoder(config, pick_device(config.device))
        self.model = self._encoder.image_model.info

    def extract(self, writer: StoreWriter) -> ShardStats:
        """See `Executor`."""
        source = in_store_order(self._source, writer.path)
        reader = ShapeReader(
            source, writer.spec.n_points, self._config.on_error, self._encoder.camera
        )
        shards = list(writer.pending)
        with Progress("extract-2d", total=writer.n_pending) as progress:
            return write_shards(
                reader,
                self._encoder,
                writer,
                shards,
                self._config.batch_size,
                self._config.loaders,
                progress,
            )


def write_shards(
    reader: ShapeReader,
    encoder: Encoder,
    writer: StoreWriter,
    shards: Sequence[int],
    batch_size: int,
    loaders: int | None = 0,
    progress: Progress | None = None,
) -> ShardStats:
    """Read, encode and write shards; all three at the same time, for different shapes.

    Args:
        reader: of the shapes.
        encoder: the image model.
        writer: of the store.
        shards: which ones.
        batch_size: shapes per call of the image model.
        loaders: processes that read shapes; 0: threads of this one; None: as many as pay off.
        progress: counts shapes once they are encoded, and shows how long shapes are waited for.

    Raises:
        DataError: if a shape cannot be used and `on_error` is `stop`; shards before it are kept.
        StoreError: if the store cannot be written.
    """
    stats = ShardStats({})
    writes: deque[Future[None]] = deque()
    with ExitStack() as stack:
        pool = stack.enter_context(ThreadPoolExecutor(WRITTEN_AT_ONCE, "write"))
        batches = stack.enter_context(
            closing(_batches(reader, encoder, writer, shards, batch_size, loaders))
        )
        encoded = stack.enter_context(closing(several_at_once(_encode, batches, encoder)))
        started = time.monotonic()
        for batch in encoded:
            stats |= batch.stats(reader.source)
            stats = stats._replace(seconds=time.monotonic() - started)
            if batch.is_last:
                if len(writes) == WRITTEN_AT_ONCE:
                    writes.popleft().result()
                writes.append(pool.submit(writer.write_shard, batch.k, batch.shard.values))
            if progress is not None:
                progress.advance(len(batch.shapes))
                progress.describe(f"waiting {stats.wait_share:.1%}")
        for write in writes:
            write.result()
    return stats


@dataclass(frozen=True)
class _Batch:
    """Some shapes of one shard."""

    k: int  # number of the shard
    shard: Shard
    shapes: range
    is_last: bool  # of its shard
    outcome: Outcome[LoadedShapes]
    waited: float  # seconds

    def stats(self, source: ShapeSource) -> ShardStats:
        """What became of its shapes."""
        loaded = self.outcome.result()
        skipped = {source.ids[index]: reason for index, reason in loaded.unusable.items()}
        return ShardStats(skipped, waited=self.waited, not_finite=loaded.not_finite)


def _batches(
    reader: ShapeReader,
    encoder: Encoder,
    writer: StoreWriter,
    shards: Sequence[int],
    batch_size: int,
    loaders: int | None,
) -> Generator[_Batch, None, None]:
    """What is to be encoded, in order; a batch never crosses a shard's border."""
    spec = writer.spec
    kept = {k: writer.kept(k) for k in shards}
    pieces = [
        piece
        for k in shards
        for piece in cut(shapes_of(spec, k)[len(kept[k].get("status", ())) :], batch_size)
    ]
    n_threads = min(torch.get_num_threads(), AT_ONCE)
    n_cores = n_available()  # an image model on a CPU needs some, too
    reading = read_pieces(
        reader,
        pieces,
        n_threads=n_threads,
        n_ahead=2 * n_threads,
        n_processes=loaders,
        n_cores=n_cores - 1 if encoder.axes.device.type == "cuda" else n_cores // 2,
    )
    shard = None
    started = time.monotonic()
    with closing(reading):
        for shapes, outcome in reading:
            waited = time.monotonic() - started
            k = shapes.start // spec.shard_size
            rows = spec.shard(k)
            if shard is None:
                shard = Shard(spec, reader.source, rows, kept[k])
            is_last = shapes.stop == rows.stop
            yield _Batch(k, shard, shapes, is_last, outcome, waited)
            if is_last:
                shard = None
            started = time.monotonic()


def _encode(batch: _Batch, encoder: Encoder) -> None:
    """Put a batch into its shard."""
    batch.shard.put(batch.outcome.result(), encoder)


def several_at_once(
    work: Callable[[Item, Encoder], None], items: Iterable[Item], encoder: Encoder
) -> Generator[Item, None, None]:
    """Items once `work` is done with them, in their order; some threads do one item each.

    The threads share the cores. Two batches on one core each take less time than one after the
    other on two cores, which wait for each other after every operation; and what is not the image
    model's work fills no core on its own. A GPU has one thread.
    """
    n_cores, n_threads = torch.get_num_threads(), batches_at_once(encoder.axes.device)
    idle: queue.SimpleQueue[Encoder] = queue.SimpleQueue()
    for image_model in _copies(encoder.image_model, n_threads):
        idle.put(replace(encoder, image_model=image_model))

    def run(item: Item) -> None:
        mine = idle.get()
        try:
            work(item, mine)
        finally:
            idle.put(mine)

    ahead: deque[tuple[Item, Future[None]]] = deque()
    pool = ThreadPoolExecutor(n_threads, "encode", torch.set_num_threads, (n_cores // n_threads,))
    try:
        for item in items:
            ahead.append((item, pool.submit(run, item)))
            if len(ahead) > n_threads:
                item, future = ahead.popleft()
                future.result()
                yield item
        for item, future in ahead:
            future.result()
            yield item
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
