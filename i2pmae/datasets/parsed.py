"""Numbers of text files, parsed once and then read from the user's cache folder.

Parsing ModelNet40's 12,311 text files takes a minute, reading their numbers back a second.
"""

from __future__ import annotations

import hashlib
import io
import os
import sys
import threading
import time
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from i2pmae.atomic_write import atomic_write

FOLDER_VARIABLE = "I2PMAE_CACHE_DIR"
_FORMAT = 1
# A file that was changed just now may change again within one tick of the file system's clock,
# which no later look at it would show.
_SETTLED_NS = 3_000_000_000

_HEAD = np.dtype(
    [
        ("size", "<i8"),  # of the text, bytes
        ("changed", "<i8"),  # nanoseconds since 1970
        ("lines", "<i8"),
        ("checksum", "<u4"),  # crc32 of everything else in the row
    ]
)

Table = npt.NDArray[np.float32]

_creating = threading.Lock()  # a file made twice would lose what was kept in between


class ParsedFiles:
    """The numbers of some text files, kept in one `.npy` file that fills up as they are read.

    Each text has a row: its size and time of change, its numbers, and a checksum of all these. A
    row counts only if they fit the text as it is now. So what a crash cut short, what is damaged,
    and what belongs to an earlier version of a text is silently parsed again and replaced;
    and processes and threads may share the file. Where it cannot be written, texts are parsed
    each time.

    Rows take disk space as they are filled. The file may be deleted at any time.
    """

    def __init__(
        self, layout: str, root: Path, files: Sequence[Path], *, most_lines: int, columns: int = 3
    ):
        """Nothing is read or written yet.

        Args:
            layout: with the names of the files it says which data set this is; the folder may
                move.
            root: folder of the data set.
            files: all files of a list, in its order.
            most_lines: longer texts are not kept.
            columns: numbers per line that are kept.
        """
        self._rows = {file: row for row, file in enumerate(files)}
        self._most_lines, self._columns = most_lines, columns
        record = np.dtype([*_HEAD.descr, ("numbers", "<f4", (most_lines, columns))])
        self._row_bytes = record.itemsize
        header = io.BytesIO()
        described: Any = {
            "descr": np.lib.format.dtype_to_descr(record),
            "fortran_order": False,
            "shape": (len(files),),
        }
        np.lib.format.write_array_header_1_0(header, described)
        self._header = header.getvalue()
        digest = hashlib.sha256(f"{_FORMAT}\n".encode() + self._header)
        for file in files:
            name = os.path.relpath(file, root)
            digest.update(f"{name}\n".encode("utf-8", "surrogateescape"))
        self._name = f"{layout}-{digest.hexdigest()[:32]}.npy"

    @property
    def path(self) -> Path | None:
        """Where the numbers are kept; None where there is no folder for them."""
        folder = cache_folder()
        return None if folder is None else folder / "parsed" / self._name

    def read(self, file: Path, parse: Callable[[Path], Table]) -> Table:
        """The numbers of a text, parsed only if they are not kept yet.

        Args:
            file: one of the files.
            parse: text to (lines, columns) float32; whatever it raises is passed on.

        Returns:
            (lines, columns) float32; the array belongs to the caller.
        """
        path, stamp = self.path, _stamp(file)
        if path is None or stamp is None:
            return parse(file)
        try:
            with path.open("rb") as stream:
                kept = self._kept(stream, self._rows[file], stamp)
        except OSError:
            kept = None
        if kept is not None:
            return kept
        numbers = parse(file)
        settled = time.time_ns() - stamp[1] > _SETTLED_NS
        if settled and len(numbers) <= self._most_lines:
            self._keep(path, self._rows[file], stamp, numbers)
        return numbers

    def _kept(self, stream: BinaryIO, row: int, stamp: tuple[int, int]) -> Table | None:
        """The numbers in a row, if they are those of the text."""
        stream.seek(self._place(row))
        head = np.fromfile(stream, _HEAD, 1)
        if len(head) == 0 or (head["size"][0], head["changed"][0]) != stamp:
            return None
        lines = int(head["lines"][0])
        if not 0 <= lines <= self._most_lines:
            return None
        numbers = np.fromfile(stream, "<f4", lines * self._columns)
        if len(numbers) < lines * self._columns:
            return None
        if _checksum(head, numbers) != head["checksum"][0]:
            return None
        return numbers.reshape(lines, self._columns)

    def _keep(self, path: Path, row: int, stamp: tuple[int, int], numbers: Table) -> None:
        """Fill a row; a full disk, missing permission and the like are ignored."""
        head = np.array([(*stamp, len(numbers), 0)], _HEAD)
        content = np.ascontiguousarray(numbers, "<f4")
        head["checksum"] = _checksum(head, content)
        try:
            with _creating:
                if not path.is_file():
                    self._create(path)
            with path.open("r+b") as stream:
                stream.seek(self._place(row))
                stream.write(head.tobytes() + content.tobytes())
        except OSError:
            return

    def _create(self, path: Path) -> None:
        """Make a file of empty rows; it appears whole or not at all."""
        with atomic_write(path) as temporary, temporary.open("wb") as stream:
            stream.write(self._header)
            stream.truncate(self._place(len(self._rows)))

    def _place(self, row: int) -> int:
        return len(self._header) + row * self._row_bytes


def cache_folder() -> Path | None:
    """Folder for what can be made again: `$I2PMAE_CACHE_DIR`, or the platform's place for it.

    Returns:
        The folder, which need not exist; None if the user has no home.
    """
    chosen = os.environ.get(FOLDER_VARIABLE)
    if chosen:
        return Path(chosen).absolute()
    try:
        if sys.platform == "darwin":
            return Path.home() / "Library" / "Caches" / "i2pmae"
        if sys.platform == "win32":
            local = os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local"
            return Path(local) / "i2pmae" / "Cache"
        shared = os.environ.get("XDG_CACHE_HOME", "")
        # The specification asks to ignore relative paths.
        base = Path(shared) if os.path.isabs(shared) else Path.home() / ".cache"
        return base / "i2pmae"
    except RuntimeError:
        return None


def _stamp(file: Path) -> tuple[int, int] | None:
    """Size and time of change of a text; None if it is not there."""
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns


def _checksum(head: npt.NDArray[Any], numbers: Table) -> int:
    covered = head.copy()
    covered["checksum"] = 0
    return zlib.crc32(numbers.data if numbers.size else b"", zlib.crc32(covered.tobytes()))
