import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from i2pmae.model.layers import (
    MLP,
    Block,
    DropPath,
    PositionEmbedding,
    Transformer,
    drop_path_rates,
    init_truncated,
    init_xavier,
)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def bias_of(attend: Tensor) -> Tensor:
    return torch.zeros(attend.shape, dtype=torch.float64).masked_fill_(~attend, -1e5)


def some_pairs() -> Tensor:
    """Permissions (2, 5, 5), some tokens may attend to none."""
    attend = noise(2, 5, 5, seed=3) > 0
    attend[0, 1] = False
    return attend


def test_forbidden_tokens_have_no_influence(seeded):
    layer, x = seeded(Transformer(12, 3, [0.0, 0.0]).double()), noise(2, 6, 12)
    position, attend = noise(2, 6, 12, seed=1), torch.ones(2, 1, 6).bool()
    attend[..., 4:] = False
    changed = x.clone()
    changed[:, 4:] = 100 * noise(2, 2, 12, seed=2)
    before, after = layer(x, position, attend), layer(changed, position, attend)
    assert torch.equal(before[:, :4], after[:, :4])
    assert not torch.equal(layer(x, position)[:, :4], layer(changed, position)[:, :4])


def test_heads_share_the_width_and_only_the_qkv_map_has_no_bias():
    layer = Block(24, 6, mlp_ratio=4)
    assert layer.attention.qkv.bias is None
    assert layer.attention.qkv.weight.shape == (72, 24)
    assert layer.attention.projection.bias.shape == (24,)
    assert [p.shape[0] for p in layer.mlp.parameters()] == [96, 96, 24, 24]
    assert layer.attention_norm.eps == layer.mlp_norm.eps == 1e-5


def test_mlp_and_position_embedding_use_the_exact_gelu(seeded):
    mlp = seeded(MLP(4, 7).double())
    x = noise(3, 4)
    inner = x @ mlp[0].weight.T + mlp[0].bias
    inner = inner * 0.5 * (1 + torch.erf(inner / math.sqrt(2)))
    torch.testing.assert_close(mlp(x), inner @ mlp[2].weight.T + mlp[2].bias)
    embedding = seeded(PositionEmbedding(8).double())
    centers = noise(2, 5, 3).float()
    inner = centers.double() @ embedding[0].weight.T + embedding[0].bias
    inner = inner * 0.5 * (1 + torch.erf(inner / math.sqrt(2)))
    torch.testing.assert_close(
        embedding(centers), inner @ embedding[2].weight.T + embedding[2].bias
    )


def test_block_adds_attention_then_mlp_each_of_normed_tokens(seeded):
    block, x = seeded(Block(12, 3).double()), noise(2, 5, 12)
    bias = bias_of(some_pairs())

    def normed(norm: nn.LayerNorm, rows: Tensor) -> Tensor:
        return F.layer_norm(rows, (12,), norm.weight, norm.bias, 1e-5)

    middle = x + block.attention(normed(block.attention_norm, x), bias)
    expected = middle + block.mlp(normed(block.mlp_norm, middle))
    torch.testing.assert_close(block(x, bias), expected)


def test_position_is_added_before_every_block(seeded):
    layers, x = seeded(Transformer(12, 3, [0.0] * 3).double()), noise(2, 5, 12)
    position, attend = noise(2, 5, 12, seed=1), some_pairs()
    expected = x
    for block in layers:
        expected = block(expected + position, bias_of(attend))
    torch.testing.assert_close(layers(x, position, attend), expected)


def test_drop_path_keeps_or_leaves_out_whole_clouds():
    layer, x = DropPath(0.25), torch.ones(4000, 3, 2)
    torch.manual_seed(0)
    found = layer(x)
    assert set(found.unique().tolist()) == {0.0, torch.tensor(1 / 0.75).item()}
    assert torch.equal(found, found[:, :1, :1].expand_as(found))
    # 4 standard deviations of the share that is kept.
    assert abs((found[:, 0, 0] > 0).float().mean() - 0.75) < 4 * math.sqrt(0.25 * 0.75 / 4000)
    assert torch.equal(DropPath(0.25).eval()(x), x)
    assert torch.equal(DropPath(0.0)(x), x)


def test_a_dropped_block_passes_its_input_on(seeded):
    block, x = seeded(Block(12, 3, drop_path=0.999).double()).train(), noise(2, 5, 12)
    torch.manual_seed(0)
    assert torch.equal(block(x), x)
    assert not torch.equal(block.eval()(x), x)


def test_drop_path_rates_grow_linearly_over_all_levels():
    rates = drop_path_rates(0.1, [5, 5, 5])
    assert [len(level) for level in rates] == [5, 5, 5]
    expected = torch.linspace(0, 0.1, 15).tolist()
    assert rates[0] + rates[1] + rates[2] == pytest.approx(expected)
    assert drop_path_rates(0.1, [1]) == [[0.0]]
    assert drop_path_rates(0.0, [2, 1]) == [[0.0, 0.0], [0.0]]


def test_initial_weights():
    torch.manual_seed(0)
    linear, without_bias, norm = nn.Linear(200, 300), nn.Linear(200, 300, False), nn.LayerNorm(4)
    for module in (linear, without_bias, norm):
        init_truncated(module)
    assert linear.weight.std().item() == pytest.approx(0.02, rel=0.02)
    assert linear.weight.abs().max() < 0.12  # so no deviation of torch's own initial weights
    assert not linear.bias.any()
    assert without_bias.weight.std().item() == pytest.approx(0.02, rel=0.02)
    assert norm.weight.eq(1).all()
    bound = math.sqrt(6 / 500)
    nn.init.ones_(linear.bias)
    init_xavier(linear)
    assert bound * 0.99 < linear.weight.abs().max() <= bound
    assert linear.weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.02)
    assert not linear.bias.any()
