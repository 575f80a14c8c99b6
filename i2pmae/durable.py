"""What is written is whole, and lasts where a machine goes down."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def whole_file(path: Path, *, is_mine: bool = False) -> Iterator[Path]:
    """A file to write beside `path`, which takes its place once the block has succeeded.

    Whatever happens, `path` is the old file or the new one. Parent folders are made.

    Args:
        path: the file; the one beside it ends alike and begins with a dot.
        is_mine: whether no other process writes there. What a killed one has left is overwritten
            then.

    Raises:
        OSError: if it cannot be written.
    """
    writer = "tmp" if is_mine else f"{os.getpid()}.tmp"
    temporary = path.with_name(f".{path.stem}.{writer}{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        sync(temporary)
        os.replace(temporary, path)
        sync(path.parent)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Have the operating system put a file's content, or a folder's names, on the disk.

    Windows does the latter by itself and offers no way to ask.
    """
    is_folder = path.is_dir()
    if is_folder and os.name != "posix":
        return
    handle = os.open(path, os.O_RDONLY if is_folder else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
