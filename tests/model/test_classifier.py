import numpy as np
import pytest
import torch
from torch import Tensor

from i2pmae.checkpoints.official import from_official
from i2pmae.config import EncoderConfig, HeadConfig
from i2pmae.geometry.grouping import group
from i2pmae.model.classifier import Classifier
from i2pmae.model.masking import carry_to_finer

RELEASED = {
    "modelnet40": (EncoderConfig(group_sizes=(48, 24, 24), radii=(0.24, 0.48, 0.96)), "sum", 40),
    "scanobjectnn": (
        EncoderConfig(group_sizes=(32, 16, 16), radii=(0.32, 0.64, 1.28)),
        "concat",
        15,
    ),
}
PARAMETERS = {"modelnet40": 12_830_056, "scanobjectnn": 12_921_935}


@pytest.fixture(scope="module", params=RELEASED)
def released(request, official_weights):
    """Name of a released classifier, and the classifier in evaluation mode."""
    encoder, pooling, n_classes = RELEASED[request.param]
    model = Classifier(encoder, HeadConfig(pooling=pooling), n_classes)
    kind, weights = from_official(official_weights(f"i2p_mae_{request.param}"))
    assert kind == "classifier"
    model.load_state_dict(weights)
    return request.param, model.eval()


@pytest.fixture
def make(tiny, seeded):
    def build(pooling="sum", dropout=0.0, **settings) -> Classifier:
        encoder = tiny.model_copy(update={"radii": (0.6, 0.9, 1.3)} | settings)
        head = HeadConfig(pooling=pooling, width=10, dropout=dropout)
        return seeded(Classifier(encoder, head, 4).double())

    return build


@pytest.mark.parametrize("n_points", [2048, 1024])
def test_logits_equal_the_release(released, n_points, parity):
    name, model = released
    golden = np.load(parity / "encoder.npz")
    suffix = "" if n_points == 2048 else "_first1024"
    with torch.inference_mode():
        found = model(torch.from_numpy(golden["points"])[:, :n_points])
    expected = golden[f"{name}_logits_B{suffix}"]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5 * abs(expected).max())


def test_number_of_parameters(released):
    name, model = released
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS[name]


def slow_logits(model: Classifier, points: Tensor, pooling: str) -> Tensor:
    """Head layer by layer, on the encoder's tokens."""
    grouping = group(points, model.config.n_centers, model.config.group_sizes)
    tokens = model.encoder(grouping)[2]
    tokens = (tokens - tokens.mean(dim=2, keepdim=True)) / (
        tokens.var(dim=2, correction=0, keepdim=True) + 1e-5
    ).sqrt()
    tokens = tokens * model.norm.weight + model.norm.bias
    mean, largest = tokens.mean(dim=1), tokens.max(dim=1)[0]
    x = mean + largest if pooling == "sum" else torch.cat([mean, largest], dim=1)
    first, first_norm, _, _, second, second_norm, _, _, last = model.head
    for linear, norm in ((first, first_norm), (second, second_norm)):
        x = x @ linear.weight.T + linear.bias
        moments = norm.running_mean, norm.running_var
        if model.training:
            moments = x.mean(dim=0), x.var(dim=0, correction=0)
        x = (x - moments[0]) / (moments[1] + 1e-5).sqrt() * norm.weight + norm.bias
        x = x.clamp(min=0)
    return x @ last.weight.T + last.bias


@pytest.mark.parametrize("pooling", ["sum", "concat"])
@pytest.mark.parametrize("training", [True, False])
def test_logits_agree_with_the_plain_head(pooling, training, make, clouds):
    model = make(pooling).train(training)
    expected = slow_logits(model, clouds, pooling)
    torch.testing.assert_close(model(clouds), expected)


def test_every_weight_gets_a_gradient(make, clouds):
    model = make(dropout=0.5, drop_path=0.2).train()
    torch.manual_seed(0)
    model(clouds).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    assert sum(p.grad.any().item() for p in model.parameters()) > 0.8 * len([*model.parameters()])


def test_a_cloud_alone_and_in_any_order_has_the_same_logits(make, clouds):
    model = make().eval()
    expected = model(clouds)
    torch.testing.assert_close(model(clouds[1:2]), expected[1:2])
    torch.testing.assert_close(model(clouds.flip(0)), expected.flip(0))


def test_all_tokens_are_seen(make, clouds):
    """Points of finer groups that belong to no coarser group count too."""
    model = make(radii=None, n_centers=(24, 6, 4)).eval()
    grouping = group(clouds, model.config.n_centers, model.config.group_sizes)
    unreached = carry_to_finer(torch.zeros(3, 6).bool(), grouping.neighbor_indices[1], 24)
    assert unreached.any()
    found = model.encoder(grouping)
    assert [x.shape[1] for x in found] == [24, 6, 4]
    # Moving a group that no coarser group holds changes what the others attend to.
    b, g = unreached.nonzero()[0].tolist()
    changed = grouping.neighborhoods[0].clone()
    changed[b, g] += 1
    moved = grouping._replace(neighborhoods=[changed, *grouping.neighborhoods[1:]])
    assert not torch.allclose(model.encoder(moved)[2][b], found[2][b])


def test_float32_and_bfloat16_are_close_to_float64(make, clouds):
    model = make().eval()
    expected = model(clouds)
    model.float()
    torch.testing.assert_close(model(clouds).double(), expected, rtol=1e-4, atol=1e-4)
    with torch.autocast("cpu", torch.bfloat16):
        found = model(clouds)
    assert (found - expected).norm() < 0.05 * expected.norm()
