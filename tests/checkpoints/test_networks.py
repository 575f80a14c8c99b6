import pytest
import torch

import i2pmae
from i2pmae.checkpoints import checkpoint
from i2pmae.checkpoints.networks import encoder_config_of, load_pretraining, random_encoder
from i2pmae.checkpoints.official import to_official
from i2pmae.config import EncoderConfig, HeadConfig, to_plain
from i2pmae.errors import CheckpointError
from i2pmae.model.classifier import Classifier

SMALL = EncoderConfig(
    n_centers=(32, 16, 8),
    group_sizes=(8, 4, 4),
    widths=(12, 24, 48),
    depths=(1, 1, 1),
    embedding_width=8,
)


@pytest.fixture
def classifier(tmp_path):
    model = Classifier(SMALL, HeadConfig(pooling="concat", width=16), n_classes=5)
    path = tmp_path / "classifier.pt"
    config = {
        "encoder": to_plain(SMALL),
        "head": to_plain(HeadConfig(pooling="concat", width=16)),
    }
    checkpoint.save(path, kind="classifier", config=config, model=model.state_dict())
    return model.eval(), path


def test_a_classifier_comes_back(classifier):
    model, path = classifier
    points = torch.rand(2, 64, 3)
    for given in (path, str(path)):
        loaded = i2pmae.load_classifier(given)
        assert not loaded.training
        assert torch.equal(loaded(points), model(points))


def test_the_feature_of_a_classifier_is_its_pooled_maximum(classifier):
    model, path = classifier
    points = torch.rand(2, 64, 3)
    seen = []
    model.head.register_forward_hook(lambda _module, inputs, _output: seen.append(inputs[0]))
    model(points)
    width = SMALL.widths[-1]
    assert torch.allclose(i2pmae.load_encoder(path)(points), seen[0][:, width:])


@pytest.mark.parametrize(
    ("pooling", "variant", "radii", "group_sizes"),
    [
        ("sum", "obj", (0.24, 0.48, 0.96), (48, 24, 24)),
        ("concat", "obj", (0.32, 0.64, 1.28), (32, 16, 16)),
        ("concat", "pb-t50-rs", (0.48, 0.96, 1.92), (32, 16, 16)),
    ],
)
def test_official_classifiers_are_known_by_their_head(
    tmp_path, pooling, variant, radii, group_sizes
):
    encoder = EncoderConfig(group_sizes=group_sizes, radii=radii)
    model = Classifier(encoder, HeadConfig(pooling=pooling), n_classes=7)
    path = tmp_path / "official.pth"
    torch.save({"base_model": to_official("classifier", model.state_dict())}, path)
    found = i2pmae.load_classifier(path, variant=variant)
    assert found.config == encoder
    assert found.head_config.pooling == pooling
    assert found.head[-1].out_features == 7


def test_a_network_of_another_kind_is_refused(classifier):
    _, path = classifier
    with pytest.raises(CheckpointError, match="classifier network; the one of pre-training"):
        load_pretraining(path)


def test_settings_that_make_no_sense_are_refused():
    saved = checkpoint.Checkpoint("classifier", {"encoder": {"widths": "wide"}}, {})
    with pytest.raises(CheckpointError, match="cannot be used"):
        encoder_config_of(saved)


def test_random_encoders_depend_on_the_seed_alone():
    points = torch.rand(1, 64, 3)
    torch.manual_seed(1)
    first = random_encoder(SMALL, seed=0)(points)
    torch.manual_seed(2)
    assert torch.equal(random_encoder(SMALL, seed=0)(points), first)
    assert not torch.equal(random_encoder(SMALL, seed=1)(points), first)


def test_unknown_names_are_attribute_errors():
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        i2pmae.nothing  # noqa: B018


def test_networks_of_the_release_know_the_names_of_their_data_sets(official_weights, tmp_path):
    for name, n, first in (("modelnet40", 40, "airplane"), ("scanobjectnn", 15, "bag")):
        path = tmp_path / f"{name}.pth"
        torch.save({"base_model": official_weights(f"i2p_mae_{name}")}, path)
        names = i2pmae.load_classifier(path).class_names
        assert (len(names), names[0]) == (n, first)
