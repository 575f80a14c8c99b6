"""Bars, messages and tables on the console; the one home of rich.

Messages and bars go to stderr, results to stdout, so output can be piped. Where stderr is not a
terminal a bar becomes one plain line every ten seconds.
"""

from __future__ import annotations

import io
import json
import re
import sys
import time
from collections.abc import Iterable, Iterator, Sequence, Sized
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self, TextIO, TypeVar

from rich import box
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
)
from rich.progress import Progress as Display
from rich.table import Table
from rich.text import Text

from i2pmae.errors import ConfigError

Item = TypeVar("Item")

console = Console(stderr=True, highlight=False)
_results = Console(highlight=False)

_SECONDS_PER_LINE = 10.0
_SHADES = " ·░▒▓█"
_UNWRAPPED = 100_000  # columns; more than any line has


@dataclass
class _Mode:
    quiet: bool = False
    results_on_stderr: bool = False
    log: TextIO | None = None  # takes events as lines of JSON
    display: Display | None = None  # shared by all open bars, so that bars can be nested
    n_bars: int = 0


_mode = _Mode()


def configure(*, quiet: bool = False, results_on_stderr: bool = False) -> None:
    """Set how much is shown, for the whole process.

    Args:
        quiet: no bars and no notes; warnings and tables stay.
        results_on_stderr: tables join the messages, so that stdout holds JSON only.
    """
    _mode.quiet = quiet
    _mode.results_on_stderr = results_on_stderr
    if _mode.log is not None:
        _mode.log.close()
        _mode.log = None


def be_quiet() -> None:
    """Show no bars and no notes from now on; the rest stays as it was configured."""
    _mode.quiet = True


def results_to_stderr() -> None:
    """Let tables join the messages; the rest stays as it was configured."""
    _mode.results_on_stderr = True


def log_events(path: Path) -> None:
    """Append notes, warnings, progress and metrics to a file, each as one line of JSON.

    Raises:
        ConfigError: if the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _mode.log = path.open("a", encoding="utf-8", buffering=1)
    except OSError as error:
        raise ConfigError(
            f"--log-json {path}: cannot be written ({error.strerror}); choose another file"
        ) from None


def event(kind: str, **values: Any) -> None:
    """Append an event to the log, if there is one: `time` (UTC), `event` and values."""
    if _mode.log is not None:
        moment = datetime.now(UTC).isoformat(timespec="milliseconds")
        line = json.dumps({"time": moment, "event": kind, **values})
        with suppress(OSError):  # a full disk must not end a run
            _mode.log.write(f"{line}\n")


@contextmanager
def quietly() -> Iterator[None]:
    """Show no bars and no notes inside, for work that only measures."""
    before, _mode.quiet = _mode.quiet, True
    try:
        yield
    finally:
        _mode.quiet = before


def note(message: str) -> None:
    """Say something worth knowing, as one unwrapped line on stderr."""
    event("note", message=message)
    _show_line(message)


def _show_line(message: str) -> None:
    if not _mode.quiet:
        console.print(Text(message), soft_wrap=True)


def warn(message: str) -> None:
    """Say something that may need action, as one unwrapped line on stderr."""
    event("warning", message=message)
    console.print(Text.assemble(("warning: ", "bold yellow"), message), soft_wrap=True)


def print_lines(lines: Iterable[str]) -> None:
    """Print results on stdout, a line each."""
    target = console if _mode.results_on_stderr else _results
    for line in lines:
        target.file.write(f"{' '.join(line.split())}\n")


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table on stdout; columns in which every cell is a number align right."""
    cells = [[str(cell) for cell in row] for row in rows]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for index, name in enumerate(columns):
        numeric = bool(cells) and all(_is_number(row[index]) for row in cells)
        table.add_column(Text(name), justify="right" if numeric else "left", overflow="fold")
    for row in cells:
        table.add_row(*map(Text, row))
    target = console if _mode.results_on_stderr else _results
    if target.is_terminal:
        if title:
            target.print(Text(title, style="bold"))
        target.print(table)
        return
    plain = Console(file=io.StringIO(), width=_UNWRAPPED, highlight=False)
    plain.print(table)
    lines = [title] * bool(title) + [line.rstrip() for line in _text(plain).splitlines()]
    target.file.write("\n".join(lines) + "\n")


def print_text(text: str) -> None:
    """Print lines as they are where tables go."""
    target = console if _mode.results_on_stderr else _results
    target.file.write(f"{text}\n")


def print_picture(brightness: Sequence[Sequence[float]]) -> None:
    """Print a little picture where tables go: in grey on a terminal, else in characters.

    Args:
        brightness: rows of values in [0, 1]; their number is even.
    """
    target = console if _mode.results_on_stderr else _results
    pairs = zip(brightness[::2], brightness[1::2], strict=True)
    if not target.is_terminal:
        for upper, lower in pairs:
            both = [max(a, b) for a, b in zip(upper, lower, strict=True)]
            line = "".join(_SHADES[round(value * (len(_SHADES) - 1))] for value in both)
            target.file.write(f"{line.rstrip()}\n")
        return
    for upper, lower in pairs:
        cells = [
            ("▀", f"rgb({a},{a},{a}) on rgb({b},{b},{b})")
            for a, b in (
                (round(255 * above), round(255 * below))
                for above, below in zip(upper, lower, strict=True)
            )
        ]
        target.print(Text.assemble(*cells), soft_wrap=True)


