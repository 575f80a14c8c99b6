"""Reading files that may be damaged, mislabeled or malicious.

Each function ends in data or in a one-line `DataError` that names the file and the remedy.
Nothing is allocated because a header says so: sizes are checked against the file first.
"""

from __future__ import annotations

import difflib
import errno
import json
import math
import os
import re
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from i2pmae.errors import DataError, I2PMAEError, OutageError, one_line
from i2pmae.untrusted.arrays import npy_header
from i2pmae.untrusted.unpickling import read_arrays

START_BYTES = 256  # bytes that tell what a file really is
_GZIP_MAGIC = b"\x1f\x8b"
_LFS_POINTER = b"version https://git-lfs.github.com/spec/"
_ANNEX_POINTER = b"/annex/objects/"
_PAGES = (b"<!doctype html", b"<html", b"<head", b"<?xml version")
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_MISSING = (errno.ENOENT, errno.ENOTDIR)
_OF_CONTENT = (errno.EINVAL, errno.EOVERFLOW, errno.ELOOP)  # of a damaged file, a link to itself
_TOLD_ERRNO = re.compile(r"\berrno = (\d+)")
_LONGEST_NAME = 250  # bytes; file systems allow 255
# How UTF-32 and UTF-16 text begins, with a byte-order mark or without.
_ENCODINGS = [
    (re.compile(pattern, re.DOTALL), name)
    for pattern, name in (
        (rb"\xff\xfe\0\0|\0\0\xfe\xff", "utf-32"),
        (rb"\xff\xfe|\xfe\xff", "utf-16"),
        (rb"[^\0]\0\0\0", "utf-32-le"),
        (rb"\0\0\0[^\0]", "utf-32-be"),
        (rb"[^\0]\0[^\0]\0", "utf-16-le"),
        (rb"\0[^\0]\0[^\0]", "utf-16-be"),
    )
]
_COUNTERS = re.compile(r"\d+|train(ing)?|test|val")


def suffix(name: str) -> str:
    """Ending of a file's name in lower case, with its dot."""
    return os.path.splitext(name)[1].lower()


def stem(name: str) -> str:
    """A file's name without its ending."""
    return os.path.splitext(name)[0]


@contextmanager
def parsing(file: Path, remedy: str) -> Iterator[None]:
    """Turn whatever a parser raises on bad input into a `DataError`.

    Wrap calls into parsers only: they raise every kind of error on damaged files, and a damaged
    file is the user's to fix.

    Raises:
        OutageError: where the system, not what the file holds, is to blame.
        DataError: for everything else.
    """
    try:
        with np.errstate(all="ignore"):  # numbers that are not finite are refused or left out later
            yield
    except I2PMAEError:
        raise
    except Exception as error:
        if isinstance(error, OSError | MemoryError):
            refuse_outage(error, file)
        reason = one_line(error).partition("; use `usecols`")[0] or type(error).__name__
        raise DataError(f"{file} cannot be read: {reason.rstrip('.')}. {remedy}") from error


def refuse_outage(error: OSError | MemoryError, file: Path) -> None:
    """Say that the system failed, if that is what an error means.

    A disk that is away, too many open files or too little memory say nothing about a file; and so
    does a file that is missing with all of its folder, or is there again by now.

    Raises:
        OutageError: unless the error tells of the file itself.
    """
    again = "This says nothing about the file itself: run the same command again once that is over."
    if isinstance(error, MemoryError):
        raise OutageError(f"memory ran out while {file} was read. {again}") from error
    told = _TOLD_ERRNO.search(str(error))  # hdf5's
    number = error.errno or (int(told[1]) if told else 0)
    if number in _MISSING and _is_missing_alone(file):
        return
    if number and number not in _OF_CONTENT:
        reason = os.strerror(number)
        raise OutageError(f"{file} cannot be read at the moment: {reason}. {again}") from error


def _is_missing_alone(file: Path) -> bool:
    """Whether a file is missing from a folder that still holds others."""
    try:
        return not file.exists() and any(file.parent.iterdir())
    except OSError:
        return False


def require_file(file: Path, holds: str) -> Path:
    """Return `file`, or raise an error that says what is there instead.

    Args:
        file: path of a regular file.
        holds: what the file is for, as in "the names of the classes".

    Raises:
        DataError: if there is no such file.
        OutageError: if its folder is away or empty.
    """
    if file.is_file():
        return file
    refuse_outage(FileNotFoundError(errno.ENOENT, ""), file)
    packed = file.with_name(file.name + ".gz")
    if packed.is_file():
        raise DataError(f"{file} is missing, only {packed.name} is there. Unpack it with gunzip.")
    try:
        names = [entry.name for entry in file.parent.iterdir()]
    except OSError:
        names = []
    # Another split or number is no misspelling.
    names = [name for name in names if _COUNTERS.sub("", name) != _COUNTERS.sub("", file.name)]
    near = difflib.get_close_matches(file.name, names, n=1, cutoff=0.8)
    hint = f" {near[0]} is there: rename it if it is meant." if near else ""
    raise DataError(f"{file} is missing; it holds {holds}.{hint} Download the data set again.")


