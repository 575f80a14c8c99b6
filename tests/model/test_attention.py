import math

import pytest
import torch
from torch import Tensor

from i2pmae.model.attention import Attention, attend


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def slow_attention(layer: Attention, x: Tensor, attend: Tensor) -> Tensor:
    """Token by token and head by head; `attend` (B, L, L) bool."""
    batch, length, width = x.shape
    head = width // layer.n_heads
    found = torch.zeros_like(x)
    for b in range(batch):
        queries, keys, values = (x[b] @ layer.qkv.weight.T).split(width, dim=1)
        for h in range(layer.n_heads):
            own = slice(h * head, (h + 1) * head)
            for i in range(length):
                scores = keys[:, own] @ queries[i, own] / math.sqrt(head)
                scores = scores - 1e5 * ~attend[b, i]
                powers = (scores - scores.max()).exp()
                found[b, i, own] = powers / powers.sum() @ values[:, own]
    return found @ layer.projection.weight.T + layer.projection.bias


def bias_of(name: str) -> Tensor | None:
    """Bias for 4 clouds of 5 tokens."""
    allowed = noise(4, 5, 5, seed=3) > 0
    allowed[0, 1] = False  # a token that may attend to none
    padding = (torch.arange(5) < torch.tensor([[5], [2], [1], [4]]))[:, None]
    choices = {"padding": padding, "pairs": allowed, "none": torch.zeros(4, 5, 5).bool()}
    if name == "all":
        return None
    return torch.zeros(choices[name].shape, dtype=torch.float64).masked_fill_(~choices[name], -1e5)


NAMES = ["all", "padding", "pairs", "none"]


@pytest.mark.parametrize("name", NAMES)
def test_agrees_with_the_slow_version(name, seeded):
    layer, x, bias = seeded(Attention(12, 3).double()), noise(4, 5, 12), bias_of(name)
    allowed = torch.ones(4, 5, 5).bool() if bias is None else (bias == 0).expand(4, 5, 5)
    torch.testing.assert_close(layer(x, bias), slow_attention(layer, x, allowed))


@pytest.mark.parametrize("name", ["all", "padding", "pairs"])
def test_bfloat16_is_close_to_float64_and_so_are_gradients(name):
    bias, given = bias_of(name), noise(4, 5, 12, seed=1)
    rough_bias = None if bias is None else bias.bfloat16()
    # Where nothing is permitted, bfloat16 scores all become -1e5 alike.
    useful = torch.ones(4, 5, 1) if bias is None else (bias == 0).any(dim=2, keepdim=True)
    exact = noise(4, 5, 36).bfloat16().double().requires_grad_()
    expected = attend(exact, 3, bias) * useful
    expected.backward(given)
    rough = exact.detach().bfloat16().requires_grad_()
    found = attend(rough, 3, rough_bias)
    found.backward((given * useful).bfloat16())
    assert found.dtype == rough.grad.dtype == torch.bfloat16
    assert (found * useful - expected).norm() < 0.01 * expected.norm()
    assert (rough.grad - exact.grad).norm() < 0.02 * exact.grad.norm()
    without = attend(rough.detach(), 3, rough_bias) * useful
    assert (without - expected).norm() < 0.01 * expected.norm()


def test_queries_keys_and_values_are_split_in_this_order():
    qkv = torch.zeros(1, 2, 6)
    qkv[0, :, 0:2] = torch.tensor([[4.0, 0], [0, 0]])  # only the first token's query asks
    qkv[0, :, 2:4] = torch.tensor([[0.0, 0], [4, 0]])  # only the second token's key answers
    qkv[0, :, 4:6] = torch.tensor([[1.0, 2], [3, 4]])
    share = 1 / (1 + math.exp(-16 / math.sqrt(2)))
    first = [1 + 2 * share, 2 + 2 * share]
    torch.testing.assert_close(attend(qkv, 1), torch.tensor([[first, [2.0, 3.0]]]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("asks_gradients", [True, False])
def test_a_query_without_permitted_pairs_stays_finite(dtype, asks_gradients):
    qkv = noise(2, 5, 36).to(dtype).requires_grad_(asks_gradients)
    found = attend(qkv, 3, torch.full((2, 5, 5), -1e5, dtype=dtype))
    assert found.isfinite().all()
    if asks_gradients:
        found.sum().backward()
        assert qkv.grad.isfinite().all()
