"""Reading files that may be damaged, mislabelled or made to harm.

Each function ends in data or in a one-line `DataError` that names the file and the remedy.
Nothing is allocated because a header says so: sizes are checked against the file first.
"""

from __future__ import annotations

import difflib
import json
import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from i2pmae.errors import DataError, I2PMAEError

_GZIP_MAGIC = b"\x1f\x8b"
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_LONGEST_NAME = 250  # bytes; file systems allow 255
_COUNTERS = re.compile(r"\d+|train(ing)?|test|val")


def one_line(text: object, longest: int = 300) -> str:
    """Text without line breaks or runs of spaces, cut where it gets long."""
    line = " ".join(str(text).split())
    return line if len(line) <= longest else line[: longest - 3] + "..."


@contextmanager
def parsing(file: Path, remedy: str) -> Iterator[None]:
    """Turn whatever a parser raises on bad input into a `DataError`.

    Wrap calls into parsers only: they raise every kind of error on damaged files, and a damaged
    file is the user's to mend.
    """
    try:
        yield
    except I2PMAEError:
        raise
    except MemoryError as error:
        raise DataError(f"{file} does not fit into memory. {remedy}") from error
    except Exception as error:
        reason = one_line(error).partition("; use `usecols`")[0] or type(error).__name__
        raise DataError(f"{file} cannot be read: {reason.rstrip('.')}. {remedy}") from error


def require_file(file: Path, holds: str) -> Path:
    """Return `file`, or say what is missing and what lies there instead.

    Args:
        file: path of a regular file.
        holds: what the file is for, as in "the names of the classes".

    Raises:
        DataError: if there is no such file.
    """
    if file.is_file():
        return file
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


def refuse_gzip(start: bytes, file: Path) -> None:
    """Refuse a file whose first bytes are those of a compressed one.

    Raises:
        DataError: saying how to unpack it.
    """
    if start.startswith(_GZIP_MAGIC):
        raise DataError(
            f"{file} is gzip-compressed. Unpack it: rename it to {file.name}.gz and run gunzip."
        )


def read_bytes(file: Path) -> bytes:
    """All bytes of a file that must not be compressed.

    Raises:
        DataError: if it cannot be read, is empty, or is gzip-compressed.
    """
    with parsing(file, "Check the file and its permissions."):
        data = file.read_bytes()
    refuse_gzip(data, file)
    if not data:
        raise DataError(f"{file} is empty. Download or export it again.")
    return data


def read_text(file: Path, *, strict: bool) -> str:
    """A text file as UTF-8.

    Args:
        file: path of the file.
        strict: refuse a byte-order mark and Windows line ends. Published data sets have neither,
            so something has rewritten the file; people's own files may.

    Raises:
        DataError: if it is compressed, empty, binary, not UTF-8, or rewritten.
    """
    data = read_bytes(file)
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise DataError(f"{file} is UTF-16 text. Convert it: iconv -f UTF-16 -t UTF-8.")
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
        return data.decode("utf-8")
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
    if not is_plain or not name.isprintable() or len(name.encode()) > _LONGEST_NAME:
        raise DataError(
            f"{file} lists {one_line(ascii(name))}; expected a plain name, not a path. Mend the "
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


def read_npy(file: Path) -> npt.NDArray[Any]:
    """A NumPy array file, never a pickled one.

    Raises:
        DataError: if it is no `.npy` of plain numbers, or shorter or longer than its header says.
    """
    if not file.is_file():
        require_file(file, "the points of a shape")
    with parsing(file, "Save it again with numpy.save."), file.open("rb") as stream:
        size = file.stat().st_size
        refuse_gzip(stream.read(2), file)
        stream.seek(0)
        check_npy_header(stream, size, file)
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
    version = np.lib.format.read_magic(stream)
    reader = np.lib.format.read_array_header_1_0
    if version != (1, 0):
        reader = np.lib.format.read_array_header_2_0
    shape, _, dtype = reader(stream)
    if dtype.kind not in "fiu":
        raise DataError(
            f"{file} holds an array of {one_line(dtype)}; expected plain numbers of shape "
            "(points, 3). Save only the points."
        )
    needed = stream.tell() + math.prod(shape) * dtype.itemsize
    if needed != size:
        raise DataError(
            f"{file} is {size} bytes long, its header asks for {needed}: it is cut short or "
            "damaged. Save or download it again."
        )
