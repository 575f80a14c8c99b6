import json
import zlib

import numpy as np
import pytest
import timm
import torch
from open_clip.model import resize_pos_embed
from open_clip.modified_resnet import ModifiedResNet
from open_clip.transformer import QuickGELU, VisionTransformer
from torch import nn

from i2pmae.extraction.local import _copies
from i2pmae.image_model import ImageModel
from i2pmae.image_model.network import ClipResNet, ClipTransformer, Loaded, TimmNetwork

TINY_VIT = {"embed_dim": 48, "depth": 2, "num_heads": 3, "num_classes": 0, "img_size": 64}


def images(batch, size, seed=0):
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(seed))


def network(name, **settings):
    torch.manual_seed(0)
    return timm.create_model(name, **settings).eval().requires_grad_(False)


def image_model(net, size, dtype=torch.float32, **changes):
    loaded = Loaded(TimmNetwork(net), "random", "hash", size, None, (0.5,) * 3, (0.25,) * 3)
    return ImageModel("tiny", loaded._replace(**changes), torch.device("cpu"), dtype)


def fill_by_rule_b(key, shape, kind):
    noise = np.random.default_rng(zlib.crc32(key.encode())).standard_normal(shape)
    if kind == "norm_weight":
        return torch.from_numpy((1 + 0.1 * noise).astype(np.float32))
    wide = len(shape) >= 2 and shape[0] != 1
    factor = np.sqrt(2 / np.prod(shape[1:])) if wide else 0.1
    return torch.from_numpy((factor * noise).astype(np.float32))


