"""Reading a finished store for training, through TensorStore."""

from __future__ import annotations

import math
import shlex
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorstore
from numpy.typing import NDArray

from i2pmae.errors import StoreDamageError, StoreError
from i2pmae.store.location import Location, plain_errors
from i2pmae.store.metadata import load_info
from i2pmae.store.schema import DONE, PENDING, ArraySchema, StoreSpec, arrays
from i2pmae.store.strings import decode_strings

if TYPE_CHECKING:
    Batch = dict[str, NDArray[Any]]

STEP_ARRAYS = (
    "points",
    "saliency",
    "features",
    "feature_scale",
    "pixel_origin",
    "pixel_size",
    "pixel_shift",
    "visible",
)
RESIDENT_ARRAYS = (
    "label",
    "status",
    "pixel_origin",
    "pixel_size",
    "pixel_shift",
    "saliency",
    "feature_scale",
)


_MANY = 2**26  # shapes that a store's metadata is believed to have
_AT_ONCE = 8  # files of strings, from an object store mostly waited for

# How TensorStore begins to say that a chunk is missing, cut, or not what its checksum says; other
# errors are the system's, and so are those that hold a number of the system.
_PROOFS = ("DATA_LOSS", "FAILED_PRECONDITION", "INVALID_ARGUMENT", "NOT_FOUND", "OUT_OF_RANGE")


