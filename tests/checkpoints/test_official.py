import pytest
import torch

from i2pmae.checkpoints.official import from_official, is_official, official_name, to_official
from i2pmae.config import EncoderConfig, HeadConfig, MaskingConfig, TargetConfig
from i2pmae.errors import CheckpointError
from i2pmae.model.classifier import Classifier
from i2pmae.model.pretraining import PretrainingModel
from i2pmae.model.segmenter import Segmenter

NETWORKS = {
    "i2p_mae": ("pretraining", 295),
    "i2p_mae_modelnet40": ("classifier", 249),
    "i2p_mae_scanobjectnn": ("classifier", 249),
    "point_m2ae_seg": ("segmenter", 308),
}


def network(name: str) -> torch.nn.Module:
    """Ours of the released sizes."""
    match name:
        case "i2p_mae":
            return PretrainingModel(EncoderConfig(), MaskingConfig(), TargetConfig())
        case "point_m2ae":
            return PretrainingModel(EncoderConfig(), MaskingConfig(), TargetConfig(kind="3d"))
        case "i2p_mae_modelnet40":
            return Classifier(EncoderConfig(), HeadConfig(), 40)
        case "i2p_mae_scanobjectnn":
            return Classifier(EncoderConfig(), HeadConfig(pooling="concat"), 15)
        case _:
            return Segmenter(EncoderConfig(), 50, 16)


@pytest.mark.parametrize("name", NETWORKS)
def test_weights_come_back_identical(name, official_weights):
    official = official_weights(name)
    kind, ours = from_official(official)
    assert (kind, len(ours)) == NETWORKS[name]
    assert is_official(official)
    assert not is_official(ours)
    # Every one of our weights, and no other, in our shape and dtype.
    own = network(name).state_dict()
    assert {k: (v.shape, v.dtype) for k, v in ours.items()} == {
        k: (v.shape, v.dtype) for k, v in own.items()
    }
    back = to_official(kind, ours)
    assert back.keys() == official.keys()
    for key, value in official.items():
        assert back[key].shape == value.shape
        assert back[key].dtype == value.dtype
        assert torch.equal(back[key], value)


def test_names_of_a_distributed_run_are_stripped(official_weights):
    official = official_weights("i2p_mae_modelnet40")
    prefixed = {f"module.{key}": value for key, value in official.items()}
    assert is_official(prefixed)
    kind, ours = from_official(prefixed)
    assert kind == "classifier"
    expected = from_official(official)[1]
    assert ours.keys() == expected.keys()
    assert all(torch.equal(ours[key], expected[key]) for key in ours)


def test_the_image_model_is_left_out(official_weights):
    official = official_weights("i2p_mae")
    more = {"clip_model.visual.conv1.weight": torch.zeros(2, 3, 16, 16), **official}
    more["module.clip_model.logit_scale"] = torch.zeros(())
    assert from_official(more)[1].keys() == from_official(official)[1].keys()


def test_point_m2ae_lacks_our_heads_only(official_weights):
    official = official_weights("point_m2ae")
    kind, ours = from_official(official)
    assert kind == "point-m2ae"
    assert len(official) == 293
    own = network("point_m2ae").state_dict()
    assert own.keys() - ours.keys() == {"head_3d.weight", "head_3d.bias"}
    assert ours.keys() <= own.keys()
    assert all(ours[key].shape == own[key].shape for key in ours)
    back = to_official(kind, ours)
    assert official.keys() - back.keys() == {"rec_head.weight", "rec_head.bias"}
    assert all(torch.equal(back[key], official[key]) for key in back)


def test_kernels_of_convolutions_lose_their_last_axis_only():
    found = from_official(
        {
            "rec_head_3d.weight": torch.zeros(24, 192, 1),
            "rec_head_3d.bias": torch.zeros(24),
            "h_encoder.encoder_pos_embeds.1.0.weight": torch.zeros(
                192, 1
            ),  # linear: stays as it is
        }
    )[1]
    assert {name: tuple(value.shape) for name, value in found.items()} == {
        "head_3d.weight": (24, 192),
        "head_3d.bias": (24,),
        "encoder.positions.1.0.weight": (192, 1),
    }


def test_single_names():
    name = official_name("pretraining", "encoder.blocks.2.4.attention.projection.bias")
    assert name == "h_encoder.encoder_blocks.2.blocks.4.attn.proj.bias"
    assert official_name("pretraining", "decoder.mask_token") == "mask_token"
    assert official_name("classifier", "head.8.weight") == "cls_head_finetune.8.weight"
    with pytest.raises(CheckpointError, match=r"head\.8\.weight is no weight of a pretraining"):
        official_name("pretraining", "head.8.weight")


def test_foreign_weights_are_refused():
    with pytest.raises(CheckpointError, match=r"not a checkpoint of I2P-MAE .* among its 1 keys"):
        from_official({"fc.weight": torch.zeros(2, 2)})
    with pytest.raises(CheckpointError, match="not a checkpoint"):
        from_official({})
    weights = {"rec_head_2d.bias": torch.zeros(2), "rec_head_2d.weight": torch.zeros(2, 2, 1)}
    with pytest.raises(
        CheckpointError, match=r"1 keys .* pretraining network, the first is more\.x"
    ):
        from_official(weights | {"more.x": torch.zeros(2)})
    with pytest.raises(CheckpointError, match=r"encoder\.unknown is no weight"):
        to_official("segmenter", {"encoder.unknown": torch.zeros(2)})
