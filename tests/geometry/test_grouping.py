import numpy as np
import pytest
import torch
from torch import Tensor

from i2pmae.geometry import grouping_torch
from i2pmae.geometry.grouping import (
    gather_rows,
    group,
    nearest_neighbors,
    point_indices,
)
from i2pmae.geometry.grouping_torch import squared_distances
from i2pmae.geometry.sampling_torch import farthest_points_torch


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def slow_nearest_neighbors(queries: Tensor, points: Tensor, k: int) -> Tensor:
    found = []
    for cloud_queries, cloud in zip(queries.numpy(), points.numpy(), strict=True):
        for query in cloud_queries:
            squares = (query - cloud) ** 2
            distances = squares[:, 0] + squares[:, 1] + squares[:, 2]
            found.append(sorted(range(len(cloud)), key=lambda i: (distances[i], i))[:k])
    return torch.tensor(found).view(len(queries), -1, k)


def lattice(side: int = 4) -> Tensor:
    """A cloud full of ties, (1, side^3, 3)."""
    points = torch.cartesian_prod(*[torch.arange(float(side))] * 3)
    order = torch.randperm(len(points), generator=torch.Generator().manual_seed(0))
    return points[order][None]


CLOUDS = {
    "random": random(3, 64, 3),
    "ties": torch.cat([lattice(), lattice().flip(1)]),
    "few distinct points": random(2, 9, 3).repeat(1, 8, 1),
    "all points alike": torch.full((2, 64, 3), -0.7),
}


@pytest.mark.parametrize("name", CLOUDS)
def test_nearest_neighbors_agree_with_the_slow_version(name):
    points = CLOUDS[name]
    for queries in (points[:, ::3], random(len(points), 10, 3, seed=1)):
        found = nearest_neighbors(queries, points, 11)
        assert found.dtype == torch.int64
        assert torch.equal(found, slow_nearest_neighbors(queries, points, 11))


def test_nearest_neighbors_on_a_line_by_hand():
    points = torch.zeros(1, 5, 3)
    points[0, :, 2] = torch.tensor([0.0, 4, 1, -1, 3])
    found = nearest_neighbors(points[:, [0, 4]], points, 4)
    # From 0: itself, then 1 and -1 in index order, then 3. From 3: itself, 4, 1, 0.
    assert found.tolist() == [[[0, 2, 3, 4], [4, 1, 2, 0]]]


def test_all_neighbors_may_be_asked_for():
    points = CLOUDS["ties"]
    found = nearest_neighbors(points, points, 64)
    assert torch.equal(found.sort(dim=-1).values, torch.arange(64).expand(2, 64, 64))


def test_close_neighbors_far_from_the_origin_are_told_apart():
    # |a|^2 + |b|^2 - 2ab would be off by 1 here; differences are exact.
    steps = torch.tensor([3.0, 1.0, 2.0, 0.0]) / 256
    points = torch.full((1, 4, 3), 4096.0)
    points[0, :, 0] += steps
    assert nearest_neighbors(points[:, 3:], points, 4).tolist() == [[[3, 1, 2, 0]]]


@pytest.mark.parametrize("chunk", [1, 200, 999])
def test_chunks_do_not_change_neighbors(chunk, monkeypatch):
    points = CLOUDS["random"]
    expected = nearest_neighbors(points, points, 5)
    monkeypatch.setattr(grouping_torch, "CHUNK", chunk)
    assert torch.equal(nearest_neighbors(points, points, 5), expected)


@pytest.mark.parametrize("k", [0, 65])
def test_impossible_numbers_of_neighbors_are_refused(k):
    points = CLOUDS["random"]
    with pytest.raises(ValueError, match=rf"{k} neighbors asked for, .* 64 points"):
        nearest_neighbors(points, points, k)


def test_squared_distances_of_every_pair():
    queries, points = random(2, 5, 3), random(2, 7, 3, seed=1)
    expected = torch.empty(2, 5, 7)
    for b, q, p in np.ndindex(2, 5, 7):
        expected[b, q, p] = ((queries[b, q] - points[b, p]) ** 2).sum()
    torch.testing.assert_close(squared_distances(queries, points), expected)


def test_gather_rows_agrees_with_loops():
    values = random(3, 10, 4)
    indices = torch.randint(10, (3, 6, 2), generator=torch.Generator().manual_seed(0))
    found = gather_rows(values, indices)
    assert found.shape == (3, 6, 2, 4)
    for b, i, j in np.ndindex(3, 6, 2):
        assert torch.equal(found[b, i, j], values[b, indices[b, i, j]])


