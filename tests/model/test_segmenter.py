import numpy as np
import pytest
import torch
from torch import Tensor

from i2pmae.checkpoints.official import from_official
from i2pmae.config import EncoderConfig, SegmentHeadConfig
from i2pmae.errors import ConfigError
from i2pmae.geometry.grouping import group
from i2pmae.model.decoder import interpolate
from i2pmae.model.row_norm import RowNorm
from i2pmae.model.segmenter import Segmenter

CATEGORY = torch.tensor([2, 0, 2])


@pytest.fixture(scope="module")
def released(official_weights) -> Segmenter:
    """The released network in evaluation mode."""
    model = Segmenter(EncoderConfig(radii=(0.32, 0.64, 1.28)), n_parts=50, n_categories=16)
    kind, weights = from_official(official_weights("point_m2ae_seg"))
    assert kind == "segmenter"
    model.load_state_dict(weights)
    return model.eval()


@pytest.fixture
def make(tiny, seeded):
    def build(dropout=0.0, drop_path=0.0) -> Segmenter:
        head = SegmentHeadConfig(level_widths=(9, 7), widths=(11, 8, 6), dropout=dropout)
        encoder = tiny.model_copy(update={"radii": (0.6, 0.9, 1.3), "drop_path": drop_path})
        return seeded(Segmenter(encoder, 5, 3, head).double())

    return build


def normed(norm: RowNorm, x: Tensor) -> Tensor:
    """BatchNorm over all but the last axis."""
    rows = x.flatten(0, -2)
    moments = norm.running_mean, norm.running_var
    if norm.training:
        moments = rows.mean(dim=0), rows.var(dim=0, correction=0)
    return (x - moments[0]) / (moments[1] + 1e-5).sqrt() * norm.weight + norm.bias


def slow_scores(model: Segmenter, points: Tensor, category: Tensor) -> Tensor:
    """With everything a point sees set side by side, as the paper draws it."""
    grouping = group(points, model.config.n_centers, model.config.group_sizes)
    levels = []
    for layer, centers, tokens in zip(
        model.levels, grouping.centers, model.encoder(grouping), strict=True
    ):
        x = torch.cat([points.double(), interpolate(points, centers, tokens)], dim=2)
        x = normed(layer.first_norm, layer.first(x)).relu()
        levels.append(normed(layer.second_norm, layer.second(x)).relu())
    per_point = torch.cat(levels, dim=2)
    whole = per_point.max(dim=1)[0] + per_point.mean(dim=1)
    one_hot = torch.eye(model.n_categories).double()[category]
    kind = normed(model.category[1], one_hot @ model.category[0].weight.T)
    kind = torch.where(kind > 0, kind, 0.2 * kind)
    around = torch.cat([whole, kind], dim=1)[:, None].expand(-1, points.shape[1], -1)
    x = torch.cat([around, per_point], dim=2)
    for linear, norm in ((0, 1), (4, 5), (7, 8)):
        x = normed(model.head[norm], model.head[linear](x)).relu()
    scores = model.head[10](x)
    return scores - scores.exp().sum(dim=2, keepdim=True).log()


def test_scores_equal_the_release(released, parity):
    golden = np.load(parity / "segmentation.npz")
    points, category = torch.from_numpy(golden["points"]), torch.from_numpy(golden["category"])
    with torch.inference_mode():
        found = released(points, category)
    expected = golden["log_softmax_B"]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_number_of_parameters(released):
    assert sum(p.numel() for p in released.parameters()) == 25_474_354


@pytest.mark.parametrize("training", [True, False])
def test_scores_and_gradients_agree_with_the_plain_head(training, make, clouds):
    model = make().train(training)
    expected = slow_scores(model, clouds, CATEGORY)
    found = model(clouds, CATEGORY)
    assert found.shape == (3, 60, 5)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)
    weights = torch.randn(found.shape, generator=torch.Generator().manual_seed(0))
    inputs = list(model.parameters())
    ours = torch.autograd.grad((found * weights).sum(), inputs)
    theirs = torch.autograd.grad((expected * weights).sum(), inputs)
    for (name, _), x, y in zip(model.named_parameters(), ours, theirs, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-4, atol=1e-5, msg=name)


def test_scores_are_log_probabilities_in_float32(make, clouds):
    model = make().float().eval()
    with torch.autocast("cpu", torch.bfloat16):
        rough = model(clouds, CATEGORY)
    found = model(clouds, CATEGORY)
    for scores in (rough, found):
        assert scores.dtype == torch.float32
        torch.testing.assert_close(scores.exp().sum(dim=2), torch.ones(3, 60))
    assert (rough.exp() - found.exp()).abs().max() < 0.15


def test_category_matters_and_clouds_do_not_see_each_other(make, clouds):
    model = make().eval()
    expected = model(clouds, CATEGORY)
    torch.testing.assert_close(model(clouds[1:2], CATEGORY[1:2]), expected[1:2])
    changed = model(clouds, torch.tensor([2, 1, 2]))
    assert torch.equal(changed[[0, 2]], expected[[0, 2]])
    assert not torch.allclose(changed[1], expected[1])


def test_every_weight_gets_a_gradient(make, clouds):
    model = make(dropout=0.5, drop_path=0.2).train()
    torch.manual_seed(0)
    model(clouds, CATEGORY)[..., 0].sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.fixture
def named(make) -> Segmenter:
    """Of three categories, with one, two and two parts."""
    model = make().float().eval()
    model.class_names, model.part_names = ("ball", "mug", "lamp"), ("all", "cup", "ear", "in", "up")
    model.class_parts = ((0,), (1, 2), (3, 4))
    return model


def test_parts_are_named_for_every_point(named, clouds):
    points = 7 * clouds.float().numpy() + 100  # any unit, anywhere
    found = named.predict(points, "mug")
    assert [len(of.parts) for of in found] == [60] * 3
    assert {*found[0].named} <= {"cup", "ear"}
    centered = clouds.float() - clouds.float().mean(dim=1, keepdim=True)
    centered /= centered.norm(dim=2).amax(dim=1)[:, None, None]
    scores = named(centered, torch.tensor([1, 1, 1]))[..., 1:3].softmax(dim=2)
    assert torch.equal(found[0].parts, 1 + scores[0].argmax(dim=1))
    torch.testing.assert_close(found[0].probability, scores[0].amax(dim=1))
    (alone,) = named.predict(points[0], 1)
    assert torch.equal(alone.parts, found[0].parts)
    points[1, :9] = torch.nan
    probability = named.predict(points, "mug")[1].probability
    assert probability[:9].tolist() == [0] * 9
    assert (probability[9:] > 0).all()


def test_more_points_than_it_was_trained_on_take_the_part_of_the_nearest(named, clouds):
    named.n_points = 40
    cloud = torch.cat([clouds[0].float(), clouds[0].float() + 1e-5])
    (found,) = named.predict(cloud, "lamp")
    assert len(found.parts) == 120
    assert torch.equal(found.parts[:60], found.parts[60:])
    assert {*found.named} <= {"in", "up"}


def test_a_category_must_be_known(named, clouds):
    for category, said in ((None, "no category is named"), ("cat", "no category 'cat'")):
        with pytest.raises(ConfigError, match=rf"{said}; the segmenter knows ball, mug, lamp"):
            named.predict(clouds, category)
