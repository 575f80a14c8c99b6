"""Writing a store shard by shard, so that it can be interrupted and continued at any point."""

from __future__ import annotations

import json
import os
import re
import shutil
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import zarr
from numpy.typing import NDArray

from i2pmae.durable import sync
from i2pmae.errors import StoreError, StoreMismatchError
from i2pmae.progress import warn
from i2pmae.store.location import METADATA, Location, array_of, plain_errors
from i2pmae.store.lock import StoreLock, lock_of
from i2pmae.store.metadata import DIGEST, StoreInfo, digest, load_documents, load_info
from i2pmae.store.quantize import RELATIVE_STEP
from i2pmae.store.schema import ARRAYS, DONE, PENDING, SKIPPED, ArraySchema, StoreSpec, arrays

_WAITS = (2.0, 8.0, 30.0)  # seconds before an object store is asked again
_NOTHING_RECORDED = "nothing"
_METADATA_FILE = re.compile(r"zarr(\.[0-9a-f]+\.partial|\.json)")  # whole, or being written
_UNREADABLE = (ValueError, RuntimeError, OSError)  # what zarr raises for a damaged chunk


class StoreWriter:
    """A store being written; made by `open_writer`.

    A shard counts only once its `status` is written, after everything else of it. Whatever an
    interrupted run left of other shards is overwritten, so a continued store equals an
    uninterrupted one byte for byte.
    """

    def __init__(self, location: Location, info: StoreInfo, lock: StoreLock | None) -> None:
        self.info = info
        self.spec = info.spec
        self._location = location
        self._lock = lock
        self._schemas = arrays(info.spec)
        group = location.group("r+")
        self._arrays = {
            name: array_of(group, name).with_config({"write_empty_chunks": True})
            for name in self._schemas
        }

    @property
    def path(self) -> str:
        """Where the store lies."""
        return self._location.text

    @property
    def n_pending(self) -> int:
        """Shapes of the pending shards."""
        shards = map(self.spec.shard, self.pending)
        return sum(rows.stop - rows.start for rows in shards)

    @cached_property
    def pending(self) -> list[int]:
        """Shards that are not written."""
        return self._pending()

    def refresh(self) -> None:
        """Look anew which shards are there, after other processes have written some.

        A shard counts only with all its files.
        """
        incomplete = incomplete_shards(self._location, self.spec)
        self.pending = sorted({*self._pending(), *incomplete})

    def reopen(self) -> None:
        """Mark a complete store as not complete, for shards of it are written anew."""
        if self.info.complete:
            self._record(replace(self.info, complete=False, counts={}))

    def write_shard(self, k: int, values: Mapping[str, NDArray[Any]]) -> None:
        """Write all arrays of one shard.

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
        if "pending" in vars(self):  # else nobody has asked yet, and who asks later is told
            self.pending = [other for other in self.pending if other != k]

    def require_lock(self) -> None:
        """Make sure that nobody has taken over the store; raises as `StoreLock.require`."""
        if self._lock is not None:
            self._lock.require()

    def _write_files(
        self, k: int, rows: slice, others: list[str], values: Mapping[str, NDArray[Any]]
    ) -> None:
        """Write all arrays of one shard, `status` last."""
        with plain_errors(self._location, f"write shard {k}"):
            self._remove(["status"], k)
            self._remove(others, k)
            with ThreadPoolExecutor(max_workers=4) as pool:
                writes = [pool.submit(self._write, name, rows, values[name]) for name in others]
            for write in writes:
                write.result()
            self._flush(others, k)
            self._write("status", rows, values["status"])
            self._flush(["status"], k)

    def finish(self) -> None:
        """Mark the store complete.

        Raises:
            StoreError: if shards are still pending.
        """
        if self.pending:
            raise StoreError(
                f"{self._location.text} lacks {len(self.pending)} of {self.spec.n_shards} shards. "
                "Run the same command again to write them."
            )
        if not self.info.complete:
            self._record(replace(self.info, complete=True, counts=self._count()))

    def close(self) -> None:
        """Give the lock back."""
        if self._lock is not None:
            self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _pending(self) -> list[int]:
        """Shards whose status is not written, or cannot be read."""
        try:
            shapes = np.flatnonzero(self._status() == PENDING)
        except _UNREADABLE:
            return [k for k in range(self.spec.n_shards) if self._is_pending(k)]
        pending: list[int] = np.unique(shapes // self.spec.shard_size).tolist()
        return pending

    def _is_pending(self, k: int) -> bool:
        try:
            return bool((np.asarray(self._arrays["status"][self.spec.shard(k)]) == PENDING).any())
        except _UNREADABLE:
            return True

    def _status(self) -> NDArray[np.uint8]:
        return np.asarray(self._arrays["status"][...])

    def _count(self) -> dict[str, dict[str, int]]:
        """Shapes done and skipped of every split."""
        status, splits = self._status(), np.asarray(self._arrays["split"][...])
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
            _write_attributes(self._location, info)

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
        self._arrays[name][rows] = values

    def _remove(self, names: list[str], k: int) -> None:
        """Delete what an earlier run left, which zarr would otherwise read and merge."""
        for name in names:
            self._location.delete(self._schemas[name].key(k))

    def _flush(self, names: list[str], k: int) -> None:
        """Have the operating system put a shard's files on the disk, in case it goes down."""
        if self._location.folder is None:
            return
        for name in names:
            file = self._location.folder / self._schemas[name].key(k)
            sync(file)
            sync(file.parent)


