"""One writer per store: a lock file beside it that says who holds it."""

from __future__ import annotations

import glob
import json
import os
import socket
import uuid
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from i2pmae.errors import StoreError


@dataclass(frozen=True)
class Owner:
    """A process, told apart from a later one of the same number by when it started."""

    host: str
    pid: int
    started: str  # boot and clock tick; empty where the system does not tell

    @classmethod
    def this_process(cls) -> Owner:
        """The one that runs this code."""
        return cls(socket.gethostname(), os.getpid(), _start_of(os.getpid()) or "")

    def is_gone(self) -> bool:
        """Whether the process has certainly ended; False for one on another machine."""
        if self.host != socket.gethostname():
            return False
        if self.started:
            return _start_of(self.pid) != self.started
        if os.name != "posix":
            return False
        try:
            os.kill(self.pid, 0)  # signal 0: only asks whether the process exists
        except ProcessLookupError:
            return True
        except PermissionError:
            return False
        return False


class StoreLock:
    """The lock of the store at `folder`; a context manager.

    Taken by linking a finished file to the lock's name, which the file system does for one
    process only, and which never shows half a file.
    """

    def __init__(self, folder: Path) -> None:
        absolute = folder.absolute()
        self.path = absolute.with_name(f"{absolute.name}.lock")
        self._own = self.path.with_name(f"{self.path.name}.{uuid.uuid4().hex}")
        self._held = False

    def acquire(self) -> None:
        """Take the lock, also from a process of this machine that has ended.

        Raises:
            StoreError: if another process holds it.
            OSError: if the folder cannot be written.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._own.write_text(json.dumps(asdict(Owner.this_process())))
        try:
            while not self._link():
                owner = self._owner()
                if owner is not None and not owner.is_gone():
                    raise StoreError(
                        f"{self.path.with_suffix('')} is being written by process {owner.pid} on "
                        f"{owner.host}. Wait for it; if it is no longer running, delete "
                        f"{self.path}."
                    )
                self._remove_stale(owner)
        finally:
            self._own.unlink(missing_ok=True)
        self._held = True
        for leftover in self.path.parent.glob(f"{glob.escape(self.path.name)}.*"):
            owner = self._owner(leftover)
            if owner is not None and owner.is_gone():
                leftover.unlink(missing_ok=True)

    def release(self) -> None:
        """Give the lock back, if it is held."""
        if self._held:
            self._held = False
            self.path.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def _link(self) -> bool:
        try:
            os.link(self._own, self.path)
        except FileExistsError:
            return False
        except OSError:  # a file system without hard links
            try:
                with self.path.open("x") as lock:
                    lock.write(self._own.read_text())
            except FileExistsError:
                return False
        return True

    def _owner(self, path: Path | None = None) -> Owner | None:
        """Who wrote the lock file; None if it is gone or cannot be understood."""
        try:
            return Owner(**json.loads((path or self.path).read_text()))
        except (OSError, ValueError, TypeError):
            return None

    def _remove_stale(self, owner: Owner | None) -> None:
        """Remove the lock of `owner`, and put it back if it was another's by then."""
        aside = self._own.with_suffix(".stale")
        try:
            self.path.rename(aside)
        except FileNotFoundError:
            return
        try:
            if self._owner(aside) != owner and not self.path.exists():
                os.link(aside, self.path)
        finally:
            aside.unlink(missing_ok=True)


def _start_of(pid: int) -> str | None:
    """Boot and clock tick at which a process started; None if it is not there."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        # the command name, in parentheses, may hold anything: count fields after it
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else f"{boot}/{fields[19]}"
