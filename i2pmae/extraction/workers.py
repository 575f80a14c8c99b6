"""Stage one on several processes: dask hands out shards, workers read, encode and write them.

A worker opens the data set and the image model once, then does one shard after another: nothing
but numbers of shards and short lists travels between processes. A shard's bytes depend on its
shapes and on the number of threads per worker, never on which worker did it or when.
"""

from __future__ import annotations

import logging
import re
import socket
import threading
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import torch

from i2pmae.config import ExtractConfig, WorkersConfig
from i2pmae.datasets import ShapeSource
from i2pmae.device import is_out_of_memory, pick_device
from i2pmae.errors import ConfigError, DataError, I2PMAEError, WorkersError
from i2pmae.extraction.clusters import local_cluster, require_package, slurm_cluster
from i2pmae.extraction.encoding import Encoder, load_encoder
from i2pmae.extraction.growth import in_store_order
from i2pmae.extraction.loading import ShapeReader, open_data
from i2pmae.extraction.local import write_shards
from i2pmae.extraction.shards import Executor, ShardStats, cut, encode_shapes, shapes_of
from i2pmae.image_model import ImageModelInfo
from i2pmae.progress import Progress, note, warn
from i2pmae.store.location import Location
from i2pmae.store.schema import StoreSpec
from i2pmae.store.writer import StoreWriter, join_writer

Item = TypeVar("Item")

_ROUNDS = 3  # times that a shard may be lost although none of its shapes is to blame
_CONNECT_SECONDS = 30
_LOOK_SECONDS = 5.0  # between two looks for new workers
_LOOKS = 60  # without any worker, before the job ends
_DASK_SETTINGS = {
    # the second worker that a task ends is reason enough to look for the shape that causes it
    "distributed.scheduler.allowed-failures": 1,
    # memory is the image model's and its batches': there are no results to spill, and a worker
    # that paused would never continue
    "distributed.worker.memory.target": False,
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.pause": False,
    "distributed.worker.profile.enabled": False,
}
_LOGGERS = ("distributed", "distributed.client", "tornado.application", "asyncio")


@contextmanager
def _silent_libraries() -> Iterator[None]:
    """Losses are reported in our own words, and whatever is under way as a job ends may fail."""
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextmanager
def dask_executor(config: ExtractConfig, source: ShapeSource) -> Iterator[DaskExecutor]:
    """Start workers, or find those of a running scheduler; what was started ends with the block.

    Raises:
        ConfigError: if dask's packages are not installed, the scheduler cannot be reached, or
            the file with Slurm's settings cannot be used.
        WorkersError: if workers crash while they load the image model.
    """
    require_package("distributed", "workers")
    import dask
    from distributed import Client

    wanted = config.workers
    with ExitStack() as stack:
        stack.enter_context(dask.config.set(_DASK_SETTINGS))
        stack.enter_context(_silent_libraries())
        address: Any = wanted.scheduler
        if wanted.slurm is not None:
            address = stack.enter_context(slurm_cluster(wanted.slurm, wanted.count))
        elif wanted.count is not None:
            address = stack.enter_context(local_cluster(wanted.count, wanted.threads))
        try:
            client = stack.enter_context(Client(address, timeout=_CONNECT_SECONDS))
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"--scheduler {wanted.scheduler}: no answer ({error}). Start one with `dask "
                "scheduler` and workers with `dask worker ADDRESS`, or use --workers."
            ) from error
        note(f"dask dashboard: {client.dashboard_link}")
        client.subscribe_topic("all", _report_loss)
        stack.callback(client.unsubscribe_topic, "all")
        if not client.nthreads():
            note("waiting for the first worker")
            client.wait_for_workers(1)
        yield DaskExecutor(client, config if _is_local(wanted) else _absolute(config), source)


