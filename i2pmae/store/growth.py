"""Room for more shapes in a store that is there, made in one go or not at all."""

from __future__ import annotations

import json
from pathlib import Path

from i2pmae.errors import StoreError
from i2pmae.store.location import METADATA, Location, plain_errors
from i2pmae.store.lock import Part, whole_store
from i2pmae.store.metadata import (
    DIGEST,
    GROWTH,
    StoreInfo,
    digest,
    load_documents,
    load_info,
    setting_differences,
)
from i2pmae.store.schema import ARRAYS, arrays


def grow_store(path: str | Path, wanted: StoreInfo, part: Part | None = None) -> None:
    """Make room for more shapes, behind those that a store holds, which stay as they are.

    Whenever this is interrupted, `finish_growth` brings it to its end.

    Args:
        path: folder or URL of a store.
        wanted: what it is to record, with at least as many shapes as before.
        part: that this process is going to write; another part may have done this already.

    Raises:
        StoreError: if another process writes the store, or it cannot be written.
    """
    location = Location.of(path)
    with whole_store(location, part), plain_errors(location, "make room for more shapes"):
        if not setting_differences(load_info(location), wanted):
            return
        documents = load_documents(location, arrays(wanted.spec))
        for name, array in arrays(wanted.spec).items():
            documents[name]["shape"] = list(array.shape(wanted.spec))
        attributes = json.loads(json.dumps(wanted.to_json()))
        attributes[DIGEST] = digest(attributes, documents)
        content = {"attributes": attributes, "documents": documents}
        location.write(GROWTH, json.dumps(content).encode())
        _apply_growth(location)


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
