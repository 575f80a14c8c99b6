import pytest
import torch
from torch import Tensor

from i2pmae.model.feature_loss import FeatureLoss


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


NEIGHBORS = torch.tensor([[0, 3, 2], [4, 4, 1], [5, 0, 6], [1, 2, 3]])
COUNTED = torch.tensor([True, True, False, True])


def slow_loss(head: FeatureLoss, tokens: Tensor, targets: Tensor) -> Tensor:
    """Token by token, neighbor by neighbor."""
    errors = []
    for token, members, counts in zip(tokens, NEIGHBORS, COUNTED, strict=True):
        if counts:
            predicted = (head.weight @ token + head.bias).view(3, -1)  # neighbor, then feature
            errors += [(p - targets[i]) ** 2 for p, i in zip(predicted, members, strict=True)]
    return torch.stack(errors).mean()


def test_agrees_with_the_slow_version_and_so_do_gradients(seeded):
    head = seeded(FeatureLoss(5, 3, 4).double())
    tokens, targets = noise(4, 5).requires_grad_(), noise(7, 4, seed=1)
    inputs = [tokens, head.weight, head.bias]
    found, n_compared = head.loss(tokens, targets, NEIGHBORS, COUNTED)
    assert n_compared == 9
    expected = slow_loss(head, tokens, targets)
    torch.testing.assert_close(found, expected)
    for ours, theirs in zip(
        torch.autograd.grad(3 * found, inputs),
        torch.autograd.grad(3 * expected, inputs),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs)


def test_views_that_see_nothing_do_not_count(seeded):
    head = seeded(FeatureLoss(5, 3, 4).double())  # two views of two features
    tokens, targets = noise(4, 5).requires_grad_(), noise(7, 4, seed=1)
    seen = noise(7, 2, seed=2) > 0
    inputs = [tokens, head.weight, head.bias]
    found, n_compared = head.loss(tokens, targets, NEIGHBORS, COUNTED, seen)
    errors = []
    for token, members in zip(tokens[COUNTED], NEIGHBORS[COUNTED], strict=True):
        predicted = (head.weight @ token + head.bias).view(3, 2, 2)
        for k, member in enumerate(members):
            error = (predicted[k] - targets[member].view(2, 2)) ** 2
            errors += list(error[seen[member]].flatten())
    assert n_compared == len(errors) / 2
    expected = torch.stack(errors).mean()
    torch.testing.assert_close(found, expected)
    for ours, theirs in zip(
        torch.autograd.grad(found, inputs), torch.autograd.grad(expected, inputs), strict=True
    ):
        torch.testing.assert_close(ours, theirs)


def test_float32_is_close_to_float64(seeded):
    head = seeded(FeatureLoss(5, 3, 4).double())
    tokens, targets = noise(4, 5), noise(7, 4, seed=1)
    expected, _ = head.loss(tokens, targets, NEIGHBORS, COUNTED)
    found, _ = head.float().loss(tokens.float(), targets.float(), NEIGHBORS, COUNTED)
    assert found.item() == pytest.approx(expected.item(), rel=1e-6)


def test_bfloat16_autocast_sums_in_float32(seeded):
    head = seeded(FeatureLoss(64, 3, 40))
    tokens, targets = noise(4, 64).float().requires_grad_(), noise(7, 40, seed=1).float()
    expected, _ = head.loss(tokens, targets, NEIGHBORS, COUNTED)
    exact = torch.autograd.grad(expected, [tokens, head.weight, head.bias])
    with torch.autocast("cpu", torch.bfloat16):
        found, _ = head.loss(tokens, targets, NEIGHBORS, COUNTED)
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(expected.item(), rel=0.01)
    rough = torch.autograd.grad(found, [tokens, head.weight, head.bias])
    for ours, theirs in zip(rough, exact, strict=True):
        assert ours.dtype == torch.float32
        assert (ours - theirs).norm() < 0.02 * theirs.norm()


def test_nothing_counts(seeded):
    head = seeded(FeatureLoss(5, 3, 4).double())
    tokens = noise(4, 5).requires_grad_()
    found, _ = head.loss(tokens, noise(7, 4), NEIGHBORS, torch.zeros(4, dtype=torch.bool))
    found.backward()
    assert found.item() == 0
    assert not tokens.grad.any()
    assert not head.weight.grad.any()


def test_without_gradients_the_loss_is_the_same(seeded):
    head = seeded(FeatureLoss(5, 3, 4).double())
    tokens, targets = noise(4, 5), noise(7, 4, seed=1)
    with torch.no_grad():
        found, _ = head.loss(tokens, targets, NEIGHBORS, COUNTED)
    torch.testing.assert_close(found, slow_loss(head, tokens, targets).detach())


def test_as_a_layer_it_predicts_neighbor_by_neighbor(seeded):
    head = seeded(FeatureLoss(5, 3, 4).double())
    token = noise(1, 5)
    targets = head(token).detach().view(3, 4)
    found, _ = head.loss(token, targets, torch.tensor([[0, 1, 2]]), torch.tensor([True]))
    assert found.item() == pytest.approx(0, abs=1e-20)
