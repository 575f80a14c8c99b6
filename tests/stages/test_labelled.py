from types import SimpleNamespace

import numpy as np
import pytest
import torch

from i2pmae.config import FinetuneConfig
from i2pmae.datasets import Shape
from i2pmae.errors import DataError
from i2pmae.geometry.sampling import farthest_points
from i2pmae.stages.labelled import (
    Batch,
    SourceClouds,
    default_recipe,
    draw_points,
    open_labelled,
)

from .conftest import TINY_ENCODER


def config(**changes) -> FinetuneConfig:
    values = {"out": "x", "points": 32, "encoder": TINY_ENCODER, "sampling": "random"}
    return FinetuneConfig(**(values | changes))


def numbered(counts: list[int], width: int) -> Batch:
    """Clouds whose points and parts are their own index."""
    rows = torch.stack([torch.arange(width) % count for count in counts])
    points = rows[..., None].repeat(1, 1, 3).float()
    return Batch(points, torch.tensor(counts), torch.zeros(len(counts), dtype=torch.int64), rows)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("n_points", [1, 5, 9, 30])
def test_drawn_points_repeat_only_where_a_cloud_has_too_few(n_points):
    counts = [1, 5, 9, 12]
    drawn = draw_points(numbered(counts, 12), n_points, seeded())
    assert drawn.points.shape == (4, n_points, 3)
    for count, points, parts in zip(counts, drawn.points, drawn.parts, strict=True):
        assert torch.equal(points[:, 0].long(), parts)
        assert len(set(parts.tolist())) == min(count, n_points)
        assert parts.max() < count


def test_every_point_is_equally_likely():
    batch = numbered([6], 8)
    drawn = torch.cat([draw_points(batch, 2, seeded(seed)).parts for seed in range(600)])
    hits = torch.bincount(drawn.flatten(), minlength=6)
    assert len(hits) == 6
    assert (hits - 200).abs().max() < 5 * (200 * 5 / 6) ** 0.5


def test_the_first_points_begin_again_where_a_cloud_ends():
    first = numbered([2, 5], 5).first(7)
    assert first.parts.tolist() == [[0, 1, 0, 1, 0, 1, 0], [0, 1, 2, 3, 4, 0, 1]]
    assert first.counts.tolist() == [7, 7]


def source_of(counts: list[int]) -> SimpleNamespace:
    """A source of clouds of different sizes that counts how often each is read."""
    reads = [0] * len(counts)

    def load(index: int) -> Shape:
        reads[index] += 1
        points = np.random.default_rng(index).normal(size=(counts[index], 3)).astype(np.float32)
        return Shape(points, np.full(counts[index], index, np.uint8))

    return (
        SimpleNamespace(
            load=load, reads=reads, labels=list(range(len(counts))), ids=[f"s{i}" for i in counts]
        )
        if False
        else _Source(load, reads, len(counts))
    )


class _Source(SimpleNamespace):
    def __init__(self, load, reads, n):
        super().__init__(
            load=load, reads=reads, labels=list(range(n)), ids=[f"s{i}" for i in range(n)]
        )

    def __len__(self):
        return len(self.labels)
