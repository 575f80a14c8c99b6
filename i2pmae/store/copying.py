"""Copying a store to another place, so that it can be interrupted and continued at any point."""

from __future__ import annotations

import hashlib
import re
import shlex
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from i2pmae.errors import StoreError
from i2pmae.store.location import METADATA, Location, plain_errors
from i2pmae.store.lock import whole_store
from i2pmae.store.metadata import load_info
from i2pmae.store.schema import arrays

_HALF_WRITTEN = re.compile(r"(^|/)\.[^/]*\.tmp(\.json)?$")  # by a process that was killed
_MARKER = "copy.sha256"  # at the target while it is incomplete: what it is a copy of
_AT_ONCE = 8  # files, from and to an object store mostly waited for


class Copied(NamedTuple):
    """What a copy took."""

    n_files: int  # of the store
    n_copied: int  # of those, now; the others were there
    n_bytes: int  # copied now


def copy_store(
    source: str | Path, target: str | Path, advance: Callable[[int], object] | None = None
) -> Copied:
    """Copy all files of a finished store.

    Files appear whole or not at all, and the group's metadata last, so that nobody takes a part for
    the whole. Files that an interrupted copy of the same store wrote are not copied again;
    `check_store` says whether they are sound.

    Args:
        source: folder or URL of a finished store.
        target: folder or URL; an empty place, or one that an earlier copy was interrupted in.
        advance: called with 1 after each file.

    Raises:
        StoreError: if the source is not complete, something else lies at the target, or files
            cannot be read or written.
    """
    here, there = Location.of(source), Location.of(target)
    if here.text == there.text or (here.folder is not None and here.folder == there.folder):
        raise StoreError(f"{here.text} and {there.text} are the same place; name another one")
    info = load_info(here)
    if not info.complete:
        raise StoreError(
            f"{here.text} is not complete. Run the same `i2pmae extract-2d` command again first."
        )
    group = here.read(METADATA)
    present = there.read(METADATA)
    if present not in (None, group):
        raise StoreError(
            f"{there.text} holds another store, or another version of this one. Copy to another "
            "place, or remove it first."
        )
    keys = [f"{name}/{METADATA}" for name in arrays(info.spec)]
    for array in arrays(info.spec).values():
        n_files = 1 if array.layout == "store" else info.spec.n_shards
        keys += [array.key(k) for k in range(n_files)]
    with whole_store(there), plain_errors(there, "write"):
        sizes, there_now = here.sizes(), there.sizes()
        own = {*keys, METADATA, _MARKER}
        foreign = sorted(
            key for key in there_now if key not in own and not _HALF_WRITTEN.search(key)
        )
        if foreign:
            raise StoreError(
                f"{there.text} holds other files ({', '.join(foreign[:5])}); copy to another place"
            )
        # Stores of equal sizes have files of equal sizes, so only a marker tells theirs apart.
        told = f"{group!r} {[sizes.get(key) for key in keys]}"
        marker = hashlib.sha256(told.encode()).hexdigest().encode()
        if present is None and there.read(_MARKER) != marker:
            if there_now.keys() & {*keys}:
                raise StoreError(
                    f"{there.text} holds a part of another store, or of another version of this "
                    "one. Copy to another place, or remove it first."
                )
            there.write(_MARKER, marker)
        missing = [key for key in keys if there_now.get(key, -1) != sizes.get(key)]
        if advance is not None:
            advance(len(keys) - len(missing))
        _copy(here, there, missing, advance)
        if here.read(METADATA) != group:
            raise StoreError(
                f"{here.text} has changed meanwhile. Remove {there.text} and run the same command "
                "again."
            )
        there.write(METADATA, group or b"")
        there.delete(_MARKER)
    n_bytes = sum(sizes[key] for key in missing)
    return Copied(len(keys) + 1, len(missing), n_bytes)


def _copy(
    here: Location,
    there: Location,
    keys: Iterable[str],
    advance: Callable[[int], object] | None = None,
) -> None:
    def copy(key: str) -> None:
        with plain_errors(here, f"read {key}"):
            content = here.read(key)
        if content is None:
            raise StoreError(
                f"{here.text}: {key} is missing. `i2pmae verify {shlex.quote(here.text)}` finds "
                "all damage."
            )
        with plain_errors(there, f"write {key}"):
            there.write(key, content)

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        try:
            for _ in pool.map(copy, keys):
                if advance is not None:
                    advance(1)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def copy_again(source: str | Path, target: str | Path, shards: Iterable[tuple[str, int]]) -> None:
    """Copy single files once more, such as those that are damaged at the target.

    Args:
        source: as in `copy_store`.
        target: likewise.
        shards: names of arrays, each with the number of a shard; 0 for arrays without.

    Raises:
        StoreError: as `copy_store`.
    """
    here, there = Location.of(source), Location.of(target)
    schemas = arrays(load_info(here).spec)
    with whole_store(there):
        _copy(here, there, [schemas[name].key(k) for name, k in shards])