def require_content(file: Path) -> None:
    """Look whether a file is there and holds anything, without opening it.

    Raises:
        DataError: if it is missing or empty.
        OutageError: if the system does not say.
    """
    try:
        size = file.stat().st_size
    except OSError as error:
        refuse_outage(error, file)
        raise DataError(
            f"{file} cannot be read: {error.strerror}. Check the file and its permissions."
        ) from error
    if size == 0:
        raise DataError(f"{file} is empty. Download or export it again.")


def storable(name: str) -> bool:
    """Whether a name can be an id: text without control characters or line breaks."""
    if name.isprintable():
        return True
    return not any(unicodedata.category(sign) in ("Cc", "Cs", "Zl", "Zp") for sign in name)


def refuse_stand_in(start: bytes, file: Path) -> None:
    """Refuse a file in place of the real one: compressed, a pointer, a web page.

    Args:
        start: its first `START_BYTES` bytes.
        file: named in errors.

    Raises:
        DataError: saying what it is, and how to get the file itself.
    """
    if start.startswith(_LFS_POINTER):
        raise DataError(
            f"{file} is a Git LFS pointer, not the file itself. Fetch the files: git lfs pull."
        )
    if start.startswith(_ANNEX_POINTER):
        raise DataError(
            f"{file} is a git-annex pointer, not the file itself. Fetch the files: git annex get."
        )
    page = start[:START_BYTES].removeprefix(BYTE_ORDER_MARK).lstrip().lower()
    is_page = page.startswith(_PAGES[:-1]) or (page.startswith(_PAGES) and b"<error" in page)
    if is_page and file.suffix.lower() not in (".html", ".htm", ".xml"):
        raise DataError(
            f"{file} is a web page, such as the error or log-in page of a server, not the file "
            "itself. Download it again."
        )
    if start.startswith(_GZIP_MAGIC):
        raise DataError(
            f"{file} is gzip-compressed. Unpack it: rename it to {file.name}.gz and run gunzip."
        )


@contextmanager
def open_parsing(file: Path, remedy: str) -> Iterator[IO[bytes]]:
    """A file at its start, for a parser; with the errors of `parsing` and `refuse_stand_in`."""
    with parsing(file, remedy), file.open("rb") as stream:
        refuse_stand_in(stream.read(START_BYTES), file)
        stream.seek(0)
        yield stream


def read_bytes(file: Path) -> bytes:
    """All bytes of a file that must not be compressed.

    Raises:
        DataError: if it cannot be read, is empty, or is gzip-compressed.
    """
    with parsing(file, "Check the file and its permissions."):
        data = file.read_bytes()
    refuse_stand_in(data[:START_BYTES], file)
    if not data:
        raise DataError(f"{file} is empty. Download or export it again.")
    return data


def wide_encoding(data: bytes) -> str | None:
    """The encoding of text of more than one byte a character, as its beginning tells."""
    return next((name for start, name in _ENCODINGS if start.match(data)), None)


def read_text(file: Path, *, strict: bool) -> str:
    """A text file as UTF-8.

    Args:
        file: path of the file.
        strict: refuse byte-order marks, Windows line ends and other encodings. Published data
            sets have none of these, so something has rewritten the file; people's own files may.

    Raises:
        DataError: if it is compressed, empty, binary, not UTF-8, or rewritten.
    """
    data = read_bytes(file)
    encoding = wide_encoding(data)
    if encoding is not None:
        if not strict:
            return data.decode(encoding, "replace").removeprefix("\ufeff")
        name = encoding[:6].upper()
        raise DataError(f"{file} is {name} text. Convert it: iconv -f {name} -t UTF-8.")
    if b"\0" in data:
        raise DataError(f"{file} is binary; expected text. Download or export it again.")
    if data.startswith(BYTE_ORDER_MARK):
        if strict:
            raise DataError(
                f"{file} begins with a byte-order mark (BOM). Remove it: sed -i '1s/^\\xEF\\xBB"
                "\\xBF//' FILE."
            )
        data = data[len(BYTE_ORDER_MARK) :]
    if strict and b"\r" in data:
        raise DataError(
            f"{file} has Windows line ends (CRLF). Convert it: sed -i 's/\\r$//' FILE, or download "
            "it again as binary."
        )
    try:
        # Comments in other encodings do not matter in people's own files.
        return data.decode("utf-8", "strict" if strict else "replace")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{file} is not UTF-8 text (byte {error.start}). Convert it with iconv."
        ) from error


