import platform
from pathlib import Path

import pytest
import torch

from i2pmae.errors import ConfigError, DataError
from i2pmae.stages import doctor, plan


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    monkeypatch.setattr(doctor, "_TRIED", 2 << 20)


def checks(result):
    return {check["what"]: check for check in result["checks"]}


def test_it_looks_at_the_machine_and_leaves_nothing(tmp_path):
    result = doctor.run(cache=tmp_path / "cache")
    found = checks(result)
    assert result["ready"]
    assert platform.python_version() in found["python"]["found"]
    assert found["torch"]["found"] == torch.__version__
    assert found["device"]["found"].split(":")[0].split(",")[0] in ("cpu", "cuda", "mps")
    assert str(tmp_path) in found["disk"]["found"]
    assert "2D weights" in found
    assert list(tmp_path.iterdir()) == []


def test_an_old_python_is_a_problem_with_a_next_step(monkeypatch, tmp_path):
    monkeypatch.setattr(doctor, "OLDEST_PYTHON", (99, 0))
    result = doctor.run(cache=tmp_path)
    assert not result["ready"]
    assert checks(result)["python"]["hint"].startswith("install Python")


def test_a_folder_that_cannot_be_written_is_a_problem(monkeypatch, tmp_path):
    def refuse(_folder):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(doctor, "_write_speed", refuse)
    result = doctor.run(cache=tmp_path)
    assert not result["ready"]
    assert "--cache" in checks(result)["disk"]["hint"]


def test_with_data_both_stages_are_estimated(monkeypatch, tmp_path):
    asked = {}

    def extraction(config):
        asked["extract"] = config
        sizes = {"n_views": 3, "channels": 8, "image_size": 64}
        return {
            "shapes": 500,
            "seconds": 100.0,
            "shapes_per_s": 5.0,
            "bytes": 10**9,
            "free_bytes": 10**8,
            "sizes": sizes,
        }

    def training(config, **sizes):
        asked["pretrain"] = (config, sizes)
        return {"epochs": 30, "seconds": 60.0, "shapes_per_s": 250.0, "parameters": 10**6}

    monkeypatch.setattr(plan, "extraction", extraction)
    monkeypatch.setattr(plan, "training", training)
    result = doctor.run(data=Path("procedural"), recipe="pretrain-small", cache=tmp_path)
    assert asked["extract"].data == Path("procedural")
    config, sizes = asked["pretrain"]
    assert config.epochs == 16  # the recipe's
    assert config.encoder.n_centers == (256, 128, 32)
    assert sizes == {"n_shapes": 500, "n_views": 3, "channels": 8, "image_size": 64}
    assert result["extraction"]["shapes"] == 500
    assert result["pretraining"]["epochs"] == 30


def test_an_object_store_is_not_measured():
    assert "object store" in checks(doctor.run(cache=Path("s3://bucket/cache")))["disk"]["found"]


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
    extract, pretrain = doctor._settings(None, str(recipe), tmp_path)
    assert (pretrain.epochs, extract.views.n_views) == (epochs, n_views)


def test_a_recipe_of_other_stages_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="finetune-modelnet40 is for finetune; doctor estimates"):
        doctor.run(recipe="finetune-modelnet40", cache=tmp_path)


def test_what_is_misspelt_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="did you mean 'pretrain-small'"):
        doctor.run(recipe="pretrain-smal", cache=tmp_path)
    with pytest.raises(DataError, match="does not exist"):
        doctor.run(data=tmp_path / "none", cache=tmp_path)
