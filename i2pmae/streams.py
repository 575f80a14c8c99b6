"""Standard output and error that do not end a run: full, closed, or in another encoding.

Nor do they show the keys and passwords that somebody has written into a URL.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO

from i2pmae.errors import OutputError

_SECRET = re.compile(r"(\w:/{1,2})[^/\s:@]+:\S*@")  # s3://KEY:SECRET@bucket, also by pathlib


class _Stream:
    """A text stream that delegates everything else to the wrapped one."""

    def __init__(self, stream: TextIO, *, is_needed: bool) -> None:
        self._stream = stream
        self._is_needed = is_needed
        with suppress(AttributeError, OSError, ValueError):  # not one of the interpreter's
            stream.reconfigure(errors="backslashreplace")  # type: ignore[attr-defined]

    def write(self, text: str) -> int:
        """Write; see `_fail`."""
        try:
            return self._stream.write(_SECRET.sub(r"\1…@", text))
        except OSError as error:
            self._fail(error)
            return len(text)

    def writelines(self, lines: Any) -> None:
        """Write; see `_fail`."""
        self.write("".join(lines))

    def flush(self) -> None:
        """Write what is buffered; see `_fail`."""
        try:
            self._stream.flush()
        except OSError as error:
            self._fail(error)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _fail(self, error: OSError) -> None:
        """Messages that cannot be shown are lost, results are an error.

        Nothing more is written then; else the interpreter would try to once more as it ends.
        """
        if isinstance(error, BrokenPipeError) and self._is_needed:
            raise error
        with suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)
        if self._is_needed:
            raise OutputError(
                f"the result cannot be written to standard output ({error.strerror}): make room, "
                "or send it elsewhere."
            ) from error


@contextmanager
def guarded_streams() -> Iterator[None]:
    """Guard `sys.stdout` and `sys.stderr` while the block runs."""
    old = sys.stdout, sys.stderr
    sys.stdout = _Stream(sys.stdout, is_needed=True)
    sys.stderr = _Stream(sys.stderr, is_needed=False)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = old
