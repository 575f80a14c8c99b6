"""Shapes worked through batch by batch in bounded memory, resumed where a command was stopped."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import groupby, islice

from i2pmae.datasets import Shape, ShapeSource
from i2pmae.evaluation.clouds import CloudReader
from i2pmae.evaluation.journal import Journal, Row
from i2pmae.progress import Progress


def stream(
    source: ShapeSource,
    clouds: CloudReader,
    journal: Journal,
    rows_of: Callable[[Sequence[Shape], Sequence[int]], Sequence[Row]],
    *,
    batch_size: int,
    description: str,
) -> None:
    """Add the rows of the shapes that a journal lacks, after those that failed before.

    Args:
        source: the shapes.
        clouds: reads them: `journal.missing`.
        journal: takes a row per shape; of one that cannot be read, `id` and `error`.
        rows_of: shapes of equally many points, and their indices, to rows.
        batch_size: shapes per call; fewer at the end.
        description: of the bar.
    """
    n_before, failed = journal.n_done, journal.failed
    shapes = ((clouds.kept[-1], shape) for shape in clouds.shapes())
    with Progress(description, len(source), done=n_before - len(failed)) as progress:

        def errors_of(indices: Iterable[int]) -> dict[int, Row]:
            return {k: {"id": source.ids[k], "error": clouds.errors[k]} for k in indices}

        def add(rows: dict[int, Row], n_done: int) -> None:
            every = range(journal.n_done, n_done)
            rows |= errors_of(k for k in every if k not in rows)
            if every:
                journal.add(n_done, [rows[k] for k in every])
                progress.advance(len(every))

        for is_again, some in groupby(shapes, lambda read: read[0] < n_before):
            while batch := list(islice(some, batch_size)):
                indices = [index for index, _ in batch]
                found = rows_of([shape for _, shape in batch], indices)
                rows = dict(zip(indices, found, strict=True))
                if is_again:
                    journal.replace(rows)
                    progress.advance(len(rows))
                else:
                    add(rows, indices[-1] + 1)
        add({}, len(source))
        if unread := errors_of(k for k in failed if k in clouds.errors):
            journal.replace(unread)
            progress.advance(len(unread))
