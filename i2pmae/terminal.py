"""What may reach a terminal: text whose control characters are written as escapes.

Names of classes, files, keys and settings come from untrusted files. A terminal obeys control
characters in them: it sets its title, fills the clipboard, hides what was printed.
"""

from __future__ import annotations

import logging
import sys
import traceback
import unicodedata
import warnings
from types import TracebackType
from typing import Any, TextIO

_OBEYED = {"Cc", "Cs", "Zl", "Zp"}  # control characters, lone surrogates, line separators
_TURNING = {*map(chr, (0x61C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A)))}
_LONGEST_WORD = 300
_LONGEST_LINE = 800
_END = 300  # of them at the end of a line, where the next step is named


def printable(text: str, keep: str = "") -> str:
    r"""The text with control characters, and those that turn the writing direction, as `\x1b`.

    Args:
        text: any.
        keep: control characters that stay, such as a line feed.
    """
    if text.isprintable():
        return text
    return "".join(
        char.encode("unicode_escape").decode()
        if char not in keep and (unicodedata.category(char) in _OBEYED or char in _TURNING)
        else char
        for char in text
    )


def one_line(text: str) -> str:
    """The text on one printable line, with its very long words and its middle left out."""
    words = [
        word if len(word) <= _LONGEST_WORD else f"{word[: _LONGEST_WORD - 1]}…"
        for word in text.split()
    ]
    line = printable(" ".join(words))
    if len(line) > _LONGEST_LINE:
        line = f"{line[: _LONGEST_LINE - _END]} … {line[-_END:]}"
    return line


def guard() -> None:
    """Have Python's own messages escaped: tracebacks, warnings, log records of libraries."""
    sys.excepthook = _print_traceback
    warnings.showwarning = _print_warning
    if logging.lastResort is not None:
        logging.lastResort.setFormatter(_Formatter())


def _print_traceback(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    text = "".join(traceback.format_exception(kind, error, trace))
    sys.stderr.write(printable(text, keep="\n\t"))


def _print_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    text = warnings.formatwarning(message, category, filename, lineno, line)
    (file or sys.stderr).write(printable(text, keep="\n"))


class _Formatter(logging.Formatter):
    def format(self, record: Any) -> str:
        return printable(super().format(record), keep="\n\t")
