"""One writer per store: a lock beside it that names its holder and is renewed."""

from __future__ import annotations

import contextlib
import glob
import json
import os
import re
import socket
import threading
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

from i2pmae.errors import StoreError
from i2pmae.progress import note
from i2pmae.store.location import Location

BEAT = 20.0  # seconds
SILENCE = 90.0  # seconds; several beats
PATIENCE = 60.0  # seconds; for other parts that create or finish the store


class Part(NamedTuple):
    """Every `of`-th shard of a store, from the `number`-th on, counted from 1."""

    number: int
    of: int

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"

    def holds(self, k: int) -> bool:
        """Whether a shard is in this part."""
        return k % self.of == self.number - 1


@dataclass(frozen=True)
class Owner:
    """A process, told apart from a later one of the same number by when it started."""

    host: str
    pid: int
    started: str  # boot and clock tick; empty where the system does not tell
    namespace: str = ""  # in which the number holds: containers may share a host's name

    @classmethod
    def this_process(cls) -> Owner:
        """The one that runs this code."""
        pid = os.getpid()
        return cls(socket.gethostname(), pid, _start_of(pid) or "", _namespace())

    @property
    def is_near(self) -> bool:
        """Whether the process is or was one of this machine, and of the same container.

        A lock that does not say the latter is of an earlier version.
        """
        return self.host == socket.gethostname() and self.namespace in ("", _namespace())

    def is_gone(self) -> bool:
        """Whether the process has certainly ended; False for one on another machine."""
        if not self.is_near:
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


class StoreLock(ABC):
    """The lock of one store; a context manager.

    While it is held, a thread shows every `BEAT` seconds that its owner lives. A lock whose owner
    has ended on this machine is taken over at once; that of another machine after it has shown
    nothing for `SILENCE` seconds, counted here, so that no two clocks are compared.

    Differs: filelock's `SoftFileLease` (4.3.1) does nearly the same. Measured against the tests of
        this module, it takes the lock from a process of this machine that was only suspended and
        will write on, waits for one that was killed and not reaped yet, never frees a lock whose
        file is empty, and does not know the locks of version 0.1.
    """

    def __init__(self, store: str) -> None:
        self.store = store
        self._me = Owner.this_process()
        self._stopped: threading.Event | None = None  # while held
        self._was_lost = False

    def acquire(self) -> None:
        """Take the lock, also from an owner that has ended.

        Raises:
            StoreError: if another process holds it.
            OSError: if it cannot be written.
        """
        while not self._create():
            owner = self._owner()
            if owner is not None and not owner.is_gone() and not self._is_silent(owner):
                raise StoreError(
                    f"{self.store} is being written by process {owner.pid} on {owner.host}. Wait "
                    f"for it; if it is no longer running, delete {self.name}."
                )
            self._remove_stale(owner)
        self._stopped = threading.Event()
        threading.Thread(
            target=self._beat, args=(self._stopped,), name="store lock", daemon=True
        ).start()

    def release(self) -> None:
        """Give the lock back, if it is held."""
        if self._stopped is not None:
            self._stopped.set()
            self._stopped = None
            if self._owner() == self._me:
                self._delete()

    def require(self) -> None:
        """Check before writing that no other process has taken over the lock.

        Raises:
            StoreError: if this process stood still for so long that another has.
        """
        self._was_lost = self._was_lost or self._owner() not in (self._me, None)
        if self._was_lost:
            raise StoreError(
                f"{self.store} was taken over by another process while this one stood still. "
                "What both have written is kept; rerun the command if the other stops."
            )

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def _beat(self, stopped: threading.Event) -> None:
        while not stopped.wait(BEAT):
            try:
                if self._owner() not in (self._me, None):
                    self._was_lost = True
                    return
                self._show_life()
            except OSError:  # a beat may fail; who waits for it allows for several
                continue

    def _is_silent(self, owner: Owner) -> bool:
        """Whether the owner, on another machine, shows no life for a while."""
        if owner.is_near or (owner.host != self._me.host and self._is_fresh()):
            return False
        note(
            f"{self.store} is locked by process {owner.pid} on {owner.host}; waiting up to "
            f"{SILENCE:.0f} s to see whether it is still running"
        )
        last, end = self._life(), time.monotonic() + SILENCE
        while True:
            is_over = time.monotonic() >= end  # before the look: this process may stand still too
            if self._life() != last:
                return False
            if is_over:
                return True
            time.sleep(min(1.0, SILENCE / 4))

    @property
    @abstractmethod
    def name(self) -> str:
        """What to delete to free the lock by hand."""

    @abstractmethod
    def _create(self) -> bool:
        """Put this process's name on the lock, unless there is one."""

    @abstractmethod
    def _owner(self) -> Owner | None:
        """Whose name is on the lock; None if it is free or cannot be understood."""

    @abstractmethod
    def _life(self) -> Any:
        """Something that changes with every beat of the owner."""

    @abstractmethod
    def _show_life(self) -> None:
        """Change what `_life` gives."""

    @abstractmethod
    def _is_fresh(self) -> bool:
        """Whether the last beat is certainly not long ago."""

    @abstractmethod
    def _remove_stale(self, owner: Owner | None) -> None:
        """Remove the lock of `owner`, who has ended."""

    @abstractmethod
    def _delete(self) -> None:
        """Remove the lock, this process's own."""


