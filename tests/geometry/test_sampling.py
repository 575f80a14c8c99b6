import numpy as np
import pytest
import torch
from torch import Tensor

from i2pmae.geometry.sampling import farthest_points, spread_points
from i2pmae.geometry.sampling_torch import farthest_points_torch

VERSIONS = {"native": farthest_points, "tensors": farthest_points_torch}


def slow_farthest_points(points: Tensor, n_centers: int) -> Tensor:
    chosen = []
    for cloud in points.numpy():
        nearest = np.full(len(cloud), np.inf, np.float32)
        picks = [0]
        while len(picks) < n_centers:
            for i, point in enumerate(cloud):
                x, y, z = (point - cloud[picks[-1]]) ** 2
                nearest[i] = min(nearest[i], x + y + z)
            best = 0
            for i in range(len(cloud)):
                if nearest[i] > nearest[best]:
                    best = i
            picks.append(best)
        chosen.append(picks)
    return torch.tensor(chosen)


def make_cases() -> dict[str, tuple[Tensor, int]]:
    generator = torch.Generator().manual_seed(0)

    def cloud(batch: int, n_points: int) -> Tensor:
        return torch.randn(batch, n_points, 3, generator=generator)

    lattice = torch.cartesian_prod(*[torch.arange(4.0)] * 3)
    shuffled = lattice[torch.randperm(64, generator=generator)]
    return {
        "several clouds": (cloud(3, 70), 24),
        "all points": (cloud(2, 33), 33),
        "one point": (cloud(2, 1), 1),
        "one center": (cloud(1, 40), 1),
        "ties": (torch.stack([lattice, shuffled]), 64),
        "few distinct points": (cloud(2, 5).repeat(1, 7, 1), 20),
        "all points alike": (torch.full((2, 20, 3), 0.3), 9),
        "near the origin": (1e-3 * cloud(2, 60), 30),
        "squares below normal floats": (1e-20 * cloud(1, 60), 30),
        "squares above floats": (1e25 * cloud(1, 60), 30),
    }


CASES = make_cases()


@pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")  # of the slow version
@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", CASES)
def test_agrees_with_the_slow_version(name, version):
    points, n_centers = CASES[name]
    found = VERSIONS[version](points, n_centers)
    assert found.dtype == torch.int64
    assert torch.equal(found, slow_farthest_points(points, n_centers))


@pytest.mark.parametrize("version", VERSIONS.values(), ids=VERSIONS)
def test_points_on_a_line_by_hand(version):
    points = torch.zeros(1, 5, 3)
    points[0, :, 1] = torch.tensor([0.0, 1, 2, 3, 10])
    # 10 is farthest from 0; then 3 (3 away from 0), then 1 (1 away from 0, as 2 is from 3).
    assert version(points, 4).tolist() == [[0, 4, 3, 1]]


@pytest.mark.parametrize("version", VERSIONS.values(), ids=VERSIONS)
def test_points_at_the_origin_are_eligible(version):
    points = torch.tensor([[[1.0, 0, 0], [0.99, 0, 0], [0, 0, 0]]])
    assert version(points, 2).tolist() == [[0, 2]]


def test_equals_the_release(parity):
    golden = np.load(parity / "grouping.npz")
    points = torch.from_numpy(golden["points"])
    expected = torch.from_numpy(golden["fps_idx_0"]).long()
    for version in VERSIONS.values():
        assert torch.equal(version(points, 512), expected)


def test_a_batch_is_its_clouds_one_by_one():
    points, n_centers = CASES["several clouds"]
    alone = [farthest_points(cloud[None], n_centers) for cloud in points]
    assert torch.equal(farthest_points(points, n_centers), torch.cat(alone))


def test_the_order_of_points_does_not_matter_but_for_the_first():
    points, n_centers = CASES["several clouds"]
    order = torch.randperm(69, generator=torch.Generator().manual_seed(3)) + 1
    order = torch.cat([torch.zeros(1, dtype=torch.int64), order])
    found = farthest_points(points[:, order], n_centers)
    assert torch.equal(order[found], farthest_points(points, n_centers))


def test_layout_precision_and_gradients_of_the_input_do_not_matter():
    points, n_centers = CASES["several clouds"]
    expected = farthest_points(points, n_centers)
    transposed = points.mT.contiguous().mT
    for same in (points.double(), transposed, points.clone().requires_grad_()):
        assert torch.equal(farthest_points(same, n_centers), expected)


@pytest.mark.parametrize("n_centers", [0, -1, 21])
def test_impossible_numbers_of_centers_are_refused(n_centers):
    with pytest.raises(ValueError, match=rf"{n_centers} centers asked for, .* 20 points"):
        farthest_points(torch.zeros(1, 20, 3), n_centers)


@pytest.mark.parametrize("n_points", [100, 3000])
def test_spread_points_are_each_the_farthest_from_those_before(n_points):
    points = torch.randn(2, n_points, 3, generator=torch.Generator().manual_seed(1))
    chosen = spread_points(points, 40)
    assert chosen.shape == (2, 40)
    assert torch.equal(chosen, spread_points(points, 40))
    for cloud, picks in zip(points, chosen, strict=True):
        distances = torch.cdist(cloud, cloud[picks])
        for n in range(1, 40):
            nearest = distances[:, :n].amin(dim=1)
            assert nearest[picks[n]] > nearest.max() - 1e-5
