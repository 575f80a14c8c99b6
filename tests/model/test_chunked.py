import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck

from i2pmae.model import chunked
from i2pmae.model.chunked import (
    GatheredTokens,
    GroupTokens,
    PointFeatures,
    group_maximum,
    spread_maximum,
)


def noise(*shape: int, seed: int = 0, grad: bool = False) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(*shape, generator=generator, dtype=torch.float64)
    return values.requires_grad_(grad)


def slow_point_features(x, weight, bias, out_weight, counted, size):
    features = (x @ weight.T + bias).relu()
    groups = features.view(-1, size, len(weight))
    largest = (features @ out_weight.T).view(len(groups), size, -1).max(dim=1)[0]
    weights = torch.ones(len(groups)) if counted is None else counted
    second = torch.einsum("mkc,mkd,m->cd", groups, groups, weights.to(x))
    return features, largest, groups.sum(dim=1), second


def slow_group_tokens(features, weight, offsets, out_weight, size):
    rows = (features @ weight.T).view(len(offsets), size, -1) + offsets[:, None]
    return (rows.relu() @ out_weight.T).max(dim=1)[0]


@pytest.mark.parametrize("size", [1, 2, 7])
def test_group_maximum_and_its_gradient(size):
    rows = noise(5 * size, 3, grad=True)
    values, where = group_maximum(rows, size)
    expected, index = rows.view(5, size, 3).max(dim=1)
    assert torch.equal(values, expected)
    assert torch.equal(where, index)
    gradient = noise(5, 3, seed=1)
    expected.backward(gradient)
    assert torch.equal(spread_maximum(gradient, where, rows.detach(), size), rows.grad)


def test_the_first_of_equal_rows_counts():
    rows = torch.tensor([[1.0, 2], [3, 2], [3, 2], [0, 5], [0, 4], [0, 5]])
    values, where = group_maximum(rows, 3)
    assert values.tolist() == [[3, 2], [0, 5]]
    assert where.tolist() == [[1, 0], [0, 0]]
    spread = spread_maximum(torch.ones(2, 2), where, rows, 3)
    assert spread.tolist() == [[0, 1], [1, 0], [0, 0], [1, 1], [0, 0], [0, 0]]


# Bytes per chunk: less than a group takes, some groups, all.
@pytest.fixture(params=[1, 700, 1 << 20])
def chunk_bytes(request, monkeypatch):
    monkeypatch.setattr(chunked, "CHUNK_BYTES", request.param)


@pytest.mark.usefixtures("chunk_bytes")
@pytest.mark.parametrize("counted", [None, [1.0, 0, 1, 1, 0]])
def test_point_features_and_their_gradients(counted):
    counted = None if counted is None else torch.tensor(counted, dtype=torch.float64)
    x, weight, bias, out_weight = noise(30, 3), noise(4, 3), noise(4), noise(5, 4, seed=1)
    found = PointFeatures.apply(x, weight, bias, out_weight, counted, 6)
    expected = slow_point_features(x, weight, bias, out_weight, counted, 6)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs)

    def every_output(*weights: Tensor) -> tuple[Tensor, ...]:
        features, *others = PointFeatures.apply(x, *weights, counted, 6)
        return features * 1, *others  # its gradient is changed in place

    weights = [value.requires_grad_() for value in (weight, bias, out_weight)]
    assert gradcheck(every_output, weights)


@pytest.mark.usefixtures("chunk_bytes")
def test_group_tokens_and_their_gradients():
    features, weight, offsets = noise(30, 4), noise(5, 4, seed=1), noise(5, 5, seed=2)
    values = [features, weight, offsets, noise(3, 5, seed=3)]
    expected = slow_group_tokens(*values, 6)
    torch.testing.assert_close(GroupTokens.apply(*values, 6), expected)
    for value in values:
        value.requires_grad_()
    assert gradcheck(lambda *v: GroupTokens.apply(*v, 6), values)


@pytest.mark.usefixtures("chunk_bytes")
def test_gathered_tokens_and_their_gradients():
    neighbors = torch.randint(8, (5, 6), generator=torch.Generator().manual_seed(0))
    features, offsets, out_weight = noise(8, 4), noise(5, 4, seed=2), noise(3, 4, seed=3)
    expected = slow_group_tokens(
        features[neighbors].flatten(0, 1), torch.eye(4).double(), offsets, out_weight, 6
    )
    found = GatheredTokens.apply(features, neighbors, offsets, out_weight)
    torch.testing.assert_close(found, expected)
    values = [value.requires_grad_() for value in (features, offsets, out_weight)]
    assert gradcheck(lambda f, *others: GatheredTokens.apply(f, neighbors, *others), values)


def test_the_two_in_a_row_have_the_gradients_of_the_slow_versions(monkeypatch):
    monkeypatch.setattr(chunked, "CHUNK_BYTES", 700)
    x = noise(42, 3)
    values = [noise(4, 3), noise(4), noise(5, 4, seed=1), noise(5, 4, seed=2), noise(2, 5, seed=3)]
    gradients = []
    fast, slow = (PointFeatures.apply, GroupTokens.apply), (slow_point_features, slow_group_tokens)
    for points, tokens in (fast, slow):
        weight, bias, out_weight, joined, last = [v.clone().requires_grad_() for v in values]
        features, largest, sums, second = points(x, weight, bias, out_weight, None, 6)
        offsets = largest + sums.sum(dim=1, keepdim=True) / second.diagonal().sum()
        found = tokens(features, joined, offsets, last, 6)
        found.square().sum().backward()
        gradients.append([v.grad for v in (weight, bias, out_weight, joined, last)])
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_bfloat16_weights_give_bfloat16_rows_and_float32_sums():
    x, weight, bias = noise(12, 3).float(), noise(4, 3).float(), noise(4).float()
    out_weight = noise(5, 4, seed=1).bfloat16()
    found = PointFeatures.apply(x, weight, bias, out_weight, None, 6)
    assert [v.dtype for v in found] == [torch.bfloat16] * 2 + [torch.float32, torch.float64]
    expected = slow_point_features(x, weight, bias, out_weight.float(), None, 6)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours.double(), theirs.double(), rtol=0.02, atol=0.05)
    tokens = GroupTokens.apply(found[0], out_weight, found[1], noise(3, 5).bfloat16(), 6)
    assert tokens.dtype == torch.bfloat16


def test_without_gradients_tokens_are_the_same():
    values = [noise(12, 4), noise(5, 4).requires_grad_(), noise(2, 5), noise(3, 5)]
    with torch.no_grad():
        found = GroupTokens.apply(*values, 6)
    assert not found.requires_grad
    assert torch.equal(found, GroupTokens.apply(*values, 6))
