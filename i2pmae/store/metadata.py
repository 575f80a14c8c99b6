"""What a store says about itself: attributes, checked against the arrays' own metadata."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from i2pmae.errors import StoreError
from i2pmae.store.location import Location
from i2pmae.store.schema import SCHEMA_VERSION, ArraySchema, StoreSpec, arrays

DIGEST = "metadata_sha256"


@dataclass(frozen=True)
class StoreInfo:
    """Everything a store records besides its arrays."""

    spec: StoreSpec
    settings: dict[str, Any]  # what another run must share to continue the store
    provenance: dict[str, Any]  # what is recorded and never compared
    class_names: tuple[str, ...]
    part_names: tuple[str, ...] | None
    complete: bool
    counts: dict[str, dict[str, int]]  # of a complete store: per split, `done` and `skipped`

    def to_json(self) -> dict[str, Any]:
        """The attributes of the Zarr group, without their digest."""
        return {
            "title": "I2P-MAE features",
            "schema_version": SCHEMA_VERSION,
            "complete": self.complete,
            "counts": self.counts,
            "sizes": self.spec.to_json(),
            "settings": self.settings,
            "provenance": self.provenance,
            "class_names": list(self.class_names),
            "part_names": None if self.part_names is None else list(self.part_names),
        }


def digest(attributes: Mapping[str, Any], documents: Mapping[str, Any]) -> str:
    """Checksum of the group's attributes (less itself) and of every array's metadata."""
    covered = {key: value for key, value in attributes.items() if key != DIGEST}
    content = json.dumps([covered, documents], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()


def load_info(location: Location) -> StoreInfo:
    """Read and check the metadata of a store, finished or not.

    Raises:
        StoreError: if there is no store, or its metadata is missing, damaged or of another
            version.
    """
    group = location.metadata()
    if group is None:
        found = "has no zarr.json, so it is not a store" if location.exists() else "does not exist"
        raise StoreError(
            f"{location.text} {found}. Make one with `i2pmae extract-2d DATA --cache "
            f"{location.text}`."
        )
    attributes = group.get("attributes")
    if not isinstance(attributes, Mapping) or "schema_version" not in attributes:
        raise StoreError(
            f"{location.text} is a Zarr hierarchy but not a store of i2pmae, or its creation was "
            "interrupted. Run the same `i2pmae extract-2d` command again, or choose another path."
        )
    if attributes["schema_version"] != SCHEMA_VERSION:
        raise StoreError(
            f"{location.text} has schema version {attributes['schema_version']}; this i2pmae "
            f"reads version {SCHEMA_VERSION}. Extract it again, or install the i2pmae that made it."
        )
    try:
        spec = StoreSpec.from_json(attributes["sizes"])
        part_names = attributes["part_names"]
        info = StoreInfo(
            spec=spec,
            settings=dict(attributes["settings"]),
            provenance=dict(attributes["provenance"]),
            class_names=tuple(map(str, attributes["class_names"])),
            part_names=None if part_names is None else tuple(map(str, part_names)),
            complete=attributes["complete"] is True,
            counts={split: dict(found) for split, found in attributes["counts"].items()},
        )
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise _damaged(location, f"attributes cannot be understood: {error!r}") from error
    documents = load_documents(location, arrays(spec))
    for name, array in arrays(spec).items():
        _check_array(location, array, documents[name], spec)
    if attributes.get(DIGEST) != digest(attributes, documents):
        raise _damaged(location, "its checksum does not match")
    return info


def load_documents(location: Location, names: Mapping[str, Any]) -> dict[str, Any]:
    """The metadata document of every array.

    Raises:
        StoreError: if one is missing or damaged.
    """
    documents = {name: location.metadata(name) for name in names}
    missing = [name for name, document in documents.items() if document is None]
    if missing:
        raise _damaged(location, f"no zarr.json for {', '.join(missing)}")
    return documents


def _check_array(
    location: Location, array: ArraySchema, document: Mapping[str, Any], spec: StoreSpec
) -> None:
    """Refuse an array that the schema would not have written."""
    expected = {
        "shape": list(array.shape(spec)),
        "data_type": array.dtype_in(spec),
        "dimension_names": list(array.dimensions),
        "chunk_grid": {
            "name": "regular",
            "configuration": {"chunk_shape": list(array.shards(spec) or array.chunks(spec))},
        },
    }
    for key, value in expected.items():
        if document.get(key) != value:
            raise _damaged(
                location, f"{key} of {array.name} is {document.get(key)}, expected {value}"
            )


def _damaged(location: Location, what: str) -> StoreError:
    return StoreError(
        f"{location.text}: the metadata is damaged ({what}). Restore the zarr.json files from a "
        "copy, or extract into another folder."
    )
