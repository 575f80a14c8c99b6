"""Zip archives whose content is as large as the file: torch and numpy write no others."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from i2pmae.untrusted.limits import LARGEST_HEADER, UntrustedError

_CHUNK = 1 << 22  # bytes that are copied at a time


@contextmanager
def open_stored(path: Path) -> Iterator[zipfile.ZipFile]:
    """Open a zip file without compressed, hidden or overlapping entries.

    Raises:
        UntrustedError: if it has some, or a checksum is wrong.
        zipfile.BadZipFile: if it is damaged otherwise.
        OSError: if it cannot be read.
    """
    with path.open("rb") as stream:
        _check_directory(stream)
        with zipfile.ZipFile(stream) as archive:
            # TorchScript compresses its code, which is never read.
            entries = [entry for entry in archive.infolist() if "/code/" not in entry.filename]
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
                raise UntrustedError("it has compressed entries")
            if sum(max(entry.file_size, entry.compress_size) for entry in entries) > (
                path.stat().st_size
            ):
                raise UntrustedError("its entries are larger than the file: it is cut short")
            try:
                yield archive
            except zipfile.BadZipFile as error:
                name = str(error).partition("Bad CRC-32 for file ")[2]
                if not name:
                    raise
                raise UntrustedError(f"wrong checksum of {name}") from error


def read_into(archive: zipfile.ZipFile, name: str, memory: memoryview) -> None:
    """Read an entry into memory, comparing its checksum.

    Raises:
        UntrustedError: if it is of another size.
        zipfile.BadZipFile: if the checksum is wrong.
    """
    with archive.open(name) as stream:
        fill(stream, memory)
        if stream.read(1):  # which compares the checksum, too
            raise UntrustedError(f"{name} is longer than its tensor")


def fill(stream: IO[bytes], memory: memoryview) -> None:
    """Fill `memory` with bytes.

    Raises:
        UntrustedError: if there are not so many.
    """
    place = 0
    while place < len(memory):
        data = stream.read(min(_CHUNK, len(memory) - place))
        if not data:
            raise UntrustedError("it is cut short")
        memory[place : place + len(data)] = data
        place += len(data)


def _check_directory(stream: IO[bytes]) -> None:
    """Refuse a list of entries that takes much memory, before it is read."""
    end: Any = zipfile._EndRecData(stream)  # type: ignore[attr-defined]
    if end is not None and end[5] > LARGEST_HEADER:
        raise UntrustedError(f"its list of entries has {end[5]:,} bytes")
    stream.seek(0, os.SEEK_SET)
