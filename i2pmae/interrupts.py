"""Ctrl-C, SIGTERM and a closed terminal (SIGHUP) that let the step in progress finish."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

# Windows has no SIGHUP.
_ENDINGS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))
# What `nohup` or a parent has had ignored stays ignored.
_IGNORED = {number for number in _ENDINGS if signal.getsignal(number) is signal.SIG_IGN}


class Terminated(BaseException):
    """SIGTERM or SIGHUP, unwound like Ctrl-C so that nothing is left half-written."""

    def __init__(self, number: int = signal.SIGTERM) -> None:
        super().__init__(number)
        self.number = number


def raise_terminated(number: int, _frame: FrameType | None) -> NoReturn:
    """Signal handler that unwinds the program."""
    raise Terminated(number)


def unwind_when_told_to_end() -> None:
    """Have SIGTERM and SIGHUP unwind this program; one that `nohup` ignores stays ignored."""
    for number in _ENDINGS:
        if number not in _IGNORED:
            signal.signal(number, raise_terminated)


def ignore_endings() -> None:
    """From now on nothing is left to unwind."""
    for number in _ENDINGS:
        signal.signal(number, signal.SIG_IGN)


def end_when_told() -> None:
    """From now on SIGTERM and SIGHUP end the process at once: all that is left is its exit.

    Threads of libraries may never end where memory is short, and the exit waits for them.
    """
    for number in _ENDINGS:
        if number not in _IGNORED:
            signal.signal(number, signal.SIG_DFL)


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
    """Reset: forget what an earlier run of this process has saved."""
    _Saved.tell = None


def what_is_saved() -> str | None:
    """What the run in progress has saved; None where none has begun."""
    return None if _Saved.tell is None else _Saved.tell()


class StopRequest:
    """Whether a stop was requested."""

    def __init__(self) -> None:
        self._number = 0

    def note(self, number: int, _frame: FrameType | None) -> None:
        """Signal handler: remember the first request, stop at once at the second."""
        if self._number:
            self.obey()
        self._number = number

    def __bool__(self) -> bool:
        return self._number != 0

    @property
    def number(self) -> int:
        """Signal that asked; 0: none."""
        return self._number

    def adopt(self, number: int) -> None:
        """Stop for a signal that another process of the same run got."""
        self._number = self._number or number

    def obey(self) -> None:
        """Raise the requested exception, if any."""
        if self._number == signal.SIGINT:
            raise KeyboardInterrupt
        if self._number:
            raise Terminated(self._number)


@contextmanager
def delayed_stop() -> Iterator[StopRequest]:
    """Turn Ctrl-C, SIGTERM and SIGHUP into a request that a loop checks between steps.

    A second signal stops at once. Outside the main thread signals are left alone.
    """
    request = StopRequest()
    old = {}
    try:
        for number in (signal.SIGINT, *_ENDINGS):
            if number not in _IGNORED:
                old[number] = signal.signal(number, request.note)
    except ValueError:
        pass
    try:
        yield request
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