def test_clip_features_and_attention_equal_the_official_ones(parity):
    golden = np.load(parity / "clip_vit.npz")
    entries = json.loads((parity / "clip_vit_state_dict.json").read_text())
    visual = VisionTransformer(
        image_size=224,
        patch_size=16,
        width=64,
        layers=2,
        heads=2,
        mlp_ratio=4.0,
        output_dim=32,
        act_layer=QuickGELU,
    ).eval()
    visual.load_state_dict(
        {
            entry["key"].removeprefix("visual."): fill_by_rule_b(
                entry["key"], entry["shape"], entry["kind"]
            )
            for entry in entries
        }
    )
    with torch.no_grad():
        features, saliency = ClipTransformer(visual)(torch.from_numpy(golden["images"]))
    np.testing.assert_allclose(
        features.permute(0, 3, 1, 2), golden["B_feat_map"], rtol=1e-4, atol=1e-5
    )
    np.testing.assert_allclose(
        saliency.flatten(1), golden["B_attention"][:, 0, 1:], rtol=1e-5, atol=1e-8
    )


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("vit_tiny_patch16_224", TINY_VIT),
        ("vit_tiny_patch16_224", {**TINY_VIT, "reg_tokens": 3}),
        ("vit_tiny_patch16_224", {**TINY_VIT, "qk_norm": True}),
        ("deit_tiny_distilled_patch16_224", TINY_VIT),
        ("eva02_tiny_patch14_224", {**TINY_VIT, "img_size": 56}),  # rotary positions
        ("beit_base_patch16_224", TINY_VIT),  # relative positions
    ],
)
def test_class_attention_agrees_with_the_plain_one(name, settings):
    net = network(name, **settings)
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.5)  # far from uniform attention
    tower = TimmNetwork(net)
    features, saliency = tower(images(2, settings["img_size"]))

    kept = []
    attention = net.blocks[-1].block.attn
    attention.fused_attn = False
    attention.attn_drop.register_forward_hook(lambda *call: kept.append(call[2]))
    plain, _ = tower(images(2, settings["img_size"]))
    expected = kept[0].mean(dim=1)[:, 0, net.num_prefix_tokens :]
    torch.testing.assert_close(saliency.flatten(1), expected, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(features, plain, rtol=1e-4, atol=1e-4)
    assert saliency.max() > 1.3 * saliency.mean()


def test_vit_features_are_the_patch_tokens_after_the_norm():
    net = network("vit_tiny_patch16_224", **TINY_VIT, reg_tokens=2)
    tokens = net.forward_features(images(2, 64))
    features, _ = TimmNetwork(net)(images(2, 64))
    torch.testing.assert_close(features.flatten(1, 2), tokens[:, 3:])


@pytest.mark.parametrize("settings", [{}, {"reg_tokens": 3}, {"class_token": False}])
def test_features_of_an_earlier_block(settings):
    settings = {**TINY_VIT, "depth": 3, "global_pool": "avg", **settings}
    net = network("vit_tiny_patch16_224", **settings)
    nn.init.normal_(net.fc_norm.weight)  # else all tokens have the same activation
    last, saliency = TimmNetwork(net)(images(2, 64))
    assert saliency.std() > 1e-5
    found = []
    for block in (1, 2, 3):
        tower = TimmNetwork(net)
        tower.block = block
        features, attention = tower(images(2, 64))
        torch.testing.assert_close(attention, saliency)  # still the last block's
        tokens = net.patch_embed(images(2, 64))
        tokens = net.norm_pre(net._pos_embed(tokens))
        for done in range(block):
            tokens = net.blocks[done](tokens)
        expected = net.fc_norm(tokens[:, net.num_prefix_tokens :])
        torch.testing.assert_close(features.flatten(1, 2), expected, rtol=1e-4, atol=1e-5)
        found.append(features)
    torch.testing.assert_close(found[-1], last)
    assert (found[0] - found[1]).abs().mean() > 0.01


def test_features_of_an_earlier_block_of_clip():
    torch.manual_seed(0)
    visual = VisionTransformer(64, 16, 32, 3, 2, 4.0, output_dim=24).eval().requires_grad_(False)
    last, saliency = ClipTransformer(visual)(images(2, 64))
    tokens = visual._embeds(images(2, 64))
    for block, layer in enumerate(visual.transformer.resblocks, 1):
        tower = ClipTransformer(visual)
        tower.block = block if block < 3 else None
        features, attention = tower(images(2, 64))
        torch.testing.assert_close(attention, saliency)
        tokens = layer(tokens)
        expected = visual.ln_post(tokens)[:, 1:] @ visual.proj
        torch.testing.assert_close(features.flatten(1, 2), expected)
    torch.testing.assert_close(features, last)


@pytest.mark.parametrize("name", ["hiera_tiny_224", "tf_efficientnet_lite0"])
def test_stages_are_no_blocks(name):
    assert TimmNetwork(timm.create_model(name, num_classes=0)).n_blocks == 0


def test_average_pooling_vits_are_normed_as_before_their_head():
    net = network("vit_tiny_patch16_224", **TINY_VIT, global_pool="avg")
    nn.init.normal_(net.fc_norm.weight)
    tokens = net.forward_features(images(2, 64))
    features, _ = TimmNetwork(net)(images(2, 64))
    torch.testing.assert_close(features.flatten(1, 2), net.fc_norm(tokens[:, 1:]))


@pytest.mark.parametrize(
    ("name", "size", "grid"),
    [
        ("resnet18", 64, 2),
        ("convnext_atto", 64, 2),
        ("tf_efficientnet_lite0", 64, 2),
        ("vit_base_patch16_siglip_224", 64, 4),  # no class token
    ],
)
def test_saliency_of_other_networks_is_the_share_of_activation(name, size, grid):
    settings = {**TINY_VIT, "img_size": size} if name.startswith("vit") else {"num_classes": 0}
    model = image_model(network(name, **settings), size)
    features, saliency = model(torch.rand(2, size, size))
    assert model.info.saliency_kind == "activation"
    assert model.info.grid == (grid, grid)
    assert features.shape == (2, grid, grid, model.info.channels)
    energy = features.pow(2).mean(dim=-1)
    torch.testing.assert_close(saliency, energy / energy.sum(dim=(1, 2), keepdim=True))
    torch.testing.assert_close(saliency.sum(dim=(1, 2)), torch.ones(2))


def test_dead_maps_have_even_saliency():
    net = network("resnet18", num_classes=0)
    for parameter in net.parameters():
        nn.init.zeros_(parameter)
    _, saliency = TimmNetwork(net)(images(1, 64))
    torch.testing.assert_close(saliency, torch.full((1, 2, 2), 0.25))


def test_channel_last_networks_come_out_the_right_way_round():
    net = network(
        "swin_tiny_patch4_window7_224",
        img_size=112,
        embed_dim=24,
        depths=(1, 1),
        num_heads=(1, 2),
        num_classes=0,
    )
    features, _ = TimmNetwork(net)(images(1, 112))
    torch.testing.assert_close(features, net.forward_features(images(1, 112)))
    assert features.shape == (1, 14, 14, 48)


def test_the_attention_pool_averages_the_features_by_the_saliency():
    torch.manual_seed(0)
    visual = ModifiedResNet([1, 1, 1, 1], output_dim=16, heads=1, image_size=96, width=8).eval()
    visual.requires_grad_(False)
    nn.init.normal_(visual.attnpool.q_proj.weight)
    features, saliency = ClipResNet(visual)(images(2, 96))
    assert features.shape == (2, 3, 3, 16)
    # With one head, the pool's output is the features (and that of the mean) under the attention.
    pool = visual.attnpool
    maps = visual.layer4(visual.layer3(visual.layer2(visual.layer1(visual.stem(images(2, 96))))))
    mean = pool.c_proj(pool.v_proj(maps.mean(dim=(2, 3)) + pool.positional_embedding[0]))
    rest = 1 - saliency.sum(dim=(1, 2))
    pooled = (features * saliency[..., None]).sum(dim=(1, 2)) + rest[:, None] * mean
    torch.testing.assert_close(pooled, visual(images(2, 96)), rtol=1e-4, atol=1e-5)
    assert saliency.std() > 0.004


def test_saliency_of_several_heads_is_their_mean():
    torch.manual_seed(0)
    visual = ModifiedResNet([1, 1, 1, 1], output_dim=16, heads=4, image_size=96, width=8).eval()
    visual.requires_grad_(False)
    _, saliency = ClipResNet(visual)(images(2, 96))
    pool = visual.attnpool
    maps = visual.layer4(visual.layer3(visual.layer2(visual.layer1(visual.stem(images(2, 96))))))
    tokens = torch.cat([maps.flatten(2).mean(2, keepdim=True), maps.flatten(2)], 2).mT
    tokens = tokens + pool.positional_embedding
    _, weights = nn.functional.multi_head_attention_forward(
        tokens.transpose(0, 1),
        tokens.transpose(0, 1),
        tokens.transpose(0, 1),
        256,
        4,
        in_proj_weight=None,
        in_proj_bias=torch.cat([pool.q_proj.bias, pool.k_proj.bias, pool.v_proj.bias]),
        bias_k=None,
        bias_v=None,
        add_zero_attn=False,
        dropout_p=0.0,
        out_proj_weight=pool.c_proj.weight,
        out_proj_bias=pool.c_proj.bias,
        training=False,
        use_separate_proj_weight=True,
        q_proj_weight=pool.q_proj.weight,
        k_proj_weight=pool.k_proj.weight,
        v_proj_weight=pool.v_proj.weight,
    )
    torch.testing.assert_close(saliency.flatten(1), weights[:, 0, 1:])


def test_images_are_normalized_by_channel():
    seen = []
    net = network("vit_tiny_patch16_224", **TINY_VIT)
    net.patch_embed.register_forward_hook(lambda *call: seen.append(call[1][0]))
    model = image_model(net, 64, mean=(0.5, 0.4, 0.3), std=(0.5, 0.2, 0.1))
    model(torch.full((1, 64, 64), 0.6))
    expected = torch.tensor([0.2, 1.0, 3.0]).view(1, 3, 1, 1).expand(1, 3, 64, 64)
    torch.testing.assert_close(seen[-1], expected)


def test_an_image_is_read_alike_in_every_company():
    model = image_model(network("vit_tiny_patch16_224", **TINY_VIT), 64)
    depth_maps = torch.rand(5, 64, 64)
    features, saliency = model(depth_maps)
    for i in range(5):
        alone, alone_saliency = model(depth_maps[i : i + 1])
        torch.testing.assert_close(alone[0], features[i], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(alone_saliency[0], saliency[i], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "tf_efficientnet_lite0"])
def test_bfloat16_stays_close_and_gives_float32(name):
    settings = TINY_VIT if name.startswith("vit") else {"num_classes": 0}
    depth_maps = torch.rand(2, 64, 64)
    exact, exact_saliency = image_model(network(name, **settings), 64)(depth_maps)
    found, saliency = image_model(network(name, **settings), 64, torch.bfloat16)(depth_maps)
    assert found.dtype == saliency.dtype == torch.float32
    assert nn.functional.cosine_similarity(found, exact, dim=-1).mean() > 0.999
    torch.testing.assert_close(saliency, exact_saliency, rtol=0.1, atol=1e-3)


def test_results_can_be_training_targets():
    model = image_model(network("vit_tiny_patch16_224", **TINY_VIT), 64)
    features, _ = model(torch.rand(1, 64, 64))
    prediction = torch.zeros_like(features, requires_grad=True)
    nn.functional.mse_loss(prediction, features).backward()
    assert prediction.grad.abs().sum() > 0


def test_images_of_another_size_are_refused():
    model = image_model(network("vit_tiny_patch16_224", **TINY_VIT), 64)
    with pytest.raises(ValueError, match=r"\(2, 32, 32\)"):
        model(torch.rand(2, 32, 32))


def test_position_tables_are_resized_as_open_clip_does():
    from i2pmae.image_model.weights import resize_positions

    class Clip:
        visual = VisionTransformer(64, 8, 32, 1, 2, 4.0, output_dim=8)

    table = torch.randn(1 + 5 * 5, 32)
    weights = {"visual.positional_embedding": table}
    resize_pos_embed(weights, Clip)
    torch.testing.assert_close(
        resize_positions(table, 1, 8), weights["visual.positional_embedding"]
    )


@pytest.fixture
def backend(monkeypatch):
    """What torch compiles with, here nothing; and the sizes of the calls that it is given."""
    sizes, compile_ = [], torch.compile

    def seen(graph, inputs):
        sizes.append(next(x.shape[0] for x in inputs if x.ndim == 4 and x.shape[1] == 3))
        return graph.forward

    def eagerly(function, **options):
        del options["options"]  # of another backend
        return compile_(function, backend=seen, **options)

    torch.compiler.reset()
    monkeypatch.setattr(torch, "compile", eagerly)
    return sizes


@pytest.mark.parametrize(
    "name",
    ["vit_tiny_patch16_224", pytest.param("tf_efficientnet_lite0", marks=pytest.mark.slow)],
)
def test_a_compiled_network_is_compiled_once_for_all_calls_and_copies(backend, name):
    settings = TINY_VIT if name.startswith("vit") else {"num_classes": 0}
    model = image_model(network(name, **settings), 64)
    depth_maps = torch.rand(7, 64, 64)
    expected = [model(depth_maps[:n]) for n in (2, 3, 7)]
    model.compile(3)
    n_compiled = len(backend)
    assert model.info.compiled
    with torch.inference_mode():
        for n, pair in zip((2, 3, 7), expected, strict=True):
            for like in _copies(model, 2):
                for found, values in zip(like(depth_maps[:n]), pair, strict=True):
                    torch.testing.assert_close(found, values, rtol=1e-4, atol=1e-5)
    assert backend == [3] == backend[:n_compiled]


def test_a_network_that_cannot_be_compiled_stays_as_it_is(monkeypatch, capsys):
    def fails(*_):
        raise RuntimeError("no C++ compiler\nand so on")

    model = image_model(network("vit_tiny_patch16_224", **TINY_VIT), 64)
    depth_maps = torch.rand(2, 64, 64)
    expected = model(depth_maps)
    monkeypatch.setattr(torch, "compile", lambda *_, **__: fails)
    model.compile(2)
    said = capsys.readouterr().err
    assert said.count("image_model.compile does not work here") == 1
    assert "no C++ compiler" in said
    assert "and so on" not in said
    assert not model.info.compiled
    for found, values in zip(model(depth_maps), expected, strict=True):
        assert torch.equal(found, values)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_compiled_features_are_those_of_the_network(dtype):
    model = image_model(network("vit_tiny_patch16_224", **TINY_VIT), 64, dtype)
    depth_maps = torch.rand(5, 64, 64)
    expected, expected_saliency = model(depth_maps)
    model.compile(3)
    assert model.info.compiled
    found, saliency = model(depth_maps)
    tolerance = 1e-5 if dtype == torch.float32 else 0.05
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(saliency, expected_saliency, rtol=tolerance, atol=1e-4)
