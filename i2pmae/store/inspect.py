"""Looking into a store: lazy dask arrays by name, and a description in plain values."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypedDict

import dask.array as da
import numpy as np
from numpy.typing import NDArray

from i2pmae.errors import StoreError
from i2pmae.store.location import Location, resolve_store
from i2pmae.store.reader import StoreReader
from i2pmae.store.schema import DONE, PENDING, SKIPPED, ArraySchema, arrays

_AT_ONCE = 8  # shards that are read at the same time, from an object store mostly waited for


class Cache(Mapping[str, da.Array]):
    """The arrays of a store by name, lazy, in the units of the model.

    `features` are float32 values whatever the store holds, `depth` is in [0, 1]; `raw` gives any
    array as stored. Shapes not yet extracted read as the schema's fill value.

    Attributes:
        path: where the store lies.
        info: what the store records about itself.
    """

    def __init__(self, path: str | Path) -> None:
        """Open a store, finished or not.

        Raises:
            StoreError: if there is none, or its metadata is damaged.
        """
        self.path = resolve_store(path)
        location = Location.of(self.path)
        reader = StoreReader(self.path, resident_bytes=0, unfinished=True, fill_missing=True)
        self.info = reader.info
        self._reader = reader
        self._schemas = arrays(self.info.spec)
        self._stored = {
            name: _Stored(location, reader, schema) for name, schema in self._schemas.items()
        }

    def __repr__(self) -> str:
        spec = self.info.spec
        arrays = "\n".join(f"  {name}: {array.dtype} {array.shape}" for name, array in self.items())
        state = "" if self.info.complete else ", not finished"
        return (
            f"Cache({str(self.path)!r}: {spec.n_shapes:,} shapes of {spec.n_points} points, "
            f"{len(self.class_names)} classes{state})\n{arrays}"
        )

    def __getitem__(self, name: str) -> da.Array:
        values: Any = self.raw(name)  # dask's arithmetic is untyped
        if name in ("depth", "normals"):
            values = values.astype(np.float32) / np.float32(255)
        elif name == "features":
            values = values.astype(np.float32)
            if "feature_scale" in self._schemas:
                values = values * self.raw("feature_scale")[:, None, None, None, :]
        decoded: da.Array = values
        return decoded

    def __iter__(self) -> Iterator[str]:
        return iter(self._schemas)

    def __len__(self) -> int:
        return len(self._schemas)

    def raw(self, name: str) -> da.Array:
        """An array as stored; one dask chunk per shard.

        Raises:
            KeyError: if the store has no such array.
        """
        stored = self._stored[name]
        from_array: Any = da.from_array
        lazy: da.Array = from_array(
            stored, chunks=stored.rows, name=False, asarray=False, meta=stored.meta
        )
        return lazy

    def point_features(self, index: int) -> NDArray[np.float32]:
        """What the 2D model sees at every point of a shape, view by view.

        Args:
            index: of the shape.

        Returns:
            (V, N, C) float32, bicubic from the feature maps as pre-training reads them;
            `mean(axis=0)` is one feature per point; in a store with `visible` take the mean over
            the views that see the point.

        Raises:
            StoreError: if the shape was skipped or is not yet extracted, or its data is damaged.
            IndexError: if there is no such shape.
        """
        import torch

        from i2pmae.store.point_features import point_features

        if not 0 <= index < self.info.spec.n_shapes:
            raise IndexError(f"shape {index} of {self.info.spec.n_shapes}")
        status = int(self._stored["status"][index])
        if status != DONE:
            what = "was skipped" if status == SKIPPED else "is not yet extracted"
            raise StoreError(f"{Location.of(self.path).text}: shape {index} {what}.")
        names = self._reader.step_arrays
        batch = {n: torch.from_numpy(self._stored[n][index : index + 1]) for n in names}
        axes = torch.from_numpy(self._reader.view_axes)
        found: NDArray[np.float32] = point_features(batch, axes, self._reader.image_size)[0].numpy()
        return found

    @property
    def attrs(self) -> dict[str, Any]:
        """The attributes of the store."""
        return self.info.to_json()

    @property
    def class_names(self) -> tuple[str, ...]:
        """What `label` counts."""
        return self.info.class_names


class _Stored:
    """An array for dask that fails where the data of a finished shard is missing or damaged."""

    def __init__(self, location: Location, reader: StoreReader, schema: ArraySchema) -> None:
        spec = reader.info.spec
        is_text = schema.dtype == "string"
        self.shape = schema.shape(spec)
        self.ndim = len(self.shape)
        self.dtype = np.dtypes.StringDType() if is_text else np.dtype(schema.dtype_in(spec))
        self.meta = np.empty((0,) * self.ndim, self.dtype)
        self.rows = schema.shards(spec) or schema.chunks(spec)
        self._location = location
        self._reader = reader
        self._info = reader.info
        self._schema = schema

    def __getitem__(self, selection: Any) -> NDArray[Any]:
        first, *others = selection if isinstance(selection, tuple) else (selection,)
        shapes = range(self.shape[0])  # a damaged store may say that there are any number
        if isinstance(first, slice):
            chosen = np.asarray(shapes[first])
        elif isinstance(first, int | np.integer):
            chosen = np.asarray(shapes[int(first)])
        else:
            chosen = np.arange(self.shape[0])[first]
        indices = np.atleast_1d(chosen)
        shards = np.unique(indices // self.rows[0])
        for k in shards.tolist():
            self._require(k)
        if self._schema.dtype == "string":
            read = [self._reader.read_shard(k, self._schema.name) for k in shards.tolist()]
            found = np.concatenate([self.meta, *read])
            places = np.searchsorted(shards, indices // self.rows[0]) * self.rows[0]
            values = found[places + indices % self.rows[0]]
        else:
            values = self._reader.read(indices, [self._schema.name])[self._schema.name]
        selected: NDArray[Any] = values[(slice(None) if chosen.ndim else 0, *others)]
        return selected

    def of_shards(self, shards: Sequence[int]) -> NDArray[Any]:
        """Rows of some shards, one after another."""
        size = self.rows[0]
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            read = pool.map(lambda k: self[k * size : (k + 1) * size], shards)
            return np.concatenate([self.meta, *read])

    def present(self) -> list[int]:
        """Shards whose file is there.

        Raises:
            StoreError: if the store says that it is complete, and files are missing.
        """
        found = {key.rpartition("/")[2] for key in self._location.keys(f"{self._schema.name}/c/")}
        n_shards = self._info.spec.n_shards
        numbers = sorted(int(name) for name in found if name.isdecimal())
        present = [k for k in numbers if k < n_shards]
        if self._info.complete and len(present) < n_shards:
            raise self._damaged(f"{n_shards - len(present)} of {n_shards} files are missing")
        return present

    def stored_bytes(self) -> int:
        """Size of all files of the array."""
        folder = self._location.folder
        if folder is None:
            return int(self._location.files().du(f"{self._location.text}/{self._schema.name}"))
        walked = os.walk(folder / self._schema.name)
        return sum(
            os.stat(os.path.join(at, file)).st_size for at, _, files in walked for file in files
        )

    def _require(self, k: int) -> None:
        """Zarr reads a file that is not there as fill values; here only pending shards may."""
        status = arrays(self._info.spec)["status"]
        finished = self._info.complete or self._location.has(status.key(k))
        if finished and not self._location.has(self._schema.key(k)):
            raise self._damaged(f"{self._schema.key(k)} is missing")

    def _damaged(self, what: str) -> StoreError:
        return StoreError(f"{self._location.text}: {self._schema.name} is damaged ({what}).")


def open_cache(path: str | Path) -> Cache:
    """Open a store for inspection: `open_cache(path)['features']` is a lazy dask array.

    Args:
        path: a store, or a folder that holds exactly one.

    Raises:
        StoreError: if there is no readable store.
    """
    return Cache(path)


class StoredArray(TypedDict):
    """One array of a store."""

    dimensions: list[str]
    shape: list[int]
    dtype: str
    chunks: list[int]
    shards: list[int] | None
    stored_bytes: int
    dense_bytes: int


class Description(TypedDict):
    """What a store holds."""

    path: str
    complete: bool
    shapes: dict[str, int]  # `done`, `skipped`, `pending`
    arrays: dict[str, StoredArray]
    stored_bytes: int
    dense_bytes: int
    classes: dict[str, dict[str, int]]  # per split the count of each class
    attrs: dict[str, Any]


def describe(path: str | Path) -> Description:
    """What a store holds, as plain values.

    Args:
        path: a store, or a folder that holds exactly one; it need not be finished.

    Returns:
        See `Description`.

    Raises:
        StoreError: if there is no readable store.
    """
    cache = Cache(path)
    spec = cache.info.spec
    # Only what is there is looked at: a damaged store may say that it holds any number of shapes.
    shards = cache._stored["status"].present()
    status = cache._stored["status"].of_shards(shards)
    listed = {name: _describe_array(cache, array) for name, array in arrays(spec).items()}
    return {
        "path": Location.of(cache.path).text,
        "complete": cache.info.complete,
        "shapes": {
            "done": int((status == DONE).sum()),
            "skipped": int((status == SKIPPED).sum()),
            "pending": spec.n_shapes - int((status != PENDING).sum()),
        },
        "arrays": listed,
        "stored_bytes": sum(array["stored_bytes"] for array in listed.values()),
        "dense_bytes": sum(array["dense_bytes"] for array in listed.values()),
        "classes": _count_classes(cache, shards, status == DONE),
        "attrs": cache.attrs,
    }


def _describe_array(cache: Cache, schema: ArraySchema) -> StoredArray:
    spec = cache.info.spec
    stored = cache._stored[schema.name]
    return {
        "dimensions": list(schema.dimensions),
        "shape": list(stored.shape),
        "dtype": schema.dtype_in(spec),
        "chunks": list(schema.chunks(spec)),
        "shards": None if schema.shards(spec) is None else list(stored.rows),
        "stored_bytes": stored.stored_bytes(),
        "dense_bytes": math.prod(stored.shape) * stored.dtype.itemsize,
    }


def _count_classes(
    cache: Cache, shards: Sequence[int], done: NDArray[np.bool_]
) -> dict[str, dict[str, int]]:
    names = dict(enumerate((*cache.class_names, "unknown")))
    counts: dict[str, Counter[int]] = {}
    splits, labels = (cache._stored[name].of_shards(shards)[done] for name in ("split", "label"))
    for split, label in zip(splits.tolist(), labels.tolist(), strict=True):
        counts.setdefault(split or "none", Counter())[label % len(names)] += 1  # -1 is last
    return {
        split: {names[label]: counter[label] for label in sorted(counter)}
        for split, counter in counts.items()
    }
