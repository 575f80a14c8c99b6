import numpy as np
import pytest
import torch

from i2pmae.checkpoints.official import from_official
from i2pmae.config import EncoderConfig, HeadConfig, MaskingConfig, TargetConfig
from i2pmae.errors import DataError
from i2pmae.geometry.grouping import group
from i2pmae.geometry.transforms import normalize_to_unit_sphere
from i2pmae.model.classifier import Classifier
from i2pmae.model.frozen import FrozenEncoder, frozen_feature
from i2pmae.model.masking import carry_through
from i2pmae.model.packing import pack
from i2pmae.model.pretraining import PretrainingModel


def encoder_of(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {k: v for k, v in state.items() if k.startswith(("encoder.", "norm."))}


@pytest.mark.parametrize("pretrained", [True, False])
def test_features_are_the_maximum_of_what_the_whole_network_sees(pretrained, tiny, clouds, seeded):
    frozen = FrozenEncoder(tiny, pretrained).eval()
    if pretrained:
        model = PretrainingModel(tiny, MaskingConfig(), TargetConfig())
        frozen.load_state_dict(encoder_of(seeded(model).state_dict()))
        expected = model.eval().features(clouds)
    else:
        model = Classifier(tiny, HeadConfig(), 4)
        frozen.load_state_dict(encoder_of(seeded(model).state_dict()))
        tokens = []
        hook = model.norm.register_forward_hook(lambda *call: tokens.append(call[2]))
        model.eval()(clouds)
        hook.remove()
        expected = tokens[0].max(dim=1)[0]
    torch.testing.assert_close(frozen(clouds), expected)
    torch.testing.assert_close(frozen(clouds[2:]), expected[2:])


@pytest.mark.parametrize("dense", [False, True])
def test_embedding_does_not_depend_on_unit_and_place(dense, tiny, clouds, seeded):
    frozen = seeded(FrozenEncoder(tiny, dense=dense)).eval()
    scanned = 1e6 + 1000 * clouds.double()
    expected = frozen(normalize_to_unit_sphere(clouds))
    torch.testing.assert_close(frozen.embed(scanned), expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(frozen.embed(scanned[0].numpy()), frozen.embed(scanned)[:1])
    with pytest.raises(DataError, match="cloud 0: has 23 finite points; the network needs 24"):
        frozen.embed(scanned[:, :23])


@pytest.mark.parametrize("pretrained", [True, False])
def test_maximum_and_mean_of_tokens(pretrained, tiny, clouds, seeded):
    frozen = seeded(FrozenEncoder(tiny, pretrained, pooling="levels")).eval()
    found = frozen(clouds)
    frozen.pooling = "max-mean"
    joined = frozen(clouds)
    torch.testing.assert_close(joined, found[:, -2 * tiny.widths[-1] :])
    frozen.pooling = "sum"
    torch.testing.assert_close(frozen(clouds), joined.unflatten(1, (2, -1)).sum(dim=1))
    assert found.shape == (3, 2 * sum(tiny.widths))
    for row, cloud in enumerate(clouds):
        grouping = group(cloud[None], tiny.n_centers, tiny.group_sizes)
        packings = None
        if pretrained:
            shown = torch.zeros(1, tiny.n_centers[-1], dtype=torch.bool)
            masks = carry_through(shown, grouping.neighbor_indices, tiny.n_centers)
            packings = pack(masks, tiny.group_sizes, tiny.n_centers[-1])
        levels = list(frozen.encoder(grouping, packings))
        if not pretrained:
            levels[-1] = frozen.norm(levels[-1])
        parts = []
        for level, tokens in enumerate(levels):
            n_tokens = int((~masks[level]).sum()) if pretrained else tokens.shape[1]
            kept = tokens[0, :n_tokens]  # hidden ones come last
            parts += [kept.max(dim=0)[0], kept.mean(dim=0)]
        torch.testing.assert_close(found[row], torch.cat(parts), rtol=1e-4, atol=1e-5)


def test_features_equal_the_release(parity, official_weights):
    golden = np.load(parity / "encoder.npz")
    _, weights = from_official(official_weights("i2p_mae"))
    frozen = FrozenEncoder(EncoderConfig()).eval()
    frozen.load_state_dict(encoder_of(weights))
    with torch.inference_mode():
        found = frozen(torch.from_numpy(golden["points"]))
    np.testing.assert_allclose(found, golden["pretrain_feat_B"], rtol=1e-5, atol=1e-5)
    with torch.inference_mode():
        one = frozen_feature(frozen.encoder, frozen.config, torch.from_numpy(golden["points"][2:3]))
    np.testing.assert_allclose(one, golden["pretrain_feat_B"][2:3], rtol=1e-5, atol=1e-5)


def test_finer_tokens_without_a_coarser_group_stay_hidden(tiny, clouds, seeded):
    """A pre-trained encoder never saw them, a classifier's does."""
    pretrained = seeded(FrozenEncoder(tiny)).eval()
    seen = []
    hook = pretrained.encoder.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[1]))
    pretrained(clouds)
    hook.remove()
    assert [p.visible.all().item() for p in seen[0]] == [False, False, True]


@pytest.mark.parametrize("pretrained", [True, False])
def test_dense_features_are_the_tokens_of_all_levels_at_the_points(
    pretrained, tiny, clouds, seeded
):
    frozen = seeded(FrozenEncoder(tiny, pretrained, dense=True)).eval()
    found = frozen(clouds)
    assert found.shape == (*clouds.shape[:2], sum(tiny.widths))
    tokens = frozen._tokens(clouds)
    for cloud in range(len(clouds)):
        start = 0
        for level, filled, centers in zip(*tokens, strict=True):
            own, at = level[cloud][filled[cloud]], centers[cloud][filled[cloud]]
            distances, nearest = torch.cdist(clouds[cloud].double(), at.double()).topk(
                min(3, len(at)), largest=False
            )
            weights = 1 / (distances.square() + 1e-8)
            weights = (weights / weights.sum(dim=1, keepdim=True)).float()
            expected = (own[nearest] * weights[..., None]).sum(dim=1)
            width = level.shape[2]
            torch.testing.assert_close(
                found[cloud, :, start : start + width], expected, rtol=1e-3, atol=1e-3
            )
            start += width
    frozen.dense = False
    assert frozen(clouds).shape == (len(clouds), tiny.widths[-1])
