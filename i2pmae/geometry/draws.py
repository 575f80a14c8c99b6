"""Random rows of a batch that several processes share.

Each process draws for the whole batch and keeps its own rows, so what a cloud gets depends on its
place in the batch and never on the number of processes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor


@dataclass(frozen=True)
class Part:
    """Which of several equal parts of a batch a process works on."""

    index: int = 0
    count: int = 1

    def of(self, rows: Tensor) -> Tensor:
        """This part's rows of a batch."""
        return rows if self.count == 1 else rows.chunk(self.count)[self.index]


WHOLE = Part()


class PartGenerator(Generator):
    """A generator whose draws are for one part of a batch; see `uniform` and `integers`."""

    part: Part = WHOLE


def uniform(
    shape: tuple[int, ...],
    generator: Generator | None,
    device: torch.device | None = None,
    part: Part = WHOLE,
) -> Tensor:
    """Uniform numbers in [0, 1).

    Args:
        shape: of the rows that this process needs, rows first.
        generator: where they come from; a `PartGenerator` decides the part. None: torch's own.
        device: where they are needed.
        part: of the batch, where the generator does not say it.

    Returns:
        float32 of that shape, on the generator's device where there is one.
    """
    part, device = _source(generator, device, part)
    numbers = torch.rand(_of_all(shape, part), generator=generator, device=device)
    return part.of(numbers)


def integers(
    high: int,
    shape: tuple[int, ...],
    generator: Generator | None,
    device: torch.device | None = None,
) -> Tensor:
    """Uniform integers from 0 to `high` - 1, int64; otherwise as `uniform`."""
    part, device = _source(generator, device, WHOLE)
    numbers = torch.randint(high, _of_all(shape, part), generator=generator, device=device)
    return part.of(numbers)


def _source(
    generator: Generator | None, device: torch.device | None, part: Part
) -> tuple[Part, torch.device | None]:
    if generator is None:
        return part, device
    return getattr(generator, "part", part), generator.device


def _of_all(shape: tuple[int, ...], part: Part) -> tuple[int, ...]:
    return (shape[0] * part.count, *shape[1:])
