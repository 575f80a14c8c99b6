"""Writing a store shard by shard, so that it can be interrupted and continued at any point."""

from __future__ import annotations

import json
import threading
import time
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from i2pmae.errors import StoreDamageError, StoreError, StoreMismatchError
from i2pmae.progress import warn
from i2pmae.settings import told
from i2pmae.store.creation import create, is_created, write_attributes
from i2pmae.store.location import Location, open_arrays, plain_errors
from i2pmae.store.lock import Part, StoreLock, lock_of, whole_store
from i2pmae.store.metadata import (
    StoreInfo,
    load_info,
    setting_differences,
)
from i2pmae.store.reader import StoreReader
from i2pmae.store.schema import ARRAYS, DONE, PENDING, SKIPPED, StoreSpec, arrays
from i2pmae.store.shard_files import encode_file

_AT_ONCE = 12  # files of a shard that are written: they wait for the disk, or for a bucket
_WAITS = (2.0, 8.0, 30.0)  # seconds before an object store is asked again


class StoreWriter:
    """A store being written; made by `open_writer`.

    A shard counts only once its `status` is written, after everything else of it. Whatever an
    interrupted run left of other shards is overwritten, so a continued store equals an
    uninterrupted one byte for byte.
    """

    def __init__(
        self,
        location: Location,
        info: StoreInfo,
        lock: StoreLock | None = None,
        part: Part | None = None,
        held: ExitStack | None = None,
    ) -> None:
        """Write to a store that is there.

        Args:
            location: of the store.
            info: what it records.
            lock: that this process holds; None: another holds it for this one.
            part: shards to write; None: all.
            held: what to give back in the end.
        """
        self.info = info
        self.spec = info.spec
        self._location = location
        self._lock, self._part = lock, part
        self._held = held or ExitStack()
        self._schemas = arrays(info.spec)
        self._changing = threading.Lock()  # what several shards that are written have in common

    @property
    def path(self) -> str:
        """Where the store lies."""
        return self._location.text

    @property
    def n_shapes(self) -> int:
        """Shapes of all shards; of the part, if this writes one."""
        return self._shapes_of(self._mine(range(self.spec.n_shards)))

    @property
    def n_pending(self) -> int:
        """Shapes of the pending shards."""
        return self._shapes_of(self.pending) - sum(
            len(self.kept(k).get("status", ())) for k in self.pending
        )

    def _shapes_of(self, shards: Iterable[int]) -> int:
        return sum(rows.stop - rows.start for rows in map(self.spec.shard, shards))

    @cached_property
    def pending(self) -> list[int]:
        """Shards that are not written; of the part, if this writes one."""
        return self._mine(self._pending())

    def refresh(self) -> None:
        """Check again which shards exist, after other processes have written some.

        A shard counts only with all its files.
        """
        incomplete = incomplete_shards(self._location, self.spec)
        self.pending = self._mine({*self._pending(), *incomplete})

    def _mine(self, shards: Iterable[int]) -> list[int]:
        return sorted(k for k in shards if self._part is None or self._part.holds(k))

    def reopen(self) -> None:
        """Mark a complete store as incomplete before some of its shards are written again."""
        if self.info.complete:
            with self._whole_store():
                self._record(replace(self.info, complete=False, counts={}))

    @contextmanager
    def _whole_store(self) -> Iterator[None]:
        """Be the only one that changes what the store records."""
        if self._part is None:
            yield
            return
        with whole_store(self._location, self._part):
            self.info = load_info(self._location)  # other parts may have changed it
            yield

    def kept(self, k: int) -> dict[str, NDArray[Any]]:
        """What a shard holds of its first shapes, if the store has grown by the others.

        Args:
            k: number of a pending shard.

        Returns:
            By name all arrays of the shapes that stay; nothing in most cases.
        """
        if not self.info.provenance.get("grown"):
            return {}
        reader = self._reader()
        try:
            n_kept = int(np.count_nonzero(reader.read_shard(k, "status") != PENDING))
        except StoreDamageError:
            return {}
        rows = self.spec.shard(k)
        if not 0 < n_kept < rows.stop - rows.start:
            return {}
        names = [name for name, array in self._schemas.items() if array.layout != "store"]
        return {name: reader.read_shard(k, name)[:n_kept] for name in names}

    def write_shard(self, k: int, values: Mapping[str, NDArray[Any]]) -> None:
        """Write all arrays of one shard; threads may write different ones at the same time.

        Args:
            k: number of the shard; `spec.shard(k)` says which shapes it holds.
            values: every array of the store but `view_axes`, rows of this shard, in the dtype of
                the schema. `status` says DONE or SKIPPED for each shape; what the rows of skipped
                shapes hold is of no interest, but let it be zeros, which take no space.

        Raises:
            StoreError: if the disk is full, read-only or not permitted.
            ValueError: if an array is missing, or has another shape or dtype than the schema.
        """
        rows = self.spec.shard(k)
        per_shape = [name for name, array in self._schemas.items() if array.layout != "store"]
        self._check(values, rows, per_shape)
        others = [name for name in per_shape if name != "status"]
        with self._changing:
            self.reopen()
        self.require_lock()
        for wait in (*_WAITS, None):
            try:
                self._write_files(k, rows, others, values)
                break
            except StoreError as error:
                if wait is None or self._location.folder is not None:
                    raise
                warn(f"{error} Trying again in {wait:.0f} s.")
                time.sleep(wait)
        with self._changing:
            if "pending" in vars(self):  # else nobody has asked yet, and who asks later is told
                place = bisect_left(self.pending, k)
                self.pending = self.pending[:place] + self.pending[bisect_right(self.pending, k) :]

    def require_lock(self) -> None:
        """Check that no other process has taken over the store; raises as `StoreLock.require`."""
        if self._lock is not None:
            self._lock.require()

    def _write_files(
        self, k: int, rows: slice, others: list[str], values: Mapping[str, NDArray[Any]]
    ) -> None:
        """Write all arrays of one shard, `status` last."""
        grows = bool(self.kept(k))  # then each file is replaced by one that holds the same and more
        with plain_errors(self._location, f"write shard {k}"):
            if not grows:
                self._location.delete(self._schemas["status"].key(k))
            with ThreadPoolExecutor(max_workers=_AT_ONCE) as pool:
                writes = [pool.submit(self._write, name, rows, values[name]) for name in others]
            for write in writes:
                write.result()
            self._write("status", rows, values["status"])

    def finish(self) -> None:
        """Mark the store complete; not yet if this is a part and shards of others are pending.

        Raises:
            StoreError: if shards are still pending.
        """
        if self.pending:
            raise StoreError(
                f"{self._location.text} lacks {len(self.pending)} of {self.spec.n_shards} shards. "
                "Run the same command again to write them."
            )
        with self._whole_store():
            if self.info.complete or (self._part is not None and self._pending()):
                return
            if self._part is not None:  # what killed ones have left
                _remove_partial_files(self._location)
            self._record(replace(self.info, complete=True, counts=self._count()))

    def close(self) -> None:
        """Give the lock back."""
        self._held.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _reader(self) -> StoreReader:
        """The metadata as it is now, read with the limits for untrusted stores."""
        return StoreReader(self.path, cache_bytes=0, unfinished=True, fill_missing=True)

    def _pending(self) -> list[int]:
        """Shards whose status is not written, or damaged."""
        reader = self._reader()
        try:
            shapes = np.flatnonzero(reader.read_all("status") == PENDING)
        except StoreDamageError:
            return [k for k in range(self.spec.n_shards) if self._is_pending(reader, k)]
        pending: list[int] = np.unique(shapes // self.spec.shard_size).tolist()
        return pending

    def _is_pending(self, reader: StoreReader, k: int) -> bool:
        try:
            return bool((reader.read_shard(k, "status") == PENDING).any())
        except StoreDamageError:
            return True

    def _count(self) -> dict[str, dict[str, int]]:
        """Shapes done and skipped of every split."""
        reader = self._reader()
        status, splits = reader.read_all("status"), reader.read_all("split")
        return {
            str(split): {
                "done": int((status[splits == split] == DONE).sum()),
                "skipped": int((status[splits == split] == SKIPPED).sum()),
            }
            for split in np.unique(splits)
        }

    def _record(self, info: StoreInfo) -> None:
        self.info = info
        with plain_errors(self._location, "write the metadata"):
            write_attributes(self._location, info)

    def _check(self, values: Mapping[str, NDArray[Any]], rows: slice, expected: list[str]) -> None:
        if set(values) != set(expected):
            raise ValueError(f"expected the arrays {sorted(expected)}, got {sorted(values)}")
        for name in expected:
            array = self._schemas[name]
            shape = (rows.stop - rows.start, *array.shape(self.spec)[1:])
            dtype = array.dtype_in(self.spec)
            found = values[name]
            if found.shape != shape or (dtype != "string" and found.dtype != dtype):
                raise ValueError(
                    f"{name}: expected {dtype} {shape}, got {found.dtype} {found.shape}"
                )
        if (values["status"] == PENDING).any():
            raise ValueError("status of a written shape is DONE or SKIPPED")
        labels = values["label"]
        if labels.min() < -1 or labels.max() >= len(self.info.class_names):
            raise ValueError(
                f"labels {labels.min()} to {labels.max()}, {len(self.info.class_names)} class names"
            )

    def _write(self, name: str, rows: slice, values: NDArray[Any]) -> None:
        """Replace one file of a shard, on the disk in case the machine goes down."""
        schema = self._schemas[name]
        key = schema.key(rows.start // self.spec.shard_size)
        self._location.write(key, encode_file(schema, self.spec, values))


def open_writer(
    path: str | Path,
    spec: StoreSpec,
    *,
    view_axes: NDArray[np.float32],
    settings: Mapping[str, Any],
    provenance: Mapping[str, Any],
    class_names: tuple[str, ...],
    part_names: tuple[str, ...] | None = None,
    part: Part | None = None,
) -> StoreWriter:
    """Create a store, or continue one that was made with the same settings.

    Args:
        path: folder or URL of the store; parent folders are made.
        spec: sizes of the store.
        view_axes: (V, 3, 3) float32: row axis, column axis and depth axis of every view.
        settings: plain JSON values that decide the store's contents; a run that continues the
            store must bring equal ones.
        provenance: plain JSON values that are recorded at creation and never compared.
        class_names: what `label` counts.
        part_names: what `parts` counts.
        part: shards to write; processes may write a part each at the same time. None: all.

    Returns:
        A writer that holds the lock of the store or of the part; `pending` lists the shards to
        write, none for a finished store.

    Raises:
        StoreMismatchError: if the store was made with other settings.
        StoreError: if another process writes the store, something else lies there, or the disk
            is full, read-only or not permitted.
    """
    location = Location.of(path)
    wanted = StoreInfo(
        spec=spec,
        settings=json.loads(json.dumps(settings)),  # as a store gives them back
        provenance=json.loads(json.dumps(provenance)),
        class_names=class_names,
        part_names=part_names,
        complete=False,
        counts={},
    )
    if is_created(location):
        found = _continued(location, wanted)
        if found.complete:
            writer = StoreWriter(location, found, part=part)
            if not writer.pending:
                return writer
    with ExitStack() as held:
        with plain_errors(location, "take the lock"):
            lock = held.enter_context(
                whole_store(location) if part is None else lock_of(location, part)
            )
        alone: AbstractContextManager[object] = (
            nullcontext() if part is None else whole_store(location, part)
        )
        with alone, plain_errors(location, "create the store"):
            if not is_created(location):
                create(location, wanted, view_axes)
            if part is None:  # those of other parts may be being written
                _remove_partial_files(location)
            info = _continued(location, wanted)
        return StoreWriter(location, info, lock, part, held.pop_all())


def join_writer(path: str | Path) -> StoreWriter:
    """Write shards of a store whose lock another process holds for this one.

    Args:
        path: folder or URL of a store that `open_writer` has made.

    Raises:
        StoreError: if there is none, or its metadata is damaged.
    """
    location = Location.of(path)
    return StoreWriter(location, load_info(location))


def demand_again(path: str | Path, shards: Iterable[int]) -> None:
    """Mark shards to be written again by the next run: removes their status, under the lock.

    Args:
        path: folder or URL of a store.
        shards: which ones.

    Raises:
        StoreError: if another process writes the store, or it cannot be written.
    """
    location = Location.of(path)
    with whole_store(location), plain_errors(location, "remove the status of damaged shards"):
        for k in shards:
            location.delete(next(array for array in ARRAYS if array.name == "status").key(k))


def rewrite_view_axes(path: str | Path, view_axes: NDArray[np.float32]) -> None:
    """Replace the views of a store; raises as `demand_again`.

    Args:
        path: folder or URL of a store.
        view_axes: (V, 3, 3) float32, see `open_writer`.
    """
    location = Location.of(path)
    with whole_store(location), plain_errors(location, "write view_axes"):
        open_arrays(location, ["view_axes"])["view_axes"][...] = view_axes


def incomplete_shards(location: Location, spec: StoreSpec) -> dict[int, list[str]]:
    """Shards of which files are missing, with the names of their arrays."""
    missing: dict[int, list[str]] = {}
    for name, schema in arrays(spec).items():
        if schema.layout == "store":
            continue
        present = set(location.keys(f"{name}/c/"))
        for k in range(spec.n_shards):
            if schema.key(k) not in present:
                missing.setdefault(k, []).append(name)
    return missing


def _remove_partial_files(location: Location) -> None:
    """Delete the temporary files of a killed run."""
    if location.folder is not None:
        for leftover in location.folder.rglob("*.partial"):
            leftover.unlink()


def _continued(location: Location, wanted: StoreInfo) -> StoreInfo:
    """The recorded metadata, if it is what this run would have recorded."""
    found = load_info(location)
    different = setting_differences(found, wanted)
    if different:
        raise StoreMismatchError(
            f"{location.text} was made with other settings: {told(different, 'the store')}. "
            "Extract into another path, or set these as the store has them."
        )
    return found
