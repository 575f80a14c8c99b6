"""A store that is there gets room for more shapes, and what is now said of those it holds."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from i2pmae.errors import StoreError
from i2pmae.store.creation import write_attributes
from i2pmae.store.location import METADATA, Location, plain_errors
from i2pmae.store.lock import Part, require_no_part, whole_store
from i2pmae.store.metadata import (
    DIGEST,
    GROWTH,
    StoreInfo,
    digest,
    load_documents,
    load_info,
    setting_differences,
)
from i2pmae.store.reader import StoreReader
from i2pmae.store.schema import ARRAYS, PENDING, arrays
from i2pmae.store.shard_files import encode_file


def _relabeled(
    path: str | Path, labels: Sequence[int], splits: Sequence[str]
) -> NDArray[np.integer[Any]]:
    """Numbers (n,) of the shapes that a store holds with another label or split, ascending."""
    reader = StoreReader(path, unfinished=True, fill_missing=True)
    held = reader.read_all("status") != PENDING
    differ = [
        reader.read_all(name) != np.array(told[: len(held)], dtype)
        for name, told, dtype in _told(labels, splits)
    ]
    return np.flatnonzero(held & np.logical_or(*differ))


def grow_store(
    path: str | Path,
    wanted: StoreInfo,
    labels: Sequence[int],
    splits: Sequence[str],
    part: Part | None = None,
) -> None:
    """Make room for more shapes, behind those that a store holds, and write what is said of them.

    Nothing but labels and splits changes of what it holds. A store is not complete while they are
    written; if that is interrupted, it still records what it was made of, and the same call
    finishes. Whenever the rest is interrupted, `finish_growth` brings it to its end.

    Args:
        path: folder or URL of a store.
        wanted: what it is to record, with at least as many shapes as before.
        labels: of all shapes.
        splits: likewise.
        part: that this process is going to write; another part may have done this already.

    Raises:
        StoreError: if another process writes the store, or it cannot be written.
    """
    location = Location.of(path)
    with whole_store(location, part), plain_errors(location, "make room for more shapes"):
        found, changed = load_info(location), _relabeled(path, labels, splits)
        if len(changed):
            require_no_part(location)  # it was told otherwise
            write_attributes(location, replace(found, complete=False, counts={}))
            for k in np.unique(changed // found.spec.shard_size).tolist():
                for name, told, dtype in _told(labels, splits):
                    array, rows = arrays(found.spec)[name], found.spec.shard(k)
                    values = np.array(told[rows], dtype)
                    location.write(array.key(k), encode_file(array, found.spec, values))
        elif not setting_differences(found, wanted):
            return
        documents = load_documents(location, arrays(wanted.spec))
        for name, array in arrays(wanted.spec).items():
            documents[name]["shape"] = list(array.shape(wanted.spec))
        attributes = json.loads(json.dumps(wanted.to_json()))
        attributes[DIGEST] = digest(attributes, documents)
        content = {"attributes": attributes, "documents": documents}
        location.write(GROWTH, json.dumps(content).encode())
        _apply_growth(location)


def _told(labels: Sequence[int], splits: Sequence[str]) -> tuple[tuple[str, Any, Any], ...]:
    """What is said of shapes: name of the array, values and their type in memory."""
    return ("label", labels, np.int64), ("split", splits, np.dtypes.StringDType())


def finish_growth(path: str | Path, part: Part | None = None) -> None:
    """Bring an interrupted `grow_store` to its end; raises as that."""
    location = Location.of(path)
    if location.has(GROWTH):
        with whole_store(location, part), plain_errors(location, "make room for more shapes"):
            if location.has(GROWTH):
                _apply_growth(location)


def _apply_growth(location: Location) -> None:
    """Write the metadata that are said to come, and remove what says so."""
    try:
        content = json.loads(location.read(GROWTH) or b"{}")
        attributes, documents = content["attributes"], content["documents"]
        files = {
            name: documents[name] for name in sorted({a.name for a in ARRAYS} & set(documents))
        }
        group = location.metadata() or {}
        group["attributes"] = attributes
        group["consolidated_metadata"]["metadata"] |= files
    except (ValueError, LookupError, TypeError) as error:
        raise StoreError(f"{location.text}: {GROWTH} is damaged ({error!r})") from error
    for name, document in files.items():
        location.write(f"{name}/{METADATA}", json.dumps(document, indent=2).encode())
    location.write(METADATA, json.dumps(group, indent=2).encode())
    location.delete(GROWTH)