class DaskExecutor(Executor):
    """The workers of a cluster; `model` describes their image model."""

    def __init__(self, client: Any, config: ExtractConfig, source: ShapeSource) -> None:
        self._client = client
        self._config = config
        self._source = source
        [(_, model)] = self._each(_describe, [config])
        if model is None:
            raise WorkersError(
                f"workers crash while they load the image model {config.image_model.name}. "
                "Use fewer --workers, or a machine with more memory."
            )
        self.model: ImageModelInfo = model
        self._job = _Job(config, source.fingerprint(), model)

    def extract(self, writer: StoreWriter) -> ShardStats:
        """Have all pending shards written.

        Raises:
            DataError: if a shape cannot be used or ends its workers, and `on_error` is `stop`.
            StoreError: if the store cannot be written, or another process has taken it over.
            WorkersError: if workers end over a shard again and again, but over none of its shapes.
        """
        self._source = in_store_order(self._source, writer.path)
        if writer.pending:
            writer.reopen()
        spec, pending = writer.spec, list(writer.pending)
        store = _absolute_store(writer.path)
        bad: dict[int, str] = {}
        stats = ShardStats({})
        lost: Counter[int] = Counter()
        with Progress("extract-2d", total=writer.n_pending) as progress:
            while pending:
                write = partial(self._job.write, store, bad)
                tried, pending = pending, []
                for k, found in self._each(write, tried):
                    writer.require_lock()
                    if found is None:
                        pending.append(k)
                    else:
                        stats |= found
                        progress.advance(len(shapes_of(spec, k)))
                        progress.describe(self._status(stats))
                lost.update(pending)
                for k in pending:
                    bad |= self._find_poison(k, store, spec, bad, is_last_try=lost[k] == _ROUNDS)
        writer.refresh()
        return stats

    def _status(self, stats: ShardStats) -> str:
        """How many work, what they wait for and how much memory they hold, in a few words."""
        workers = self._client.scheduler_info(n_workers=-1).get("workers", {}).values()
        held = sum(worker.get("metrics", {}).get("memory", 0) for worker in workers)
        memory = f", their memory {held / 1e9:.1f} GB" if held else ""
        return f"{len(workers)} workers, waiting {stats.wait_share:.1%}{memory}"

    def _find_poison(
        self, k: int, store: str, spec: StoreSpec, bad: dict[int, str], *, is_last_try: bool
    ) -> dict[int, str]:
        """The shapes of a lost shard that end a worker on their own, with a reason each."""
        shapes = shapes_of(spec, k)
        warn(f"shard {k} crashed two workers; looking for the shape that causes it")
        attempt = partial(self._job.attempt, store, spec.n_points, bad)
        found: dict[int, str] = {}
        for piece, outcome in self._narrowed(attempt, _halves(shapes)):
            if outcome is None:
                name = self._source.ids[piece.start]
                found[piece.start] = (
                    f"{name} ends every worker that reads it (a crash, or out of memory)"
                )
        if found and self._config.on_error == "stop":
            reasons = "; ".join(found.values())
            raise DataError(
                f"{self._config.data}: {reasons}; repair or remove it, or run the same command "
                "with --on-error skip"
            )
        if not found and is_last_try:
            raise WorkersError(
                f"shard {k} (shapes {self._source.ids[shapes.start]} to "
                f"{self._source.ids[shapes.stop - 1]}) crashed two workers {_ROUNDS} times, but "
                "none of its shapes does so alone. If memory is short, use fewer --workers or a "
                "smaller --batch-size, and rerun the command to resume."
            )
        return found

    def _narrowed(
        self, task: Callable[[range], Any], pieces: list[range]
    ) -> Iterator[tuple[range, Any]]:
        """Run `task` on every piece; lost pieces are halved, down to single shapes (then None)."""
        suspects: list[range] = []
        while pieces:
            halves: list[range] = []
            for piece, found in self._each(task, pieces):
                if found is not None:
                    yield piece, found
                elif len(piece) > 1:
                    halves += _halves(piece)
                else:
                    suspects.append(piece)
            pieces = halves
        for suspect in suspects:  # once more, alone: what shared its worker is suspected too
            yield from self._each(task, [suspect])

    def _each(
        self, task: Callable[[Item], Any], items: Iterable[Item]
    ) -> Iterator[tuple[Item, Any]]:
        """Items with what `task` returns for them, as they come; None where workers ended.

        There are as many items under way as workers.
        """
        waiting = iter(items)
        under_way: dict[Any, Item] = {}
        try:
            while True:
                n_free = max(self._n_workers(), 1) - len(under_way)
                for item in islice(waiting, max(n_free, 0)):
                    future = self._client.submit(_guarded, task, item, pure=False)
                    under_way[future] = item
                if not under_way:
                    return
                for future in self._ended(list(under_way)):
                    yield under_way.pop(future), _outcome(future)
        finally:
            self._client.cancel(list(under_way))

    def _ended(self, futures: list[Any]) -> list[Any]:
        """Those that have come to an end; after a while none, for there may be more workers.

        Raises:
            WorkersError: if there are no workers any more, and no new one comes.
        """
        from distributed import wait

        for look in range(_LOOKS):
            with suppress(TimeoutError, CancelledError):
                wait(futures, timeout=_LOOK_SECONDS, return_when="FIRST_COMPLETED")
            ended = [future for future in futures if future.status != "pending"]
            if ended or self._n_workers():
                return ended
            if look == 0:
                warn("no worker is left; waiting for another")
        raise WorkersError(
            "all workers are gone and none came back, or the scheduler is gone: look into their "
            "logs for the reason. Everything written so far is kept: rerun the command to resume."
        )

    def _n_workers(self) -> int:
        try:
            return len(self._client.nthreads())
        except OSError:  # the connection is lost, which the futures will tell
            return 0


