"""Creation of a store's metadata; an interrupted creation is detected and repeated."""

from __future__ import annotations

import os
import re
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from i2pmae.errors import StoreError
from i2pmae.store.location import METADATA, Location
from i2pmae.store.metadata import DIGEST, StoreInfo, digest, load_documents
from i2pmae.store.schema import ARRAYS, ArraySchema, arrays

_METADATA_FILE = re.compile(r"zarr(\.[0-9a-f]+\.partial|\.json)")  # whole, or being written


def is_created(location: Location) -> bool:
    """Whether a store's creation came to its end; attributes are written last."""
    group = location.metadata()
    return group is not None and bool(group.get("attributes"))


def create(location: Location, info: StoreInfo, view_axes: NDArray[np.float32]) -> None:
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
    write_attributes(location, info)


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
        location.delete("")  # an empty folder, as consoles make it: zarr would list it forever
    elif location.folder.exists():
        shutil.rmtree(location.folder)


def _names(location: Location) -> Iterator[str]:
    """All entries at a store's path: files and links, and folders with a slash at the end."""
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
    """Whether `create` writes this: metadata, perhaps half of it, and the view axes."""
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


def write_attributes(location: Location, info: StoreInfo) -> None:
    """Write the group's attributes with their digest, in one go."""
    attributes = info.to_json()
    attributes[DIGEST] = digest(attributes, load_documents(location, arrays(info.spec)))
    store = location.zarr_store("r+")
    group = zarr.open_group(store, mode="r+", zarr_format=3, use_consolidated=True)
    group.attrs.put(attributes)