def open_writer(
    path: str | Path,
    spec: StoreSpec,
    *,
    view_axes: NDArray[np.float32],
    settings: Mapping[str, Any],
    provenance: Mapping[str, Any],
    class_names: tuple[str, ...],
    part_names: tuple[str, ...] | None = None,
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

    Returns:
        A writer that holds the store's lock; `pending` lists the shards to write, none for a
        finished store.

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
    if _is_created(location):
        found = _continued(location, wanted)
        if found.complete:
            writer = StoreWriter(location, found, None)
            if not writer.pending:
                return writer
    lock = lock_of(location)
    with plain_errors(location, "take the lock"):
        lock.acquire()
    try:
        with plain_errors(location, "create the store"):
            if not _is_created(location):
                _create(location, wanted, view_axes)
            _remove_partial_files(location)
        return StoreWriter(location, _continued(location, wanted), lock)
    except BaseException:
        lock.release()
        raise


def join_writer(path: str | Path) -> StoreWriter:
    """Write shards of a store whose lock another process holds for this one.

    Args:
        path: folder or URL of a store that `open_writer` has made.

    Raises:
        StoreError: if there is none, or its metadata is damaged.
    """
    location = Location.of(path)
    return StoreWriter(location, load_info(location), None)


def demand_again(path: str | Path, shards: Iterable[int]) -> None:
    """Have the next run write shards anew: their status is removed, under the store's lock.

    Args:
        path: folder or URL of a store.
        shards: which ones.

    Raises:
        StoreError: if another process writes the store, or it cannot be written.
    """
    location = Location.of(path)
    with lock_of(location), plain_errors(location, "remove the status of damaged shards"):
        for k in shards:
            location.delete(next(array for array in ARRAYS if array.name == "status").key(k))


def rewrite_view_axes(path: str | Path, view_axes: NDArray[np.float32]) -> None:
    """Replace the views of a store; raises as `demand_again`.

    Args:
        path: folder or URL of a store.
        view_axes: (V, 3, 3) float32, see `open_writer`.
    """
    location = Location.of(path)
    with lock_of(location), plain_errors(location, "write view_axes"):
        array_of(location.group("r+"), "view_axes")[...] = view_axes


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


def _is_created(location: Location) -> bool:
    """Whether a store's creation came to its end; attributes are written last."""
    group = location.metadata()
    return group is not None and bool(group.get("attributes"))


def _create(location: Location, info: StoreInfo, view_axes: NDArray[np.float32]) -> None:
    """Write the metadata, the group's attributes last, and `view_axes`."""
    _refuse_foreign_files(location)
    store = location.zarr_store("w")
    for name, schema in arrays(info.spec).items():
        array = zarr.create_array(
            store,
            name=name,
            shape=schema.shape(info.spec),
            dtype=schema.dtype_in(info.spec),
            chunks=schema.chunks(info.spec),
            shards=schema.shards(info.spec),
            compressors=_compressors(schema),
            fill_value=schema.fill,
            attributes=schema.attributes(),
            dimension_names=schema.dimensions,
            config={"write_empty_chunks": True},
            overwrite=True,
        )
        if name == "view_axes":
            array[...] = view_axes
    _consolidate(location)
    _write_attributes(location, info)


def _compressors(schema: ArraySchema) -> list[dict[str, Any]]:
    codecs = [schema.codec] if schema.codec is not None else []
    return [dict(codec) for codec in (*codecs, {"name": "crc32c"})]


def _refuse_foreign_files(location: Location) -> None:
    """Only an empty folder, or what an interrupted creation left, may become a store."""
    foreign = sorted(name for name in _names(location) if not _is_left_by_creation(name))
    if foreign:
        raise StoreError(
            f"{location.text} is no store that can be continued ({METADATA} is missing or not "
            f"ours) and holds other files ({', '.join(foreign[:5])}). Choose another path, such as "
            f"{location.text.rstrip('/')}/NAME.zarr, or restore its {METADATA} from a copy."
        )
    if location.folder is None:
        location.delete("")  # an empty folder, as consoles make it: zarr would list it for ever
    elif location.folder.exists():
        shutil.rmtree(location.folder)


def _names(location: Location) -> Iterator[str]:
    """All that lies in a store's place: files and links, and folders with a slash at the end."""
    if location.folder is None:
        # An object with a slash at the end stands for a folder.
        yield from (key for key in location.keys("") if not key.endswith("/") and key)
        return
    for at, folders, files in os.walk(location.folder):
        inside = Path(at).relative_to(location.folder)
        links = {name for name in folders if (Path(at) / name).is_symlink()}
        yield from ((inside / name).as_posix() for name in (*files, *links))
        yield from (f"{(inside / name).as_posix()}/" for name in folders if name not in links)


def _is_left_by_creation(name: str) -> bool:
    """Whether `_create` writes this: metadata, perhaps half of it, and the view axes."""
    arrays = {array.name for array in ARRAYS}
    folder, _, file = name.rpartition("/")
    if name.startswith("view_axes/") and (folder != "view_axes" or not file):
        return True
    if not file:
        return folder in arrays
    return folder in {"", *arrays} and bool(_METADATA_FILE.fullmatch(file))


def _consolidate(location: Location) -> None:
    """Copy all metadata into the group's: some readers open faster, ours does not need it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Consolidated metadata", UserWarning)
        zarr.consolidate_metadata(location.zarr_store("r+"), zarr_format=3)


def _write_attributes(location: Location, info: StoreInfo) -> None:
    """Write the group's attributes with their digest, in one go."""
    attributes = info.to_json()
    attributes[DIGEST] = digest(attributes, load_documents(location, arrays(info.spec)))
    store = location.zarr_store("r+")
    group = zarr.open_group(store, mode="r+", zarr_format=3, use_consolidated=True)
    group.attrs.put(attributes)


def _remove_partial_files(location: Location) -> None:
    """Delete the temporary files of a killed run."""
    if location.folder is not None:
        for leftover in location.folder.rglob("*.partial"):
            leftover.unlink()


def _continued(location: Location, wanted: StoreInfo) -> StoreInfo:
    """The recorded metadata, if it is what this run would have recorded."""
    found = load_info(location)
    differences = list(_differences(_compared(found), _compared(wanted)))
    if differences:
        raise StoreMismatchError(
            f"{location.text} was made with other settings: {'; '.join(differences)}. "
            "Extract into another path, or set these as the store has them."
        )
    return found


def _compared(info: StoreInfo) -> dict[str, Any]:
    values = info.to_json()
    settings = dict(values["settings"])
    if info.spec.dtype == "int8":  # the usual step is not recorded
        settings = {"int8_step": RELATIVE_STEP} | settings
    if "weights_sha256" in settings.get("image_model", {}):  # whatever their file is called
        settings["image_model"] = {**settings["image_model"], "pretrained": None}
    values["settings"] = settings
    keys = ("sizes", "settings", "class_names", "part_names")
    return {key: values[key] for key in keys}


def _differences(found: Any, wanted: Any, name: str = "") -> Iterator[str]:
    """One phrase per setting that differs."""
    if isinstance(found, Mapping) and isinstance(wanted, Mapping):
        for key in sorted({*found, *wanted}):
            label = key if name in ("", "sizes", "settings") else f"{name}.{key}"
            yield from _differences(
                found.get(key, _NOTHING_RECORDED), wanted.get(key, _NOTHING_RECORDED), label
            )
    elif found != wanted:
        yield f"{name}: the store has {found}, this run expects {wanted}"
