import numpy as np
import pytest
import torch

from i2pmae.config import FinetuneConfig
from i2pmae.datasets import Shape
from i2pmae.errors import DataError, StoreError
from i2pmae.geometry.sampling import farthest_points
from i2pmae.training.labeled import (
    Batch,
    SourceClouds,
    draw_points,
    draw_spread_points,
    open_labeled,
)

from ..conftest import TINY_ENCODER


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


def test_spread_draws_take_other_points_of_a_cloud_every_time():
    points = torch.nn.functional.normalize(torch.randn(2, 2000, 3, generator=seeded()), dim=2)
    counts = torch.tensor([2000, 2000])
    batch = Batch(points, counts, counts, torch.arange(2000).repeat(2, 1))
    draws = [draw_spread_points(batch, 256, seeded(seed)) for seed in range(12)]
    seen = torch.cat([drawn.parts[0] for drawn in draws]).unique()
    assert len(seen) > 1200  # of the 300 farthest alone it would be 300
    assert torch.equal(draws[0].parts, draw_spread_points(batch, 256, seeded()).parts)
    for drawn in draws:
        assert torch.equal(drawn.points[0], points[0, drawn.parts[0]])
        assert len(drawn.parts[1].unique()) == 256
        assert nearest(drawn.points[0]).median() > 1.3 * nearest(random_points(points)).median()


def random_points(points):
    return points[0, torch.randperm(2000, generator=seeded())[:256]]


def nearest(points):
    """Distance of each point to the nearest other one."""
    return torch.cdist(points, points).fill_diagonal_(torch.inf).amin(dim=1)


@pytest.mark.parametrize("width", [30, 600])
def test_spread_draws_repeat_only_where_a_cloud_has_too_few(width):
    counts = [1, 25, 30]
    drawn = draw_spread_points(numbered(counts, width), 24, seeded())
    assert [len(set(parts.tolist())) for parts in drawn.parts] == [1, 24, 24]


def test_the_first_points_begin_again_where_a_cloud_ends():
    first = numbered([2, 5], 5).first(7)
    assert first.parts.tolist() == [[0, 1, 0, 1, 0, 1, 0], [0, 1, 2, 3, 4, 0, 1]]
    assert first.counts.tolist() == [7, 7]


class FakeSource:
    """Clouds of different sizes; counts how often each is read."""

    def __init__(self, counts):
        self.counts = counts
        self.labels = list(range(len(counts)))
        self.ids = [f"shape {index}" for index in self.labels]
        self.reads = [0] * len(counts)
        self.not_finite = {}

    def __len__(self):
        return len(self.counts)

    def load(self, index):
        self.reads[index] += 1
        points = np.random.default_rng(index).normal(size=(self.counts[index], 3))
        return Shape(points.astype(np.float32), np.full(self.counts[index], index, np.uint8))


def test_a_source_is_read_once_and_selections_share_it():
    source = FakeSource([50, 60, 70, 80])
    clouds = SourceClouds(source, config(data="x"))
    some = clouds.select(np.array([3, 1]), np.array([0, 1]))
    some.prepare()
    some.prepare()
    assert source.reads == [0, 1, 0, 1]
    clouds.prepare()
    assert source.reads == [1, 1, 1, 1]
    (batch,) = some.in_order(8)
    assert batch.labels.tolist() == [0, 1]
    assert batch.counts.tolist() == [80, 60]
    assert batch.parts.unique(dim=1).tolist() == [[3], [1]]
    assert torch.equal(batch.points[1, 60:], batch.points[1, :20])


def test_an_epoch_has_full_batches_in_an_order_of_its_own():
    clouds = SourceClouds(FakeSource([40] * 11), config(data="x"))
    clouds.prepare()

    def order(**of):
        batches = list(clouds.batches(4, **of))
        assert [len(batch.labels) for batch in batches] == [4, 4]
        return torch.cat([batch.labels for batch in batches]).tolist()

    assert len(set(order(seed=0, epoch=0))) == 8
    assert order(seed=0, epoch=0) == order(seed=0, epoch=0) != order(seed=0, epoch=1)
    assert order(seed=0, epoch=0) != order(seed=1, epoch=0)


