"""Reading shapes ahead of their use: by threads, or by processes where these pay off.

Parsing is mostly Python code, which holds the interpreter's lock, so threads do not speed it up.
All code that reads many shapes reads them through this file.
"""

from __future__ import annotations

import os
import sys
import time
import warnings
from abc import abstractmethod
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import accumulate, takewhile
from multiprocessing import get_all_start_methods, get_context
from types import ModuleType
from typing import Any, Generic, TypeVar, cast

from i2pmae.datasets.source import ShapeSource
from i2pmae.errors import DataError, I2PMAEError, WorkersError, one_line
from i2pmae.formats.files import refuse_outage
from i2pmae.progress import warn

Found = TypeVar("Found")
Item = TypeVar("Item")
Piece = TypeVar("Piece", bound=Sequence[int])
_MOST_THREADS = 8
_MOST_PROCESSES = 16
_AHEAD = 64  # shapes that are read before they are needed
_AHEAD_EACH = 2  # pieces that each process reads ahead
_TOGETHER = 4  # shapes that go between processes at once
_TRIED = 32  # shapes that threads read first, to see what a shape costs
_PAYS_OFF = 8.0  # processor seconds of work left; starting processes takes two


def read_ahead(
    read: Callable[[Item], Found],
    items: Sequence[Item],
    n_threads: int | None = None,
    n_ahead: int = _AHEAD,
) -> Generator[tuple[Item, Future[Found]], None, None]:
    """Call a function for every item, in order, a few calls ahead of whoever takes the results.

    Args:
        read: may be called in several threads at once.
        items: indices of shapes, or of some shapes each.
        n_threads: None: one per core, 8 at most.
        n_ahead: calls.

    Yields:
        Item and result, which raises what `read` raised.
    """
    waiting: deque[tuple[Item, Future[Found]]] = deque()
    pool = ThreadPoolExecutor(n_threads or min(os.cpu_count() or 1, _MOST_THREADS), "read shapes")
    try:
        for item in items:
            waiting.append((item, pool.submit(read, item)))
            if len(waiting) > n_ahead:
                yield waiting.popleft()
        while waiting:
            yield waiting.popleft()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


@dataclass(frozen=True)
class Outcome(Generic[Found]):
    """What was read, or why it could not be."""

    found: Found | None
    error: I2PMAEError | None = None

    def result(self) -> Found:
        """What was read; raises the error where there is one."""
        if self.error is not None:
            raise self.error
        return cast(Found, self.found)

    @classmethod
    def of(cls, read: Callable[[Item], Found], item: Item) -> Outcome[Found]:
        """What a call gives or raises."""
        try:
            return cls(read(item))
        except I2PMAEError as error:
            return cls(None, error)


@dataclass(frozen=True)
class PieceReader(Generic[Found]):
    """Reads some shapes of a data set at a time; it may be sent to another process.

    Attributes:
        source: the shapes.
        bad: shapes that are not tried, by index, with the reasons.
    """

    source: ShapeSource
    bad: Mapping[int, str] = field(default_factory=dict, kw_only=True)

    @abstractmethod
    def __call__(self, wanted: Sequence[int]) -> Found:
        """What is read of the shapes; to another process it must be plain values and arrays."""

    def of_shape(self, index: int, read: Callable[[int], Item]) -> Item:
        """What `read` gives for one shape.

        Raises:
            DataError: if the shape cannot be used.
            OutageError: if the system failed, so that nothing is known of the shape.
        """
        if index in self.bad:
            raise DataError(self.bad[index])
        try:
            return read(index)
        except (OSError, MemoryError) as error:
            file = self.source.entries[index].file
            refuse_outage(error, file)
            raise DataError(f"{file} cannot be read: {one_line(error)}.") from error


def read_pieces(
    reader: PieceReader[Found],
    pieces: Sequence[Piece],
    *,
    n_threads: int | None = None,
    n_ahead: int = _AHEAD // _TOGETHER,
    n_processes: int | None = None,
    n_cores: int | None = None,
) -> Generator[tuple[Piece, Outcome[Found]], None, None]:
    """Read pieces of a data set before they are asked for.

    Args:
        reader: what reads them.
        pieces: indices of shapes.
        n_threads, n_ahead: of `read_ahead`, where threads read.
        n_processes: processes that read; 0: threads of this one; None: as many as pay off, judged
            by the processor time of the first shapes.
        n_cores: cores that these may take; None: all.

    Yields:
        Each piece with what was read of it, in order; an error is raised when it is asked for.
    """
    read = partial(Outcome.of, reader)
    if n_processes is None:
        n_processes = 0
        if sum(map(len, pieces)) > _TRIED and (most := n_useful(reader.source, n_cores)):
            timed = _Timed(read)
            n_tried = 1 + sum(
                1 for _ in takewhile(lambda n: n < _TRIED, accumulate(map(len, pieces)))
            )
            yield from _results(read_ahead(timed, pieces[:n_tried], n_threads, n_ahead))
            n_read, n_left = (sum(map(len, p)) for p in (pieces[:n_tried], pieces[n_tried:]))
            n_processes = most if timed.seconds * n_left > _PAYS_OFF * n_read else 0
            pieces = pieces[n_tried:]
    if n_processes:
        yield from _in_processes(reader, pieces, n_processes)
    else:
        yield from _results(read_ahead(read, pieces, n_threads, n_ahead))


