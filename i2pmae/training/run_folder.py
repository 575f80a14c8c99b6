"""The folder of one training run: its config, metrics and checkpoints."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import Any, TypedDict, cast

from i2pmae.atomic_write import atomic_write, sync
from i2pmae.commands import COMMANDS
from i2pmae.config import Config, to_plain
from i2pmae.errors import ConfigError, StoreError, TrainingError
from i2pmae.interrupts import remember_saved
from i2pmae.progress import event, warn
from i2pmae.settings import command_of, differences, told
from i2pmae.store.lock import FolderLock
from i2pmae.training.result import FinetuneResult
from i2pmae.training.tracking import Tracker, open_trackers, require_trackers

Row = dict[str, float]  # of `metrics.jsonl`: figures of an `epoch`
LAST = "last.pt"
BEST = "best.pt"
CONFIG = "config.json"
BAD_BATCH = "not-finite.json"
MAY_CHANGE = {"out", "epochs", "device", "checkpoint_every", "save_minutes", "track"}

_held: ContextVar[FolderLock | None] = ContextVar("lock of this process's run", default=None)


@contextmanager
def run_lock(out: Path) -> Iterator[None]:
    """Let no other process work on the run in a folder while the block runs.

    Two that save checkpoints under one name would spoil both. The lock lies beside the folder and
    is taken over from a process that has ended, or that stood still for long on another machine:
    every write in the block, and every `RunFolder.to_save`, looks first whether it was.

    Raises:
        ConfigError: if another process works there, or the lock cannot be written.
    """
    lock, is_new = FolderLock(out), not out.absolute().parent.exists()
    try:
        lock.acquire()
    except StoreError as error:
        raise ConfigError(f"--out {error}") from None
    except OSError as error:
        raise ConfigError(
            f"--out {out}: {lock.name} cannot be written ({error.strerror}); make room or allow "
            "writing there, or choose another folder"
        ) from None
    token = _held.set(lock)
    try:
        yield
    finally:
        _held.reset(token)
        with suppress(OSError):  # a disk that became read-only keeps it; the next run takes it over
            lock.release()
        if is_new:  # nothing is left of a run that stops before it begins
            with suppress(OSError):
                out.absolute().parent.rmdir()


class FoldRow(TypedDict):
    """A row of a few-shot run's `metrics.jsonl`."""

    setting: str
    fold: int
    accuracy: float  # percent


