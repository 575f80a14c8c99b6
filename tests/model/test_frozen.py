import numpy as np
import pytest
import torch

from i2pmae.config import EncoderConfig, HeadConfig, MaskingConfig, TargetConfig
from i2pmae.model.classifier import Classifier
from i2pmae.model.frozen import FrozenEncoder, frozen_feature
from i2pmae.model.official import from_official
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