def _text(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


class Progress:
    """A bar while the block runs: how far a loop has come, how fast it goes, how long it takes.

    Bars may be nested.

    Args:
        description: what is done, a few words.
        total: how many items there are, or None if nobody knows.
        done: how many of them an earlier run has finished; they count for no rate.
    """

    def __init__(self, description: str, total: int | None = None, *, done: int = 0) -> None:
        self.description = description
        self.total = total
        self.done = done
        self._earlier = done
        self._status = ""
        self._task: TaskID | None = None
        self._started = self._said = time.monotonic()

    def __enter__(self) -> Self:
        self._started = self._said = time.monotonic()
        _mode.n_bars += 1
        if _mode.display is None and console.is_terminal and not _mode.quiet:
            _mode.display = _new_display()
            _mode.display.start()
        if _mode.display is not None:
            self._task = _mode.display.add_task(
                self.description, total=self.total, completed=self.done, pace=""
            )
        return self

    def __exit__(self, *_error: object) -> None:
        _mode.n_bars -= 1
        self._log()
        if _mode.display is None or self._task is None:
            self._say()
        elif _mode.n_bars > 0:
            _mode.display.remove_task(self._task)
        else:
            _mode.display.stop()
            _mode.display = None

    def advance(self, amount: int = 1) -> None:
        """Count `amount` items as done."""
        self.done += amount
        self._show()

    def describe(self, status: str) -> None:
        """Show `status`, such as a loss, behind rate and time from now on."""
        self._status = status
        self._show()

    def pace(self) -> str:
        """Rate, time left and status, such as `41.2/s, 1:32 left, loss 0.12`."""
        seconds = time.monotonic() - self._started
        done = self.done - self._earlier
        parts = []
        if done and seconds > 0:
            rate = done / seconds
            parts.append(f"{rate:.3g}/s" if rate >= 1 else f"{1 / rate:.3g} s each")
            if self.total is not None and self.done < self.total:
                parts.append(f"{format_seconds((self.total - self.done) / rate)} left")
            elif self.total is not None:
                parts.append(f"took {format_seconds(seconds)}")
        return ", ".join([*parts, self._status] if self._status else parts)

    def _show(self) -> None:
        is_due = time.monotonic() - self._said >= _SECONDS_PER_LINE
        if is_due:
            self._log()
        if _mode.display is not None and self._task is not None:
            _mode.display.update(self._task, completed=self.done, pace=self.pace())
            self._said = time.monotonic() if is_due else self._said
        elif is_due:
            self._say()

    def _log(self) -> None:
        event(
            "progress",
            task=self.description,
            done=self.done,
            total=self.total,
            seconds=round(time.monotonic() - self._started, 3),
            status=self._status,
            memory_bytes=memory_bytes(),
        )

    def _say(self) -> None:
        self._said = time.monotonic()
        count = f"{self.done}" if self.total is None else f"{self.done}/{self.total}"
        _show_line(": ".join(filter(None, [f"{self.description} {count}", self.pace()])))


def track(
    iterable: Iterable[Item], description: str, total: int | None = None, *, done: int = 0
) -> Iterator[Item]:
    """Yield the items of `iterable` under a bar; see `Progress`."""
    if total is None and isinstance(iterable, Sized):
        total = done + len(iterable)
    with Progress(description, total, done=done) as progress:
        for item in iterable:
            yield item
            progress.advance()


class _Memory(ProgressColumn):
    """How much memory the process holds, and how much of the GPU's."""

    def render(self, task: Task) -> Text:
        """One cell; nested bars do not repeat it."""
        is_first = not task.id or task.id == min(_mode.display.task_ids if _mode.display else [0])
        held = memory_bytes() if is_first else {}
        named = [f"{name} {count / 1e9:.1f} GB" for name, count in held.items()]
        return Text(", ".join(named), style="dim")


def memory_bytes() -> dict[str, int]:
    """The most memory that the process has held, bytes: `memory`, and `gpu` where it uses one."""
    held = {"memory": 0}
    try:
        import resource

        unit = 1 if sys.platform == "darwin" else 1024
        held["memory"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    except ImportError:  # Windows has no such module
        held = {}
    torch = sys.modules.get("torch")  # never imported for this alone
    if torch is not None and torch.cuda.is_initialized():
        held["gpu"] = int(torch.cuda.max_memory_allocated())
    return held


def _new_display() -> Display:
    return Display(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[pace]}", style="dim", markup=False),
        _Memory(),
        console=console,
        redirect_stdout=False,  # results must not end up in the display on stderr
    )


def format_seconds(seconds: float) -> str:
    """Write a duration as `0:07`, `12:05` or `3:07:12`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def _is_number(text: str) -> bool:
    return re.fullmatch(r"-?[\d.,]+( ?%)?( ± [\d.]+)?", text) is not None
