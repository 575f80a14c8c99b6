"""Bars, messages, tables and errors on the console: the one place that prints, the home of rich.

Messages and bars go to stderr, results to stdout, so output can be piped. Where stderr is not a
terminal a bar becomes one plain line every ten seconds. Control characters in what is printed are
escaped, see `i2pmae.terminal`.
"""

from __future__ import annotations

import io
import json
import os
import re
import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence, Sized
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self, TextIO, TypeVar

from rich import box
from rich.console import Console, ConsoleOptions, ConsoleRenderable, RenderResult
from rich.control import Control
from rich.live import Live
from rich.segment import ControlType
from rich.table import Table
from rich.text import Text

from i2pmae.errors import ConfigError
from i2pmae.terminal import one_line, printable

Item = TypeVar("Item")

console = Console(stderr=True, highlight=False)
_results = Console(highlight=False)

_SECONDS_PER_LINE = 10.0
_SHADES = " ·░▒▓█"
_MOST_CLASSES = 40  # rows of a table
_UNWRAPPED = 100_000  # columns; more than any line has
_WIDEST_BAR = 24  # columns
_NARROWEST_BAR = 5
_NARROWEST_NAME = 10  # of what is done; a longer one is cut where there is little room
_WANTED = 4  # parts that every line should have: count, rate, time left, loss
_RECENT = 100  # losses that the mean is of


@dataclass
class _Mode:
    quiet: bool = False
    results_on_stderr: bool = False
    log: TextIO | None = None  # takes events as lines of JSON
    live: Live | None = None  # shows all open bars
    bars: list[Progress] = field(default_factory=list)  # open ones, the outermost first
    drawn: list[int] = field(default_factory=list)  # lengths of their lines on the terminal


_mode = _Mode()


def configure(*, quiet: bool = False, results_on_stderr: bool = False) -> None:
    """Set how much is shown, for the whole process.

    Args:
        quiet: no bars and no notes; warnings and tables stay.
        results_on_stderr: print tables on stderr, so that stdout holds JSON only.
    """
    _mode.quiet = quiet
    _mode.results_on_stderr = results_on_stderr
    if _mode.log is not None:
        _mode.log.close()
        _mode.log = None


def be_quiet() -> None:
    """Show no bars and no notes from now on; other modes are unchanged."""
    _mode.quiet = True


def results_to_stderr() -> None:
    """Print tables on stderr from now on; other modes are unchanged."""
    _mode.results_on_stderr = True


def log_events(path: Path) -> None:
    """Append notes, warnings, errors, progress and metrics to a file, as lines of JSON.

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
    """Show no bars and no notes inside the block."""
    before, _mode.quiet = _mode.quiet, True
    try:
        yield
    finally:
        _mode.quiet = before


def note(message: str) -> None:
    """Print information as one unwrapped line on stderr."""
    event("note", message=message)
    _show_line(message)


def _show_line(message: str) -> None:
    if not _mode.quiet:
        _show(Text(printable(message)))


def _show(text: Text) -> None:
    console.print(text, soft_wrap=True)


def warn(message: str) -> None:
    """Print a warning, which may need action, as one unwrapped line on stderr."""
    event("warning", message=message)
    _show(Text.assemble(("warning: ", "bold yellow"), printable(message)))


def print_error(message: str) -> None:
    """End all bars, and print an error of the command as one line on stderr."""
    close_bars()
    event("error", message=message)
    sys.stderr.write(f"i2pmae: {one_line(message)}\n")


def print_json(result: dict[str, Any]) -> None:
    """Print a command's result as one line of JSON on stdout."""
    sys.stdout.write(f"{json.dumps(result)}\n")


