"""Shares of variance of features whose parts are known."""

from pathlib import Path

import numpy as np
import pytest

from i2pmae.config import ExtractConfig, ImageModelConfig
from i2pmae.stages import extract_2d

SHAPES, VIEWS, SIZE, CHANNELS = 480, 2, 8, 24


@pytest.fixture
def parts():
    """Independent parts of variance 1 each, and the labels."""
    rng = np.random.default_rng(0)
    labels = np.arange(SHAPES) // 2 % 12

    def draw(*shape):
        return rng.standard_normal((*shape, CHANNELS)).astype(np.float32)

    return {
        "view": draw(1, VIEWS, 1, 1),
        "place": draw(1, VIEWS, SIZE, SIZE),
        "class": draw(12, VIEWS, 1, 1)[labels],
        "shape": draw(SHAPES, VIEWS, 1, 1),
        "patch": draw(SHAPES, VIEWS, SIZE, SIZE),
    }, labels


@pytest.mark.parametrize("name", ["place", "class", "shape", "patch"])
def test_a_part_explains_half_of_what_it_shares_with_noise(module, parts, name):
    script, (parts, labels) = module("target_variance"), parts
    features = (parts[name] + parts["patch"] * (name != "patch")) * np.geomspace(0.1, 10, CHANNELS)
    features[np.random.default_rng(1).random(features.shape[:-1]) < 0.2] = 0  # not read
    found = script.shares(features.astype(np.float32), labels)
    assert found.keys() == set(script.NAMES)
    expected = {
        "place": {"place": 50, "class": 0, "shape": 0},
        "class": {"class": 50, "shape": 50},  # what a class shares, its shapes do
        "shape": {"place": 0, "class": 0, "shape": 50},
        "patch": {"place": 0, "class": 0, "shape": 0},
    }[name]
    assert {key: found[key] for key in expected} == pytest.approx(expected, abs=6)


def test_what_differs_between_views_only(module, parts):
    script, (parts, labels) = module("target_variance"), parts
    found = script.shares(np.broadcast_to(parts["view"], parts["patch"].shape).copy(), labels)
    assert found["view"] == pytest.approx(100, abs=1)
    assert found["place"] == found["shape"] == pytest.approx(100, abs=1)


def test_stores_are_read(module, tmp_path, monkeypatch, capsys):
    store = tmp_path / "x.zarr"
    image_model = ImageModelConfig(name="timm:test_vit", pretrained="random", image_size=64)
    config = ExtractConfig(
        data=Path("procedural"), cache=store, limit=24, points=256, image_model=image_model
    )
    extract_2d.run(config)
    capsys.readouterr()
    monkeypatch.setattr("sys.argv", ["x", str(store)])
    module("target_variance").main()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["view", "place", "class", "shape"]
    assert lines[1].split()[0] == "x.zarr"
    assert len(lines[1].split()) == 5
