"""What a command has found out about shapes so far, kept so that rerunning it resumes."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from io import BufferedRandom
from itertools import chain
from pathlib import Path
from typing import Any, Self

from i2pmae.config import Config, to_plain
from i2pmae.errors import DataError
from i2pmae.interrupts import forget_saved, remember_saved
from i2pmae.progress import note
from i2pmae.settings import differences, told

Row = dict[str, Any]  # plain values about a shape
_OF_FILES = ("fingerprint", "source_fingerprint", "source_times")  # hashes, not for people
_MAY_CHANGE = ("out", "on_error", "device")  # between an interrupted command and its rerun


def kept_settings(config: Config) -> dict[str, Any]:
    """Settings of a command that must be the same for it to resume, as plain values."""
    return {key: value for key, value in to_plain(config).items() if key not in _MAY_CHANGE}


class Journal:
    """A file beside the output of a command, which takes the rows of every batch of shapes.

    A line of JSON holds a batch, so a process that is killed loses the batch in progress, and the
    batches of a resumed command are those of one that was never stopped. Shapes whose rows hold an
    `error` are to be read again by a resumed command. The file is removed once the output is
    written.

    Args:
        out: the output.
        settings: plain values; a file with other settings is started over.
        total: number of shapes.

    Attributes:
        n_done: shapes whose rows it holds, the first ones.
        failed: indices of those that an earlier command could not read, in order.
    """

    def __init__(self, out: Path, settings: Mapping[str, Any], total: int) -> None:
        self.path = out.with_name(f"{out.name}.unfinished")
        self.n_done = 0
        self.failed: list[int] = []
        self._again: dict[int, Row] = {}  # rows that replace earlier ones
        self._out = out
        self._settings = json.loads(json.dumps(settings))
        self._total = total
        self._file: BufferedRandom | None = None
        self._finished = False

    def __enter__(self) -> Self:
        """Open the file, after what an earlier command has left there.

        Raises:
            DataError: if it cannot be written.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("r+b" if self.path.exists() else "w+b")
        except OSError as error:
            raise self._cannot_write(error) from None
        self._recover(self._file)
        remember_saved(lambda: f"{self.path} holds {self.n_done} of {self._total} shapes")
        return self

    def __exit__(self, *_error: object) -> None:
        assert self._file is not None
        self._file.close()
        if self._finished or self.n_done == 0:
            self.path.unlink(missing_ok=True)
            forget_saved()

    @property
    def missing(self) -> list[int]:
        """Indices of the shapes to read: those that failed, then those that it lacks."""
        return [*self.failed, *range(self.n_done, self._total)]

    def add(self, n_done: int, rows: Sequence[Row]) -> None:
        """Keep the rows of the shapes up to the `n_done`-th.

        Raises:
            DataError: if the file cannot be written.
        """
        self._write({"n_done": n_done, "rows": rows})
        self.n_done = n_done

    def replace(self, rows: Mapping[int, Row]) -> None:
        """Keep other rows of shapes that were read again, by index.

        Raises:
            DataError: if the file cannot be written.
        """
        self._write({"again": [*rows.items()]})
        self._again |= rows

    def rows(self) -> Iterator[Row]:
        """All rows, in the order of the shapes."""
        with self.path.open("rb") as file:
            next(file)  # the settings
            kept = chain.from_iterable(json.loads(line).get("rows", ()) for line in file)
            for index, row in enumerate(kept):
                yield self._again.get(index, row)

    def finish(self) -> None:
        """Remove the file at the end, when its rows have been written elsewhere."""
        self._finished = True

    def _recover(self, file: BufferedRandom) -> None:
        """Go to the end of the last whole batch, if the file is one of the same settings."""
        end, failed = 0, set[int]()
        for line in file:
            try:
                found = json.loads(line) if line.endswith(b"\n") else None
            except ValueError:
                found = None
            if not isinstance(found, dict):
                break
            if end == 0:
                changed = differences(found, self._settings)
                if changed:
                    shown = {k: v for k, v in changed.items() if k not in _OF_FILES}
                    why = [f"has other settings ({told(shown, 'it')})"] if shown else []
                    if len(shown) < len(changed):
                        why.append("was begun before files of the shapes changed")
                    note(f"{self.path} {' and '.join(why)}: starting over")
                    break
            else:
                again = dict(found.get("again", ()))
                rows = dict(enumerate(found.get("rows", ()), self.n_done)) | again
                failed |= rows.keys()
                failed -= {index for index, row in rows.items() if "error" not in row}
                self._again |= again
                self.n_done = int(found.get("n_done", self.n_done))
            end += len(line)
        file.seek(end)
        file.truncate()
        if end == 0:
            self._write(self._settings)
        elif self.n_done:
            self.failed = sorted(failed)
            retried = f"; {len(failed)} that could not be read are tried again" if failed else ""
            note(f"resuming: {self.path} holds {self.n_done} of {self._total} shapes{retried}")

    def _write(self, values: Mapping[str, Any]) -> None:
        assert self._file is not None
        try:
            self._file.write(json.dumps(values).encode() + b"\n")
            self._file.flush()
        except OSError as error:
            raise self._cannot_write(error) from None

    def _cannot_write(self, error: OSError) -> DataError:
        reason = error.strerror or os.strerror(error.errno or 0)
        return DataError(
            f"cannot write {self.path}: {reason}. Make room or choose another --out, then rerun "
            "the command."
        )
