"""What a store says about itself: attributes, checked against the arrays' own metadata."""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from i2pmae.config import with_new_names
from i2pmae.errors import StoreError
from i2pmae.settings import Difference, differences
from i2pmae.store.location import Location
from i2pmae.store.quantize import RELATIVE_STEP
from i2pmae.store.schema import SCHEMA_VERSION, ArraySchema, StoreSpec, arrays

DIGEST = "metadata_sha256"
GROWTH = "growth.json"  # new metadata of a store that is about to grow


@dataclass(frozen=True)
class StoreInfo:
    """Everything a store records besides its arrays."""

    spec: StoreSpec
    settings: dict[str, Any]  # what another run must share to continue the store
    provenance: dict[str, Any]  # what is recorded and never compared
    class_names: tuple[str, ...]
    part_names: tuple[str, ...] | None
    complete: bool = False
    counts: dict[str, dict[str, int]] = field(default_factory=dict)
    # of a complete store: per split, `done` and `skipped`

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

    def recorded(self, key: str) -> Any:
        """A value of the settings or the provenance; `image_model.name` is one of a table.

        Raises:
            StoreError: if the store does not record it.
        """
        found: Any = {**self.provenance, **self.settings}
        for part in key.split("."):
            if not isinstance(found, Mapping) or part not in found:
                raise StoreError(
                    f"the store does not record its {key}: it was not written by extract-2d. "
                    "Extract the data set into another store."
                )
            found = found[part]
        return found


def setting_differences(found: StoreInfo, wanted: StoreInfo) -> dict[str, Difference]:
    """Settings in which a store and a command that would continue it differ."""
    return differences(_compared(found), _compared(wanted))


def _compared(info: StoreInfo) -> dict[str, Any]:
    """What decides a store's contents, as plain values."""
    values = json.loads(json.dumps(info.to_json()))
    settings = with_new_names(values["settings"])
    if info.spec.dtype == "int8":  # the usual step is not recorded
        settings = {"int8_step": RELATIVE_STEP} | settings
    if "weights_sha256" in settings.get("image_model", {}):  # whatever their file is called
        settings["image_model"]["pretrained"] = None
    names = {key: values[key] for key in ("class_names", "part_names")}
    return {**values["sizes"], **settings, **names}


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
            f"{shlex.quote(location.text)}`."
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
        _check_types(info, attributes)
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise _damaged(location, f"attributes cannot be understood: {error!r}") from error
    documents = load_documents(location, arrays(spec))
    for name, array in arrays(spec).items():
        _check_array(location, array, documents[name], spec)
    if attributes.get(DIGEST) != digest(attributes, documents):
        raise _damaged(location, "its checksum does not match")
    return info


# What `extract-2d` records and a stage uses, with the type of each; a store may lack any.
_TYPES: dict[str, type | tuple[type, ...]] = {
    "layout": str,
    "source_fingerprint": str,
    "image_model": Mapping,
    "image_model.name": str,
    "image_model.pretrained": str,
    "image_model.image_size": int,
    "image_model.weights_sha256": str,
    "image_model.precision": str,
    "image_model.block": int,
    "source": str,
    "source_times": str,
    "grown": list,
    "weights": str,
    "config": Mapping,
    "finetune_recipe": str,
    "recipe": str,
}


def _check_types(info: StoreInfo, attributes: Mapping[str, Any]) -> None:
    """Refuse values of another kind than a store is written with.

    Raises:
        ValueError: at the first of them.
    """
    for key, expected in _TYPES.items():
        try:
            found = info.recorded(key)
        except StoreError:
            continue
        if not isinstance(found, expected):
            raise ValueError(f"{key} is {found!r:.80}")
    names = [attributes["class_names"], attributes["part_names"] or []]
    if not all(isinstance(listed, list) for listed in names):
        raise ValueError("class_names and part_names must be lists")
    for split, counts in info.counts.items():
        if counts.keys() != {"done", "skipped"} or any(type(n) is not int for n in counts.values()):
            raise ValueError(f"counts of split {split!r} are {counts!r:.80}")
    parts = set(range(len(info.part_names or ())))
    for of_class in info.provenance.get("class_parts") or []:
        if not parts.issuperset(of_class):
            raise ValueError(f"class_parts holds {of_class!r:.80}, of {len(parts)} parts")


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
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
    }
    for key, value in expected.items():
        if document.get(key) != value:
            raise _damaged(
                location,
                f"{key} of {array.name} is {document.get(key)!r:.80}, expected {value!r:.80}",
            )
    try:
        codecs = _outline(document["codecs"])
    except (AttributeError, LookupError, TypeError) as error:
        raise _damaged(location, f"codecs of {array.name} cannot be understood") from error
    if codecs != array.codecs(spec) or document.get("storage_transformers"):
        raise _damaged(location, f"{array.name} is packed in another way than the schema's")


def _outline(codecs: list[Mapping[str, Any]]) -> list[Any]:
    """What decides how bytes are read: names of codecs, those inside of shards, byte order.

    How much they try to save is the writer's choice, and may differ between versions.
    """
    outline: list[Any] = []
    for codec in codecs:
        settings = codec.get("configuration") or {}
        if codec["name"] == "sharding_indexed":
            inner = [_outline(settings[key]) for key in ("codecs", "index_codecs")]
            place = settings.get("index_location", "end")
            outline.append(("sharding_indexed", settings["chunk_shape"], *inner, place))
        elif settings.get("endian", "little") != "little":
            outline.append((codec["name"], settings["endian"]))
        else:
            outline.append(codec["name"])
    return outline


def _damaged(location: Location, what: str) -> StoreError:
    if location.has(GROWTH):
        return StoreError(
            f"{location.text} is growing, or was interrupted while it was. Run the same "
            "extract-2d command again."
        )
    return StoreError(
        f"{location.text}: the metadata is damaged ({what}). Restore the zarr.json files from a "
        "copy, or extract into another folder."
    )
