import json
import random
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
import torch

from i2pmae.checkpoints import checkpoint
from i2pmae.config import HeadConfig, OptimConfig
from i2pmae.errors import TrainingError
from i2pmae.stages import finetune
from i2pmae.training import loop, supervised
from i2pmae.training.run_folder import RunFolder

from ..conftest import finetune_command
from ..stages.test_pretrain import metrics
from .test_segment import config

FIGURES = {"classification": "accuracy_vote", "segmentation": "category_miou"}


def settings(parts_store, out, task, **changes):
    """Three steps an epoch, a checkpoint after each."""
    head, optim = HeadConfig(width=16), OptimConfig(lr=5e-3, warmup_epochs=1, cosine_epochs=3)
    common = {"vote": 2, "save_minutes": 1e-9, "head": head, "optim": optim}
    return config(out, cache=parts_store, task=task, **(common | changes))


@pytest.fixture(scope="module", params=FIGURES)
def whole(request, parts_store, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / request.param
    return request.param, out, finetune.run(settings(parts_store, out, request.param))


def assert_same_run(task, found, out, expected, reference):
    assert metrics(out) == metrics(reference)
    assert found[FIGURES[task]] == expected[FIGURES[task]]
    for name in ("last.pt", "best.pt"):
        ours, theirs = (checkpoint.load(path / name).model for path in (out, reference))
        assert all(torch.equal(ours[key], tensor) for key, tensor in theirs.items())


@pytest.mark.parametrize("n_steps", [0, 2, 3, 5, 8])
def test_fine_tuning_resumes_after_the_step_it_was_cut_off_at(
    whole, parts_store, tmp_path, monkeypatch, n_steps
):
    task, reference, expected = whole
    run, taken = settings(parts_store, tmp_path / "cut", task), []
    with monkeypatch.context() as patch:
        losses_of = supervised.LabeledTask.losses_of

        def dying(*arguments):
            if len(taken) == n_steps:
                raise RuntimeError("killed")  # nothing is saved on the way out
            taken.append(1)
            return losses_of(*arguments)

        patch.setattr(supervised.LabeledTask, "losses_of", dying)
        with pytest.raises(RuntimeError, match="killed"):
            finetune.run(run)
    if n_steps:
        saved = checkpoint.load(run.out / "last.pt")
        assert (saved.epoch, saved.step) == divmod(n_steps, 3)
    found = finetune.run(run, resume=True)
    assert_same_run(task, found, run.out, expected, reference)


@pytest.mark.slow
def test_fine_tuning_killed_at_any_instant_ends_the_same(whole, parts_store, tmp_path):
    task, reference, expected = whole
    run, rng, killed = settings(parts_store, tmp_path / "run", task), random.Random(0), 0
    command = [sys.executable, "-m", *finetune_command(run), "--resume"]
    while killed < 5:
        process = subprocess.Popen(command, stderr=subprocess.PIPE)
        while not (run.out / "config.json").exists():
            assert process.poll() is None
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 6))
        process.kill()
        process.communicate()
        if (run.out / "results.json").exists():  # too late: that kill does not count
            for path in run.out.iterdir():
                path.unlink()
            continue
        killed += process.returncode == -signal.SIGKILL
    subprocess.run(command, check=True, capture_output=True)
    found = json.loads((run.out / "results.json").read_text())
    assert_same_run(task, found, run.out, expected, reference)


def test_ctrl_c_saves_in_the_middle_of_an_epoch(whole, parts_store, tmp_path, monkeypatch):
    task, reference, expected = whole
    run, taken = settings(parts_store, tmp_path / "cut", task, save_minutes=60), []
    with monkeypatch.context() as patch:
        losses_of = supervised.LabeledTask.losses_of

        def stopping(*arguments):
            taken.append(1)
            if len(taken) == 4:
                signal.raise_signal(signal.SIGINT)
            return losses_of(*arguments)

        patch.setattr(supervised.LabeledTask, "losses_of", stopping)
        with pytest.raises(KeyboardInterrupt):
            finetune.run(run)
    saved = checkpoint.load(run.out / "last.pt")
    assert (saved.epoch, saved.step) == (1, 1)
    found = finetune.run(run, resume=True)
    assert_same_run(task, found, run.out, expected, reference)


@pytest.mark.parametrize("task", FIGURES)
def test_the_batch_of_a_loss_that_is_not_finite_is_named(parts_store, tmp_path, monkeypatch, task):
    run, seen = settings(parts_store, tmp_path / "run", task), []
    losses_of = supervised.LabeledTask.losses_of

    def spoiling(task, network, batch, generator):
        seen.append(batch)
        return losses_of(task, network, batch, generator) * (torch.nan if len(seen) == 5 else 1)

    monkeypatch.setattr(supervised.LabeledTask, "losses_of", spoiling)
    with pytest.raises(TrainingError, match=r"loss is not finite in step 2 of epoch 2, .*last\.pt"):
        finetune.run(run)
    found = json.loads((run.out / "not-finite.json").read_text())
    assert (found["epoch"], found["step"]) == (2, 2)
    train = supervised.divide(supervised.open_labeled(run).train, run)[1]
    points = {
        name: cloud
        for batch, first in zip(train.in_order(4), range(0, 12, 4), strict=True)
        for name, cloud in zip(train.ids[first : first + 4], batch.points, strict=True)
    }
    for name, cloud in zip(found["ids"], seen[-1].points, strict=True):
        assert torch.equal(points[name], cloud)
    assert RunFolder(run.out).rows()[-1]["epoch"] == 1


def test_accumulation_goes_on_in_the_middle_of_a_step(parts_store, tmp_path):
    whole, cut = (
        settings(parts_store, tmp_path / name, "classification", accumulate=2, vote=0)
        for name in ("whole", "cut")
    )
    finetune.run(whole)
    finetune.run(cut.model_copy(update={"epochs": 1}))
    (cut.out / "results.json").unlink()
    finetune.run(cut, resume=True)
    assert metrics(cut.out) == metrics(whole.out)


def test_an_epoch_must_beat_what_started_fitted_by_more_than_luck():
    saved = []

    class State(SimpleNamespace):
        is_fitted_best = loop.Training.is_fitted_best

    training = State(starts_fitted=True, margin=10.7, best_score=64.3, best_epoch=0, epoch=6)
    training.save = lambda path, **_: saved.append(path)
    folder = SimpleNamespace(to_save=lambda name: name)
    for score, kept in ((71.4, 0), (78.6, 6), (78.7, 7), (78.7, 7)):
        training.epoch = max(training.epoch, kept)
        loop._keep_best(training, "accuracy", folder, {"accuracy": score})
        assert training.best_epoch == kept
    assert saved == ["best.pt", "best.pt"]
