import numpy as np
import pytest

from i2pmae.pictures.shapes import (
    FeatureColors,
    draw_masks,
    draw_predicted_features,
    draw_seen,
    feature_colors,
)


def test_similar_features_get_similar_colors():
    generator = np.random.default_rng(0)
    prototypes = generator.normal(size=(2, 16))
    features = np.repeat(prototypes, 50, axis=0)[None] + 0.05 * generator.normal(size=(1, 100, 16))
    colors = feature_colors(features)[0]
    within = np.linalg.norm(colors[:50] - colors[:50].mean(axis=0), axis=1).mean()
    between = np.linalg.norm(colors[:50].mean(axis=0) - colors[50:].mean(axis=0))
    assert colors.shape == (100, 3)
    assert colors.min() >= 0
    assert colors.max() <= 1
    assert between > 2 * within


def test_the_first_component_is_lightness():
    values = np.linspace(-1, 1, 40)
    features = values[None, :, None] * np.array([3.0, 1, 0.5, 0])
    lightness = feature_colors(features)[0].mean(axis=1)
    assert np.all(np.diff(lightness) > -1e-9) or np.all(np.diff(lightness) < 1e-9)
    assert np.ptp(lightness) > 0.3


def test_colors_do_not_depend_on_the_sign_that_a_solver_chooses():
    features = np.random.default_rng(0).normal(size=(2, 30, 8)) ** 3
    shifted = feature_colors(features + 7)
    np.testing.assert_allclose(shifted, feature_colors(features), atol=1e-6)


def test_constant_features_are_one_grey():
    colors = feature_colors(np.ones((1, 5, 4)))
    assert np.ptp(colors) < 1e-3


def test_saliency_and_features_are_drawn_on_points(tmp_path, cloud, pixels):
    clouds = np.stack([cloud, cloud * [1, 0.3, 1]])
    saliency = clouds[:, :, 1]
    path = draw_seen(tmp_path / "a.png", clouds, saliency, np.tile(clouds, 2), ["a", "b"])
    left, middle, right = np.array_split(pixels(path)[60:-90, 60:], 3, axis=1)
    color = [np.ptp(panel, axis=2).mean() for panel in (left, middle, right)]
    assert color[0] < 0.02 < min(color[1:])


def test_masks_are_drawn_at_every_scale(tmp_path, cloud, pixels):
    clouds = cloud[None]
    centers = [clouds[:, :64], clouds[:, :16]]
    masked = [np.zeros((1, 64), dtype=bool), np.ones((1, 16), dtype=bool)]
    path = draw_masks(tmp_path / "a.png", clouds, centers, masked, ["box"])
    fine, coarse = np.array_split(pixels(path)[60:-80, 60:], 2, axis=1)
    assert (fine[..., 2] - fine[..., 0]).mean() > 0.02  # blue: all visible
    assert (coarse[..., 0] - coarse[..., 2]).mean() > 0.02  # orange: all hidden


def test_predictions_wear_the_colors_of_their_targets():
    targets = np.random.default_rng(0).normal(size=(60, 8))
    colors = FeatureColors(targets)
    np.testing.assert_allclose(colors(targets[5:9]), colors(targets)[5:9])
    assert np.ptp(colors(np.repeat(targets.mean(axis=0)[None], 3, axis=0)), axis=-1).max() < 0.01


def test_errors_of_predicted_features_are_drawn(tmp_path, cloud, pixels):
    clouds, centers = cloud[None], [cloud[::4]]
    targets = [np.random.default_rng(0).normal(size=(100, 8))]
    mean = np.repeat(targets[0].mean(axis=0)[None], 100, axis=0)
    right, wrong = (
        pixels(draw_predicted_features(path, clouds, centers, targets, [said], ["box"]))
        for path, said in ((tmp_path / "a.png", targets[0]), (tmp_path / "b.png", mean))
    )
    panel = slice(60, -90), slice(-380, None)
    assert right[panel].mean() > wrong[panel].mean() + 0.03  # darker where it is wrong


def test_names_must_match_shapes(tmp_path, cloud):
    with pytest.raises(ValueError, match="zip"):
        draw_seen(tmp_path / "a.png", cloud[None], cloud[None, :, 0], cloud[None], ["a", "b"])
    assert not (tmp_path / "a.png").exists()
