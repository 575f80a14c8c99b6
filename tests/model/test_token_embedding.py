import copy

import pytest
import torch
from torch import Tensor

from i2pmae.model import chunked
from i2pmae.model.row_norm import Moments, RowNorm
from i2pmae.model.token_embedding import TokenEmbedding
from i2pmae.model.token_embedding_fast import PointEmbedding, TokenMerging


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Case:
    """An embedding of either kind, its groups, and a copy that is called as it is defined."""

    def __init__(self, kind: str, seeded, n_groups: int = 11, size: int = 5):
        if kind == "points":
            self.fast: PointEmbedding | TokenMerging = PointEmbedding(3, (4, 6, 8), 5)
            self.finer = None
            self.groups = noise(n_groups, size, 3)
        else:
            self.fast = TokenMerging(6, (6, 7, 8), 9)
            self.finer = noise(13, 6).requires_grad_()
            generator = torch.Generator().manual_seed(1)
            self.neighbors = torch.randint(13, (n_groups, size), generator=generator)
            self.groups = self.finer[self.neighbors]
        seeded(self.fast.double())
        self.slow: TokenEmbedding = copy.deepcopy(self.fast)

    def tokens(self, counted: Tensor | None = None) -> Tensor:
        if self.finer is None:
            return self.fast.embed(self.groups, counted)
        return self.fast.merge(self.finer, self.neighbors, counted)

    def train(self, training: bool) -> "Case":
        self.fast.train(training)
        self.slow.train(training)
        return self

    def compare_gradients(self, found: Tensor, expected: Tensor) -> None:
        """Of every weight and, of merged tokens, of the finer ones."""
        gradients = []
        for network, tokens in ((self.fast, found), (self.slow, expected)):
            weights = dict(network.named_parameters())
            inputs = [*weights.values()] + ([] if self.finer is None else [self.finer])
            loss = (tokens * noise(*tokens.shape, seed=4)).sum()
            gradients.append(torch.autograd.grad(loss, inputs, retain_graph=True))
        for ours, theirs in zip(*gradients, strict=True):
            torch.testing.assert_close(ours.flatten(), theirs.flatten(), rtol=1e-9, atol=1e-9)
            assert ours.isfinite().all()

    def compare_running_statistics(self) -> None:
        for name in ("point_norm", "group_norm"):
            ours, theirs = getattr(self.fast, name), getattr(self.slow, name)
            torch.testing.assert_close(ours.running_mean, theirs.running_mean)
            torch.testing.assert_close(ours.running_var, theirs.running_var)
            assert ours.num_batches_tracked == theirs.num_batches_tracked > 0


@pytest.fixture(params=["points", "tokens"])
def kind(request):
    return request.param


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("size", [1, 2, 5])
def test_agrees_with_its_definition(kind, training, size, seeded):
    case = Case(kind, seeded, size=size).train(training)
    found, expected = case.tokens(), case.slow(case.groups)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    case.compare_gradients(found, expected)


def test_running_statistics_after_some_steps(kind, seeded):
    case = Case(kind, seeded).train(True)
    for _ in range(3):
        case.tokens()
        case.slow(case.groups)
    case.compare_running_statistics()
    before = case.fast.group_norm.running_mean.clone()
    case.train(False).tokens()
    assert torch.equal(case.fast.group_norm.running_mean, before)


def test_only_counted_groups_enter_the_statistics(kind, seeded):
    """As where tokens are packed with padding: on any device but a CPU."""
    case = Case(kind, seeded).train(True)
    counted = torch.tensor([True, True, False, True, False, False, True, True, True, False, True])
    found, expected = case.tokens(counted)[counted], case.slow(case.groups[counted])
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    case.compare_gradients(found, expected)
    case.compare_running_statistics()


