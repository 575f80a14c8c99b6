"""A store copied to another place, and read there."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TypedDict

from i2pmae.errors import StoreError
from i2pmae.hub import HubName, fetch_folder, send_folder
from i2pmae.progress import Progress, note
from i2pmae.store.copying import copy_again, copy_store
from i2pmae.store.location import METADATA, Location, resolve_store
from i2pmae.store.metadata import load_info
from i2pmae.store.verify import check_store
from i2pmae.urls import is_hub_name

FILES = [METADATA, f"*/{METADATA}", "*/c/*"]  # of a store on the Hub; what else is there stays


class Result(TypedDict):
    """What was copied."""

    source: str
    store: str  # the copy
    files: int
    copied: int  # files, now
    bytes: int  # copied now


def run(source: str | Path, target: str | Path) -> Result:
    """Copy a store between folders, object stores and the Hub, and verify the copy.

    The same call again continues an interrupted copy. What is damaged at the target is copied once
    more. To the Hub, the store is verified before it is sent; its server compares SHA-256.

    Args:
        source: a store, a folder that holds exactly one, or `hf://datasets/owner/name[@revision]`.
        target: folder or URL of the copy, such as `s3://bucket/NAME.zarr`, or a repository of data
            on the Hub: `hf://datasets/owner/name`, which is made if need be.

    Returns:
        See `Result`.

    Raises:
        StoreError: if the source is not complete or damaged, something else lies at the target,
            or files cannot be read or written.
        HubError: if the Hub cannot be reached, or refuses it.
    """
    if is_hub_name(target):
        return _send(source, HubName.of(target, "dataset"))
    if is_hub_name(source):
        fetched, pinned = fetch_folder(HubName.of(source, "dataset"), FILES)
        path, named = resolve_store(fetched), str(pinned)
    else:
        path = resolve_store(source)
        named = str(path)
    shown = Location.of(target).text
    with Progress("copy") as progress:
        copied = copy_store(path, target, progress.advance)
    for is_last_try in (False, True):
        with Progress("verify") as progress:
            _, found = check_store(target, progress.advance)
        damaged = [finding for finding in found if finding.kind == "damaged"]
        if found and (is_last_try or not damaged):
            raise StoreError(
                f"{shown} differs from what its checksums say ({len(found)} findings, first "
                f"{found[0]}). `i2pmae verify {shlex.quote(Location.of(path).text)}` says "
                "whether the original is sound."
            )
        if not found:
            break
        copy_again(path, target, [(finding.array, finding.shard or 0) for finding in damaged])
    note(
        f"{shown}: {copied.n_files} files, {copied.n_copied} of them copied now "
        f"({copied.n_bytes / 1e6:.1f} MB); all verified"
    )
    return {
        "source": named,
        "store": shown,
        "files": copied.n_files,
        "copied": copied.n_copied,
        "bytes": copied.n_bytes,
    }


def _send(source: str | Path, target: HubName) -> Result:
    """Verify a store and upload its files as they are."""
    location = Location.of(resolve_store(source))
    if location.folder is None:
        raise StoreError(f"{location.text}: copy it into a folder first, and that to the Hub")
    if not load_info(location).complete:
        raise StoreError(
            f"{location.text} is not complete. Run the same `i2pmae extract-2d` command again "
            "first."
        )
    with Progress("verify") as progress:
        _, found = check_store(location.folder, progress.advance)
    if found:
        raise StoreError(
            f"{location.text} is damaged ({len(found)} findings, first {found[0]}); "
            f"`i2pmae verify {shlex.quote(location.text)} --repair` repairs it. Nothing was sent."
        )
    sizes = location.sizes()
    n_bytes = sum(sizes.values())
    note(f"uploading {len(sizes)} files, {n_bytes / 1e6:.1f} MB")
    sent = send_folder(target, location.folder, f"Store {location.folder.name}, by i2pmae")
    fetched = shlex.quote(str(sent))
    note(f"{sent}: {len(sizes)} files; to download it: i2pmae copy {fetched} cache/NAME.zarr")
    return {
        "source": location.text,
        "store": str(sent),
        "files": len(sizes),
        "copied": len(sizes),
        "bytes": n_bytes,
    }
