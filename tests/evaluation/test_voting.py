import pytest
import torch

from i2pmae.evaluation.voting import vote
from i2pmae.geometry.sampling import farthest_points
from i2pmae.geometry.transforms import augment


def clouds(n_points, batch=2):
    return torch.rand(batch, n_points, 3, generator=torch.Generator().manual_seed(0))


def seeded():
    return torch.Generator().manual_seed(1)


def unchanged(points, _generator):
    return points


@pytest.mark.parametrize("n_points", [5, 40, 47, 100])
def test_every_draw_sees_distinct_points_among_the_farthest(n_points):
    points = clouds(n_points)
    seen = []

    def classify(drawn):
        seen.append(drawn)
        return drawn.mean(dim=1)

    vote(classify, points, unchanged, seeded(), n_points=40, n_draws=3)
    assert [drawn.shape for drawn in seen] == [(2, min(40, n_points), 3)] * 3
    pool = farthest_points(points, min(47, n_points))
    for cloud, drawn, chosen in zip(points, seen[0], pool, strict=True):
        rows = {tuple(row) for row in drawn.tolist()}
        assert len(rows) == len(drawn)
        assert rows <= {tuple(row) for row in cloud[chosen].tolist()}


def test_logits_are_averaged_over_the_draws():
    constants = iter([1.0, 2.0, 6.0])

    def classify(drawn):
        return torch.full((len(drawn), 4), next(constants))

    logits = vote(classify, clouds(20), unchanged, seeded(), n_points=10, n_draws=3)
    assert torch.equal(logits, torch.full((2, 4), 3.0))


def test_the_augmentation_is_applied_to_each_draw():
    def doubled(points, generator):
        return augment(points, scale=(2.0, 2.0), generator=generator)

    points = clouds(10)
    logits = vote(lambda drawn: drawn.amax(dim=1), points, doubled, seeded(), n_draws=2)
    assert torch.allclose(logits, 2 * points.amax(dim=1))


def test_the_generator_decides():
    points = clouds(50)
    first, again = (
        vote(lambda drawn: drawn.mean(dim=1), points, unchanged, seeded(), n_points=9)
        for _ in range(2)
    )
    assert torch.equal(first, again)


def test_no_draws_is_refused():
    with pytest.raises(ValueError, match="at least one"):
        vote(lambda drawn: drawn, clouds(5), unchanged, seeded(), n_draws=0)