def print_lines(lines: Iterable[str]) -> None:
    """Print results on stdout, a line each."""
    if text := "\n".join(" ".join(line.split()) for line in lines):
        print_text(text)


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table on stdout; columns in which every cell is a number align right."""
    columns = [printable(name) for name in columns]
    cells = [[printable(str(cell)) for cell in row] for row in rows]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for index, name in enumerate(columns):
        numeric = bool(cells) and all(_is_number(row[index]) for row in cells)
        table.add_column(Text(name), justify="right" if numeric else "left", overflow="fold")
    for row in cells:
        table.add_row(*map(Text, row))
    target = console if _mode.results_on_stderr else _results
    if target.is_terminal:
        if title:
            target.print(Text(printable(title), style="bold"))
        target.print(table)
        return
    plain = Console(file=io.StringIO(), width=_UNWRAPPED, highlight=False)
    plain.print(table)
    lines = [title] * bool(title) + [line.rstrip() for line in _text(plain).splitlines()]
    print_text("\n".join(lines))


def print_class_table(
    title: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[object]],
    totals: Sequence[Sequence[object]] = (),
) -> None:
    """Print a table with a row per class, of which there may be thousands: the first of them.

    Args:
        title, columns: as of `print_table`.
        rows: of the classes.
        totals: last rows, which are never left out.
    """
    more = ""
    if len(rows) > _MOST_CLASSES:
        more = f", first {_MOST_CLASSES} of {len(rows)} classes (--json lists all)"
    print_table(title + more, columns, [*rows[:_MOST_CLASSES], *totals])


def print_text(text: str) -> None:
    """Print lines as they are where tables go."""
    target = console if _mode.results_on_stderr else _results
    target.file.write(printable(f"{text}\n", keep="\n\t"))


def print_picture(brightness: Sequence[Sequence[float]]) -> None:
    """Print a little picture where tables go: in grey on a terminal, else in characters.

    Args:
        brightness: rows of values in [0, 1]; their number is even.
    """
    target = console if _mode.results_on_stderr else _results
    pairs = list(zip(brightness[::2], brightness[1::2], strict=True))
    if not target.is_terminal:
        shades = [
            "".join(
                _SHADES[round(max(pair) * (len(_SHADES) - 1))]
                for pair in zip(upper, lower, strict=True)
            )
            for upper, lower in pairs
        ]
        print_text("\n".join(line.rstrip() for line in shades))
        return
    picture = Text()
    for upper, lower in pairs:
        for above, below in zip(upper, lower, strict=True):
            a, b = round(255 * above), round(255 * below)
            picture.append("▀", f"rgb({a},{a},{a}) on rgb({b},{b},{b})")
        picture.append("\n")
    target.print(picture, soft_wrap=True, end="")


def _text(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


class Progress:
    """A progress bar while the block runs: items done, rate, time left, mean loss.

    Bars may be nested; inner ones disappear when they end. With a total of 0 nothing is shown.

    Args:
        description: what is done, in a few words.
        total: number of items; None if unknown.
        done: items that an earlier run has finished; they do not count for the rate.
    """

    def __init__(self, description: str, total: int | None = None, *, done: int = 0) -> None:
        self.description = printable(description)
        self.total = total
        self.done = done
        self._earlier = done
        self._status: tuple[str, ...] = ()
        self._losses: deque[float] = deque(maxlen=_RECENT)
        self._started = self._said = time.monotonic()

    def __enter__(self) -> Self:
        self._started = self._said = time.monotonic()
        _mode.bars.append(self)
        if _mode.live is None and console.is_terminal and not _mode.quiet:
            # Results must not end up in the display on stderr.
            _mode.live = _Live(get_renderable=_Bars, console=console, redirect_stdout=False)
            _mode.live.start()
        if _mode.live is not None:
            _mode.live.refresh()
        return self

    def __exit__(self, *_error: object) -> None:
        if self not in _mode.bars:  # an error has closed all
            return
        self._log()
        if _mode.live is None:
            self._say()
        if _mode.bars[0] is self:
            close_bars()
        else:
            _mode.bars.remove(self)

    def advance(self, amount: int = 1) -> None:
        """Count `amount` items as done."""
        self.done += amount
        self._show()

    @property
    def new(self) -> int:
        """Items done since the block began."""
        return self.done - self._earlier

    def describe(self, *status: str, losses: Iterable[float] = ()) -> None:
        """Set the status that is shown after rate and time, and the losses of more items.

        Args:
            status: the most important first; the last are left out where a line is too short.
            losses: of the items since the last call; the mean of the last 100 is shown.
        """
        self._status = tuple(map(printable, status))
        self._losses.extend(losses)
        self._show()

    def pace(self) -> list[str]:
        """Rate, time left, mean loss and status: `41.2/s`, `1:32 left`, `loss 0.12`."""
        seconds = time.monotonic() - self._started
        done = self.new
        parts = []
        if done and seconds > 0:
            rate = done / seconds
            per_second = f"{rate:.0f}/s" if rate >= 100 else f"{rate:.3g}/s"
            parts.append(per_second if rate >= 1 else f"{1 / rate:.3g} s each")
            if self.total is not None and self.done < self.total:
                parts.append(f"{format_seconds((self.total - self.done) / rate)} left")
            elif self.total is not None:
                parts.append(f"took {format_seconds(seconds)}")
        if self._losses:
            parts.append(f"loss {self.mean_loss:.4g}")
        return [*parts, *self._status]

    @property
    def mean_loss(self) -> float | None:
        """Mean of the last losses; None where there are none."""
        return sum(self._losses) / len(self._losses) if self._losses else None

    @property
    def count(self) -> str:
        """How many items are done, of how many: `12/80`."""
        return f"{self.done}" if self.total is None else f"{self.done}/{self.total}"

    def _show(self) -> None:
        if time.monotonic() - self._said >= _SECONDS_PER_LINE:
            self._log()
            if _mode.live is None:
                self._say()
            self._said = time.monotonic()

    def _log(self) -> None:
        event(
            "progress",
            task=self.description,
            done=self.done,
            total=self.total,
            seconds=round(time.monotonic() - self._started, 3),
            loss=self.mean_loss,
            status=", ".join(self._status),
            memory_bytes=memory_bytes(),
        )

    def _say(self) -> None:
        if self.total != 0:
            _show_line(
                ": ".join(
                    filter(None, [f"{self.description} {self.count}", ", ".join(self.pace())])
                )
            )


def close_bars() -> None:
    """Draw the outermost bar a last time and end all bars, also those whose block still runs."""
    live, _mode.live = _mode.live, None
    del _mode.bars[1:]
    if live is not None:
        live.stop()
    _mode.bars.clear()
    _mode.drawn.clear()


class _Bars:
    """All open bars as lines that fit the terminal, however wide it is now."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width = options.max_width - 1  # a full line may wrap
        bars = [bar for bar in _mode.bars if bar.total != 0]
        names = [Text(bar.description) for bar in bars]
        for name in names:
            name.truncate(max(_NARROWEST_NAME, width // 5), overflow="ellipsis")
        longest = max((name.cell_len for name in names), default=0)
        _mode.drawn = []
        for place, (bar, name) in enumerate(zip(bars, names, strict=True)):
            name.pad_right(longest - name.cell_len)
            parts = [bar.count, *bar.pace(), *(_memory() if place == 0 else ())]
            line = _line(name, bar, parts, width)
            _mode.drawn.append(line.cell_len)
            yield line


class _Live(Live):
    """Open bars, redrawn in place, also where a narrower terminal has wrapped their lines."""

    def process_renderables(self, renderables: list[ConsoleRenderable]) -> list[ConsoleRenderable]:
        """What is printed, after the sequence that erases what was drawn last."""
        erase, *rest = super().process_renderables(renderables)
        n_wrapped = sum((length - 1) // console.width for length in _mode.drawn if length)
        one_more = ((ControlType.CURSOR_UP, 1), (ControlType.ERASE_IN_LINE, 2))
        return [erase, Control(*one_more * (n_wrapped if _wraps_old_lines() else 0)), *rest]


def _wraps_old_lines() -> bool:
    """Whether the terminal wraps lines that it already shows once it gets narrower; most do."""
    kind = os.environ.get("TERM", "")
    is_screen = kind.startswith("screen") and "TMUX" not in os.environ
    return not (kind == "linux" or is_screen or "XTERM_VERSION" in os.environ)


def _line(name: Text, bar: Progress, parts: Sequence[str], width: int) -> Text:
    """One bar: name, bar, count and as many other parts as there is room for."""
    room = width - name.cell_len - 1 - _NARROWEST_BAR
    wanted = " ".join(["", *parts[:_WANTED]])
    comma = ", " if len(wanted) + _WANTED - 2 <= room else " "
    shown = Text(f" {parts[0]}")
    for number, part in enumerate(parts[1:]):
        text = Text(f"{comma if number else ' '}{part}", style="dim")
        if shown.cell_len + text.cell_len > room:
            break
        shown.append_text(text)
    length = max(1, min(_WIDEST_BAR, room + _NARROWEST_BAR - shown.cell_len))
    full = round(min(bar.done / bar.total, 1.0) * length) if bar.total else 0
    line = Text.assemble(name, " ", ("━" * full, "cyan"), ("━" * (length - full), "bright_black"))
    line.append_text(shown)
    line.truncate(width, overflow="crop")
    return line


def _memory() -> list[str]:
    held = [f"{name} {count / 1e9:.1f} GB" for name, count in memory_bytes().items()]
    return [", ".join(held)] if held else []


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


def format_seconds(seconds: float) -> str:
    """Write a duration as `0:07`, `12:05` or `3:07:12`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def format_bytes(count: float) -> str:
    """A number of bytes in the unit that fits, three digits."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"


def _is_number(text: str) -> bool:
    return re.fullmatch(r"-?[\d.,]+( ?%)?( ± [\d.]+)?", text) is not None