def read_names(file: Path, holds: str) -> list[str]:
    """The lines of a list file, each a name.

    Raises:
        DataError: if it is missing, unreadable, or has blank lines or duplicates.
    """
    names = read_text(require_file(file, holds), strict=True).rstrip("\n").split("\n")
    seen: set[str] = set()
    for number, name in enumerate(names, start=1):
        if not name.strip():
            raise DataError(f"{file}: line {number} is blank; expected a name. Remove the line.")
        if name in seen:
            raise DataError(f"{file}: line {number} repeats {one_line(name)!r}. Remove the line.")
        seen.add(name)
    return [name.strip() for name in names]


def plain_name(name: str, file: Path) -> str:
    """Return `name` if it names something within a folder.

    Raises:
        DataError: if it is a path, so that a list cannot lead out of its data set.
    """
    is_plain = re.fullmatch(r"[^/\\\0]+", name) and name not in (".", "..")
    if not is_plain or not storable(name) or len(name.encode()) > _LONGEST_NAME:
        raise DataError(
            f"{file} lists {one_line(ascii(name))}; expected a plain name, not a path. Fix the "
            "line or download the list again."
        )
    return name


def read_json(file: Path, holds: str) -> Any:
    """A JSON file.

    Raises:
        DataError: if it is missing or no JSON.
    """
    text = read_text(require_file(file, holds), strict=True)
    with parsing(file, "Download it again."):
        return json.loads(text)


def read_columns(file: Path, delimiter: str | None, columns: int) -> npt.NDArray[np.float32]:
    """A text table of numbers with one point a line, as published data sets hold.

    Args:
        file: path of the file.
        delimiter: ',', or None for spaces.
        columns: how many numbers a line holds.

    Returns:
        (n, columns) float32.

    Raises:
        DataError: if it is not such a table.
    """
    text = read_text(require_file(file, "the points of a shape"), strict=True)
    first = text.split("\n", maxsplit=1)[0]
    found = len(first.split(delimiter))
    if found != columns:
        names = {",": "commas", None: "spaces", ";": "semicolons"}
        other = [name for mark, name in names.items() if len(first.split(mark)) == columns]
        remedy = (
            f"Separate them by {names[delimiter]}, not {other[0]}."
            if other
            else ("Download the data set again.")
        )
        raise DataError(
            f"{file}: line 1 holds {found} values separated by {names[delimiter]}; expected "
            f"{columns}. {remedy}"
        )
    with parsing(file, "It may be cut short or damaged: download the data set again."):
        return np.loadtxt(
            text.split("\n"), dtype=np.float32, delimiter=delimiter, comments=None, ndmin=2
        )


def read_pickle(file: Path) -> Any:
    """Lists, tuples, dicts and numbers of a pickle, and the first three columns of its arrays.

    See `read_arrays`; the arrays come out by `as_array`.

    Raises:
        DataError: if it is damaged, or names anything but NumPy arrays of numbers.
    """
    with open_parsing(file, "Download it again.") as stream:
        return read_arrays(stream, file.stat().st_size, keep_columns=3)


def read_npy(file: Path) -> npt.NDArray[Any]:
    """A NumPy array file, never a pickled one.

    Raises:
        DataError: if it is no `.npy` of plain numbers, or shorter or longer than its header says.
    """
    if not file.is_file():
        require_file(file, "the points of a shape")
    with open_parsing(file, "Save it again with numpy.save.") as stream:
        check_npy_header(stream, file.stat().st_size, file)
        stream.seek(0)
        return np.asarray(np.load(stream, allow_pickle=False))


def check_npy_header(stream: IO[bytes], size: int, file: Path) -> None:
    """Refuse a `.npy` whose header and size disagree, before anything is allocated.

    Args:
        stream: at the start of the array's bytes.
        size: how many bytes there are.
        file: named in errors.

    Raises:
        DataError: if it is no array of numbers or of another size than its header says.
    """
    shape, dtype, n_bytes = npy_header(stream)
    plain = [dtype] if dtype.fields is None else [field[0].base for field in dtype.fields.values()]
    if dtype.itemsize == 0 or any(part.kind not in "fiu" for part in plain):
        raise DataError(
            f"{file} holds an array of {one_line(dtype)}; expected plain numbers of shape "
            "(points, 3). Save only the points."
        )
    needed = n_bytes + math.prod(shape) * dtype.itemsize
    if needed != size:
        raise DataError(
            f"{file} is {size} bytes long, its header asks for {needed}: it is cut short or "
            "damaged. Save or download it again."
        )