class StoreReader:
    """A finished store, read shape by shape in any order.

    Every chunk's crc32c is checked, and a chunk that is not there is an error, never
    zeros.

    Attributes:
        info: what the store records about itself.
        wait_seconds: time that consumers of `batches` have waited for data, in all.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        threads: int | None = None,
        cache_bytes: int | None = None,
        resident_bytes: int = 256 << 20,
        unfinished: bool = False,
        fill_missing: bool = False,
    ) -> None:
        """Open a store.

        Args:
            path: folder or URL.
            threads: threads that read and decode; None: as many as the machine has cores.
            cache_bytes: memory that may keep decoded chunks and shard indices; None: none for a
                folder, 256 MiB for an object store, where it saves a request per shape.
            resident_bytes: memory that may keep the small arrays, which are then read from the
                store once only; the smallest come first, `features` and `points` never.
            unfinished: also open a store that is not complete; `read_shard` reads what is there.
            fill_missing: read shards that are not there as the schema's fill values.

        Raises:
            StoreError: if the store is missing, incomplete or its metadata damaged.
        """
        self.path = path
        self._location = Location.of(path)
        self.info = load_info(self._location)
        if not self.info.complete and not unfinished:
            raise StoreError(
                f"{path} is not complete. Run the same `i2pmae extract-2d` command again to "
                "finish it."
            )
        self._schemas = arrays(self.info.spec)
        self._fill_missing = fill_missing
        last = self._schemas["status"].key(self.info.spec.n_shards - 1)
        # Before memory is taken for as many shapes as it says.
        takes_memory = not (fill_missing and resident_bytes == 0)
        if len(self) > _MANY and takes_memory and not self._location.has(last):
            raise self._damaged("status", f"{last} is missing")
        if cache_bytes is None:
            cache_bytes = 0 if self._location.folder is not None else 256 << 20
        context: dict[str, Any] = {"cache_pool": {"total_bytes_limit": cache_bytes}}
        if threads is not None:
            context["data_copy_concurrency"] = {"limit": threads}
            context["file_io_concurrency"] = {"limit": threads}
        self._context = tensorstore.Context(context)
        self._arrays: dict[str, tensorstore.TensorStore] = {}
        self._resident = self._choose_resident(resident_bytes)
        self.step_arrays = tuple(name for name in STEP_ARRAYS if name in self._schemas)
        self.wait_seconds = 0.0

    def __len__(self) -> int:
        return self.info.spec.n_shapes

    @property
    def n_points(self) -> int:
        """Points per shape."""
        return self.info.spec.n_points

    @property
    def n_views(self) -> int:
        """Views per shape."""
        return self.info.spec.n_views

    @property
    def image_size(self) -> int:
        """Edge of a depth map in pixels."""
        return self.info.spec.image_size

    @property
    def channels(self) -> int:
        """Channels of the features."""
        return self.info.spec.channels

    @property
    def class_names(self) -> tuple[str, ...]:
        """What `label` counts."""
        return self.info.class_names

    @property
    def provenance(self) -> dict[str, Any]:
        """Settings and origin of the store, plain values."""
        return {**self.info.settings, **self.info.provenance}

    @cached_property
    def view_axes(self) -> NDArray[np.float32]:
        """(V, 3, 3) float32: row axis, column axis and depth axis of every view."""
        return self.read_all("view_axes")

    def indices(self, split: str = "all") -> NDArray[np.int64]:
        """Which shapes of a split can be used: skipped ones are left out.

        Args:
            split: `train`, `test` or `all`; a source without splits counts as `train`.

        Returns:
            (n,) int64, ascending.

        Raises:
            StoreError: if there are none, or the store is damaged.
        """
        counts = self.info.counts
        wanted = {*counts} if split == "all" else {split, *([""] if split == "train" else [])}
        if wanted.issuperset(counts) and not any(found["skipped"] for found in counts.values()):
            return np.arange(len(self))
        usable = self.read_all("status") == DONE
        if not wanted.issuperset(counts):
            splits = self.read_all("split")
            usable &= np.logical_or.reduce([splits == name for name in sorted(wanted)])
        found = np.flatnonzero(usable)
        if not len(found):
            raise StoreError(
                f"{self._location.text} holds no shapes of split {split!r}. "
                "`i2pmae inspect` lists its splits."
            )
        return found

    def read_all(self, name: str) -> NDArray[Any]:
        """One whole small array: `label`, `id`, `split`, `status` or `view_axes`.

        Raises:
            StoreError: if a chunk is damaged or missing.
        """
        if self._schemas[name].dtype == "string":
            with ThreadPoolExecutor(_AT_ONCE) as pool:
                shards = pool.map(partial(self._read_strings, name), range(self.info.spec.n_shards))
                values = np.concatenate(list(shards))
        else:
            try:
                values = self._array(name).read().result()
            except (ValueError, OSError) as error:
                raise self._failed(name, error) from error
        if name == "status" and not self._fill_missing and (values == PENDING).any():
            first = int(np.flatnonzero(values == PENDING)[0])
            raise self._damaged(name, f"shape {first} counts as not yet extracted")
        return values

    def read_shard(self, k: int, name: str) -> NDArray[Any]:
        """One shard of an array.

        Args:
            k: number of the shard.
            name: of the array, not `view_axes`.

        Returns:
            As many rows as the shard has shapes, in the dtype of the schema.

        Raises:
            StoreError: if a chunk is damaged or missing.
        """
        rows = self.info.spec.shard(k)
        if self._schemas[name].dtype == "string":
            return self._read_strings(name, k)
        try:
            return np.asarray(self._array(name)[rows].read().result())
        except (ValueError, OSError) as error:
            raise self._failed(name, error, f"shard {k}: ") from error

    def read(
        self,
        indices: Sequence[int] | NDArray[np.int64],
        names: Sequence[str] | None = None,
        out: Mapping[str, NDArray[Any]] | None = None,
    ) -> Batch:
        """Read shapes, in the order asked for.

        Args:
            indices: (B,) shapes.
            names: arrays to read; None: those that a pre-training step consumes, `step_arrays`.
            out: arrays to fill instead of new ones, by name, each (B, ...), C-contiguous.

        Returns:
            By name (B, ...) in the dtype of the schema.

        Raises:
            StoreError: if a chunk is damaged or missing; names the array and the shape.
        """
        return self._request(np.asarray(indices), names or self.step_arrays, out).result()

    def batches(
        self,
        batch_size: int,
        *,
        seed: int,
        epoch: int,
        indices: NDArray[np.int64] | None = None,
        start: int = 0,
        part: tuple[int, int] = (0, 1),
        drop_last: bool = True,
        prefetch: int = 2,
        mixed_shards: int | None = None,
        names: Sequence[str] | None = None,
    ) -> Iterator[Batch]:
        """Batches of one epoch in random order, read ahead.

        Args:
            batch_size: shapes per batch.
            seed: of the order.
            epoch: the order is a function of `seed` and `epoch` alone.
            indices: (n,) shapes of the epoch; None: all that can be used.
            start: batches to leave out at the beginning, for a run that is resumed.
            part: (i, n): of every batch only the i-th of n equal parts, for n processes that
                share the batches.
            drop_last: leave out a last batch that is not full.
            prefetch: batches that are read ahead.
            mixed_shards: None: a full shuffle. Otherwise shapes are mixed only with those of
                this many randomly chosen shards, which are read one after another: for stores on
                slow disks and object storage.
            names: arrays to read; None: `step_arrays`.

        Yields:
            What `read` returns, with the shapes under `index` (B,) int64.

        Raises:
            StoreError: as `read`.
            ValueError: if n does not divide `batch_size`.
        """
        index, n_parts = part
        if batch_size % n_parts:
            raise ValueError(f"batches of {batch_size} have no {n_parts} equal parts")
        order = epoch_order(
            self.indices() if indices is None else indices,
            seed,
            epoch,
            shard_size=self.info.spec.shard_size,
            mixed_shards=mixed_shards,
        )
        stop = len(order) - len(order) % batch_size if drop_last else len(order)
        ahead: deque[_Request] = deque()
        for first in range(start * batch_size, stop, batch_size):
            chosen = order[first : min(first + batch_size, stop)]
            chosen = np.array_split(chosen, n_parts)[index]
            ahead.append(self._request(chosen, names or self.step_arrays, None))
            if len(ahead) > prefetch:
                yield self._wait(ahead.popleft())
        while ahead:
            yield self._wait(ahead.popleft())

    def _wait(self, request: _Request) -> Batch:
        begin = time.perf_counter()
        batch = request.result()
        self.wait_seconds += time.perf_counter() - begin
        return {**batch, "index": request.indices}

    def _request(
        self,
        indices: NDArray[np.int64],
        names: Sequence[str],
        out: Mapping[str, NDArray[Any]] | None,
    ) -> _Request:
        """Start the reads of one batch."""
        request = _Request(self, indices)
        for name in names:
            schema = self._schemas[name]
            shape = (len(indices), *schema.shape(self.info.spec)[1:])
            dtype = schema.dtype_in(self.info.spec)
            target = np.empty(shape, dtype) if out is None else out[name]
            if target.shape != shape or target.dtype != dtype:
                raise ValueError(f"{name} must be {dtype} {shape}")
            if name in self._resident:
                request.gather(name, target, self._resident[name])
            else:
                request.read(name, target, self._array(name)[indices])
        return request

    def _choose_resident(self, limit: int) -> dict[str, _Resident]:
        """Arrays that fit into memory together, smallest first."""
        spec = self.info.spec
        chosen = {}
        small = [name for name in self._schemas if name in RESIDENT_ARRAYS]
        for name in sorted(small, key=lambda name: _bytes_of(self._schemas[name], spec)):
            schema = self._schemas[name]
            limit -= _bytes_of(schema, spec)
            if limit < 0:
                break
            rows = schema.chunks(spec)[0]
            chosen[name] = _Resident(
                values=np.empty(schema.shape(spec), schema.dtype_in(spec)),
                known=np.zeros(-(-spec.n_shapes // rows), bool),
                rows=rows,
            )
        return chosen

    def _array(self, name: str) -> tensorstore.TensorStore:
        if name not in self._arrays:
            spec = {
                "driver": "zarr3",
                "kvstore": self._location.key_value_store(name),
                "fill_missing_data_reads": self._fill_missing,
                "recheck_cached_metadata": "open",
                "recheck_cached_data": "open",
            }
            try:
                opened = tensorstore.open(spec, open=True, read=True, context=self._context)
                self._arrays[name] = opened.result()
            except (ValueError, OSError) as error:  # its metadata were sound a moment ago
                raise self._unreadable(name, error) from error
        return self._arrays[name]

    def _read_strings(self, name: str, k: int) -> NDArray[Any]:
        """One shard of an array of strings."""
        key, rows = self._schemas[name].key(k), self.info.spec.shard(k)
        with plain_errors(self._location, f"read {key}"):
            content = self._location.read(key)
        if content is None and self._fill_missing:
            return np.full(rows.stop - rows.start, "", np.dtypes.StringDType())
        if content is None:
            raise self._damaged(name, f"{key} is missing")
        try:
            return decode_strings(content, self.info.spec.shard_size)[: rows.stop - rows.start]
        except ValueError as error:
            raise self._damaged(name, f"shard {k}: {error}") from error

    def _failed(self, name: str, error: Exception, where: str = "") -> StoreError:
        """Explain why TensorStore cannot read; only proven damage is called damage."""
        if str(error).partition(":")[0] in _PROOFS and "os_error_code" not in str(error):
            return self._damaged(name, f"{where}{error}")
        return self._unreadable(name, error, where)

    def _damaged(self, name: str, what: str) -> StoreDamageError:
        return StoreDamageError(
            f"{self._location.text}: {name} is damaged ({what}). `i2pmae verify "
            f"{shlex.quote(self._location.text)} --repair --data SHAPES` finds all damage and "
            "extracts those shards again."
        )

    def _unreadable(self, name: str, error: Exception, where: str = "") -> StoreError:
        what = str(error).partition(" [tensorstore_spec=")[0]
        return StoreError(
            f"{self._location.text}: {name} cannot be read ({where}{what}). That is no sign of "
            "damage: see to the cause and run the same command again."
        )


@dataclass
class _Resident:
    """A small array that stays in memory once read."""

    values: NDArray[Any]  # memory is used as rows are filled
    known: NDArray[np.bool_]  # (chunks,)
    rows: int  # shapes per chunk


class _Request:
    """Reads under way for one batch; they proceed in TensorStore's threads."""

    def __init__(self, reader: StoreReader, indices: NDArray[np.int64]) -> None:
        self.indices = indices
        self._reader = reader
        self._futures: list[tuple[str, Any]] = []
        self._targets: Batch = {}
        self._gathers: dict[str, _Resident] = {}

    def read(self, name: str, target: NDArray[Any], source: tensorstore.TensorStore) -> None:
        """Fill `target` from the disk."""
        self._targets[name] = target
        self._start(name, target, source)

    def gather(self, name: str, target: NDArray[Any], resident: _Resident) -> None:
        """Fill `target` from memory, after reading the shards that are not there yet."""
        self._targets[name] = target
        self._gathers[name] = resident
        chunks = np.unique(self.indices // resident.rows)
        for chunk in chunks[~resident.known[chunks]].tolist():
            rows = slice(chunk * resident.rows, min((chunk + 1) * resident.rows, len(self._reader)))
            self._start(name, resident.values[rows], self._reader._array(name)[rows])

    def result(self) -> Batch:
        """Wait for the batch."""
        for name, future in self._futures:
            try:
                future.result()
            except (ValueError, OSError) as error:
                raise self._explain(name, error) from error
        for name, resident in self._gathers.items():
            resident.known[self.indices // resident.rows] = True
            np.take(resident.values, self.indices, axis=0, out=self._targets[name])
        return self._targets

    def _start(self, name: str, target: NDArray[Any], source: tensorstore.TensorStore) -> None:
        memory = tensorstore.array(target, copy=False, write=True)
        self._futures.append((name, memory.write(source)))

    def _explain(self, name: str, error: Exception) -> StoreError:
        """Find the shape whose chunk cannot be read."""
        array = self._reader._array(name)
        for index in self.indices:
            try:
                array[int(index)].read().result()
            except (ValueError, OSError) as of_shape:
                shard = index // self._reader.info.spec.shard_size
                return self._reader._failed(name, of_shape, f"shape {index}, shard {shard}: ")
        return self._reader._failed(name, error)


def _bytes_of(schema: ArraySchema, spec: StoreSpec) -> int:
    return math.prod(schema.shape(spec)) * np.dtype(schema.dtype_in(spec)).itemsize


def epoch_order(
    indices: NDArray[np.int64],
    seed: int,
    epoch: int,
    *,
    shard_size: int = 1,
    mixed_shards: int | None = None,
) -> NDArray[np.int64]:
    """The order of one epoch, the same on every machine and numpy version.

    Args:
        indices: (n,) shapes.
        seed: not negative.
        epoch: not negative.
        shard_size: shapes per shard.
        mixed_shards: None: a full shuffle; otherwise shards in random order, and the shapes of
            every `mixed_shards` of them shuffled together.

    Returns:
        (n,) int64, a permutation of `indices`.
    """
    # raw bits: numpy keeps their stream fixed, that of `permutation` it may change
    bits = np.random.PCG64(np.random.SeedSequence([seed, epoch]))
    shuffled = indices[np.argsort(bits.random_raw(len(indices)), kind="stable")]
    if mixed_shards is None:
        return shuffled
    shards, shard_of = np.unique(shuffled // shard_size, return_inverse=True)
    rank = np.argsort(np.argsort(bits.random_raw(len(shards)), kind="stable"), kind="stable")
    return shuffled[np.argsort(rank[shard_of] // mixed_shards, kind="stable")]
