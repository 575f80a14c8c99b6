"""Looking into a store: lazy dask arrays by name, and a description in plain values."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import zarr
from numpy.typing import NDArray

from i2pmae.errors import StoreError
from i2pmae.store.location import Location, array_of, plain_errors, resolve_store
from i2pmae.store.metadata import StoreInfo, load_info
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
        self.info = load_info(location)
        self._schemas = arrays(self.info.spec)
        with plain_errors(location, "open the arrays"):
            group = location.group("r")
        self._stored = {
            name: _Stored(location, self.info, schema, array_of(group, name))
            for name, schema in self._schemas.items()
        }

    def __getitem__(self, name: str) -> da.Array:
        values: Any = self.raw(name)  # dask's arithmetic is untyped
        if name == "depth":
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

    @property
    def attrs(self) -> dict[str, Any]:
        """The attributes of the store."""
        return self.info.to_json()

    @property
    def class_names(self) -> tuple[str, ...]:
        """What `label` counts."""
        return self.info.class_names


class _Stored:
    """A Zarr array that fails where the data of a finished shard is missing or damaged."""

    def __init__(
        self, location: Location, info: StoreInfo, schema: ArraySchema, array: zarr.Array[Any]
    ) -> None:
        self.shape = array.shape
        self.ndim = array.ndim
        self.dtype = array.dtype
        self.meta = np.empty((0,) * array.ndim, array.dtype)
        self.rows = schema.shards(info.spec) or schema.chunks(info.spec)
        self.array = array
        self._location = location
        self._info = info
        self._schema = schema

    def __getitem__(self, selection: Any) -> NDArray[Any]:
        first = selection[0] if isinstance(selection, tuple) else selection
        for k in self._touched(first):
            self._require(k)
        try:
            return np.asarray(self.array[selection])
        except (ValueError, RuntimeError, OSError) as error:
            raise self._damaged(str(error)) from error

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
            return int(self.array.nbytes_stored())
        walked = os.walk(folder / self._schema.name)
        return sum(
            os.stat(os.path.join(at, file)).st_size for at, _, files in walked for file in files
        )

    def _touched(self, first: Any) -> Iterable[int]:
        """Shards that a selection of shapes reads."""
        if isinstance(first, slice):
            chosen = range(self.shape[0])[first]
            low, high = (min(chosen), max(chosen)) if chosen else (0, -1)
            return range(low // self.rows[0], high // self.rows[0] + 1)
        shards: list[int] = np.unique(np.arange(self.shape[0])[first] // self.rows[0]).tolist()
        return shards

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


def describe(path: str | Path) -> dict[str, Any]:
    """What a store holds, as plain values.

    Args:
        path: a store, or a folder that holds exactly one; it need not be finished.

    Returns:
        `path`, `complete`, `shapes` (counts of `done`, `skipped`, `pending`), `arrays` (per name
        `dimensions`, `shape`, `dtype`, `chunks`, `shards`, `stored_bytes`, `dense_bytes`),
        `stored_bytes`, `dense_bytes`, `classes` (per split the count of each class) and `attrs`.

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


def _describe_array(cache: Cache, schema: ArraySchema) -> dict[str, Any]:
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
