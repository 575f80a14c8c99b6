"""What is written lasts, also where a machine goes down."""

from __future__ import annotations

import os
from pathlib import Path


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
