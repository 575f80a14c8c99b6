"""Two real processes, started as a user starts them, on a tiny network."""

import json
import os
import signal
import subprocess
import sys

import pytest
import torch

from i2pmae.checkpoints import checkpoint
from i2pmae.config import FinetuneConfig
from i2pmae.stages import finetune, pretrain
from i2pmae.training.run_folder import RunFolder

from ..conftest import after_first_epoch, finetune_command, pretrain_command, pretrain_config
from .test_segment import config as finetune_config

SECONDS = 300  # a loaded machine must not fail a test


def launch(config, *options):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    of_stage = finetune_command if isinstance(config, FinetuneConfig) else pretrain_command
    command += ["--nproc-per-node=2", "-m", *of_stage(config), *options]
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
        [[row[key] for key in row if key.startswith("loss")] for row in RunFolder(out).rows()]
    )


def assert_close(out, reference):
    found, expected = losses(out), losses(reference)
    torch.testing.assert_close(found[0], expected[0], rtol=1e-6, atol=0)
    torch.testing.assert_close(found, expected, rtol=5e-4, atol=0)  # rounding grows step by step
    ours, theirs = (checkpoint.load(path / "last.pt").model for path in (out, reference))
    assert ours.keys() == theirs.keys()


@pytest.mark.slow
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


@pytest.mark.slow
def test_a_stopped_run_of_two_processes_goes_on_in_one(store, tmp_path):
    two = pretrain_config(store, tmp_path / "two", epochs=10_000)
    process = launch(two)
    after_first_epoch(two)
    process.send_signal(signal.SIGTERM)
    code, _, lines, err = finish(process)
    assert code != 0
    assert lines == ["i2pmae: stopped; nothing is half-written, and the run can be resumed"], err
    epochs = checkpoint.load(two.out / "last.pt").epoch + 2
    pretrain.run(two.model_copy(update={"epochs": epochs}), resume=True)
    one = two.model_copy(update={"epochs": epochs, "out": tmp_path / "one"})
    pretrain.run(one)
    assert_close(two.out, one.out)


@pytest.mark.slow
@pytest.mark.parametrize("task", ["classification", "segmentation", "few-shot"])
def test_fine_tuning_in_two_processes_gives_the_numbers_of_one(parts_store, tmp_path, task):
    """With dropout, stochastic depth, augmentation and BatchNorm in every part of the network."""
    one = finetune_config(
        tmp_path / "one",
        cache=parts_store,
        task=task,
        seed=1,  # no two neighbors tie for a maximum, where rounding decides
        epochs=1,  # AdamW makes steps of gradients that are noise, and the numbers part
        batch_size=12,
        accumulate=2 if task != "few-shot" else 1,
        head={"width": 16},
        vote=0,
        few_shot={"ways": (2,), "shots": (4,), "folds": 1, "tests": 3},
    )
    two = one.model_copy(update={"out": tmp_path / "two"})
    process = launch(two, "--json")
    expected = finetune.run(one)
    code, out, _, err = finish(process)
    assert code == 0, err
    found = json.loads(out)
    for figure in ("accuracy_last", "instance_miou_last", "2way_4shot"):
        assert found.get(figure) == pytest.approx(expected.get(figure), abs=1)
    if task != "few-shot":
        assert_close(two.out, one.out)
        ours, theirs = (checkpoint.load(path / "last.pt").optimizer for path in (two.out, one.out))
        for number, state in theirs["state"].items():
            gradient = ours["state"][number]["exp_avg"]
            torch.testing.assert_close(gradient, state["exp_avg"], rtol=1e-3, atol=1e-5)
    files = {path.name for path in one.out.iterdir()}
    assert {path.name for path in two.out.iterdir()} == files


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
    assert "has ended without an error message" in lines[0]


@pytest.mark.slow
def test_settings_that_do_not_fit_are_named_once(store, tmp_path):
    config = pretrain_config(store, tmp_path / "run", batch_size=5)
    code, _, lines, err = finish(launch(config))
    assert code != 0
    assert len(lines) == 1, err
    assert "set --batch-size to a multiple of 2" in lines[0]
