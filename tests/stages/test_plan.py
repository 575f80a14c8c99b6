import os
from pathlib import Path

import pytest

from i2pmae.config import WorkersConfig
from i2pmae.errors import WeightsError
from i2pmae.stages import extract_2d, plan

from .conftest import TINY_IMAGE_MODEL, extract_config, pretrain_config


def test_a_dry_run_counts_and_writes_nothing(tmp_path, capsys):
    config = extract_config(tmp_path / "cache" / "a.zarr")
    found = plan.run(config)
    assert (found["shapes"], found["points"], found["images"]) == (20, 512, 60)
    assert found["measured_on"] == 8
    assert found["seconds"] == pytest.approx(20 / found["shapes_per_s"], abs=0.06)
    assert found["sizes"] == {"n_views": 3, "channels": 64, "image_size": 64}
    assert found["free_bytes"] > 0
    assert list(tmp_path.iterdir()) == []
    out = capsys.readouterr().out
    assert "nothing is written" in out
    assert "a.zarr" in out


def test_the_bytes_it_promises_are_about_those_of_the_store(tmp_path, store):
    found = plan.extraction(extract_config(tmp_path / "a.zarr"))
    real = sum(
        os.path.getsize(os.path.join(at, file)) for at, _, files in os.walk(store) for file in files
    )
    assert found["bytes"] == pytest.approx(real, rel=0.35)


def test_it_fetches_no_weights(tmp_path, monkeypatch):
    used = []
    run = extract_2d.run
    monkeypatch.setattr(
        extract_2d, "run", lambda config: used.append(config.image_model.pretrained) or run(config)
    )
    elsewhere = TINY_IMAGE_MODEL.model_copy(update={"pretrained": "r160_in1k"})
    found = plan.run(extract_config(tmp_path / "a.zarr", image_model=elsewhere))
    assert used == ["random"]
    assert not found["weights_here"]
    missing = TINY_IMAGE_MODEL.model_copy(update={"pretrained": str(tmp_path / "none.pt")})
    with pytest.raises(WeightsError, match="no weights file"):
        plan.run(extract_config(tmp_path / "a.zarr", image_model=missing))


def test_it_asks_no_cluster(tmp_path):
    workers = WorkersConfig(scheduler="tcp://127.0.0.1:1")  # where there is none
    assert plan.run(extract_config(tmp_path / "a.zarr", workers=workers))["measured_on"] == 8


def test_object_stores_do_not_say_how_much_is_free():
    assert plan.free_bytes(Path("s3://bucket/a.zarr")) is None


def test_training_is_measured_with_the_networks_own_sizes(tmp_path):
    config = pretrain_config(tmp_path, tmp_path, epochs=7)
    found = plan.training(config, n_shapes=100, n_views=3, channels=16, image_size=64)
    assert found["epochs"] == 7
    assert found["seconds"] == pytest.approx(7 * found["seconds_per_epoch"], rel=0.2)
    assert found["seconds_per_epoch"] == pytest.approx(100 / found["shapes_per_s"], rel=0.2)
    wider = plan.training(config, n_shapes=100, n_views=3, channels=32, image_size=64)
    assert wider["parameters"] > found["parameters"]
