"""Point clouds as text, with the headers that programs write.

Read are lines of numbers, x y z first or named in a header, apart by spaces, tabs, commas or
semicolons; after comments, a count of points (`.pts`), names of columns (CloudCompare, ParaView,
spreadsheets); with decimal commas, if something else separates the numbers.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from i2pmae.errors import DataError, one_line
from i2pmae.formats.files import parsing, read_text, wide_encoding

_MOST_HEADER_LINES = 32
_START, _LONG_START = 1 << 13, 1 << 18  # bytes that are looked at
_FEWEST_LINES = 8  # of numbers; smaller tables are cameras and the like
# Names of columns, as in x, pos_x, Points:0, coord-x, X (mm), x_coordinate.
_AXES = [
    re.compile(
        r"(?:(?:p|pt|pos|position|coord|coordinates?|points?|vertex|loc|location|world)[-_ .:]?)?"
        rf"{axis}(?:[-_ .]?(?:coord|coordinate|pos|position|axis|world|[mck]?m|in|inch|ft))?"
        rf"|(?:points?|coordinates?|positions?|coords?|xyz)[-_ .:]{i}"
    )
    for i, axis in enumerate("xyz")
]
# Marks between numbers, and whether numbers have decimal commas.
_SEPARATORS = ((",", False), (";", False), (None, False), (";", True), (None, True))
_EXPECTED = "Expected lines of numbers, x y z first, as many on each line."


class _Form(NamedTuple):
    """How the lines of a table are to be read."""

    n_header: int  # lines before the numbers
    n_promised: int | None  # points that a header promises
    delimiter: str | None
    decimal_comma: bool
    columns: tuple[int, ...] | None  # that are x, y, z; None: all are read
    names: tuple[str, ...] = ()  # of columns, as the line before the numbers may tell


def read_text_cloud(file: Path) -> npt.NDArray[Any]:
    """All points of a text file.

    Returns:
        (n, 3 or more columns) float64, x, y, z first.

    Raises:
        DataError: if it is no table of numbers, or holds fewer points than it promises.
    """
    text = read_text(file, strict=False)
    lines = text.splitlines()
    with parsing(file, _EXPECTED):
        form = _form(lines[: _MOST_HEADER_LINES + 1])
        if form is None:
            raise ValueError(f"no numbers in its first lines, such as {one_line(lines[0], 60)!r}")
        rows = [row for row in lines[form.n_header :] if row.strip()]
        if form.decimal_comma:
            rows = [row.replace(",", ".") for row in rows]
        points = np.loadtxt(
            rows,
            np.float64,
            delimiter=form.delimiter,
            usecols=form.columns,
            ndmin=2,
            quotechar='"',
        )
    if form.n_promised is not None and len(points) != form.n_promised:
        raise DataError(
            f"{file} holds {len(points)} points, its first line promises {form.n_promised}: it is "
            "cut short or damaged. Export it again."
        )
    if form.columns is not None:
        return points
    n_columns = points.shape[1]
    points = points[:, 1:] if _is_numbered(points) else points
    if len(form.names) == n_columns and points.shape[1] > 3:
        raise DataError(
            f"{file} names its columns {one_line(', '.join(form.names), 60)}; expected x, y and z "
            "among them. Rename those of the coordinates, or remove this line if they come first."
        )
    return points


def _is_numbered(points: npt.NDArray[np.float64]) -> bool:
    """Whether the first of four or more columns counts the rows, from 0 or 1."""
    n, n_columns = points.shape
    if n < _FEWEST_LINES or n_columns < 4 or points[0, 0] not in (0, 1):
        return False
    return np.array_equal(points[:, 0], points[0, 0] + np.arange(n))


def looks_like_points(stream: IO[bytes]) -> bool:
    """Whether the beginning of a file is that of a table of points."""
    start = stream.read(_START)
    if start.count(b"\n") + start.count(b"\r") < 2 * _FEWEST_LINES:
        start += stream.read(_LONG_START)  # lines may be long
    encoding = wide_encoding(start)
    if encoding is None and b"\0" in start:
        return False
    text = start.decode(encoding or "utf-8-sig", "replace").removeprefix("\ufeff")
    lines = text.splitlines()[:-1]  # the last may be cut off
    form = _form(lines[: _MOST_HEADER_LINES + 1])
    if form is None:
        return False
    rows = [row for row in lines[form.n_header :] if row.strip()]
    told = [_is_point(row, form) for row in rows[:_FEWEST_LINES]]
    return len(told) == _FEWEST_LINES and all(told)


def _form(lines: list[str]) -> _Form | None:
    """The form of a table that begins so; None if no numbers come."""
    columns: tuple[int, ...] | None = None
    names: tuple[str, ...] = ()
    n_promised = None
    for number, line in enumerate(lines):
        content = line.strip()
        if not content:
            continue
        if content.isdecimal() and number == 0:
            n_promised = int(content)
            continue
        for delimiter, decimal_comma in _SEPARATORS:
            form = _Form(number, n_promised, delimiter, decimal_comma, columns, names)
            counted = _counted_columns(content, lines[number + 1 :], delimiter)
            if counted is not None:
                columns = counted
                break
            if not content.startswith(("#", "//")) and _is_point(content, form):
                if columns is None and delimiter and content.endswith(delimiter):
                    return form._replace(columns=(0, 1, 2))
                return form
        names = _names(content)
        columns = _named_columns(names) or columns
        is_sentence = content.startswith(("#", "//")) and not re.search("[,;\t]", content)
        if is_sentence or any(re.match(r"[-+.]?\d", name) for name in names):
            names = ()
    return None


def _names(header: str) -> tuple[str, ...]:
    """The words of a line, as names of columns."""
    names = re.split(r"\s*[,;\t]\s*|\s+(?![\[(])", header.lstrip("#/ "))
    return tuple(re.sub(r"[\[(].*", "", name).strip(" \"'").lower() for name in names)


def _named_columns(names: tuple[str, ...]) -> tuple[int, ...] | None:
    """Places of x, y and z among names, if they are there."""
    places = [
        next((place for place, name in enumerate(names) if axis.fullmatch(name)), None)
        for axis in _AXES
    ]
    return None if None in places else tuple(place for place in places if place is not None)


def _counted_columns(
    header: str, following: list[str], delimiter: str | None
) -> tuple[int, ...] | None:
    """Columns of x, y and z below a header 0, 1, 2, ... as pandas writes it; None without one.

    A first column without a name is the index. `0,1,2` may also be the first point of a cloud with
    whole coordinates, so the next line must have a decimal point.
    """
    words = header.split(delimiter)
    shift = words[0].strip(' "') == ""
    numbers = [word.strip(' "') for word in words[shift:]]
    is_counted = len(numbers) >= 3 and numbers == [str(i) for i in range(len(numbers))]
    if not is_counted or not following or "." not in following[0]:
        return None
    return tuple(range(shift, shift + 3))


def _is_point(line: str, form: _Form) -> bool:
    """Whether a line holds the numbers of a point."""
    words = line.replace('"', "").strip().rstrip(form.delimiter).split(form.delimiter)
    if form.columns is not None:
        if len(words) <= max(form.columns):
            return False
        words = [words[place] for place in form.columns]
    if form.decimal_comma:
        words = [word.replace(",", ".") for word in words]
    try:
        return len([float(word) for word in words]) >= 3
    except ValueError:
        return False
