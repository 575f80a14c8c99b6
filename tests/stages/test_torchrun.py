"""Two real processes, started as a user starts them, on a tiny network."""

import json
import os
import signal
import subprocess
import sys

import pytest
import torch

from i2pmae.stages import pretrain
from i2pmae.stages.run_folder import RunFolder
from i2pmae.training import checkpoint

from .conftest import after_first_epoch, pretrain_command, pretrain_config

SECONDS = 300  # a loaded machine must not fail a test


def launch(config, *options):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node=2", "-m", *pretrain_command(config), *options]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def finish(process):
    out, err = process.communicate(timeout=SECONDS)
    return process.returncode, out, [line for line in err.splitlines() if "i2pmae: " in line], err


def losses(out):
    return torch.tensor(
        [[row[key] for key in ("loss", "loss_2d", "loss_3d")] for row in RunFolder(out).rows()]
    )


def assert_close(out, reference):
    found, expected = losses(out), losses(reference)
    torch.testing.assert_close(found[0], expected[0], rtol=1e-6, atol=0)
    torch.testing.assert_close(found, expected, rtol=5e-4, atol=0)  # rounding grows step by step
    ours, theirs = (checkpoint.load(path / "last.pt").model for path in (out, reference))
    assert ours.keys() == theirs.keys()


def test_two_processes_give_the_numbers_of_one(store, tmp_path):
    one = pretrain_config(store, tmp_path / "one", accumulate=2)
    two = one.model_copy(update={"out": tmp_path / "two"})
    process = launch(two, "--json")
    pretrain.run(one)
    code, out, _, err = finish(process)
    assert code == 0, err
    assert_close(two.out, one.out)
    assert json.loads(out)["epoch"] == 3  # one object: the first process alone speaks
    assert err.count("epochs done") == 1
    assert {path.name for path in two.out.iterdir()} == {path.name for path in one.out.iterdir()}


def test_a_stopped_run_of_two_processes_goes_on_in_one(store, tmp_path):
    two = pretrain_config(store, tmp_path / "two", epochs=10_000)
    process = launch(two)
    after_first_epoch(two)
    process.send_signal(signal.SIGTERM)
    code, _, lines, err = finish(process)
    assert code != 0
    assert lines == ["i2pmae: stopped; nothing is half-written, and the run can be continued"], err
    epochs = checkpoint.load(two.out / "last.pt").epoch + 2
    pretrain.run(two.model_copy(update={"epochs": epochs}), resume=True)
    one = two.model_copy(update={"epochs": epochs, "out": tmp_path / "one"})
    pretrain.run(one)
    assert_close(two.out, one.out)


@pytest.mark.slow
@pytest.mark.parametrize("synchronize_norms", [True, False])
def test_two_processes_resume_to_the_same_numbers(store, tmp_path, synchronize_norms):
    cut = pretrain_config(
        store, tmp_path / "cut", epochs=10_000, synchronize_norms=synchronize_norms
    )
    process = launch(cut)
    after_first_epoch(cut)
    process.send_signal(signal.SIGINT)
    finish(process)
    saved = checkpoint.load(cut.out / "last.pt")
    cut = cut.model_copy(update={"epochs": saved.epoch + 2})
    whole = cut.model_copy(update={"out": tmp_path / "whole"})
    for config, options in ((cut, ["--resume"]), (whole, [])):
        code, _, _, err = finish(launch(config, *options))
        assert code == 0, err
    assert torch.equal(losses(cut.out), losses(whole.out))
    ours, theirs = (checkpoint.load(path / "last.pt").model for path in (cut.out, whole.out))
    assert all(torch.equal(ours[name], tensor) for name, tensor in theirs.items())


@pytest.mark.slow
def test_a_killed_process_ends_all_with_one_line(store, tmp_path):
    config = pretrain_config(store, tmp_path / "run", epochs=10_000)
    process = launch(config)
    after_first_epoch(config)
    children = f"/proc/{process.pid}/task/{process.pid}/children"
    with open(children) as file:
        victim = int(file.read().split()[-1])
    os.kill(victim, signal.SIGKILL)
    code, _, lines, err = finish(process)
    assert code != 0
    assert len(lines) == 1, err
    assert "has ended without a word" in lines[0]


@pytest.mark.slow
def test_settings_that_do_not_fit_are_named_once(store, tmp_path):
    config = pretrain_config(store, tmp_path / "run", batch_size=5)
    code, _, lines, err = finish(launch(config))
    assert code != 0
    assert len(lines) == 1, err
    assert "set --batch-size to a multiple of 2" in lines[0]
