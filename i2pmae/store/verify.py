"""Reading a whole store to find what is missing, damaged or does not fit together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from i2pmae.errors import StoreError
from i2pmae.store.location import Location
from i2pmae.store.metadata import StoreInfo
from i2pmae.store.reader import StoreReader
from i2pmae.store.schema import DONE, PENDING, SKIPPED, arrays
from i2pmae.store.writer import incomplete_shards

_SPLITS = ("train", "val", "test", "")
_POSITIVE = ("feature_scale", "pixel_size")


@dataclass(frozen=True)
class Finding:
    """Something wrong with a store.

    `array` is empty where it is about the whole store; `shard` is None where writing one shard
    anew would not mend it.
    """

    array: str
    shard: int | None
    what: str

    def __str__(self) -> str:
        where = [self.array] * bool(self.array)
        where += [] if self.shard is None else [f"shard {self.shard}"]
        return f"{', '.join(where) or 'store'}: {self.what}"


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
    reader = StoreReader(path, unfinished=True)
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
        found.append(Finding("", None, f"holds {counted}, its metadata say {recorded}"))
    if not info.complete:
        n_missing = sum("status" in names for names in missing.values())
        found.append(Finding("", None, f"{n_missing} of {info.spec.n_shards} shards are missing"))
    return info, found


def _check_view_axes(reader: StoreReader) -> list[Finding]:
    try:
        finite = np.isfinite(reader.view_axes).all()
    except StoreError as error:
        return [Finding("view_axes", None, str(error))]
    return [] if finite else [Finding("view_axes", None, "holds values that are not finite")]


def _check_shard(
    reader: StoreReader, k: int, missing: list[str]
) -> tuple[list[Finding], dict[str, NDArray[Any]]]:
    """What is wrong with one shard, and its small arrays as far as they can be read."""
    found: list[Finding] = []
    kept: dict[str, NDArray[Any]] = {}
    for name, schema in arrays(reader.info.spec).items():
        if schema.layout == "store":
            continue
        if name in missing:
            found.append(Finding(name, k, "its file is missing"))
            continue
        try:
            values = reader.read_shard(k, name)
        except StoreError as error:
            found.append(Finding(name, k, str(error)))
            continue
        what = _wrong_values(name, values, reader.info)
        if what:
            found.append(Finding(name, k, what))
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
    return [Finding("id", k, f"{name!r} is the name of two shapes") for name in twice]