class RunFolder:
    """`config.json`, `metrics.jsonl`, `last.pt` and kept checkpoints of one run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._trackers: list[Tracker] = []
        self._asked: dict[str, object] | None = None  # settings that a run is to continue with

    @property
    def last(self) -> Path:
        """Checkpoint that `--resume` continues from."""
        return self.path / LAST

    def to_save(self, name: str = LAST) -> Path:
        """Where to save a checkpoint now.

        Raises:
            TrainingError: if another process has taken over the run.
        """
        _require_alone()
        return self.path / name

    @property
    def holds_run(self) -> bool:
        """Whether a run was started here and got anywhere."""
        return any(path.exists() for path in (self.last, self._metrics, self._results))

    def start(
        self,
        config: Config,
        *,
        resume: bool,
        may_change: Sequence[str] = (),
        must_stay: Sequence[str] = (),
    ) -> None:
        """Make the folder, or check that the run in it has the same settings.

        A run that was killed before it had written anything also starts with `resume`, so that
        a job that is queued again may always ask for it.

        Args:
            config: settings, which `config.json` holds once the run begins or is resumed.
            resume: continue the run that is there.
            may_change: settings or tables that may differ then, beside those that always may.
            must_stay: of those, settings that may not.

        Raises:
            ConfigError: if the folder holds a run and `resume` is off, or one with other settings.
        """
        kinds = getattr(config, "track", ())
        require_trackers(kinds)
        self._begin(config, resume, {*MAY_CHANGE, *may_change} - {*must_stay})
        self._trackers = open_trackers(kinds, self.path, to_plain(config))
        remember_saved(self._kept)

    def _begin(self, config: Config, resume: bool, may_change: set[str]) -> None:
        if resume and (self.path / CONFIG).exists():
            self._check_same(config, may_change)
            self._asked = _recorded(config)
            return
        if self.holds_run:
            raise ConfigError(
                f"--resume: {self.path} holds a run, but not its {CONFIG}; restore it from a copy, "
                "or choose another --out"
                if resume
                else f"--out {self.path} already holds a run; add --resume to continue it, "
                "or choose another folder"
            )
        if resume:
            warn(f"--resume: {self.path} holds no run yet; starting one")
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(
                f"--out {self.path}: cannot be written ({error.strerror}); choose another folder"
            ) from None
        self._write(CONFIG, _recorded(config))

    def log(self, row: Mapping[str, float | str]) -> None:
        """Append one row to `metrics.jsonl`."""
        with self._writing(self._metrics), self._metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
            file.flush()
            sync(self._metrics)  # no checkpoint may be newer than the rows of its epochs
        event("metrics", run=str(self.path), **row)
        for track in self._trackers:
            track(row)

    def _kept(self) -> str:
        """What would be kept if the run stopped now."""
        rows = self.rows()
        if self.last.exists():
            epochs = rows[-1]["epoch"] if rows else 0
            return f"{self.last} is saved, {epochs} whole epochs are logged"
        if rows:  # a few-shot run's folds
            return f"{self._metrics} holds {len(rows)} finished folds"
        return f"{self.path} holds no checkpoint yet"

    def rows(self) -> list[Row]:
        """Rows logged so far; a half-written or damaged one is left out, with all after it.

        Raises:
            ConfigError: if the file cannot be read.
        """
        try:
            text = self._metrics.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return []
        except OSError as error:
            raise ConfigError(
                f"{self._metrics} cannot be read ({error.strerror}): it holds the losses so far. "
                "Fix the cause, or restore it from a copy."
            ) from error
        rows = []
        for line in text.splitlines():
            row = _parsed(line)
            if not _is_row(row):
                break
            rows.append(row)
        return rows

    def folds(self) -> list[FoldRow]:
        """The rows of a few-shot run."""
        return cast(list[FoldRow], self.rows())

    def row(self, epoch: int) -> Row:
        """The row of an epoch.

        Raises:
            ConfigError: if it is not there.
        """
        for row in self.rows():
            if row.get("epoch") == epoch:
                return row
        raise ConfigError(
            f"{self._metrics} has no row of epoch {epoch}: it was damaged or deleted; restore it "
            "from a copy, or start again in another --out"
        )

    def go_on(self, epoch: int | None = None) -> None:
        """Record that a resumed run continues with the settings that `start` was given.

        Half-written rows are dropped, and those of epochs after `epoch`, which it writes again.
        """
        rows = [row for row in self.rows() if epoch is None or row.get("epoch", 0) <= epoch]
        self._replace("metrics.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
        if self._asked is not None:
            self._write(CONFIG, self._asked)

    def write_result(self, result: Mapping[str, object]) -> None:
        """Write `result.json`."""
        self._write("result.json", result)

    def write_bad_batch(self, found: Mapping[str, object]) -> None:
        """Write down the batch whose loss is not finite."""
        self._write(BAD_BATCH, found)

    def write_results(self, results: Mapping[str, object], table: str) -> None:
        """Write `results.json`, and the same for people as `results.md`."""
        self._replace("results.md", table)
        self._write(self._results.name, results)

    def results(self) -> FinetuneResult | None:
        """What `write_results` wrote, if it did."""
        if not self._results.exists():
            return None
        found = _parsed(self._results.read_text(encoding="utf-8", errors="replace"))
        if not isinstance(found, dict) or "epochs" not in found:
            raise ConfigError(
                f"{self._results} is damaged; delete it, and --resume evaluates the run again"
            )
        return cast(FinetuneResult, found)

    @property
    def _results(self) -> Path:
        return self.path / "results.json"

    @property
    def _metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    def _check_same(self, config: Config, may_change: set[str]) -> None:
        saved = self._saved(self.path / CONFIG, config)
        found = differences(saved, to_plain(config), may_change)
        if found:
            raise ConfigError(
                f"--resume: the run in {self.path} has other settings ({told(found, 'the run')}); "
                "give the same ones, or choose another --out"
            )

    def _saved(self, path: Path, config: Config) -> dict[str, Any]:
        """The run's settings; keys that the software of the time did not have are the defaults."""
        try:
            values = _parsed(path.read_text(encoding="utf-8"))
            if not isinstance(values, dict):
                raise ValueError("it holds no settings")
            command = values.pop("command", None) or command_of(values)
            if command not in (None, _command_of(config)):
                raise ConfigError(
                    f"--resume: {self.path} holds a run of i2pmae {command}, not of "
                    f"{_command_of(config)}; choose another --out"
                )
            return to_plain(type(config).model_validate(values))
        except (ValueError, OSError) as error:
            reason = " ".join(str(error).split())[:120]
            raise ConfigError(
                f"--resume: {path} cannot be understood ({reason}); it is damaged or of another "
                "version of i2pmae. Restore it from a copy, or choose another --out"
            ) from None

    @contextmanager
    def _writing(self, path: Path) -> Iterator[None]:
        """Say in one line that a file cannot be written, or is another process's by now."""
        _require_alone()
        try:
            yield
        except OSError as error:
            raise TrainingError(
                f"cannot write {path} ({error.strerror}); make room or allow writing there, then "
                "run the same command with --resume"
            ) from error

    def _write(self, name: str, values: Mapping[str, object]) -> None:
        self._replace(name, json.dumps(values, indent=2) + "\n")

    def _replace(self, name: str, text: str) -> None:
        """Write a file so that it is either the old or the new one, never half of it."""
        path = self.path / name
        with self._writing(path), atomic_write(path, is_mine=True) as temporary:
            temporary.write_text(text, encoding="utf-8")


def _require_alone() -> None:
    """Make sure that the run is still this process's."""
    lock = _held.get()
    if lock is None:
        return
    try:
        lock.require()
    except StoreError:
        raise TrainingError(
            f"{lock.store} was taken over by another process while this one stood still; what it "
            "had saved is kept there. If the other process stops, run this with --resume"
        ) from None


def _command_of(config: Config) -> str:
    """The command that takes such settings."""
    kind = type(config).__name__
    return next(command.name for command in COMMANDS.values() if command.settings == kind)


def _recorded(config: Config) -> dict[str, object]:
    """Settings as they are kept: with the command that they are of."""
    return {"command": _command_of(config), **to_plain(config)}


def _is_row(row: Any) -> bool:
    """Whether it is a row of an epoch or, of few-shot runs, of a fold: names and their numbers."""
    if not isinstance(row, dict):
        return False
    kinds = {"epoch": int, "fold": int, "setting": str}
    told = all(isinstance(value, kinds.get(name, int | float)) for name, value in row.items())
    return told and ("epoch" in row or {"setting", "fold", "accuracy"} <= row.keys())


def _parsed(text: str) -> Any:
    """What a text of JSON holds; None where it is damaged."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
