"""Shapes worked through batch by batch in bounded memory, resumed where a command was stopped."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import islice

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
    """Add the rows of the shapes that a journal lacks.

    Args:
        source: the shapes.
        clouds: reads them, from `journal.n_done` on.
        journal: takes a row per shape; of one that cannot be read, `id` and `error`.
        rows_of: shapes of equally many points, and their indices, to rows.
        batch_size: shapes per call; fewer at the end.
        description: of the bar.
    """
    shapes = clouds.shapes()
    with Progress(description, len(source), done=journal.n_done) as progress:

        def add(rows: dict[int, Row], n_done: int) -> None:
            every = range(journal.n_done, n_done)
            failed = {
                k: {"id": source.ids[k], "error": clouds.errors[k]} for k in every if k not in rows
            }
            if every:
                journal.add(n_done, [(rows | failed)[k] for k in every])
                progress.advance(len(every))

        while batch := list(islice(shapes, batch_size)):
            indices = clouds.kept[-len(batch) :]
            add(dict(zip(indices, rows_of(batch, indices), strict=True)), indices[-1] + 1)
        add({}, len(source))
