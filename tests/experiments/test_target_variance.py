"""Shares of variance of features whose parts are known."""

from pathlib import Path

import numpy as np
import pytest

from i2pmae.config import ExtractConfig, ImageModelConfig, StoreConfig
from i2pmae.stages import extract_2d
from i2pmae.store import open_cache

SHAPES, VIEWS, SIZE, CHANNELS, CLASSES = 240, 2, 6, 48, 12


@pytest.fixture
def draw():
    rng = np.random.default_rng(0)
    return lambda *shape: rng.standard_normal((*shape, CHANNELS)).astype(np.float32)


@pytest.mark.parametrize("name", ["place", "class", "shape", "patch"])
def test_a_part_has_half_of_the_variance_that_it_shares_with_noise(module, draw, name):
    labels = np.arange(SHAPES) // 2 % CLASSES
    part = {
        "place": draw(1, VIEWS, SIZE, SIZE),
        "class": draw(CLASSES, VIEWS, 1, 1)[labels],
        "shape": draw(SHAPES, VIEWS, 1, 1),
        "patch": 0,
    }[name]
    features = (part + draw(SHAPES, VIEWS, SIZE, SIZE)) * np.geomspace(0.1, 10, CHANNELS)
    features[np.random.default_rng(1).random(features.shape[:-1]) < 0.2] = 0  # not read
    found = module("target_variance").shares(features.astype(np.float32), labels)
    expected = {
        "place": {"place": 50, "class": 0, "shape": 0},
        "class": {"class": 50, "shape": 50},  # what a class shares, its shapes do
        "shape": {"place": 0, "class": 0, "shape": 50},
        "patch": {"place": 0, "class": 0, "shape": 0},
    }[name]
    assert {key: found[key] for key in expected} == pytest.approx(expected, abs=4)


def test_few_values_are_not_taken_for_something_shared(module, draw):
    script, labels = module("target_variance"), np.arange(SHAPES) // 2  # two shapes of a class
    of_shapes = np.broadcast_to(draw(SHAPES, VIEWS, 1, 1), (SHAPES, VIEWS, 2, 2, CHANNELS))
    assert script.shares(of_shapes, labels)["class"] == pytest.approx(0, abs=3)
    of_patches = draw(SHAPES, VIEWS, 2, 2)
    assert script.shares(of_patches, labels)["shape"] == pytest.approx(0, abs=3)


def test_what_differs_between_views_only(module, draw):
    features = np.broadcast_to(draw(1, VIEWS, 1, 1), (8, VIEWS, SIZE, SIZE, CHANNELS))
    found = module("target_variance").shares(features, np.arange(8) // 2 % 2)
    assert found == pytest.approx(dict.fromkeys(("view", "place", "class", "shape"), 100), abs=1)


def test_classes_of_single_shapes_say_nothing(module, draw):
    found = module("target_variance").shares(draw(4, VIEWS, SIZE, SIZE), np.arange(4))
    assert np.isnan(found["class"])
    assert "class" not in module("target_variance").shares(draw(4, 1, 2, 2), np.full(4, -1))


@pytest.mark.parametrize("dtype", ["int8", "float16"])
def test_stores_are_read(module, tmp_path, monkeypatch, capsys, dtype):
    script, store = module("target_variance"), tmp_path / "x.zarr"
    image_model = ImageModelConfig(name="timm:test_vit", pretrained="random", image_size=64)
    config = ExtractConfig(
        data=Path("procedural"),
        cache=store,
        limit=24,
        points=256,
        image_model=image_model,
        store=StoreConfig(dtype=dtype),
    )
    extract_2d.run(config)
    cache = open_cache(store)
    chosen = np.random.default_rng(0).permutation(24)
    expected = script.shares(cache["features"].compute()[chosen], cache["label"].compute()[chosen])
    assert script.measure(store, 24) == pytest.approx(expected, rel=1e-3)
    monkeypatch.setattr("sys.argv", ["x", str(store)])
    script.main()
    name, *cells = capsys.readouterr().out.splitlines()[-1].split()
    assert name == "x.zarr"
    assert cells[::2] == ["view", "place", "class", "shape"]


def test_no_store_is_one_line(module, tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["x", str(tmp_path / "missing.zarr")])
    with pytest.raises(SystemExit, match=r"missing\.zarr"):
        module("target_variance").main()