@dataclass(frozen=True)
class _Failure:
    """An error on a worker; exceptions themselves may hold what cannot be sent."""

    kind: type[I2PMAEError] | None  # None: a bug
    text: str


def _outcome(future: Any) -> Any:
    """What a task returned; None if it ended its workers or ran out of memory."""
    from distributed import KilledWorker

    if future.status == "cancelled":
        raise WorkersError(
            "the scheduler is gone. Everything written so far is kept: rerun the command to resume."
        )
    error = future.exception()
    if isinstance(error, KilledWorker):
        return None
    if error is not None:
        raise error
    found = future.result()
    if isinstance(found, _Failure):
        raise (found.kind or RuntimeError)(found.text)
    return found


def _report_loss(event: tuple[float, Any]) -> None:
    """Say that a worker is gone; dask gives its work to another."""
    message = event[1]
    if message.get("action") == "remove-worker" and not message.get("expected"):
        warn(f"worker {message['worker']} was lost; its work is repeated")


# What follows runs on the workers.

_one_at_a_time = threading.Lock()  # also on workers with several threads: they share one model


def _guarded(task: Callable[[Item], Any], item: Item) -> Any:
    """What the task returns; None if memory runs out, its error as a `_Failure`."""
    try:
        return task(item)
    except I2PMAEError as error:
        if isinstance(error.__cause__, MemoryError):
            return None
        return _Failure(type(error), str(error))
    except Exception as error:
        if is_out_of_memory(error):
            return None
        return _Failure(None, f"on {socket.gethostname()}:\n{traceback.format_exc()}")


def _describe(config: ExtractConfig) -> ImageModelInfo:
    """What the image model is like here."""
    with _one_at_a_time:
        return _encoder(config).image_model.info


