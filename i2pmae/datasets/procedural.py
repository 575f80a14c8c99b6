"""Procedural shapes as data sets: no files, no download."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, ClassVar

import numpy.typing as npt

from i2pmae.datasets.source import Entry, ShapeSource, shape_generator
from i2pmae.errors import ConfigError
from i2pmae.procedural import classes, random_shapes
from i2pmae.procedural.arrangements import ARRANGEMENTS
from i2pmae.procedural.primitives import KINDS

_MOST_SHAPES = 10**7  # a list of their ids takes 2 GB
_TEST_EVERY = 10


class _Procedural(ShapeSource):
    """Shapes that depend only on the seed and their id, with as many points as asked for."""

    version: ClassVar[int]  # of the shapes; part of the fingerprint

    def fingerprint(self) -> str:
        """Hash of the ids, the seed and the version of the shapes."""
        told = f"{self.version}\n{self.seed}\n{super().fingerprint()}"
        return hashlib.sha256(told.encode()).hexdigest()

    def _count(self, _entry: Entry) -> int:
        return self.points


class ProceduralShapes(_Procedural):
    """480 shapes of 12 classes: 30 for training and 10 for testing of each.

    A shape depends on the seed and its id alone. It has exactly as many points as asked for,
    drawn evenly from its surfaces, then centered and scaled to the unit sphere. Classes take
    turns in the list, so its first few shapes hold every class.
    """

    layout = "procedural"
    version = 1
    n_train = 30  # per class
    n_test = 10

    def __init__(self, _root: Path, **options: Any):
        nowhere = Path(self.layout)
        numbers = [("train", number) for number in range(self.n_train)]
        numbers += [("test", self.n_train + number) for number in range(self.n_test)]
        entries = [
            Entry(f"{name}/{part}/{name}_{number:02d}", label, part, nowhere, number)
            for part, number in numbers
            for label, name in enumerate(classes.CLASSES)
        ]
        part_names: list[str] = []
        class_parts = []
        for name, (parts, _) in classes.CLASSES.items():
            class_parts.append(tuple(range(len(part_names), len(part_names) + len(parts))))
            part_names += [f"{name} {part}" for part in parts]
        self.part_names = tuple(part_names)
        self.class_parts = tuple(class_parts)
        super().__init__(nowhere, tuple(classes.CLASSES), entries, **options)

    def _read(self, entry: Entry) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        assert self.class_parts is not None
        generator = shape_generator(self.seed, entry.id)
        points, parts = classes.draw_shape(self.class_names[entry.label], self.points, generator)
        return points, parts + self.class_parts[entry.label][0]


class RandomShapes(_Procedural):
    """As many random shapes as asked for: `procedural-random:30000`, or the word and a limit.

    A shape depends on the seed and its number alone: neither on how many there are, nor on what
    was read before it. Every tenth is a test shape. It has exactly as many points as asked for,
    drawn evenly from its visible surface, then centered and scaled to the unit sphere. The class
    is the arrangement that the primitives were drawn for, a part the kind of its primitive.
    """

    layout = "procedural-random"
    version = 2
    n_shapes = 10_000  # where neither the name nor a limit says how many
    part_names = KINDS

    def __init__(self, root: Path, *, split: str, limit: int | None, **options: Any):
        count = self.count_in(root)
        if count is None:
            count = self.n_shapes
            if limit is not None:  # enough of them to choose so many of the split
                count = {
                    "train": limit * _TEST_EVERY // (_TEST_EVERY - 1) + 1,
                    "test": limit * _TEST_EVERY,
                }.get(split, limit)
        if not 0 < count <= _MOST_SHAPES:
            raise ConfigError(f"{root}: expected 1 to {_MOST_SHAPES} shapes, found {count}")
        nowhere = Path(self.layout)
        self.class_parts = (tuple(range(len(KINDS))),) * len(ARRANGEMENTS)
        entries = [
            Entry(
                f"random-{number:08d}",
                _TURNS[number % len(_TURNS)],
                "test" if number % _TEST_EVERY == _TEST_EVERY - 1 else "train",
                nowhere,
                number,
            )
            for number in range(count)
        ]
        super().__init__(nowhere, tuple(ARRANGEMENTS), entries, split=split, limit=limit, **options)

    @classmethod
    def count_in(cls, path: Path) -> int | None:
        """The number in `procedural-random:30000`; None where the name has none.

        Raises:
            ConfigError: if what follows the colon is no number.
        """
        word, colon, count = path.name.partition(":")
        if word != cls.layout or not colon:
            return None
        if not count.isdecimal():
            raise ConfigError(
                f"{path}: expected a number of shapes after the colon, found {count!r}"
            )
        return int(count)

    def _read(self, entry: Entry) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        generator = shape_generator(self.seed, entry.id)
        return random_shapes.draw_shape(self.class_names[entry.label], self.points, generator)


_SHARES = (2, 2, 3, 4, 4, 3, 2, 2, 1, 3, 3)  # of 29 shapes in a row
# Arrangements take turns. No tenth turn is always the same one, so splits do not differ.
_TURNS = tuple(
    label
    for _, label in sorted(
        ((turn + 0.5) / share, label)
        for label, share in enumerate(_SHARES)
        for turn in range(share)
    )
)
