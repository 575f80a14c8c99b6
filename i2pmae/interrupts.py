"""Ctrl-C and SIGTERM that let the step in progress finish."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn


class Terminated(BaseException):
    """SIGTERM, unwound like Ctrl-C so that nothing is left half-written."""


def raise_terminated(_signal: int, _frame: FrameType | None) -> NoReturn:
    """Signal handler that unwinds the program."""
    raise Terminated


class _Saved:
    """What a run has saved so far, told where it stops."""

    tell: Callable[[], str] | None = None


def remember_saved(tell: Callable[[], str]) -> None:
    """Say how to find out what the run in progress has saved, for the case that it stops.

    Args:
        tell: returns a few words, such as `runs/first holds 12 epochs`.
    """
    _Saved.tell = tell


def forget_saved() -> None:
    """Begin anew: nothing that an earlier run of this process has saved is of interest."""
    _Saved.tell = None


def what_is_saved() -> str | None:
    """What the run in progress has saved; None where none has begun."""
    return None if _Saved.tell is None else _Saved.tell()


class StopRequest:
    """Whether somebody asked the program to stop."""

    def __init__(self) -> None:
        self._error: type[BaseException] | None = None

    def note(self, number: int, _frame: FrameType | None) -> None:
        """Signal handler: remember the first request, obey the second at once."""
        if self._error is not None:
            raise self._error
        self._error = Terminated if number == signal.SIGTERM else KeyboardInterrupt

    def __bool__(self) -> bool:
        return self._error is not None

    @property
    def number(self) -> int:
        """Signal that asked; 0: none."""
        if self._error is None:
            return 0
        return signal.SIGTERM if self._error is Terminated else signal.SIGINT

    def adopt(self, number: int) -> None:
        """Stop for a signal that another process of the same run got."""
        if self._error is None:
            self.note(number, None)

    def obey(self) -> None:
        """Raise what was asked for, if anything was."""
        if self._error is not None:
            raise self._error


@contextmanager
def delayed_stop() -> Iterator[StopRequest]:
    """Turn Ctrl-C and SIGTERM into a request that a loop checks between steps.

    A second signal stops at once. Outside the main thread signals are left alone.
    """
    request = StopRequest()
    old = {}
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            old[number] = signal.signal(number, request.note)
    except ValueError:
        pass
    try:
        yield request
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
