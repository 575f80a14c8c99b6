import numpy as np
import pytest
import torch
from torch.nn import functional as F

from i2pmae.config import EncoderConfig, HeadConfig
from i2pmae.model.classifier import Classifier
from i2pmae.model.official import from_official

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


@pytest.mark.parametrize("pooling", ["sum", "concat"])
@pytest.mark.parametrize("training", [True, False])
def test_logits_agree_with_the_plain_network(pooling, training, make, clouds, twin, tiny):
    model = make(pooling).train(training)
    # The plain encoder ends in a LayerNorm per level; here one follows the coarsest.
    weights = model.state_dict()
    norms = {f"norms.{i}.{k}": v for i in range(3) for k, v in model.norm.state_dict().items()}
    encoder = make().encoder.train(training)
    encoder.norms = torch.nn.ModuleList(torch.nn.LayerNorm(w).double() for w in tiny.widths)
    norms = {k: v if k.startswith("norms.2") else encoder.state_dict()[k] for k, v in norms.items()}
    encoder.load_state_dict(
        {k.removeprefix("encoder."): v for k, v in weights.items() if k.startswith("encoder.")} | norms
    )
    plain = twin(encoder, "encoder.", n_heads=tiny.n_heads, radii=(0.6, 0.9, 1.3)).plain
    from i2pmae.geometry.grouping import group

    grouping = group(clouds, tiny.n_centers, tiny.group_sizes)
    masks = [torch.zeros(3, n, dtype=torch.bool) for n in tiny.n_centers]
    tokens = plain.encode(grouping, masks)[2]
    mean, largest = tokens.mean(dim=1), tokens.max(dim=1)[0]
    x = mean + largest if pooling == "sum" else torch.cat([mean, largest], dim=1)
    for linear, norm in ((0, 1), (4, 5)):
        x = x @ weights[f"head.{linear}.weight"].T + weights[f"head.{linear}.bias"]
        w, b, m, v = (weights[f"head.{norm}.{k}"] for k in ("weight", "bias", "running_mean", "running_var"))
        x = F.batch_norm(x, m.clone(), v.clone(), w, b, training).relu()
    expected = x @ weights["head.8.weight"].T + weights["head.8.bias"]
    torch.testing.assert_close(model(clouds), expected)
