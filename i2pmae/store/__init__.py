"""The Zarr store: what stage one writes once and stage two reads at every step.

Names are imported on first use: writing needs no dask, reading for training neither.
"""

from typing import TYPE_CHECKING, Any

__all__ = [
    "Cache",
    "StoreReader",
    "StoreSpec",
    "StoreWriter",
    "describe",
    "open_cache",
    "open_writer",
    "resolve_store",
]

if TYPE_CHECKING:
    from i2pmae.store.inspect import Cache, describe, open_cache
    from i2pmae.store.location import resolve_store
    from i2pmae.store.reader import StoreReader
    from i2pmae.store.schema import StoreSpec
    from i2pmae.store.writer import StoreWriter, open_writer

_HOMES = {
    "Cache": "inspect",
    "StoreReader": "reader",
    "StoreSpec": "schema",
    "StoreWriter": "writer",
    "describe": "inspect",
    "open_cache": "inspect",
    "open_writer": "writer",
    "resolve_store": "location",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'i2pmae.store' has no attribute '{name}'")
    from importlib import import_module

    return getattr(import_module(f"i2pmae.store.{_HOMES[name]}"), name)
