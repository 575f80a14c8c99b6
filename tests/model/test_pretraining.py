import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from i2pmae.checkpoints.official import from_official, to_official
from i2pmae.config import MaskingConfig, TargetConfig
from i2pmae.geometry import projection
from i2pmae.geometry.grouping import gather_rows, point_indices
from i2pmae.model import packing as packing_module
from i2pmae.model.masking import carry_through
from i2pmae.model.packing import member_rows
from i2pmae.model.pretraining import PretrainingModel

VIEWS, CHANNELS, SIZE = 2, 5, 32


class Batch:
    """Everything a step takes, of a few small clouds."""

    def __init__(self, points: Tensor):
        generator = torch.Generator().manual_seed(1)
        batch = len(points)
        self.points = points
        self.features = torch.randn(batch, VIEWS, 4, 4, CHANNELS, generator=generator)
        self.saliency = torch.rand(batch, VIEWS, 4, 4, generator=generator)
        axes = projection.view_axes(VIEWS)
        pixel_map = projection.fit_pixels(points, axes, SIZE)
        self.pixels = projection.pixels(points, pixel_map, axes, SIZE)
        self.masked = torch.ones(batch, 8, dtype=torch.bool)
        for row, visible in zip(self.masked, ([3], [0, 7], [1, 2, 4, 6]), strict=False):
            row[visible] = False

    def step(self, model: PretrainingModel, **changes):
        values = {"masked": self.masked} | changes
        return model(self.points, self.features, self.saliency, self.pixels, **values)

    def map(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        """Every tensor changed alike."""
        other = Batch.__new__(Batch)
        other.__dict__ = {name: change(value) for name, value in vars(self).items()}
        return other

    def of(self, clouds: list[int]) -> "Batch":
        """Some of the clouds, in this order."""
        return self.map(lambda value: value[clouds])


@pytest.fixture
def batch(clouds) -> Batch:
    return Batch(clouds)


@pytest.fixture
def make(tiny, seeded):
    def build(embed="all", kind="both", dtype=torch.float64, **settings) -> PretrainingModel:
        masking = settings.pop("masking", MaskingConfig())
        targets = TargetConfig(kind=kind, **settings)
        model = PretrainingModel(tiny, masking, targets, VIEWS, CHANNELS, SIZE, embed=embed)
        return seeded(model.double()).to(dtype)

    return build


def slow_targets(model: PretrainingModel, batch: Batch, output) -> Tensor:
    """Image features of the neighbors of visible level-1 tokens, read from enlarged maps."""
    enlarged = [
        torch.nn.functional.interpolate(
            maps.permute(0, 3, 1, 2), (SIZE, SIZE), mode="bicubic", align_corners=False
        )
        for maps in batch.features
    ]
    finest, members = output.grouping.center_indices[0], output.grouping.neighbor_indices[1]
    found = []
    for b, g in (~output.masks[1]).nonzero().tolist():
        for center in members[b, g]:
            for view in range(VIEWS):
                row, column = batch.pixels[b, view, finest[b, center]]
                found.append(enlarged[b][view, :, row, column])
    width = model.config.group_sizes[1] * VIEWS * CHANNELS
    return torch.stack(found).view(-1, width)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("embed", ["all", "visible"])
def test_losses_and_gradients_agree_with_the_plain_network(
    embed, training, make, batch, tiny, twin
):
    model = make(embed).train(training)
    other = twin(model, n_heads=tiny.n_heads, embed=embed)
    found = batch.step(model)
    plain, grouping, masks = other.plain, found.grouping, found.masks
    decoded = plain.decode(plain.encode(grouping, masks), grouping, masks)
    # Weights of the interpolation and targets are float32.
    torch.testing.assert_close(found.decoded, decoded, rtol=1e-5, atol=1e-5)
    targets = slow_targets(model, batch, found)
    loss_2d, loss_3d = plain.losses(decoded, grouping, masks, targets)
    assert found.loss_3d.item() == pytest.approx(loss_3d.item(), rel=1e-6)
    assert found.loss_2d.item() == pytest.approx(loss_2d.item(), rel=1e-6)
    found.loss.backward()
    (loss_2d + loss_3d).backward()
    for name, parameter in other.parameters.items():
        theirs = other.plain.w[name].grad
        if theirs is None or parameter.grad is None:
            assert name.startswith("h_encoder.encoder_norms.0."), name  # of no output in use
        else:
            torch.testing.assert_close(
                parameter.grad, theirs.view_as(parameter), rtol=1e-4, atol=1e-5, msg=name
            )
    if training:
        other.compare_statistics()


def test_semantic_targets_agree_with_enlarged_maps(make, batch):
    model = make()
    output = batch.step(model)
    packings = output.packings
    found = model.semantic_targets(output.grouping, packings, batch.features, batch.pixels)
    assert found.shape == (3, packings[0].filled.shape[1], VIEWS, CHANNELS)
    assert not found.requires_grad
    rows = member_rows(output.grouping.neighbor_indices[1], *packings[:2])
    found = found.flatten(2).flatten(0, 1)[rows[packings[1].counted]].flatten(1)
    expected = slow_targets(model, batch, output)
    torch.testing.assert_close(found, expected.to(found.dtype), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("asked", ["visible", "masked"])
def test_views_that_do_not_see_a_point_have_no_part_in_its_target(asked, make, batch):
    model = make(tokens_2d=asked, remove_shape_mean=True)
    all_seen = torch.ones(batch.pixels.shape[:3], dtype=torch.bool)
    expected = batch.step(model)
    assert batch.step(model, seen=all_seen).loss_2d.item() == expected.loss_2d.item()
    first_only = all_seen.clone()
    first_only[:, 1] = False
    found = batch.step(model, seen=first_only)
    assert found.n_compared < expected.n_compared * VIEWS
    batch.features[:, 1] += 9
    assert batch.step(model, seen=first_only).loss_2d.item() == found.loss_2d.item()
    assert batch.step(model).loss_2d.item() != expected.loss_2d.item()


def test_saliency_is_the_mean_over_views_that_see_a_center(make, batch):
    model = make()
    grouping = batch.step(model).grouping
    seen = torch.ones(batch.pixels.shape[:3], dtype=torch.bool)
    seen[:, 1] = False
    found = model.saliency(grouping, batch.saliency, batch.pixels, seen)
    alone = model.saliency(grouping, batch.saliency[:, :1], batch.pixels[:, :1])
    torch.testing.assert_close(found, alone)


def predicted_and_true(model, batch, output, which) -> tuple[Tensor, Tensor]:
    """Features of the neighbors of some level-1 tokens: predicted and read from enlarged maps."""
    tokens = output.decoded[which]
    masks = [output.masks[0], ~which, output.masks[2]]
    true = slow_targets(model, batch, output._replace(masks=masks))
    return model.head_2d(tokens), true.to(tokens)


@pytest.mark.parametrize("asked", ["visible", "masked", "all"])
def test_tokens_that_2d_features_are_asked_of(asked, make, batch):
    model = make(tokens_2d=asked)
    output = batch.step(model)
    masked = output.masks[1]
    which = {"visible": ~masked, "masked": masked, "all": torch.ones_like(masked)}[asked]
    predicted, true = predicted_and_true(model, batch, output, which)
    expected = (predicted - true).square().mean()
    assert output.loss_2d.item() == pytest.approx(expected.item(), rel=1e-5)


def test_standardized_targets(make, batch):
    model = make(standardize=True)
    mean, deviation = torch.linspace(-3, 3, CHANNELS), torch.linspace(0.5, 4, CHANNELS)
    model.standardize_targets(mean, deviation)
    output = batch.step(model)
    predicted, true = predicted_and_true(model, batch, output, ~output.masks[1])
    true = (true.view(-1, CHANNELS) - mean) / deviation
    expected = (predicted.view(-1, CHANNELS) - true).square().mean()
    assert output.loss_2d.item() == pytest.approx(expected.item(), rel=1e-5)
    raw = model.predict_features(output.decoded[~output.masks[1]])
    assert raw.shape[1:] == (4, VIEWS, CHANNELS)
    torch.testing.assert_close(
        raw.flatten(), (predicted.view(-1, CHANNELS) * deviation + mean).flatten()
    )


def test_the_release_gets_a_head_of_raw_features(make, batch):
    model = make(standardize=True)
    model.standardize_targets(torch.full((CHANNELS,), 2.0), torch.full((CHANNELS,), 3.0))
    _, weights = from_official(to_official("pretraining", model.state_dict()))
    other = make()
    other.load_state_dict(weights)
    tokens = batch.step(model).decoded.flatten(0, 1)
    torch.testing.assert_close(other.predict_features(tokens), model.predict_features(tokens))


@pytest.mark.parametrize("asked", ["visible", "masked", "all"])
def test_targets_without_the_mean_of_their_shape(asked, make, batch):
    model = make(tokens_2d=asked, remove_shape_mean=True, standardize=True)
    mean, deviation = torch.linspace(-3, 3, CHANNELS), torch.linspace(0.5, 4, CHANNELS)
    model.standardize_targets(mean, deviation)
    output = batch.step(model)
    tokens = ~output.masks[1] if asked == "visible" else torch.ones_like(output.masks[1])
    predicted, true = predicted_and_true(model, batch, output, tokens)
    true = ((true.view(-1, CHANNELS) - mean) / deviation).view(len(true), 4, VIEWS, CHANNELS)
    clouds = tokens.nonzero()[:, 0]
    members = output.grouping.neighbor_indices[1][tokens]
    means = []
    for cloud in range(len(batch.points)):
        of_center = {  # each counts once, in however many groups it is
            center: value
            for row, values in zip(members[clouds == cloud], true[clouds == cloud], strict=True)
            for center, value in zip(row.tolist(), values, strict=True)
        }
        assert len(of_center) == (24 if asked != "visible" else (~output.masks[0][cloud]).sum())
        means.append(torch.stack([*of_center.values()]).mean(dim=0))
    true = true - torch.stack(means)[clouds][:, None]
    error = (predicted.view_as(true) - true).square().flatten(1).mean(dim=1)
    if asked == "masked":
        error = error[output.masks[1].flatten()]
    assert output.loss_2d.item() == pytest.approx(error.mean().item(), rel=1e-5)


@pytest.mark.parametrize("embed", ["all", "visible"])
@pytest.mark.parametrize("training", [True, False])
def test_a_batch_of_one(embed, training, make, batch):
    model = make(embed).train(training)
    output = batch.of([1]).step(model)
    output.loss.backward()
    assert output.loss.isfinite()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
    assert model.features(batch.points[:1]).shape == (1, 18)
    if not training:
        whole = batch.step(model)
        torch.testing.assert_close(output.decoded[0], whole.decoded[1])


@pytest.mark.parametrize("embed", ["all", "visible"])
def test_order_of_clouds_does_not_matter(embed, make, batch):
    """Nor does any cloud show its token 0 for being the first of the batch."""
    order = [2, 0, 1]
    straight, shuffled = batch.step(make(embed)), batch.of(order).step(make(embed))
    assert straight.masks[0][:, 0].any()
    for ours, theirs in zip(shuffled.masks, straight.masks, strict=True):
        assert torch.equal(ours, theirs[order])
    torch.testing.assert_close(shuffled.decoded, straight.decoded[order])
    torch.testing.assert_close(shuffled.loss, straight.loss)


def test_room_for_hidden_tokens_changes_nothing(make, batch, monkeypatch):
    """On a GPU packings are longer than their visible tokens ask for."""
    tight, loose = make("visible"), make("visible")
    expected = batch.step(tight)
    monkeypatch.setattr(packing_module, "BUCKET", 1000)
    monkeypatch.setattr(packing_module, "ROW_BUCKET", 1000)
    found = batch.step(loose)
    torch.testing.assert_close(found.loss, expected.loss)
    for output in (expected, found):
        output.loss.backward()
    for ours, theirs in zip(loose.parameters(), tight.parameters(), strict=True):
        if theirs.grad is not None:
            torch.testing.assert_close(ours.grad, theirs.grad)


@pytest.mark.gpu
@pytest.mark.parametrize("embed", ["all", "visible"])
def test_a_gpu_computes_the_same(embed, make, batch):
    on_cpu, on_gpu = make(embed), make(embed).cuda()
    expected, found = batch.step(on_cpu), batch.map(Tensor.cuda).step(on_gpu)
    torch.testing.assert_close(found.loss.cpu(), expected.loss, rtol=1e-5, atol=1e-6)
    expected.loss.backward()
    found.loss.backward()
    for ours, theirs in zip(on_gpu.parameters(), on_cpu.parameters(), strict=True):
        if theirs.grad is not None:
            torch.testing.assert_close(ours.grad.cpu(), theirs.grad, rtol=1e-4, atol=1e-5)


def hidden_points(output, n_points: int) -> Tensor:
    """(B, N) bool: points that are no center and belong to hidden groups only."""
    grouping, masked = output.grouping, output.masks[0]
    hidden = torch.ones(len(masked), n_points, dtype=torch.bool)
    hidden.scatter_(1, grouping.center_indices[0], False)
    for row, members, mask in zip(hidden, grouping.neighbor_indices[0], masked, strict=True):
        row[members[~mask].flatten()] = False
    return hidden


@pytest.mark.parametrize("embed", ["visible", "all"])
def test_hidden_points_have_no_influence_where_they_are_not_embedded(embed, make, batch):
    before = batch.step(make(embed))
    hidden = hidden_points(before, batch.points.shape[1])
    assert hidden.sum() > 10
    moved = torch.where(hidden[..., None], batch.points + 1e-4, batch.points)
    batch.points = moved
    after = batch.step(make(embed))
    for ours, theirs in zip(
        after.grouping.neighbor_indices, before.grouping.neighbor_indices, strict=True
    ):
        assert torch.equal(ours, theirs)  # only coordinates within hidden groups differ
    assert not torch.equal(after.grouping.neighborhoods[0], before.grouping.neighborhoods[0])
    assert torch.equal(after.decoded, before.decoded) == (embed == "visible")
    assert torch.equal(after.loss, before.loss) == (embed == "visible")


def test_in_evaluation_hidden_points_have_no_influence_at_all(make, batch):
    model = make("all").eval()
    before = batch.step(model)
    hidden = hidden_points(before, batch.points.shape[1])
    batch.points = torch.where(hidden[..., None], batch.points + 1e-4, batch.points)
    assert torch.equal(batch.step(model).decoded, before.decoded)


@pytest.mark.parametrize("kind", ["2d", "3d", "both"])
def test_targets_decide_about_heads_and_losses(kind, make, batch):
    model = make(kind=kind, weight_2d=0.5, weight_3d=3.0)
    assert hasattr(model, "head_2d") == (kind != "3d")
    assert hasattr(model, "head_3d") == (kind != "2d")
    output, both = batch.step(model), batch.step(make())
    assert output.loss_2d.item() == (0 if kind == "3d" else pytest.approx(both.loss_2d.item()))
    assert output.loss_3d.item() == (0 if kind == "2d" else pytest.approx(both.loss_3d.item()))
    expected = 0.5 * output.loss_2d + 3 * output.loss_3d
    torch.testing.assert_close(output.loss, expected)
    output.loss.backward()
    unused = [name for name, p in model.named_parameters() if p.grad is None]
    assert unused == ["encoder.norms.0.weight", "encoder.norms.0.bias"]


def test_heads_predict_neighbor_by_neighbor(make):
    model = make()
    decoded = torch.randn(2, 14, 12, dtype=torch.float64)
    assert model.reconstruct(decoded).shape == (2, 14, 4, 3)
    rows = model.head_3d(decoded)
    assert torch.equal(model.reconstruct(decoded)[0, 0, 2], rows[0, 0, 6:9])
    assert model.head_2d.out_features == 4 * VIEWS * CHANNELS


def test_points_alone_are_enough_for_random_masks_and_3d_targets(make, batch):
    model = make(kind="3d", masking=MaskingConfig(strategy="random"))
    assert model(batch.points).loss.isfinite()


@pytest.mark.parametrize(
    ("kind", "strategy", "given", "missing"),
    [
        ("both", "2d-guided", {}, "saliency_maps"),
        ("3d", "2d-guided", {}, "saliency_maps"),
        ("3d", "2d-guided", {"saliency_maps"}, "pixels"),
        ("both", "random", {}, "image_features"),
        ("2d", "random", {"image_features"}, "pixels"),
    ],
)
def test_missing_inputs_are_named(kind, strategy, given, missing, make, batch):
    model = make(kind=kind, masking=MaskingConfig(strategy=strategy))
    values = {"image_features": batch.features, "saliency_maps": batch.saliency}
    with pytest.raises(ValueError, match=f"{missing} is None"):
        model(batch.points, **{name: values[name] for name in given})


def test_int8_features_with_a_scale_are_their_product(make, batch):
    model = make().eval()
    generator = torch.Generator().manual_seed(3)
    codes = torch.randint(-127, 128, batch.features.shape, generator=generator, dtype=torch.int8)
    scale = torch.rand(3, CHANNELS, generator=generator) / 50
    batch.features = codes
    found = batch.step(model, feature_scale=scale)
    batch.features = codes * scale[:, None, None, None]
    expected = batch.step(model)
    torch.testing.assert_close(found.loss_2d, expected.loss_2d, rtol=1e-5, atol=1e-6)
    assert expected.loss_2d.item() > 0.1


def test_masks_are_drawn_from_the_generator(make, batch):
    model = make()

    def masked(seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        return batch.step(model, masked=None, generator=generator).masks[-1]

    assert masked(0).sum(dim=1).tolist() == [6, 6, 6]  # int(0.8 * 8)
    assert torch.equal(masked(0), masked(0))
    assert not torch.equal(masked(0), masked(1))


def test_masks_of_every_level_are_carried(make, batch):
    output = batch.step(make())
    expected = carry_through(batch.masked, output.grouping.neighbor_indices, (24, 14, 8))
    for ours, theirs in zip(output.masks, expected, strict=True):
        assert torch.equal(ours, theirs)


def test_guided_masks_show_the_salient_and_random_ones_ignore_saliency(make, batch):
    greedy = MaskingConfig(standardize=True, temperature=1e-6)
    model = make(masking=greedy)
    output = batch.step(model, masked=None)
    saliency = model.saliency(output.grouping, batch.saliency, batch.pixels)
    shown = saliency.topk(2, dim=1).indices
    assert not output.masks[-1].gather(1, shown).any()
    model = make(masking=MaskingConfig(strategy="random"))
    first, again = (
        batch.step(model, masked=None, generator=torch.Generator().manual_seed(0)).masks[-1]
        for batch.saliency in (batch.saliency, torch.zeros_like(batch.saliency))
    )
    assert torch.equal(first, again)


def test_saliency_is_the_mean_over_views_at_the_centers(make, batch):
    model = make()
    grouping = batch.step(model).grouping
    found = model.saliency(grouping, batch.saliency, batch.pixels)
    enlarged = torch.nn.functional.interpolate(
        batch.saliency, (SIZE, SIZE), mode="bicubic", align_corners=False
    )
    at = point_indices(grouping, 2)
    assert torch.equal(gather_rows(batch.points, at), grouping.centers[2])
    for b in range(3):
        for g, point in enumerate(at[b]):
            values = [enlarged[b, v, *batch.pixels[b, v, point]] for v in range(VIEWS)]
            torch.testing.assert_close(found[b, g], sum(values) / VIEWS, rtol=1e-4, atol=1e-5)


def test_features_are_the_maximum_over_the_coarsest_tokens(make, batch, twin, tiny):
    model = make().eval()
    other = twin(model, n_heads=tiny.n_heads)
    grouping = batch.step(model).grouping
    shown = torch.zeros(3, 8, dtype=torch.bool)
    masks = carry_through(shown, grouping.neighbor_indices, tiny.n_centers)
    expected = other.plain.encode(grouping, masks)[2].max(dim=1)[0]
    torch.testing.assert_close(model.features(batch.points), expected)


@pytest.mark.parametrize("embed", ["all", "visible"])
@pytest.mark.parametrize("training", [True, False])
def test_float32_is_close_to_float64(embed, training, make, batch):
    exact = batch.step(make(embed).train(training))
    found = batch.step(make(embed, dtype=torch.float32).train(training))
    assert found.loss.dtype == torch.float32
    for name in ("loss", "loss_2d", "loss_3d"):
        expected = getattr(exact, name).item()
        assert getattr(found, name).item() == pytest.approx(expected, rel=1e-5), name
    torch.testing.assert_close(found.decoded.double(), exact.decoded, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("embed", ["all", "visible"])
def test_bfloat16_autocast_is_close_to_float32(embed, make, batch):
    exact, rough = (make(embed, dtype=torch.float32) for _ in range(2))
    expected = batch.step(exact)
    with torch.autocast("cpu", torch.bfloat16):
        found = batch.step(rough)
    assert found.loss.dtype == torch.float32
    for name in ("loss_2d", "loss_3d"):
        assert getattr(found, name).item() == pytest.approx(getattr(expected, name).item(), rel=0.1)
    for output in (expected, found):
        output.loss.backward()
    gradients = [
        torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
        for model in (exact, rough)
    ]
    assert gradients[1].dtype == torch.float32
    assert torch.cosine_similarity(*gradients, dim=0) > 0.85  # few channels average out little


def test_degenerate_clouds_stay_finite(make, batch):
    """All points alike: every group is the same, and no axis has an extent."""
    model = make(dtype=torch.float32)
    batch.points = torch.full((3, 60, 3), 0.25)
    output = batch.step(model)
    output.loss.backward()
    assert output.loss.isfinite()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_losses_and_predictions_equal_the_release(parity, released, golden_step):
    golden = np.load(parity / "pretrain_forward.npz")
    masks = np.load(parity / "mask.npz")
    for name in "AB":
        output, _, _, targets = golden_step(name)
        for level, masked in enumerate(output.masks):
            np.testing.assert_array_equal(masked, masks[f"mask{name}_fixed_level{level}"])
        masked = output.masks[1]
        assert masked.sum() == golden[f"mask{name}_fixed_n_masked_tokens_level1"]
        assert (~masked).sum() == golden[f"mask{name}_fixed_n_visible_tokens_level1"]
        given, made = f"mask{name}_fixed_", f"B_mask{name}_fixed_"
        for loss in ("loss_2d", "loss_3d"):
            expected = golden[f"{made}{loss}"].item()
            assert getattr(output, loss).item() == pytest.approx(expected, rel=1e-5), (name, loss)
        torch.testing.assert_close(output.loss, output.loss_2d + output.loss_3d)
        true = output.grouping.neighborhoods[1][masked][:64]
        np.testing.assert_array_equal(true, golden[f"{given}gt_3d"])
        found = released.reconstruct(output.decoded)[masked][:64]
        np.testing.assert_allclose(found, golden[f"{made}rec_3d"], rtol=1e-4, atol=1e-4)
        expected = golden[f"{given}gt_2d_first4"]
        np.testing.assert_allclose(targets[:4], expected, rtol=1e-5, atol=1e-5)
        expected = golden[f"{given}gt_2d_token_mean"]
        np.testing.assert_allclose(targets.mean(dim=(1, 2)), expected, rtol=1e-4, atol=1e-6)
        found = released.head_2d(output.decoded[~masked]).view(-1, 8, 1536)
        expected = golden[f"{made}rec_2d_first4"]
        np.testing.assert_allclose(found[:4], expected, rtol=1e-4, atol=1e-4)
        if name == "A":
            expected = golden["B_maskA_ref_rec_2d_token_mean"]
            np.testing.assert_allclose(found.mean(dim=(1, 2)), expected, rtol=1e-4, atol=1e-4)


def test_saliency_and_features_equal_the_release(parity, released, golden_inputs, golden_step):
    points, _, saliency, pixels = golden_inputs
    found = released.saliency(golden_step("A").output.grouping, saliency, pixels)
    expected = np.load(parity / "pretrain_forward.npz")["spatial_sals"]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-7)
    expected = np.load(parity / "encoder.npz")["pretrain_feat_B"]
    np.testing.assert_allclose(released.features(points), expected, rtol=1e-5, atol=1e-5)


def test_number_of_parameters(released):
    assert sum(p.numel() for p in released.parameters()) == 17_622_808
    assert math.prod(released.head_2d.weight.shape) == 12288 * 192
