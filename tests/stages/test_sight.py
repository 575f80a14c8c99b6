import numpy as np
import pytest
import torch

from i2pmae.config import MaskingConfig
from i2pmae.errors import CheckpointError
from i2pmae.geometry.projection import PixelMap, pixels
from i2pmae.loading import load_pretraining
from i2pmae.stages.sight import encoder_for, hide, look, rebuild, require_fit
from i2pmae.store import StoreReader


@pytest.fixture(scope="module")
def reader(store):
    return StoreReader(store)


@pytest.fixture(scope="module")
def sight(reader):
    return look(reader, [3, 0], 256)


def test_points_are_of_the_shapes_asked_for_in_their_order(reader, sight):
    for row, index in enumerate([3, 0]):
        stored = torch.from_numpy(reader.read([index])["points"][0])
        found = sight.points[row]
        # Centering and scaling keep the ratios of distances.
        assert found.norm(dim=1).max() == pytest.approx(1)
        assert torch.pdist(found).max() / torch.pdist(found).mean() == pytest.approx(
            float(torch.pdist(stored).max() / torch.pdist(stored).mean()), rel=0.1
        )


def test_saliency_of_a_point_is_that_of_its_pixels(reader, sight):
    """The slow way: enlarge every map, read the pixels."""
    maps = torch.from_numpy(sight.saliency_maps)
    size = reader.image_size
    enlarged = torch.nn.functional.interpolate(maps, (size, size), mode="bicubic")
    rows, columns = sight.pixels[..., 0], sight.pixels[..., 1]
    slow = enlarged.flatten(2).gather(2, rows * size + columns).mean(dim=1)
    torch.testing.assert_close(sight.saliency, slow, rtol=1e-4, atol=1e-6)


def test_pixels_belong_to_the_coordinates_that_were_rendered(reader, sight):
    batch = sight.batch
    pixel_map = PixelMap(batch["pixel_origin"], batch["pixel_size"], batch["pixel_shift"].long())
    axes = torch.from_numpy(reader.view_axes)
    every = pixels(batch["points"], pixel_map, axes, reader.image_size)
    known = {tuple(at) for at in every[0].transpose(0, 1).flatten(1).tolist()}
    assert {tuple(at) for at in sight.pixels[0].transpose(0, 1).flatten(1).tolist()} <= known


def test_masks_hide_what_the_settings_say_and_carry_it_on(sight):
    encoder = encoder_for(256)
    hidden = hide(sight, encoder, MaskingConfig(ratio=0.75))
    assert encoder.n_centers == (128, 64, 16)
    assert hidden.masked[-1].sum(axis=1).tolist() == [12, 12]
    assert [len(level[0]) for level in hidden.centers] == [128, 64, 16]
    assert hidden.masked[1].any()
    again = hide(sight, encoder, MaskingConfig(ratio=0.75))
    np.testing.assert_array_equal(hidden.masked[0], again.masked[0])


def test_points_of_visible_groups_are_visible(sight, trained):
    rebuilt = rebuild(load_pretraining(trained), sight)
    for row in range(2):
        seen = {tuple(at) for at in np.round(rebuilt.visible[row], 5).tolist()}
        shown = sight.points[row].numpy()[~rebuilt.hidden.points[row]]
        assert {tuple(at) for at in np.round(shown, 5).tolist()} == seen
        assert rebuilt.hidden.points[row].any()


def test_levels_fit_clouds_of_few_points():
    assert encoder_for(2048).n_centers == (512, 256, 64)
    small = encoder_for(20)
    assert small.n_centers[0] <= 20
    assert small.group_sizes[0] <= 20


def test_a_network_rebuilds_hidden_groups_and_predicts_visible_ones(trained, sight):
    model = load_pretraining(trained)
    rebuilt = rebuild(model, sight)
    for row in range(2):
        hidden = rebuilt.hidden.masked[1][row].sum()
        assert len(rebuilt.made[row]) == hidden * model.config.group_sizes[1]
        assert len(rebuilt.visible[row]) > 0
        visible_centers = rebuilt.hidden.centers[0][row][~rebuilt.hidden.masked[0][row]]
        assert {tuple(at) for at in rebuilt.centers[row]} == {tuple(at) for at in visible_centers}
        assert rebuilt.predicted[row].shape == rebuilt.targets[row].shape
        nearest = np.argmin(
            np.linalg.norm(sight.points[row].numpy() - rebuilt.centers[row][0], axis=1)
        )
        np.testing.assert_allclose(
            rebuilt.targets[row][0], sight.features[row][nearest].numpy(), rtol=1e-5, atol=1e-6
        )


@pytest.mark.parametrize("asked", ["visible", "all"])
def test_features_without_their_shapes_mean_are_compared_so(trained, sight, asked):
    model = load_pretraining(trained)
    raw = rebuild(model, sight)
    changes = {"remove_shape_mean": True, "tokens_2d": asked}
    model.targets = model.targets.model_copy(update=changes)
    rebuilt = rebuild(model, sight)
    for row in range(2):
        moved = raw.targets[row] - rebuilt.targets[row]
        at = model.config.n_centers[0]
        mean = raw.targets[row].mean(axis=0)
        if asked == "all":
            chosen = [
                np.abs(sight.points[row].numpy() - center).sum(axis=1).argmin()
                for center in rebuilt.hidden.centers[0][row]
            ]
            assert len(chosen) == at > len(raw.targets[row])
            mean = sight.features[row].numpy()[chosen].mean(axis=0)
        np.testing.assert_allclose(moved, np.broadcast_to(mean, moved.shape), atol=1e-4)
        np.testing.assert_array_equal(rebuilt.predicted[row], raw.predicted[row])


def test_networks_of_other_stores_are_refused(trained, untrained, reader):
    require_fit(load_pretraining(trained), reader, 256, "x.pt")
    with pytest.raises(CheckpointError, match=r"x\.pt has 64 centers .* 32 points"):
        require_fit(load_pretraining(trained), reader, 32, "x.pt")
    with pytest.raises(CheckpointError, match="pre-trained on another store"):
        require_fit(load_pretraining(untrained), reader, 256, "x.pt")
