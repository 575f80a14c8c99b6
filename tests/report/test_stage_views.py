from dataclasses import replace

import numpy as np
import pytest
import torch

from i2pmae.checkpoints.networks import load_pretraining
from i2pmae.config import MaskingConfig
from i2pmae.errors import CheckpointError
from i2pmae.geometry.projection import PixelMap, back_project, pixels
from i2pmae.report.stage_views import draw_masks, encoder_for, read_shapes, reconstruct, require_fit
from i2pmae.store import StoreReader


@pytest.fixture(scope="module")
def reader(store):
    return StoreReader(store)


@pytest.fixture(scope="module")
def views(reader):
    return read_shapes(reader, [3, 0], 256)


def test_points_are_of_the_shapes_asked_for_in_their_order(reader, views):
    for row, index in enumerate([3, 0]):
        stored = torch.from_numpy(reader.read([index])["points"][0])
        found = views.points[row]
        # Centering and scaling keep the ratios of distances.
        assert found.norm(dim=1).max() == pytest.approx(1)
        assert torch.pdist(found).max() / torch.pdist(found).mean() == pytest.approx(
            float(torch.pdist(stored).max() / torch.pdist(stored).mean()), rel=0.1
        )


def test_saliency_of_a_point_is_that_of_its_pixels(reader, views):
    """The slow way: enlarge every map, read the pixels."""
    maps = torch.from_numpy(views.saliency_maps)
    size = reader.image_size
    enlarged = torch.nn.functional.interpolate(maps, (size, size), mode="bicubic")
    rows, columns = views.pixels[..., 0], views.pixels[..., 1]
    slow = enlarged.flatten(2).gather(2, rows * size + columns).mean(dim=1)
    torch.testing.assert_close(views.saliency, slow, rtol=1e-4, atol=1e-6)


def test_pixels_belong_to_the_coordinates_that_were_rendered(reader, views):
    batch = views.batch
    pixel_map = PixelMap(batch["pixel_origin"], batch["pixel_size"], batch["pixel_shift"].long())
    axes = torch.from_numpy(reader.view_axes)
    every = pixels(batch["points"], pixel_map, axes, reader.image_size)
    known = {tuple(at) for at in every[0].transpose(0, 1).flatten(1).tolist()}
    assert {tuple(at) for at in views.pixels[0].transpose(0, 1).flatten(1).tolist()} <= known


def test_masks_hide_what_the_settings_say_and_carry_it_on(views):
    encoder = encoder_for(256)
    hidden = draw_masks(views, encoder, MaskingConfig(ratio=0.75))
    assert encoder.n_centers == (128, 64, 16)
    assert hidden.masked[-1].sum(axis=1).tolist() == [12, 12]
    assert [len(level[0]) for level in hidden.centers] == [128, 64, 16]
    assert hidden.masked[1].any()
    again = draw_masks(views, encoder, MaskingConfig(ratio=0.75))
    np.testing.assert_array_equal(hidden.masked[0], again.masked[0])


def test_points_of_visible_groups_are_visible(views, trained):
    reconstructed = reconstruct(load_pretraining(trained), views)
    for row in range(2):
        seen = {tuple(at) for at in np.round(reconstructed.visible[row], 5).tolist()}
        shown = views.points[row].numpy()[~reconstructed.hidden.points[row]]
        assert {tuple(at) for at in np.round(shown, 5).tolist()} == seen
        assert reconstructed.hidden.points[row].any()


def test_levels_fit_clouds_of_few_points():
    assert encoder_for(2048).n_centers == (512, 256, 64)
    small = encoder_for(20)
    assert small.n_centers[0] <= 20
    assert small.group_sizes[0] <= 20


def test_a_network_rebuilds_hidden_groups_and_predicts_visible_ones(trained, views):
    model = load_pretraining(trained)
    reconstructed = reconstruct(model, views)
    for row in range(2):
        hidden = reconstructed.hidden.masked[1][row].sum()
        assert len(reconstructed.made[row]) == hidden * model.config.group_sizes[1]
        assert len(reconstructed.visible[row]) > 0
        visible_centers = reconstructed.hidden.centers[0][row][~reconstructed.hidden.masked[0][row]]
        assert {tuple(at) for at in reconstructed.centers[row]} == {
            tuple(at) for at in visible_centers
        }
        assert reconstructed.predicted[row].shape == reconstructed.targets[row].shape
        nearest = np.argmin(
            np.linalg.norm(views.points[row].numpy() - reconstructed.centers[row][0], axis=1)
        )
        np.testing.assert_allclose(
            reconstructed.targets[row][0],
            views.features[row][nearest].numpy(),
            rtol=1e-5,
            atol=1e-6,
        )


@pytest.mark.parametrize("asked", ["visible", "all"])
def test_features_without_their_shapes_mean_are_compared_so(trained, views, asked):
    model = load_pretraining(trained)
    raw = reconstruct(model, views)
    changes = {"remove_shape_mean": True, "tokens_2d": asked}
    model.targets = model.targets.model_copy(update=changes)
    reconstructed = reconstruct(model, views)
    for row in range(2):
        moved = raw.targets[row] - reconstructed.targets[row]
        at = model.config.n_centers[0]
        mean = raw.targets[row].mean(axis=0)
        if asked == "all":
            chosen = [
                np.abs(views.points[row].numpy() - center).sum(axis=1).argmin()
                for center in reconstructed.hidden.centers[0][row]
            ]
            assert len(chosen) == at > len(raw.targets[row])
            mean = views.features[row].numpy()[chosen].mean(axis=0)
        np.testing.assert_allclose(moved, np.broadcast_to(mean, moved.shape), atol=1e-4)
        np.testing.assert_array_equal(reconstructed.predicted[row], raw.predicted[row])


def test_a_shapes_mean_is_taken_view_by_view_over_centers_that_are_seen(trained, views):
    """The slow way: features of a view, less their mean there, averaged over views that see."""
    model = load_pretraining(trained)
    model.targets = model.targets.model_copy(update={"remove_shape_mean": True})
    batch = views.batch
    features = back_project(batch["features"], views.pixels, 64, batch["feature_scale"])
    model.standardized, mean, std = True, features.mean(dim=(0, 1, 2)), features.std(dim=(0, 1, 2))
    model.register_buffer("target_mean", mean)
    model.register_buffer("target_deviation", std)
    seen = torch.rand(views.pixels.shape[:3], generator=torch.Generator().manual_seed(0)) < 0.5
    found = reconstruct(model, replace(views, seen=seen))
    for row in range(2):
        centers = torch.from_numpy(found.centers[row])
        at = torch.cdist(centers, views.points[row]).argmin(dim=1)
        counts = seen[row][:, at]
        of_views = features[row][:, at]
        of_views = [one - one[sees].mean(dim=0) for one, sees in zip(of_views, counts, strict=True)]
        for k, center in enumerate(found.targets[row]):
            which = [v for v in range(3) if counts[v, k] or not counts[:, k].any()]
            slow = mean + sum(of_views[v][k] for v in which) / len(which)
            np.testing.assert_allclose(center, slow.numpy(), rtol=1e-4, atol=1e-4)


def test_networks_of_other_stores_are_refused(trained, untrained, reader):
    require_fit(load_pretraining(trained), reader, 256, "x.pt")
    with pytest.raises(CheckpointError, match=r"x\.pt has 64 centers .* 32 points"):
        require_fit(load_pretraining(trained), reader, 32, "x.pt")
    with pytest.raises(CheckpointError, match="pre-trained on another store"):
        require_fit(load_pretraining(untrained), reader, 256, "x.pt")
