"""Limits for untrusted files; every reader of this package keeps to them."""

from __future__ import annotations

import json
from typing import Any

MOST_OPERATIONS = 1_000_000  # of a pickle; each takes up to about 250 bytes
MOST_NUMBER_KEYS = 20_000  # of dictionaries; numbers can be chosen to collide
LONGEST_KEY = 1000  # characters
DEEPEST = 200  # levels of values within values
LARGEST_TREE = 1 << 26  # bytes, roughly, that values take where shared ones count each time
LARGEST_HEADER = 1 << 24  # bytes that list the members of an archive or the tensors of a file
MOST_AXES = 32  # of an array or tensor
LARGEST_NUMBER = 1 << 256
FREE_BYTES = 1 << 20  # that a file may unpack to, however small it is
TIMES_VIEWED = 4  # bytes of all tensors to bytes of their file: some share their numbers

_NODE = 16  # bytes that a value counts


class UntrustedError(ValueError):
    """A file is damaged, or asks for more than it may."""


class ForbiddenError(UntrustedError):
    """A file names something that could run code."""

    def __init__(self, name: str):
        self.name = ascii(name[:80])[1:-1]
        super().__init__(f"it names {self.name}, which could run code")


class Budget:
    """Bytes that may still be taken."""

    def __init__(self, n_bytes: int, problem: str):
        """Count down from `n_bytes`; `problem` is the error message if they do not suffice."""
        self._left = n_bytes
        self._problem = problem

    def take(self, n_bytes: int) -> None:
        """Take some bytes.

        Raises:
            UntrustedError: if so many are not left.
        """
        self._left -= n_bytes
        if self._left < 0:
            raise UntrustedError(self._problem)


class Node:
    """A value that holds others, in `attributes`; see `check_tree`."""

    attributes: object = None


def check_tree(value: object) -> None:
    """Refuse values that are endless or huge to whoever walks through them.

    A list that holds another one twice, which does the same, and so on, is small in memory but has
    more leaves than anybody can count.

    Raises:
        UntrustedError: if they are nested too deeply, hold themselves, or count too much.
    """
    known: dict[int, tuple[int, int] | None] = {}

    def measure(value: object, depth: int) -> tuple[int, int]:
        """Bytes and height; `known` spares looking at shared values again."""
        if isinstance(value, str | bytes | bytearray):
            return _NODE + len(value), 0
        if isinstance(value, int) and abs(value) > LARGEST_NUMBER:
            raise UntrustedError("it holds a number of hundreds of digits")
        if not isinstance(value, dict | list | tuple | Node):
            return _NODE, 0
        found = known.get(id(value), (0, 0))
        if found is None or depth > DEEPEST:
            raise UntrustedError(f"its values are nested more than {DEEPEST} deep")
        if id(value) in known:
            return found
        known[id(value)] = None
        inner: Any = value.values() if isinstance(value, dict) else value
        size, height = _NODE, 0
        if isinstance(value, dict):
            size += sum(_NODE + len(key) if isinstance(key, str) else _NODE for key in value)
        for item in (value.attributes,) if isinstance(value, Node) else inner:
            more, below = measure(item, depth + 1)
            size, height = size + more, max(height, below + 1)
        if size > LARGEST_TREE or height > DEEPEST:
            raise UntrustedError("its values share each other so often that they have no end")
        known[id(value)] = size, height
        return size, height

    measure(value, 0)


def check_key(key: str) -> str:
    """Return a name that a message can show.

    Raises:
        UntrustedError: if it is too long.
    """
    if len(key) > LONGEST_KEY:
        raise UntrustedError(f"a name in it has {len(key):,} characters")
    return key


def parse_json(text: str | bytes) -> Any:
    """Untrusted JSON.

    Raises:
        UntrustedError: if it is none, or nested too deeply.
    """
    try:
        value = json.loads(text)
    except (RecursionError, ValueError) as error:
        raise UntrustedError(f"its JSON cannot be read: {error}") from error
    check_tree(value)
    return value
