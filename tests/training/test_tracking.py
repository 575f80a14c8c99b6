import json
import sys
import types

import pytest

from i2pmae import progress
from i2pmae.config import PretrainConfig
from i2pmae.errors import ConfigError
from i2pmae.training.run_folder import RunFolder
from i2pmae.training.tracking import open_trackers, require_trackers

ROW = {"epoch": 3, "loss": 0.5, "step": 12, "note": "text"}


def test_tensorboard_gets_every_figure(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (track,) = open_trackers(["tensorboard"], tmp_path, {})
    track(ROW)
    found = EventAccumulator(str(tmp_path / "tensorboard"))
    found.Reload()
    assert sorted(found.Tags()["scalars"]) == ["loss", "step"]
    (event,) = found.Scalars("loss")
    assert (event.step, event.value) == (3, 0.5)
    track({"setting": "5way_1shot", "fold": 2, "accuracy": 50.0})
    found.Reload()
    (event,) = found.Scalars("5way_1shot/accuracy")
    assert (event.step, event.value) == (2, 50.0)


def test_wandb_gets_every_figure_under_the_runs_name(tmp_path, monkeypatch):
    calls = []

    def init(**options):
        calls.append(options)
        return types.SimpleNamespace(log=lambda row, step: calls.append((row, step)))

    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=init))
    (track,) = open_trackers(["wandb"], tmp_path / "first", {"epochs": 3})
    track(ROW)
    open_trackers(["wandb"], tmp_path / "first", {})
    assert calls[0]["name"] == "first"
    assert calls[0]["config"] == {"epochs": 3}
    assert calls[1] == ({"loss": 0.5, "step": 12.0}, 3)
    assert calls[2]["id"] == calls[0]["id"]  # resumed


def test_a_missing_package_is_named_before_a_run_begins(tmp_path, monkeypatch):
    monkeypatch.setattr("i2pmae.training.tracking.find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=r"pip install 'i2pmae\[wandb\]'"):
        require_trackers(["wandb"])
    config = PretrainConfig(out=tmp_path / "run", track=("wandb",))
    with pytest.raises(ConfigError, match="--track wandb"):
        RunFolder(config.out).start(config, resume=False)
    assert not config.out.exists()


def test_a_run_sends_its_rows_to_trackers_and_to_the_log(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr("i2pmae.training.run_folder.require_trackers", lambda _: None)
    monkeypatch.setattr("i2pmae.training.run_folder.open_trackers", lambda *_: [seen.append])
    log = tmp_path / "log.jsonl"
    progress.log_events(log)
    config = PretrainConfig(out=tmp_path / "run", track=("tensorboard",))
    folder = RunFolder(config.out)
    folder.start(config, resume=False)
    folder.log(ROW)
    assert seen == [ROW]
    event = json.loads(log.read_text().splitlines()[-1])
    assert event["event"] == "metrics"
    assert event["loss"] == 0.5
    assert event["run"] == str(config.out)
