import os

import numpy as np
import pytest
import torch

from i2pmae.config import WorkersConfig
from i2pmae.errors import DataError, WeightsError
from i2pmae.interrupts import what_is_saved
from i2pmae.stages import dry_run, extract_2d
from i2pmae.store.location import Location

from ..conftest import TINY_IMAGE_MODEL, extract_config


def test_a_dry_run_counts_and_writes_nothing(tmp_path, capsys):
    config = extract_config(tmp_path / "cache" / "a.zarr")
    found = dry_run.run(config)
    assert (found["shapes"], found["points"], found["images"]) == (20, 512, 60)
    assert found["measured_on"] == 8
    assert found["seconds"] == pytest.approx(20 / found["shapes_per_s"], abs=0.06)
    assert found["sizes"] == {"n_views": 3, "channels": 64, "image_size": 64}
    assert found["free_bytes"] > 0
    assert list(tmp_path.iterdir()) == []
    assert what_is_saved() is None  # its sample is gone
    out = capsys.readouterr().out
    assert "nothing is written" in out
    assert "a.zarr" in out


@pytest.mark.parametrize(("free", "is_told"), [(10, True), (10**12, False), (None, False)])
def test_too_little_room_is_told(tmp_path, monkeypatch, capsys, free, is_told):
    monkeypatch.setattr(Location, "free_bytes", lambda _: free)
    dry_run.run(extract_config(tmp_path / "a.zarr"))
    assert (", too little" in capsys.readouterr().out) == is_told


def test_on_a_gpu_whole_batches_are_measured_once_kernels_are_loaded(tmp_path, monkeypatch):
    taken, extract = [], dry_run._extract_sample

    def sampled(config):
        taken.append(config.limit)
        return extract(config)

    monkeypatch.setattr(dry_run, "_extract_sample", sampled)
    monkeypatch.setattr(dry_run, "pick_device", lambda _: torch.device("cuda"))
    found = dry_run.run(extract_config(tmp_path / "a.zarr", batch_size=5))
    assert (taken, found["measured_on"]) == ([10, 10], 10)


def test_the_bytes_it_promises_are_about_those_of_the_store(tmp_path, store):
    found = dry_run.extraction(extract_config(tmp_path / "a.zarr"))
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
    found = dry_run.run(extract_config(tmp_path / "a.zarr", image_model=elsewhere))
    assert used == ["random"]
    assert not found["weights_here"]
    missing = TINY_IMAGE_MODEL.model_copy(update={"pretrained": str(tmp_path / "none.pt")})
    with pytest.raises(WeightsError, match="no weights file"):
        dry_run.run(extract_config(tmp_path / "a.zarr", image_model=missing))


def test_it_asks_no_cluster(tmp_path):
    workers = WorkersConfig(scheduler="tcp://127.0.0.1:1")  # where there is none
    assert dry_run.run(extract_config(tmp_path / "a.zarr", workers=workers))["measured_on"] == 8


def test_object_stores_do_not_say_how_much_is_free():
    assert Location.of("s3://bucket/a.zarr").free_bytes() is None


def test_one_small_cloud_is_a_decision_of_the_user(tmp_path):
    for number, n_points in enumerate((300, 300, 300, 300, 290, 10)):
        np.save(tmp_path / f"{number}.npy", np.random.default_rng(number).random((n_points, 3)))
    config = extract_config(tmp_path / "out.zarr", data=tmp_path, limit=None)
    words = r"5: 10 points are less than half of the usual 300.*--on-error skip; or .* --points 10"
    for stage in (dry_run.run, extract_2d.run):
        with pytest.raises(DataError, match=words):
            stage(config)
    skipping = config.model_copy(update={"on_error": "skip"})
    promised = dry_run.run(skipping)
    assert (promised["points"], promised["skipped"]) == (290, 1)
    done = extract_2d.run(skipping)
    assert (done["points"], done["skipped"]) == (290, 1)
    few = config.model_copy(update={"points": 10, "cache": tmp_path / "few.zarr"})
    assert dry_run.run(few)["points"] == extract_2d.run(few)["points"] == 10
