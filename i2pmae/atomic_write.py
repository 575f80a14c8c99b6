"""Atomic, durable file writes."""

from __future__ import annotations

import glob
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

from i2pmae.errors import DataError, I2PMAEError

_YOUNG = 5.0  # seconds in which a folder may not be locked yet


@contextmanager
def atomic_write(path: Path, *, is_mine: bool = False) -> Iterator[Path]:
    """A file to write beside `path`, which takes its place once the block has succeeded.

    Whatever happens, `path` is the old file or the new one. Parent folders are made. What killed
    processes have left there is removed.

    Args:
        path: the file; the one beside it ends alike.
        is_mine: whether no other process writes there; else each writes in a folder of its own.

    Raises:
        OSError: if it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    fixed = path.with_name(f".{path.stem}.tmp{path.suffix}")
    with nullcontext(fixed) if is_mine else _own_place(path) as temporary:
        try:
            yield temporary
            sync(temporary)
            os.replace(temporary, path)
            sync(path.parent)
        finally:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)


@contextmanager
def written(
    path: Path, error: type[I2PMAEError] = DataError, remedy: str = "Choose another folder."
) -> Iterator[Path]:
    """`atomic_write`, whose failure is one line for the user.

    Args:
        path: see there.
        error, remedy: its class and its last sentence.

    Raises:
        I2PMAEError: `error`, if the file cannot be written.
    """
    try:
        with atomic_write(path) as temporary:
            yield temporary
    except OSError as failure:
        reason = failure.strerror or failure
        raise error(f"cannot write {path}: {reason}. {remedy}") from failure


@contextmanager
def _own_place(path: Path) -> Iterator[Path]:
    """A file of the same name in a new folder beside it, which is removed at the end.

    While this process lives it locks the folder, so others can tell that it is not abandoned.
    """
    for abandoned in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        with suppress(OSError):
            is_young = time.time() - abandoned.stat().st_mtime < _YOUNG
            lock = None if is_young else _lock(abandoned)
            if lock is not None:
                os.close(lock)
                shutil.rmtree(abandoned, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent))
    lock = _lock(folder)
    try:
        yield folder / path.name
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def _lock(folder: Path) -> int | None:
    """Lock a folder until the handle is closed; None if another process has, or on Windows."""
    if sys.platform == "win32":
        return None
    import fcntl

    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        return None
    return handle


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