def test_gather_rows_sums_the_gradients_of_a_row():
    values = random(2, 3, 2).requires_grad_()
    indices = torch.tensor([[0, 0, 2], [1, 1, 1]])
    gather_rows(values, indices).sum().backward()
    assert values.grad[..., 0].tolist() == [[2, 0, 1], [0, 3, 0]]


@pytest.mark.parametrize("name", CLOUDS)
def test_groups_agree_with_sampling_and_sorting_level_by_level(name):
    points, sizes = CLOUDS[name], ((30, 6), (17, 5), (17, 4), (5, 3))
    found = group(points, [n for n, _ in sizes], [k for _, k in sizes])
    previous = points
    for level, (n, k) in enumerate(sizes):
        indices = farthest_points_torch(previous, n)
        assert torch.equal(found.center_indices[level], indices)
        centers = torch.stack([p[i] for p, i in zip(previous, indices, strict=True)])
        assert torch.equal(found.centers[level], centers)
        neighbors = slow_nearest_neighbors(centers, previous, k)
        assert torch.equal(found.neighbor_indices[level], neighbors)
        around = torch.stack([p[i] for p, i in zip(previous, neighbors, strict=True)])
        assert torch.equal(found.neighborhoods[level], around - centers[:, :, None])
        previous = centers


def test_groups_equal_the_release(parity):
    golden = np.load(parity / "grouping.npz")
    found = group(torch.from_numpy(golden["points"]), (512, 256, 64), (16, 8, 8))
    for level in range(3):
        np.testing.assert_array_equal(found.center_indices[level], golden[f"fps_idx_{level}"])
        np.testing.assert_array_equal(found.centers[level], golden[f"center_{level}"])
        np.testing.assert_array_equal(found.neighbor_indices[level], golden[f"knn_idx_{level}"])
    np.testing.assert_array_equal(found.neighborhoods[0][0], golden["neighborhood_0_cloud0"])
    # The release keeps coarser groups as coordinates, before their center is subtracted.
    coordinates = found.centers[0][0][found.neighbor_indices[1][0]]
    np.testing.assert_array_equal(coordinates, golden["neighborhood_ori_1_cloud0"])
    relative = coordinates - found.centers[1][0][:, None]
    assert torch.equal(found.neighborhoods[1][0], relative)


def test_shifting_and_scaling_leave_groups_unchanged():
    points = (CLOUDS["random"] * 1024).round() / 1024  # so that moving them rounds nothing
    expected = group(points, (20, 10), (6, 4))
    moved = group(points * 4 + torch.tensor([3.0, -2.0, 0.5]), (20, 10), (6, 4))
    for level in range(2):
        assert torch.equal(moved.center_indices[level], expected.center_indices[level])
        assert torch.equal(moved.neighbor_indices[level], expected.neighbor_indices[level])
        assert torch.equal(moved.neighborhoods[level], expected.neighborhoods[level] * 4)


def test_groups_of_a_batch_are_those_of_its_clouds():
    points = CLOUDS["random"]
    whole = group(points, (20, 10), (6, 4))
    for b, cloud in enumerate(points):
        alone = group(cloud[None], (20, 10), (6, 4))
        for batched, single in zip(whole, alone, strict=True):
            assert all(torch.equal(x[b], y[0]) for x, y in zip(batched, single, strict=True))


def test_a_center_comes_first_in_its_group():
    points = CLOUDS["random"]
    found = group(points, (20, 10), (6, 4))
    for level in range(2):
        assert torch.equal(found.neighbor_indices[level][..., 0], found.center_indices[level])
        assert not found.neighborhoods[level][:, :, 0].any()


def test_point_indices_lead_back_to_the_cloud():
    points = CLOUDS["random"]
    found = group(points, (20, 10, 4), (6, 4, 3))
    for level, centers in enumerate(found.centers):
        assert torch.equal(gather_rows(points, point_indices(found, level)), centers)


@pytest.mark.parametrize(
    ("n_centers", "group_sizes", "message"),
    [
        ((65,), (4,), "65 centers asked for, .* 64"),
        ((20, 21), (4, 4), "21 centers asked for, .* 20"),
        ((20,), (65,), "65 neighbors asked for, .* 64"),
        ((20, 10), (4, 21), "21 neighbors asked for, .* 20"),
        ((20, 10), (4,), "shorter"),
    ],
)
def test_impossible_groups_are_refused(n_centers, group_sizes, message):
    with pytest.raises(ValueError, match=message):
        group(CLOUDS["random"], n_centers, group_sizes)
