"""Read a whole store to find what is missing, damaged or inconsistent."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from i2pmae.errors import StoreDamageError, StoreError
from i2pmae.store.location import Location
from i2pmae.store.metadata import StoreInfo, load_info
from i2pmae.store.reader import StoreReader
from i2pmae.store.schema import DONE, PENDING, SKIPPED, arrays
from i2pmae.store.writer import incomplete_shards

_SPLITS = ("train", "val", "test", "")
_POSITIVE = ("feature_scale", "pixel_size")


@dataclass(frozen=True)
class Finding:
    """Something wrong with a store.

    Attributes:
        array: empty where it is about the whole store.
        shard: None where it is not about one of them.
        what: one sentence.
        kind: `damaged`: proven by a checksum, a size or a missing file, and repaired by writing
            the shard again; `unreadable`: the system did not let it be read, which says nothing
            about the store; `values`: read well, and not what an extraction writes;
            `unfinished`: not yet extracted.
    """

    array: str
    shard: int | None
    what: str
    kind: Literal["damaged", "unreadable", "values", "unfinished"] = "damaged"

    def __str__(self) -> str:
        where = [self.array] * bool(self.array)
        where += [] if self.shard is None else [f"shard {self.shard}"]
        return f"{', '.join(where) or 'store'}: {self.what}"

    @classmethod
    def of(cls, array: str, shard: int | None, error: StoreError) -> Finding:
        """What an error while reading says."""
        is_proven = isinstance(error, StoreDamageError)
        return cls(array, shard, str(error), "damaged" if is_proven else "unreadable")


def check_store(
    path: str | Path, advance: Callable[[int], object] | None = None
) -> tuple[StoreInfo, list[Finding]]:
    """Read all of a store, finished or not.

    Every chunk's checksum is compared, every file must be there, every number be finite and in
    its range, and the counts be those that the store records.

    Args:
        path: folder or URL.
        advance: called with 1 after each shard.

    Returns:
        What the store records about itself, and what is wrong, shard by shard.

    Raises:
        StoreError: if there is no store, or its metadata is damaged.
    """
    # Of a store that grows, the last shard is there in part.
    is_complete = load_info(Location.of(path)).complete
    reader = StoreReader(path, unfinished=True, fill_missing=not is_complete)
    info = reader.info
    found = _check_view_axes(reader)
    missing = incomplete_shards(Location.of(path), info.spec)
    counts: dict[str, Counter[str]] = {}
    ids: set[str] = set()
    for k in range(info.spec.n_shards):
        if "status" in missing.get(k, ()):
            if info.complete:
                found.append(Finding("status", k, "its file is missing"))
        else:
            of_shard, values = _check_shard(reader, k, missing.get(k, []))
            found += of_shard
            found += _count(values, k, ids, counts)
        if advance is not None:
            advance(1)
    recorded = {split: dict(of_split) for split, of_split in info.counts.items()}
    counted = {
        split: {"done": of_split["done"], "skipped": of_split["skipped"]}
        for split, of_split in counts.items()
    }
    if info.complete and not found and counted != recorded:
        what = f"holds {counted}, its metadata say {recorded}"
        found.append(Finding("", None, what, "values"))
    if not info.complete:
        n_missing = sum("status" in names for names in missing.values())
        what = f"{n_missing} of {info.spec.n_shards} shards are missing"
        found.append(Finding("", None, what, "unfinished"))
    if found:
        load_info(Location.of(path))  # files of a store that has gone away are not damaged
    return info, found


def confirmed(path: str | Path, found: Iterable[Finding]) -> list[Finding]:
    """Those findings of damage that a second reading of their shards shows again.

    Args:
        path: folder or URL of the store.
        found: what `check_store` found.

    Raises:
        StoreError: as `check_store`.
    """
    damaged = [finding for finding in found if finding.kind == "damaged"]
    if not damaged:
        return []
    reader = StoreReader(path, unfinished=True)
    missing = incomplete_shards(Location.of(path), reader.info.spec)
    again = _check_view_axes(reader)
    for k in sorted({finding.shard for finding in damaged if finding.shard is not None}):
        again += _check_shard(reader, k, missing.get(k, []))[0]
    return [finding for finding in again if finding.kind == "damaged"]


def _check_view_axes(reader: StoreReader) -> list[Finding]:
    try:
        finite = np.isfinite(reader.view_axes).all()
    except StoreError as error:
        return [Finding.of("view_axes", None, error)]
    what = "holds values that are not finite"
    return [] if finite else [Finding("view_axes", None, what, "values")]


def _check_shard(
    reader: StoreReader, k: int, missing: list[str]
) -> tuple[list[Finding], dict[str, NDArray[Any]]]:
    """What is wrong with one shard, and its small arrays as far as they can be read."""
    found: list[Finding] = []
    kept: dict[str, NDArray[Any]] = {}
    n_rows = None
    if not reader.info.complete:
        with suppress(StoreError):  # said below
            n_rows = int(np.count_nonzero(reader.read_shard(k, "status") != PENDING))
    for name, schema in arrays(reader.info.spec).items():
        if schema.layout == "store":
            continue
        if name in missing:
            found.append(Finding(name, k, "its file is missing"))
            continue
        try:
            values = reader.read_shard(k, name)[:n_rows]
        except StoreError as error:
            found.append(Finding.of(name, k, error))
            continue
        what = _wrong_values(name, values, reader.info) if len(values) else ""
        if what:
            found.append(Finding(name, k, what, "values"))
        if schema.layout == "shard":
            kept[name] = values
    return found, kept


def _wrong_values(name: str, values: NDArray[Any], info: StoreInfo) -> str:
    """What no extraction would have written."""
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        return f"holds {int((~np.isfinite(values)).sum())} values that are not finite"
    if name in _POSITIVE and (values < 0).any():
        return "holds negative values"
    if name == "status" and not np.isin(values, (DONE, SKIPPED)).all():
        return f"holds {sorted(set(values.tolist()))}, expected {DONE} or {SKIPPED}"
    if name == "label" and (values.min() < -1 or values.max() >= len(info.class_names)):
        return f"holds {values.min()} to {values.max()}, {len(info.class_names)} class names"
    if name == "parts" and info.part_names is not None and values.max() >= len(info.part_names):
        return f"holds part {values.max()}, {len(info.part_names)} part names"
    if name == "split" and not set(values.tolist()) <= {*_SPLITS}:
        return f"holds {sorted(set(values.tolist()))}, expected some of {_SPLITS}"
    return ""


def _count(
    values: dict[str, NDArray[Any]], k: int, ids: set[str], counts: dict[str, Counter[str]]
) -> list[Finding]:
    """Add a shard's shapes to the counts; says which ids were there before."""
    if {"status", "split", "id"} - values.keys():
        return []
    names = {DONE: "done", SKIPPED: "skipped", PENDING: "pending"}
    for status, split in zip(values["status"].tolist(), values["split"].tolist(), strict=True):
        counts.setdefault(split, Counter())[names.get(status, "unknown")] += 1
    found = values["id"].tolist()
    twice = [name for name, times in Counter(found).items() if times > 1 or name in ids]
    ids.update(found)
    return [Finding("id", k, f"{name!r} is the name of two shapes", "values") for name in twice]
