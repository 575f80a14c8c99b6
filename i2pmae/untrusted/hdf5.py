"""Opening hdf5 files of strangers."""

from __future__ import annotations

import struct
from pathlib import Path

import h5py

from i2pmae.errors import DataError

_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_HEAD = 256  # bytes of a file's first block that are looked at
_USER_BLOCK = 512  # bytes before the signature: none, or this times a power of two


def open_hdf5(file: Path) -> h5py.File:
    """Open an hdf5 file for reading.

    The library reads a block of settings for its drivers, of any size up to 4 GB that the file
    claims, before anything else can be asked. Only files in several parts have one, so no other is
    opened.

    Raises:
        DataError: if the file names such a block.
        OSError: if it cannot be opened.
    """
    with file.open("rb") as stream:
        size, start = stream.seek(0, 2), 0
        while start < size:
            stream.seek(start)
            head = stream.read(_HEAD)
            if head.startswith(_SIGNATURE):
                if _names_drivers(head):
                    raise DataError(
                        f"{file} is damaged, or one part of an hdf5 file in several. "
                        "Download it again, or write it as one file (h5repack)."
                    )
                break
            start = 2 * start or _USER_BLOCK
    return h5py.File(file, "r")


def _names_drivers(head: bytes) -> bool:
    """Whether a file's first block, of an old version, has an address of settings for drivers."""
    head = head.ljust(_HEAD, b"\0")
    version, width = head[8], head[13]
    if version > 1:  # these hold less than 64 kB of settings
        return False
    start = struct.calcsize("<8s8B2HI") + 4 * version + 3 * width
    return head[start : start + width] != b"\xff" * width