@pytest.mark.parametrize(
    ("sampling", "kept"), [("spread", 38), ("fps", 38), ("first", 32), ("random", 200)]
)
def test_evaluation_takes_the_points_that_it_uses(sampling, kept):
    source = FakeSource([200])
    clouds = SourceClouds(source, config(data="x", sampling=sampling))
    clouds.prepare()
    (whole,) = clouds.batches(1, seed=0, epoch=0)
    assert whole.points.shape[1] == {"fps": 38, "first": 32}.get(sampling, 200)
    (batch,) = clouds.in_order(1)
    points = torch.from_numpy(source.load(0).points)
    chosen = farthest_points(points[None], kept)[0] if kept == 38 else torch.arange(kept)
    assert torch.equal(batch.points[0], points[chosen])


def test_a_data_set_gives_more_points_than_are_read_by_default():
    clouds = open_labeled(config(data="procedural", points=9000, limit=2)).train
    clouds.prepare()
    assert next(clouds.in_order(2)).points.shape == (2, 9000, 3)


def test_too_few_points_are_an_error_except_for_segmentation():
    with pytest.raises(DataError, match="shape 1 has 20 points, 32 are asked; set --points 20"):
        SourceClouds(FakeSource([40, 20]), config(data="x")).prepare()
    SourceClouds(FakeSource([40, 20]), config(data="x", task="segmentation")).prepare()


@pytest.mark.parametrize("sampling", ["spread", "fps", "first", "random"])
def test_a_store_gives_what_its_source_gives(parts_folder, parts_store, sampling):
    settings = {"sampling": sampling, "task": "segmentation"}
    from_source = open_labeled(config(data=parts_folder, **settings))
    from_store = open_labeled(config(cache=parts_store, **settings))
    assert from_store.class_names == from_source.class_names
    assert from_store.part_names == from_source.part_names
    assert from_store.class_parts == from_source.class_parts
    assert from_store.recipe == from_source.recipe == "segment-shapenetpart"
    assert len(from_store.train.labels) == 16  # with the validation split
    assert len(from_store.test.labels) == 6
    for part in ("train", "test"):
        both = [getattr(found, part) for found in (from_source, from_store)]
        for clouds in both:
            clouds.prepare()
        for _ in range(2):  # the second time the farthest points are remembered
            for expected, found in zip(*(clouds.in_order(4) for clouds in both), strict=True):
                assert_same(expected, found)
        for expected, found in zip(*(c.batches(4, seed=5, epoch=1) for c in both), strict=True):
            assert_same(expected, found)


def assert_same(expected: Batch, found: Batch) -> None:
    assert (expected.points - found.points).abs().max() < 2**-15
    assert torch.equal(expected.labels, found.labels)
    assert torch.equal(expected.parts, found.parts)
    assert torch.equal(expected.counts, found.counts)


def test_part_labels_are_read_only_where_they_are_used(parts_store):
    clouds = open_labeled(config(cache=parts_store)).train
    assert next(clouds.in_order(2)).parts is None


def test_a_store_without_a_test_split_says_so(store):
    with pytest.raises(StoreError, match=r"no shapes of split 'test'.*--split all"):
        open_labeled(config(cache=store))


def test_selected_shapes_of_a_store_keep_their_new_labels(parts_store):
    clouds = open_labeled(config(cache=parts_store)).train
    some = clouds.select(np.array([5, 2, 9]), np.array([7, 8, 9]))
    (batch,) = some.in_order(8)
    assert batch.labels.tolist() == [7, 8, 9]
    everything = torch.cat([batch.points for batch in clouds.in_order(8)])
    assert torch.equal(batch.points, everything[[5, 2, 9]])
    shuffled = next(some.batches(3, seed=0, epoch=0))
    for label, points in zip(shuffled.labels.tolist(), shuffled.points, strict=True):
        assert torch.equal(points, batch.points[label - 7])


@pytest.mark.parametrize("how", [{"up": "z"}, {"prefer": "stl"}, {"classes": "none"}])
def test_how_files_are_read_says_nothing_of_a_store(tmp_path, how):
    with pytest.raises(ValueError, match="say how DATA is read"):
        FinetuneConfig(cache=tmp_path, out=tmp_path, **how)
