import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from i2pmae.geometry.transforms import augment, normalize_to_unit_sphere, random_subset


def clouds(batch=3, n_points=40):
    return torch.randn(batch, n_points, 3, generator=seeded(0))


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def test_normalized_square_by_hand():
    square = torch.tensor([[[2.0, 3.0, 5.0], [4.0, 3.0, 5.0], [2.0, 5.0, 5.0], [4.0, 5.0, 5.0]]])
    half = math.sqrt(0.5)
    expected = torch.tensor(
        [[[-half, -half, 0], [half, -half, 0], [-half, half, 0], [half, half, 0]]]
    )
    torch.testing.assert_close(normalize_to_unit_sphere(square), expected)


@given(shift=st.floats(-50, 50), factor=st.floats(0.01, 100), n_points=st.integers(2, 30))
@settings(max_examples=25)
def test_normalization_forgets_place_and_size(shift, factor, n_points):
    points = clouds(2, n_points).double()
    moved = normalize_to_unit_sphere(points * factor + shift)
    torch.testing.assert_close(moved, normalize_to_unit_sphere(points), atol=1e-8, rtol=1e-6)
    torch.testing.assert_close(moved.mean(1), torch.zeros(2, 3).double(), atol=1e-8, rtol=0)
    torch.testing.assert_close(moved.norm(dim=2).amax(1), torch.ones(2).double())


def test_each_cloud_is_normalized_for_itself():
    points = clouds() * torch.tensor([1.0, 10.0, 100.0]).view(3, 1, 1)
    alone = torch.cat([normalize_to_unit_sphere(cloud[None]) for cloud in points])
    torch.testing.assert_close(normalize_to_unit_sphere(points), alone)


def test_normalizing_a_single_place_gives_zeros():
    assert torch.equal(normalize_to_unit_sphere(torch.full((1, 5, 3), 7.0)), torch.zeros(1, 5, 3))


def test_neutral_augmentation_changes_and_draws_nothing():
    generator = seeded(1)
    before = generator.get_state()
    assert torch.equal(augment(clouds(), generator=generator), clouds())
    assert torch.equal(generator.get_state(), before)


def test_scale_is_one_factor_per_axis_and_cloud():
    factors = augment(clouds(), scale=(0.5, 2.0), generator=seeded(2)) / clouds()
    torch.testing.assert_close(factors, factors[:, :1].expand_as(factors))
    assert factors[:, 0].unique().numel() == 9
    assert factors.min() >= 0.5
    assert factors.max() <= 2.0


def test_scale_can_be_one_factor_per_cloud():
    factors = augment(clouds(), (0.5, 2.0), scale_per_axis=False, generator=seeded(2)) / clouds()
    torch.testing.assert_close(factors, factors[:, :1, :1].expand_as(factors))
    assert factors[:, 0, 0].unique().numel() == 3


def test_shift_is_one_vector_per_cloud():
    moved = augment(clouds(), shift=0.2, generator=seeded(3)) - clouds()
    torch.testing.assert_close(moved, moved[:, :1].expand_as(moved), atol=1e-6, rtol=0)
    assert 0.02 < moved.abs().max() <= 0.2 + 1e-6
    assert moved.min() < 0 < moved.max()
    assert moved[:, 0, 0].unique().numel() == 3


def test_rotation_turns_each_cloud_about_y():
    points = torch.tensor([[[1.0, 5.0, 0.0], [0.0, 5.0, 1.0]]]).expand(64, 2, 3)
    turned = augment(points, rotation=180.0, generator=seeded(4))
    torch.testing.assert_close(turned[..., 1], points[..., 1])
    torch.testing.assert_close(turned.norm(dim=-1), points.norm(dim=-1))
    # The z axis follows the x axis by a right angle: (x, z) = (c, -s) and (s, c).
    torch.testing.assert_close(turned[:, 1, 0], -turned[:, 0, 2])
    torch.testing.assert_close(turned[:, 1, 2], turned[:, 0, 0])
    quadrants = {(bool(x > 0), bool(z > 0)) for x, z in turned[:, 0, [0, 2]]}
    assert len(quadrants) == 4


def test_rotation_stays_within_its_limit():
    points = torch.tensor([1.0, 0.0, 0.0]).expand(200, 1, 3)
    turned = augment(points, rotation=30.0, generator=seeded(5))
    degrees = torch.rad2deg(torch.atan2(turned[..., 2], turned[..., 0]))
    assert 28 < degrees.abs().max() <= 30 + 1e-4


def test_augmentation_repeats_with_its_seed():
    def once(seed):
        return augment(clouds(), (0.9, 1.1), shift=0.1, rotation=180.0, generator=seeded(seed))

    assert torch.equal(once(6), once(6))
    assert not torch.equal(once(6), once(7))


def test_subset_is_distinct_and_repeats_with_its_seed():
    chosen = random_subset(clouds(), 16, seeded(8))
    assert chosen.shape == (3, 16)
    assert all(row.unique().numel() == 16 for row in chosen)
    assert int(chosen.min()) >= 0
    assert int(chosen.max()) < 40
    assert torch.equal(chosen, random_subset(clouds(), 16, seeded(8)))
    assert not torch.equal(chosen[0].sort().values, chosen[1].sort().values)


def test_subset_of_all_points_is_a_permutation():
    chosen = random_subset(clouds(), 40, seeded(9))
    assert torch.equal(chosen.sort(dim=1).values, torch.arange(40).expand(3, 40))
    assert not torch.equal(chosen, torch.arange(40).expand(3, 40))


def test_every_point_is_chosen_equally_often():
    chosen = random_subset(torch.zeros(4000, 10, 3), 3, seeded(10))
    counts = chosen.flatten().bincount(minlength=10)
    assert (counts - 1200).abs().max() < 5 * math.sqrt(1200 * 0.7)


def test_too_large_a_subset_is_refused():
    with pytest.raises(ValueError, match="41 of 40"):
        random_subset(clouds(), 41)