def test_counting_all_groups_is_counting_none_in_particular(kind, seeded):
    case = Case(kind, seeded).train(True)
    counted = torch.ones(11, dtype=torch.bool)
    torch.testing.assert_close(case.tokens(counted), case.tokens())


@pytest.mark.parametrize("chunk_bytes", [1, 700])
def test_chunks_change_nothing(chunk_bytes, monkeypatch, seeded):
    monkeypatch.setattr(chunked, "CHUNK_BYTES", chunk_bytes)
    case = Case("points", seeded).train(True)
    found, expected = case.tokens(), case.slow(case.groups)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    case.compare_gradients(found, expected)
    case.compare_running_statistics()


def test_order_within_a_group_does_not_matter(kind, seeded):
    case = Case(kind, seeded).train(False)
    before, order = case.tokens(), torch.tensor([3, 0, 4, 1, 2])
    if kind == "points":
        case.groups = case.groups[:, order]
    else:
        case.neighbors = case.neighbors[:, order]
    torch.testing.assert_close(case.tokens(), before)


def test_statistics_of_alike_and_of_faraway_points(seeded):
    """A variance of 0, and one far below the squared mean: both by moments, in float32."""
    network = seeded(PointEmbedding(3, (4, 6, 8), 5)).train()
    for groups in (torch.zeros(4, 5, 3), noise(40, 5, 3) * 0.01 + 3):
        slow = copy.deepcopy(network).double()
        found = network.embed(groups.float())
        found.sum().backward()
        torch.testing.assert_close(found.double(), slow(groups.double()), rtol=1e-3, atol=1e-3)
        assert all(p.grad.isfinite().all() for p in network.parameters())
        assert network.group_norm.running_var.isfinite().all()


def test_float32_is_close_to_float64(kind, seeded):
    case = Case(kind, seeded).train(True)
    expected = case.tokens()
    case.fast.float()
    case.groups = case.groups.float()
    if case.finer is not None:
        case.finer = case.finer.detach().float()
    torch.testing.assert_close(case.tokens().double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("training", [True, False])
def test_bfloat16_autocast_is_close_to_float32(kind, training, seeded):
    case = Case(kind, seeded, n_groups=60)
    case.train(training).fast.float()
    case.groups = case.groups.detach().float()
    if case.finer is not None:
        case.finer = case.finer.detach().float()
    expected = case.tokens()
    with torch.autocast("cpu", torch.bfloat16):
        found = case.tokens()
    assert found.dtype == torch.bfloat16
    assert (found - expected).norm() < 0.02 * expected.norm()
    gradients = []
    for tokens in (found, expected):
        gradient = torch.autograd.grad(tokens.float().square().sum(), case.fast.parameters())
        gradients.append(torch.cat([part.flatten() for part in gradient]))
    assert gradients[0].dtype == torch.float32
    assert torch.cosine_similarity(*gradients, dim=0) > 0.99


def test_an_affine_map_stands_for_the_norm(seeded):
    norm = seeded(RowNorm(4).double()).train()
    twin = RowNorm(4).double()
    twin.load_state_dict(norm.state_dict())
    rows = noise(20, 4)
    found = norm.map_of(Moments(rows.mean(dim=0), rows.var(dim=0, correction=0)), 20)
    torch.testing.assert_close(found.scale * rows + found.shift, twin(rows))
    torch.testing.assert_close(norm.state_dict(), twin.state_dict())
    found = norm.running_map()
    torch.testing.assert_close(found.scale * rows + found.shift, twin.eval()(rows))


def test_layers_of_the_paper():
    network = PointEmbedding(3, (128, 256, 512), 96)
    shapes = {name: tuple(p.shape) for name, p in network.named_parameters() if p.ndim == 2}
    assert shapes == {
        "point_in.weight": (128, 3),
        "point_out.weight": (256, 128),
        "group_in.weight": (512, 512),
        "group_out.weight": (96, 512),
    }
    assert network.point_norm.eps == network.group_norm.eps == 1e-5
