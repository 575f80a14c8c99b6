import json
import os
import subprocess
import sys

import pytest
import torch

from i2pmae.config import FinetuneConfig, PretrainConfig
from i2pmae.errors import ConfigError, TrainingError
from i2pmae.stages import pretrain
from i2pmae.training.run_folder import RunFolder, run_lock

from ..conftest import pretrain_config


def config(out, **changes) -> PretrainConfig:
    return PretrainConfig(out=out, **changes)


def test_rows_come_back_without_a_half_written_one(tmp_path):
    folder = RunFolder(tmp_path)
    folder.log({"epoch": 1, "loss": 0.5})
    folder.log({"epoch": 2, "loss": 0.25})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 3, "lo')
    assert [row["epoch"] for row in folder.rows()] == [1, 2]
    folder.go_on(1)
    assert folder.rows() == [{"epoch": 1, "loss": 0.5}]


def test_epochs_may_grow_on_resume_and_nothing_else(tmp_path):
    folder = RunFolder(tmp_path / "run")
    folder.start(config(folder.path, epochs=2), resume=False)
    folder.start(config(folder.path, epochs=3), resume=True)
    assert json.loads((folder.path / "config.json").read_text())["epochs"] == 2
    folder.go_on(0)
    assert json.loads((folder.path / "config.json").read_text())["epochs"] == 3
    with pytest.raises(ConfigError, match="batch_size: the run has 64, this command expects 32"):
        folder.start(config(folder.path, epochs=3, batch_size=32), resume=True)
    with pytest.raises(ConfigError, match="epochs: the run has 3, this command expects 4"):
        folder.start(config(folder.path, epochs=4), resume=True, must_stay=["epochs"])


def test_a_row_is_on_the_disk_before_a_checkpoint_can_be(tmp_path, monkeypatch):
    synced, fsync = [], os.fsync

    def recorded(number):
        fsync(number)
        synced.append((tmp_path / "metrics.jsonl").read_text())

    monkeypatch.setattr(os, "fsync", recorded)
    RunFolder(tmp_path).log({"epoch": 1})
    assert synced == ['{"epoch": 1}\n']


def test_a_row_that_does_not_reach_the_disk_is_one_line(tmp_path, monkeypatch):
    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(TrainingError, match=r"metrics\.jsonl \(No space left.*--resume"):
        RunFolder(tmp_path).log({"epoch": 1})


def test_a_row_that_is_not_there_is_named(tmp_path):
    folder = RunFolder(tmp_path)
    folder.log({"epoch": 1, "loss": 0.5})
    assert folder.row(1)["loss"] == 0.5
    with pytest.raises(ConfigError, match=r"metrics\.jsonl has no row of epoch 2"):
        folder.row(2)


def test_what_is_kept_of_folds_is_said(tmp_path):
    folder = RunFolder(tmp_path)
    assert folder._kept() == f"{tmp_path} holds no checkpoint yet"
    folder.log({"setting": "5way_10shot", "fold": 0, "accuracy": 90.0})
    assert folder._kept() == f"{tmp_path / 'metrics.jsonl'} holds 1 finished folds"


def test_resuming_nothing_starts_a_run_and_says_so(tmp_path, capsys):
    """A job that is queued again cannot know whether it was killed before it wrote anything."""
    folder = RunFolder(tmp_path / "run")
    folder.start(config(folder.path), resume=True)
    assert f"{folder.path} holds no run yet; starting one" in capsys.readouterr().err
    folder.start(config(folder.path), resume=True)
    assert capsys.readouterr().err == ""


def test_a_run_without_its_settings_is_not_overwritten(tmp_path):
    folder = RunFolder(tmp_path)
    folder.log({"epoch": 1})
    with pytest.raises(ConfigError, match=r"not its config\.json"):
        folder.start(config(tmp_path), resume=True)
    assert folder.rows() == [{"epoch": 1}]


def test_a_folder_with_a_run_is_refused(tmp_path):
    folder = RunFolder(tmp_path)
    folder.log({"epoch": 1})
    with pytest.raises(ConfigError, match="--resume"):
        folder.start(config(tmp_path), resume=False)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(ConfigError, match="cannot be written"):
        RunFolder(tmp_path / "run").start(config(tmp_path), resume=False)


def test_a_file_in_the_way_is_named(tmp_path):
    (tmp_path / "run").write_text("")
    with pytest.raises(ConfigError, match="cannot be written"):
        RunFolder(tmp_path / "run").start(config(tmp_path), resume=False)


def test_only_one_process_works_on_a_run(tmp_path):
    out = tmp_path / "runs" / "first"
    code = (
        "import sys, pathlib; from i2pmae.training.run_folder import run_lock\n"
        "with run_lock(pathlib.Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(out)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(ConfigError, match=f"written by process {holder.pid}"), run_lock(out):
            pass
        holder.kill()
    with run_lock(out):  # the lock of a process that has ended is taken over
        assert (out.parent / "first.lock").exists()
    assert not (out.parent / "first.lock").exists()


def test_a_run_where_another_one_works_is_refused(store, tmp_path):
    values = pretrain_config(store, tmp_path / "run", epochs=1)
    with run_lock(values.out), pytest.raises(ConfigError, match="is being written by process"):
        pretrain.run(values)
    pretrain.run(values)


def test_a_run_that_was_taken_over_writes_no_more(store, tmp_path, monkeypatch):
    values = pretrain_config(store, tmp_path / "run", epochs=2)
    take_step = torch.optim.AdamW.step

    def stand_still(*args, **kwargs):
        """Another machine takes over while this one sleeps."""
        lock = tmp_path / "run.lock"
        lock.write_text(json.dumps({"host": "elsewhere", "pid": 7, "started": ""}))
        return take_step(*args, **kwargs)

    monkeypatch.setattr(torch.optim.AdamW, "step", stand_still)
    with pytest.raises(TrainingError, match="run was taken over by another process"):
        pretrain.run(values)
    assert sorted(path.name for path in values.out.iterdir()) == ["config.json"]
    assert "elsewhere" in (tmp_path / "run.lock").read_text()  # theirs stays


def test_metrics_that_cannot_be_read_are_one_line(tmp_path):
    run = RunFolder(tmp_path)
    (tmp_path / "metrics.jsonl").mkdir()
    with pytest.raises(ConfigError, match=r"metrics\.jsonl cannot be read \(Is a directory\)"):
        run.rows()


def test_a_run_of_another_command_is_not_resumed(tmp_path):
    RunFolder(tmp_path / "run").start(PretrainConfig(out=tmp_path / "run"), resume=False)
    other = FinetuneConfig(out=tmp_path / "run", data="procedural")
    with pytest.raises(ConfigError, match="holds a run of i2pmae pretrain, not of finetune"):
        RunFolder(other.out).start(other, resume=True)
