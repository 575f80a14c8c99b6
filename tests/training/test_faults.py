"""What can go wrong while a run trains, done for real: the end result is the same."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest
import torch

from i2pmae.checkpoints import checkpoint
from i2pmae.errors import CheckpointError, ConfigError, I2PMAEError, TrainingError
from i2pmae.stages import extract_2d, finetune, pretrain
from i2pmae.store import StoreReader
from i2pmae.training import pretraining
from i2pmae.training.run_folder import RunFolder

from ..conftest import after_first_epoch, extract_config, pretrain_command, pretrain_config
from ..stages.test_pretrain import assert_same_run, metrics

EPOCHS = 8


def eager(store, out, **changes):
    """A run that saves after every step."""
    return pretrain_config(store, out, epochs=EPOCHS, save_minutes=1e-9, **changes)


@pytest.fixture(scope="module")
def reference(store, tmp_path_factory):
    out = tmp_path_factory.mktemp("reference") / "run"
    pretrain.run(eager(store, out))
    return out


def start(config, *options):
    command = [sys.executable, "-m", *pretrain_command(config), *options]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def kill_and_resume(start_soon, store, reference, out, n_kills):
    rng, config = random.Random(0), eager(store, out)
    killed = 0
    while killed < n_kills:
        process = start_soon([*pretrain_command(config), "--resume", "--quiet"])
        while not (out / "config.json").exists():
            assert process.is_alive()
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 3))
        process.kill()
        process.join()
        if (out / "result.json").exists():  # it was too late: that kill does not count
            assert_same_run(out, reference)
            for path in out.iterdir():
                path.unlink()
            continue
        killed += process.exitcode == -signal.SIGKILL
    pretrain.run(config, resume=True)
    assert_same_run(out, reference)


@pytest.mark.slow
def test_a_run_killed_at_any_instant_ends_the_same(start_soon, store, reference, tmp_path):
    kill_and_resume(start_soon, store, reference, tmp_path / "run", 2)


@pytest.mark.slow
def test_a_run_killed_many_times_ends_the_same(start_soon, store, reference, tmp_path):
    kill_and_resume(start_soon, store, reference, tmp_path / "run", 50)


KILLED_AT = """
import os, signal, sys
from i2pmae import cli
from i2pmae.training.run_folder import RunFolder
from i2pmae.checkpoints import checkpoint

def die(*_arguments, **_options):
    os.kill(os.getpid(), signal.SIGKILL)