class FolderLock(StoreLock):
    """A file beside the store's folder, one for all links that lead there.

    Taken by linking a finished file to the lock's name, which the file system does for one
    process only, and which never shows half a file. Its time of modification is the beat.
    """

    def __init__(self, folder: Path, suffix: str = "") -> None:
        real = Path(os.path.realpath(folder))
        super().__init__(str(real))
        self.path = real.with_name(f"{real.name}{suffix}.lock")
        self._own = self.path.with_name(f"{self.path.name}.{uuid.uuid4().hex}")

    @property
    def name(self) -> str:
        """The file."""
        return str(self.path)

    def acquire(self) -> None:
        """Take the lock; see `StoreLock.acquire`."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._own.write_text(json.dumps(asdict(self._me)))
        try:
            super().acquire()
        finally:
            self._own.unlink(missing_ok=True)
        for leftover in self.path.parent.glob(f"{glob.escape(self.path.name)}.*"):
            owner = self._owner(leftover)
            if owner is not None and owner.is_gone():
                leftover.unlink(missing_ok=True)

    def _create(self) -> bool:
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
        try:
            return Owner(**json.loads((path or self.path).read_text()))
        except (OSError, ValueError, TypeError):
            return None

    def _life(self) -> int:
        try:
            return self.path.stat().st_mtime_ns
        except FileNotFoundError:
            return 0

    def _show_life(self) -> None:
        os.utime(self.path)

    def _is_fresh(self) -> bool:
        os.utime(self._own)  # both times are the file server's
        return self._life() > self._own.stat().st_mtime_ns - int(SILENCE * 1e9)

    def _remove_stale(self, owner: Owner | None) -> None:
        """Remove the lock of `owner`, and put it back if it was another's by then."""
        if self._owner() != owner:
            return
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

    def _delete(self) -> None:
        self.path.unlink(missing_ok=True)


class ObjectLock(StoreLock):
    """An object beside a store in an object store.

    Created only if there is none (`If-None-Match`), which the server decides for one process.
    Removing a stale one is not that safe: of two processes that find the same lock stale in the
    same second both may continue. They would write the same bytes.
    """

    def __init__(self, location: Location, suffix: str = "") -> None:
        super().__init__(location.text)
        self._suffix = suffix
        self._files = location.files()
        self._n_beats = 0

    @property
    def name(self) -> str:
        """The object."""
        return f"{self.store}{self._suffix}.lock"

    def _create(self) -> bool:
        try:
            self._files.pipe_file(self.name, self._content(), mode="create")
        except FileExistsError:
            return False
        return True

    def _content(self) -> bytes:
        return json.dumps({**asdict(self._me), "beat": self._n_beats}).encode()

    def _owner(self) -> Owner | None:
        try:
            found = json.loads(self._life() or b"{}")
            del found["beat"]
            return Owner(**found)
        except (ValueError, TypeError, LookupError):
            return None

    def _life(self) -> bytes | None:
        try:
            return bytes(self._files.cat_file(self.name))
        except FileNotFoundError:
            return None

    def _show_life(self) -> None:
        self._n_beats += 1
        self._files.pipe_file(self.name, self._content())

    def _is_fresh(self) -> bool:
        return False

    def _remove_stale(self, owner: Owner | None) -> None:
        if self._owner() == owner:
            self._delete()

    def _delete(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._files.rm_file(self.name)


def lock_of(location: Location, part: Part | None = None) -> StoreLock:
    """The lock of a store, or of a part of its shards, wherever it lies."""
    suffix = "" if part is None else f".part-{part.number}-of-{part.of}"
    if location.folder is None:
        return ObjectLock(location, suffix)
    return FolderLock(location.folder, suffix)


def locked_parts(location: Location) -> list[Part]:
    """The parts of a store that have a lock, whether its owner lives or not."""
    name = location.text.rpartition("/")[2]
    if location.folder is None:
        files = location.files()
        files.invalidate_cache()
        found = files.glob(f"{glob.escape(location.text)}.part-*.lock")
    else:
        name = location.folder.name
        found = map(str, location.folder.parent.glob(f"{glob.escape(name)}.part-*.lock"))
    numbers = [re.search(r"\.part-(\d+)-of-(\d+)\.lock$", text) for text in found]
    return sorted(Part(int(match[1]), int(match[2])) for match in numbers if match)


@contextlib.contextmanager
def whole_store(location: Location, part: Part | None = None) -> Iterator[StoreLock]:
    """The lock of the whole store, held only while no part is being written.

    A part takes it only to create and to finish the store: then others may hold it for a moment
    and are waited for, and only parts of another division are in the way.

    Raises:
        StoreError: if another process writes the store.
    """
    lock = lock_of(location)
    until = time.monotonic() + (0 if part is None else PATIENCE)
    while True:
        try:
            lock.acquire()
            break
        except StoreError:
            if time.monotonic() >= until:
                raise
            time.sleep(0.1)
    try:
        require_no_part(location, besides=part)
        yield lock
    finally:
        lock.release()


def require_no_part(location: Location, besides: Part | None = None) -> None:
    """Check that no part of a store is being written; `besides`: none of another division.

    Raises:
        StoreError: naming the process that writes one.
    """
    for other in locked_parts(location):
        if besides is None or other.of != besides.of:
            with lock_of(location, other):  # also takes away what a killed process has left
                pass


def _namespace() -> str:
    """The namespace of process numbers that this process sees; empty where there are none."""
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def _start_of(pid: int) -> str | None:
    """Boot and clock tick at which a process started; None if it is not there."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        # the command name, in parentheses, may hold anything: count fields after it
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else f"{boot}/{fields[19]}"
