import pytest
import torch
from torch import Tensor

from i2pmae.geometry.chamfer import chamfer_l2


def sets(n_sets: int, size: int, seed: int = 0) -> Tensor:
    return torch.rand(n_sets, size, 3, generator=torch.Generator().manual_seed(seed))


def slow_chamfer(a: Tensor, b: Tensor) -> Tensor:
    """Of one pair of sets (K, 3) and (L, 3)."""

    def one_way(source: Tensor, target: Tensor) -> Tensor:
        nearest = [min(((p - q) ** 2).sum() for q in target) for p in source]
        return sum(nearest) / len(nearest)

    return one_way(a, b) + one_way(b, a)


def test_two_small_sets_by_hand():
    a = torch.tensor([[[0.0, 0, 0], [1, 0, 0]]])
    b = torch.tensor([[[0.0, 0, 2], [0, 0, 3], [1, 0, 4]]])
    # From a: 4 and 5, mean 4.5. From b: 4, 9, 16, mean 29/3.
    assert chamfer_l2(a, b).item() == pytest.approx(4.5 + 29 / 3)


@pytest.mark.parametrize(("k", "n"), [(8, 8), (5, 9), (1, 4), (1, 1)])
def test_agrees_with_loops_and_so_do_gradients(k, n):
    a, b = sets(6, k).double().requires_grad_(), sets(6, n, seed=1).double().requires_grad_()
    found = chamfer_l2(a, b)
    expected = sum(slow_chamfer(x, y) for x, y in zip(a, b, strict=True)) / 6
    torch.testing.assert_close(found, expected)
    for ours, theirs in zip(
        torch.autograd.grad(found, (a, b)), torch.autograd.grad(expected, (a, b)), strict=True
    ):
        torch.testing.assert_close(ours, theirs)


def test_only_sets_that_count_enter_the_mean():
    a, b = sets(5, 4), sets(5, 4, seed=1)
    counted = torch.tensor([True, False, True, True, False])
    found = chamfer_l2(a, b, counted)
    torch.testing.assert_close(found, chamfer_l2(a[counted], b[counted]))
    torch.testing.assert_close(chamfer_l2(a, b, torch.ones(5)), chamfer_l2(a, b))
    twice = chamfer_l2(a, b, torch.tensor([2.0, 0, 1, 0, 0]))
    torch.testing.assert_close(twice, chamfer_l2(a[[0, 0, 2]], b[[0, 0, 2]]))


def test_no_set_counts():
    a = sets(3, 4).requires_grad_()
    found = chamfer_l2(a, sets(3, 4, seed=1), torch.zeros(3, dtype=torch.bool))
    found.backward()
    assert found.item() == 0
    assert not a.grad.any()


def test_order_within_sets_and_of_the_arguments_does_not_matter():
    a, b = sets(3, 6), sets(3, 7, seed=1)
    expected = chamfer_l2(a, b)
    torch.testing.assert_close(chamfer_l2(b, a), expected)
    order = torch.randperm(6, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(chamfer_l2(a[:, order], b), expected)
    assert chamfer_l2(a, a[:, order]) == 0


def test_half_precision_is_computed_in_float32_and_float64_is_kept():
    a, b = sets(3, 6), sets(3, 7, seed=1)
    found = chamfer_l2(a.bfloat16(), b)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, chamfer_l2(a.bfloat16().float(), b))
    assert chamfer_l2(a.double(), b.double()).dtype == torch.float64