def read_each(
    source: ShapeSource,
    read: Callable[[ShapeSource, int], Found],
    indices: Sequence[int] | None = None,
    n_threads: int | None = None,
) -> Generator[tuple[int, Outcome[Found]], None, None]:
    """Read shapes one by one, ahead of their use.

    Args:
        source: the shapes; its `not_finite` is kept up to date.
        read: from a shape's index to plain values and arrays, wherever shapes are read; a function
            of a module, or a `partial` of one.
        indices: of the shapes; None: all.
        n_threads: as in `read_ahead`.

    Yields:
        Index and result, which raises what `read` raised.
    """
    chosen = range(len(source)) if indices is None else indices
    pieces = [chosen[first : first + _TOGETHER] for first in range(0, len(chosen), _TOGETHER)]
    reader = _EachShape(source, read)
    with closing(read_pieces(reader, pieces, n_threads=n_threads)) as reading:
        for piece, outcome in reading:
            for index, (found, n_left_out) in zip(piece, outcome.result(), strict=True):
                if n_left_out:
                    source.not_finite[index] = n_left_out
                yield index, found


def n_useful(source: ShapeSource, n_cores: int | None = None) -> int:
    """How many processes may read a data set; 0 where threads of this one do as well."""
    n_files = len({entry.file for entry in source.entries})
    if 2 * n_files < len(source) and source.entries[0].file.is_file():
        return 0  # files of many shapes are read once per process
    n_here = n_available() if n_cores is None else n_cores
    n = min(_MOST_PROCESSES, n_here // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    return n if n > 1 else 0


def n_available() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def _results(
    reading: Generator[tuple[Item, Future[Found]], None, None],
) -> Generator[tuple[Item, Found], None, None]:
    with closing(reading):
        for item, future in reading:
            yield item, future.result()


class _Timed(Generic[Item, Found]):
    """A function, and the processor time that it has taken."""

    def __init__(self, read: Callable[[Item], Found]) -> None:
        self._read, self.seconds = read, 0.0

    def __call__(self, item: Item) -> Found:
        started = time.thread_time()
        try:
            return self._read(item)
        finally:
            self.seconds += time.thread_time() - started


@dataclass(frozen=True)
class _EachShape(PieceReader[list[tuple[Outcome[Any], int]]]):
    """Shapes one by one, and how many of their points were left out."""

    read: Callable[[ShapeSource, int], Any]

    def __call__(self, wanted: Sequence[int]) -> list[tuple[Outcome[Any], int]]:
        one = partial(self.of_shape, read=partial(self.read, self.source))
        return [(Outcome.of(one, i), self.source.not_finite.get(i, 0)) for i in wanted]


def _in_processes(
    reader: PieceReader[Found], pieces: Sequence[Piece], n_processes: int
) -> Generator[tuple[Piece, Outcome[Found]], None, None]:
    """`read_pieces` with processes; a shape that crashes its process is isolated, and is bad."""
    n_done = 0
    while n_done < len(pieces):
        try:
            with closing(_processes(reader, pieces[n_done:], n_processes)) as reading:
                for outcome in reading:
                    yield pieces[n_done], outcome
                    n_done += 1
        except RuntimeError as error:
            if "exited unexpectedly" not in str(error) and "is killed by" not in str(error):
                raise
            under_way = pieces[n_done : n_done + (_AHEAD_EACH + 1) * n_processes]
            reader = replace(reader, bad={**reader.bad, **_poison(reader, under_way)})


def _poison(reader: PieceReader[Any], pieces: Sequence[Sequence[int]]) -> dict[int, str]:
    """The first shape that crashes a process on its own.

    Raises:
        WorkersError: if none does.
    """
    warn("a process that reads shapes crashed; looking for the shape that causes it")
    for index in (index for piece in pieces for index in piece if index not in reader.bad):
        try:
            list(_processes(reader, [[index]], 1))
        except RuntimeError:
            name = reader.source.ids[index]
            return {index: f"{name} crashes every process that reads it, or needs too much memory"}
    raise WorkersError(
        "a process that reads shapes crashed, though none of its shapes does so alone: memory may "
        "be short. Rerun the command to resume, extract-2d with fewer --loaders."
    )


@dataclass(frozen=True)
class _Pieces(Generic[Found]):
    """A data set as torch's loader takes it: its indices are pieces."""

    reader: PieceReader[Found]

    def __getitem__(self, piece: Sequence[int]) -> Outcome[Found]:
        return Outcome.of(self.reader, piece)


def _processes(
    reader: PieceReader[Found], pieces: Sequence[Sequence[int]], n_processes: int
) -> Generator[Outcome[Found], None, None]:
    """Pieces read by processes, in order."""
    from torch.utils.data import DataLoader

    # A fork of this process could inherit locks that its threads hold, and wait forever.
    method = "forkserver" if "forkserver" in get_all_start_methods() else "spawn"
    context = get_context(method)
    if method == "forkserver":
        modules = ["torch.utils.data", type(reader).__module__, type(reader.source).__module__]
        context.set_forkserver_preload(modules)
    dataset: Any = _Pieces(reader)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "(?s).*worker processes in total", UserWarning)
        loader = DataLoader(
            dataset,
            batch_size=None,
            sampler=pieces,
            num_workers=n_processes,
            collate_fn=_as_it_is,  # arrays, not tensors: those would go through /dev/shm
            multiprocessing_context=context,
            prefetch_factor=_AHEAD_EACH,
        )
        with _main_hidden():
            reading = iter(loader)
    yield from reading


@contextmanager
def _main_hidden() -> Iterator[None]:
    """New processes must not run the main script again: it may lack a `__main__` guard."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _as_it_is(loaded: Any) -> Any:
    return loaded