@dataclass(frozen=True)
class _Job:
    """What every worker is told: the settings, and what it must find at its place."""

    config: ExtractConfig
    fingerprint: str  # of the data set
    model: ImageModelInfo

    def write(self, store: str, bad: dict[int, str], k: int) -> ShardStats:
        """Write one shard, given shapes known to be unusable."""
        with _one_at_a_time:
            encoder = _checked(self.config, self.model)
            writer = _writer(store, self.config, self.fingerprint)
            reader = self._reader(store, writer.spec.n_points, bad, encoder)
            return write_shards(reader, encoder, writer, [k], self.config.batch_size)

    def attempt(self, store: str, n_points: int, bad: dict[int, str], shapes: range) -> bool:
        """Load and encode shapes and forget the result."""
        with _one_at_a_time:
            encoder = _checked(self.config, self.model)
            reader = self._reader(store, n_points, bad, encoder)
            for piece in cut(shapes, self.config.batch_size):
                loaded = reader(piece)
                if loaded.indices:
                    encode_shapes(loaded, encoder)
        return True

    def _reader(
        self, store: str, n_points: int, bad: dict[int, str], encoder: Encoder
    ) -> ShapeReader:
        source = _source(self.config, self.fingerprint, store)
        return ShapeReader(source, n_points, self.config.on_error, encoder.camera, bad=bad)


@lru_cache(maxsize=1)
def _source(config: ExtractConfig, fingerprint: str, store: str) -> ShapeSource:
    """The data set in the store's order, opened once.

    Refuses one that is not what the first process sees.
    """
    source = open_data(config)
    if source.fingerprint() != fingerprint:
        raise DataError(
            f"{config.data} on {socket.gethostname()} holds other shapes than where the command "
            "was given. Put the same data set at the same path on every machine."
        )
    return in_store_order(source, store)


@lru_cache(maxsize=1)
def _encoder(config: ExtractConfig) -> Encoder:
    """The image model, loaded once, on a GPU of this worker's if there are any."""
    from distributed import get_worker

    worker = get_worker()
    torch.set_num_threads(worker.state.nthreads)
    return load_encoder(config, _own_device(config.device, str(worker.name)))


def _checked(config: ExtractConfig, model: ImageModelInfo) -> Encoder:
    """The image model, with as many threads as the worker was given.

    Refuses to mix the results of different ones in one store.
    """
    from distributed import get_worker

    torch.set_num_threads(get_worker().state.nthreads)
    encoder = _encoder(config)
    if encoder.image_model.info != model:
        raise ConfigError(
            f"the image model on {socket.gethostname()} is {encoder.image_model.info}, that of the "
            f"first worker {model}. Give --precision, --device and --pretrained a value that all "
            "workers have."
        )
    return encoder


@lru_cache(maxsize=1)
def _writer(store: str, _config: ExtractConfig, _fingerprint: str) -> StoreWriter:
    """The store, opened once; a store made again with other settings is a new one."""
    return join_writer(store)


def _own_device(name: str, worker: str) -> torch.device:
    """One of the machine's GPUs by the worker's number, or whatever else there is."""
    device = pick_device(name)
    if device.type != "cuda":
        return device
    number = re.search(r"\d+$", worker)
    return torch.device("cuda", int(number[0]) % torch.cuda.device_count() if number else 0)


def _is_local(wanted: WorkersConfig) -> bool:
    return wanted.scheduler is None and wanted.slurm is None


def _absolute(config: ExtractConfig) -> ExtractConfig:
    """The same files, named so that processes of other working folders find them."""
    changes: dict[str, Any] = {}
    if config.data.exists():
        changes["data"] = config.data.absolute()
    weights = config.image_model.pretrained
    if weights is not None and Path(weights).exists():
        found = {"pretrained": str(Path(weights).absolute())}
        changes["image_model"] = config.image_model.model_copy(update=found)
    return config.model_copy(update=changes)


def _absolute_store(path: str) -> str:
    location = Location.of(path)
    return str(location.folder or location.text)


def _halves(shapes: range) -> list[range]:
    middle = (len(shapes) + 1) // 2
    return [half for half in (shapes[:middle], shapes[middle:]) if half]