{instant} = die
sys.argv = sys.argv[1:]
cli.main()
"""


@pytest.mark.parametrize(
    "instant",
    [
        pytest.param("RunFolder._begin", marks=pytest.mark.slow),
        pytest.param("os.replace", marks=pytest.mark.slow),
        pytest.param("checkpoint.save", marks=pytest.mark.slow),
    ],
)
def test_a_run_killed_before_its_first_checkpoint_resumes(store, reference, tmp_path, instant):
    """As a job does that is queued again and always passes `--resume`."""
    config = eager(store, tmp_path / "run")
    code = KILLED_AT.format(instant=instant)
    command = [sys.executable, "-c", code, *pretrain_command(config), "--resume"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert (config.out / "config.json").exists() == (instant == "checkpoint.save")
    assert not (config.out / "last.pt").exists()
    pretrain.run(config, resume=True)
    assert_same_run(config.out, reference)


@pytest.mark.parametrize(
    ("number", "code"),
    [
        pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow),
        (signal.SIGTERM, 143),
        pytest.param(signal.SIGHUP, 129, marks=pytest.mark.slow),
    ],
)
def test_a_signal_saves_and_stops(store, tmp_path, number, code):
    config = pretrain_config(store, tmp_path / "run", epochs=10_000)
    process = start(config)
    after_first_epoch(config)
    process.send_signal(number)
    _, err = process.communicate()
    assert process.returncode == code
    assert err.count("i2pmae: stopped;") == 1
    epochs = checkpoint.load(config.out / "last.pt").epoch + 1
    pretrain.run(config.model_copy(update={"epochs": epochs}), resume=True)
    whole = config.model_copy(update={"epochs": epochs, "out": tmp_path / "whole"})
    pretrain.run(whole)
    assert_same_run(config.out, whole.out)


@contextmanager
def tmpfs(path, size):
    """A small disk of its own."""
    path.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(path)]
    if os.geteuid() or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("may not mount")
    try:
        yield
    finally:
        subprocess.run(["umount", str(path)], check=True)


def remount(path, options):
    subprocess.run(["mount", "-o", f"remount,{options}", str(path)], check=True)


def test_a_full_disk_stops_the_run_and_loses_nothing(store, reference, tmp_path):
    disk = tmp_path / "disk"
    with tmpfs(disk, "2m"):  # one checkpoint fits, two do not
        config = eager(store, disk / "run")
        with pytest.raises(CheckpointError, match=r"cannot write .*last\.pt: No space left"):
            pretrain.run(config)
        assert checkpoint.load(config.out / "last.pt").step == 1
        remount(disk, "size=50m")
        pretrain.run(config, resume=True)
        assert_same_run(config.out, reference)


def test_a_folder_that_becomes_read_only_stops_the_run(store, reference, tmp_path, monkeypatch):
    disk, log = tmp_path / "disk", RunFolder.log
    with tmpfs(disk, "50m"):
        config = eager(store, disk / "run")

        def log_later(folder, row):
            if row["epoch"] == 2:
                remount(disk, "ro")
            log(folder, row)

        with monkeypatch.context() as patch:
            patch.setattr(RunFolder, "log", log_later)
            with pytest.raises(TrainingError, match=r"metrics\.jsonl \(Read-only file system\)"):
                pretrain.run(config)
        with pytest.raises(I2PMAEError, match="Read-only"):
            pretrain.run(config, resume=True)
        remount(disk, "rw")
        (disk / "run.lock").unlink()  # a command's process would have ended
        pretrain.run(config, resume=True)
        assert_same_run(config.out, reference)
        remount(disk, "ro")
        with pytest.raises(I2PMAEError, match="Read-only"):
            pretrain.run(eager(store, disk / "other"))


@pytest.mark.parametrize("spoiled", ["loss", "weights"])
def test_a_number_that_is_not_finite_is_named_with_its_shapes(
    store, tmp_path, monkeypatch, spoiled
):
    """In the last step of the second epoch; of the weights no checkpoint may be written."""
    step, seen = pretraining.pretraining_step, []

    def spoiling(model, batch, *arguments):
        seen.append(batch["index"].tolist())
        output = step(model, batch, *arguments)
        if len(seen) < 10:
            return output
        if spoiled == "loss":
            return output._replace(loss=output.loss * torch.nan)
        model.decoder.mask_token.register_hook(lambda gradient: gradient * torch.nan)
        return output

    monkeypatch.setattr(pretraining, "pretraining_step", spoiling)
    config = pretrain_config(store, tmp_path / "run")
    with pytest.raises(TrainingError) as error:
        pretrain.run(config)
    assert len(seen) == 10
    ids = [str(name) for name in StoreReader(store).read_all("id")[seen[-1]]]
    assert "not finite in step 5 of epoch 2" in str(error.value)
    assert spoiled in str(error.value)
    assert ids[0] in str(error.value)
    found = json.loads((config.out / "not-finite.json").read_text())
    assert found == {"epoch": 2, "step": 5, "ids": ids}
    kept = checkpoint.load(config.out / "last.pt")
    assert kept.epoch == 1
    assert all(tensor.isfinite().all() for tensor in kept.model.values())


def test_too_little_memory_names_the_settings(store, tmp_path, monkeypatch):
    def greedy(*_arguments):
        return torch.empty(2**50)

    monkeypatch.setattr(pretraining, "pretraining_step", greedy)
    with pytest.raises(TrainingError, match=r"memory ran out.*--batch-size.*accumulate=2"):
        pretrain.run(pretrain_config(store, tmp_path / "run"))


def test_too_little_memory_in_fine_tuning_names_the_settings(tmp_path, monkeypatch):
    def greedy(*_arguments):
        return torch.empty(2**50)

    monkeypatch.setattr(finetune, "_run", greedy)
    config = finetune.FinetuneConfig(data="procedural", out=tmp_path)
    with pytest.raises(TrainingError, match=r"memory ran out.*--batch-size"):
        finetune.run(config)


@pytest.fixture(scope="module")
def early(store, tmp_path_factory):
    """A run that has come to an early epoch."""
    out = tmp_path_factory.mktemp("early") / "run"
    pretrain.run(eager(store, out).model_copy(update={"epochs": 3}))
    return out


@pytest.fixture
def cut(store, early, tmp_path):
    """Settings of a later number of epochs for a copy of it."""
    shutil.copytree(early, tmp_path / "run")
    return eager(store, tmp_path / "run")


def test_a_clock_that_jumps_changes_nothing(cut, reference, monkeypatch):
    for path in cut.out.iterdir():
        os.utime(path, (0, 0))
    os.utime(cut.out / "last.pt", (2**33, 2**33))
    monkeypatch.setattr(time, "time", lambda: -1e9)
    pretrain.run(cut, resume=True)
    assert_same_run(cut.out, reference)


def test_a_checkpoint_of_other_software_resumes_with_a_note(cut, reference, capsys):
    saved = torch.load(cut.out / "last.pt", weights_only=True)
    saved["versions"] |= {"torch": "1.0", "i2pmae": "0.0.1"}
    del saved["extra"]["contents"]
    torch.save(saved, cut.out / "last.pt")
    settings = json.loads((cut.out / "config.json").read_text())
    del settings["accumulate"], settings["synchronize_norms"]  # keys of later versions
    (cut.out / "config.json").write_text(json.dumps(settings))
    pretrain.run(cut, resume=True)
    assert "written by i2pmae 0.0.1 (now" in capsys.readouterr().err
    assert_same_run(cut.out, reference)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"out": 3, "epochz": 1}', "\0", "[" * 100_000])
def test_a_damaged_config_is_one_line(cut, text):
    (cut.out / "config.json").write_text(text)
    with pytest.raises(ConfigError, match=r"config\.json cannot be understood"):
        pretrain.run(cut, resume=True)


@pytest.mark.parametrize(
    "change",
    [
        lambda saved: saved.update(step=2),
        lambda saved: saved.update(step=1, metrics={"losses": "none"}),
        lambda saved: saved.update(step=1, metrics={}),
        lambda saved: saved["optimizer"].clear(),
        lambda saved: saved["optimizer"]["state"][0].clear(),
        lambda saved: saved["optimizer"]["state"][0].update(exp_avg=torch.zeros(7)),
        lambda saved: saved["model"].popitem(),
        lambda saved: saved["extra"].clear(),
    ],
)
def test_a_checkpoint_with_a_hole_is_one_line(cut, change):
    saved = torch.load(cut.out / "last.pt", weights_only=True)
    change(saved)
    torch.save(saved, cut.out / "last.pt")
    before = metrics(cut.out)
    with pytest.raises(I2PMAEError):
        pretrain.run(cut, resume=True)
    assert metrics(cut.out) == before


def test_a_store_that_has_changed_is_refused(cut, tmp_path):
    changed = extract_config(tmp_path / "changed.zarr")
    changed = changed.model_copy(
        update={"store": changed.store.model_copy(update={"dtype": "float32"})}
    )
    extract_2d.run(changed)
    with pytest.raises(ConfigError, match="another store than --cache, or it has changed"):
        pretrain.run(cut.model_copy(update={"cache": changed.cache}), resume=True)


def test_a_store_in_other_shards_is_the_same_store(cut, reference, tmp_path):
    other = extract_config(tmp_path / "other.zarr")
    extract_2d.run(
        other.model_copy(update={"store": other.store.model_copy(update={"shard_size": 3})})
    )
    pretrain.run(cut.model_copy(update={"cache": other.cache}), resume=True)
    assert_same_run(cut.out, reference)
