from pathlib import Path

import pytest
import torch

from i2pmae.errors import ConfigError, TrainingError
from i2pmae.stages import doctor, dry_run, estimate

from ..conftest import extract_config


@pytest.fixture
def asked(monkeypatch):
    """Settings that were measured, without measuring."""
    asked = {}

    def extraction(config, survey=True):
        asked["extract"], asked["survey"] = config, survey
        return {
            "shapes": 500,
            "training_shapes": 400,
            "points": 2048,
            "seconds": 100.0,
            "shapes_per_s": 5.0,
            "bytes": 10**9,
            "free_bytes": 10**8,
            "measured_on": 3,
            "sizes": {"n_views": 3, "channels": 8, "image_size": 64},
        }

    def training(config, **sizes):
        asked["pretrain"] = (config, sizes)
        return {"epochs": 30, "seconds": 60.0, "shapes_per_s": 250.0, "parameters": 10**6}

    monkeypatch.setattr(doctor, "_TRIED", 2 << 20)
    monkeypatch.setattr(dry_run, "extraction", extraction)
    monkeypatch.setattr(estimate, "pretraining_cost", training)
    return asked


def test_with_a_recipe_both_stages_are_estimated_by_it(asked, tmp_path, capsys):
    result = doctor.run(data=Path("procedural"), recipe="pretrain-small", cache=tmp_path)
    assert asked["extract"].data == Path("procedural")
    assert asked["survey"]
    config, sizes = asked["pretrain"]
    assert config.epochs == 16  # the recipe's
    assert config.encoder.n_centers == (256, 128, 32)
    assert sizes == {"n_shapes": 400, "n_views": 3, "channels": 8, "image_size": 64}
    assert result["extraction"]["shapes"] == 500
    assert result["pretraining"]["epochs"] == 30
    assert "recommended" not in result
    assert "too little is free" in capsys.readouterr().out


def test_without_a_recipe_one_is_recommended_with_what_to_type(asked, tmp_path, capsys):
    result = doctor.run(data=Path("shapes"), cache=tmp_path)
    assert not asked["survey"]  # seconds count
    found = result["recommended"]
    assert (found["recipe"], found["epochs"], found["batch_size"]) == ("pretrain-small", 256, 16)
    assert asked["pretrain"][0].encoder.n_centers == (256, 128, 32)
    first, second = found["commands"]
    store = str(tmp_path / "shapes.zarr")
    assert first.startswith("i2pmae extract-2d shapes --split all --cache ")
    assert second == f"i2pmae pretrain --recipe pretrain-small --cache {store} --epochs 256"
    said = capsys.readouterr()
    assert said.out.rstrip().endswith(second)
    assert "the shipped encoder is probably better" in said.err


@pytest.mark.usefixtures("asked")
def test_batches_that_do_not_fit_are_one_line(tmp_path, monkeypatch):
    def training(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0")

    monkeypatch.setattr(estimate, "pretraining_cost", training)
    with pytest.raises(TrainingError, match=r"memory ran out \(2.00 GiB more.*batches of this"):
        doctor.run(data=Path("procedural"), recipe="pretrain-small", cache=tmp_path)


def test_of_a_store_no_extraction_is_recommended(store, tmp_path):
    with pytest.raises(ConfigError, match="is a store already: pre-train from it with i2pmae pre"):
        estimate.run(store, tmp_path, None)


def test_what_is_recommended_is_measured_on_a_few_shapes(tmp_path):
    config = extract_config(tmp_path / "a.zarr", limit=None)
    found = dry_run.extraction(config, survey=False)
    assert (found["measured_on"], found["shapes"], found["training_shapes"]) == (3, 360, 360)


@pytest.mark.parametrize(
    ("text", "epochs", "n_views"),
    [
        ("[pretrain]\nepochs = 3\n", 3, 3),
        ("epochs = 3\n", 3, 3),
        ("[extract-2d.views]\nn_views = 6\n[pretrain]\nepochs = 3\n", 3, 6),
        ("[views]\nn_views = 6\n", 300, 6),
        ("epochs = 3\nseed = 1\n[finetune]\n", 3, 3),
    ],
)
def test_a_recipe_counts_for_the_stages_whose_keys_it_holds(tmp_path, text, epochs, n_views):
    recipe = tmp_path / "mine.toml"
    recipe.write_text(text)
    extract, pretrain = estimate.of_recipe(str(recipe), None, tmp_path)
    assert (pretrain.epochs, extract.views.n_views) == (epochs, n_views)
