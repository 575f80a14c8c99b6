import json
import sys

import pytest
import torch

import i2pmae
from i2pmae.cli import main
from i2pmae.config import AugmentConfig, FinetuneConfig, OptimConfig
from i2pmae.errors import CheckpointError, ConfigError, DataError, TrainingError
from i2pmae.stages import finetune, pretrain, supervised
from i2pmae.stages.run_folder import RunFolder
from i2pmae.training import checkpoint

from .conftest import TINY_ENCODER, pretrain_config

ACCURACIES = ("accuracy", "accuracy_last", "accuracy_vote", "accuracy_vote_last")


def config(out, **changes) -> FinetuneConfig:
    values = {
        "data": "procedural",
        "out": out,
        "epochs": 2,
        "batch_size": 8,
        "points": 128,
        "limit": 40,
        "vote": 2,
        "precision": "fp32",
        "encoder": TINY_ENCODER,
        "augment": AugmentConfig(scale=(0.8, 1.2)),
        "optim": OptimConfig(lr=1e-3, warmup_epochs=0, cosine_epochs=2),
    }
    return FinetuneConfig(**(values | changes))


@pytest.fixture(scope="module")
def finetuned(trained, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "finetune"
    return out, finetune.run(config(out, checkpoint=trained))


def test_the_result_is_of_one_look_at_the_test_split(finetuned):
    out, result = finetuned
    assert result["n_train"] + result["n_validation"] == 40
    assert all(0 <= result[name] <= 100 for name in ACCURACIES)
    assert json.loads((out / "results.json").read_text()) == result
    rows = RunFolder(out).rows()
    best = max(rows, key=lambda row: (row["validation_accuracy"], -row["epoch"]))
    assert result["best_epoch"] == best["epoch"]
    assert result["validation_accuracy"] == best["validation_accuracy"]
    assert result["validation_accuracy_last"] == rows[-1]["validation_accuracy"]
    assert all("test" not in key for row in rows for key in row)


def test_a_share_of_the_labels_is_all_that_is_used(trained, tmp_path):
    values = config(tmp_path / "run", checkpoint=trained, labels=0.5, epochs=1, vote=0)
    result = finetune.run(values)
    of_classes = torch.bincount(torch.arange(40) % 12)
    assert result["n_train"] + result["n_validation"] == sum(
        max(1, round(0.5 * count)) for count in of_classes.tolist()
    )
    assert result["n_test"] == 40


def test_the_table_shows_the_selected_and_the_last_epoch(finetuned):
    out, result = finetuned
    text = (out / "results.md").read_text()
    assert text.startswith("# Classification\n")
    assert (
        f"| best on validation | {result['validation_accuracy']:.2f} | {result['accuracy']:.2f} | "
        f"{result['accuracy_vote']:.2f} |\n"
    ) in text
    assert "| last epoch |" in text
    assert "published" not in text


def test_the_classifier_loads_and_predicts(finetuned):
    out, result = finetuned
    model = i2pmae.load_classifier(result["checkpoint"])
    logits = model(torch.rand(2, 128, 3))
    assert not model.training
    assert logits.shape == (2, 12)
    assert i2pmae.load_encoder(out / "last.pt")(torch.rand(1, 128, 3)).shape == (1, 48)


def test_the_encoder_starts_from_the_checkpoint(trained, tmp_path, monkeypatch):
    started = {}

    def stop(training, *_):
        started.update(training.model.state_dict())
        raise KeyboardInterrupt

    monkeypatch.setattr(supervised, "train_epoch", stop)
    with pytest.raises(KeyboardInterrupt):
        finetune.run(config(tmp_path / "run", checkpoint=trained))
    saved = checkpoint.load(trained).model
    shared = [name for name in started if name.startswith("encoder.")]
    assert len(shared) > 50
    assert all(torch.equal(started[name], saved[name]) for name in shared)


def test_from_scratch_starts_as_the_checkpoint_did(store, tmp_path, monkeypatch):
    drawn = TINY_ENCODER.model_copy(update={"init": "torch"})
    pretrain.run(pretrain_config(store, tmp_path / "pretrained", epochs=1, encoder=drawn))
    built = []
    make = supervised.make_optimizer
    monkeypatch.setattr(
        supervised, "make_optimizer", lambda model, *rest: built.append(model) or make(model, *rest)
    )
    checkpoint = tmp_path / "pretrained" / "last.pt"
    finetune.run(config(tmp_path / "run", checkpoint=checkpoint, from_scratch=True, epochs=1))
    assert built[0].config.init == "torch"


def test_from_scratch_takes_only_the_size_of_the_checkpoint(trained, tmp_path):
    wider = TINY_ENCODER.model_copy(update={"widths": (24, 48, 96)})
    result = finetune.run(
        config(tmp_path / "run", checkpoint=trained, from_scratch=True, epochs=1, encoder=wider)
    )
    assert result["from_scratch"]
    assert i2pmae.load_classifier(result["checkpoint"]).config.widths == (12, 24, 48)


@pytest.fixture
def stop_after(monkeypatch):
    """Interrupts a run when it has finished some epochs."""

    def stop_after(n_epochs):
        train_epoch = supervised.train_epoch

        def stopping(training, *arguments):
            if training.epoch == n_epochs:
                monkeypatch.setattr(supervised, "train_epoch", train_epoch)
                raise KeyboardInterrupt
            return train_epoch(training, *arguments)

        monkeypatch.setattr(supervised, "train_epoch", stopping)

    return stop_after


def test_an_interrupted_run_resumes_to_the_same_numbers(trained, finetuned, tmp_path, stop_after):
    reference, expected = finetuned
    out = tmp_path / "cut"
    stop_after(1)
    with pytest.raises(KeyboardInterrupt):
        finetune.run(config(out, checkpoint=trained))
    result = finetune.run(config(out, checkpoint=trained), resume=True)
    assert RunFolder(out).rows() == RunFolder(reference).rows()
    for key in (*ACCURACIES, "best_epoch"):
        assert result[key] == expected[key]


def test_a_finished_run_is_not_evaluated_again(trained, finetuned, monkeypatch):
    out, expected = finetuned
    monkeypatch.setattr("i2pmae.stages.classify.predict", lambda *_, **__: 1 / 0)
    assert finetune.run(config(out, checkpoint=trained), resume=True) == expected
    with pytest.raises(ConfigError, match="already holds a run"):
        finetune.run(config(out, checkpoint=trained))


def test_seeds_are_runs_of_their_own_and_their_mean(trained, tmp_path, stop_after):
    out = tmp_path / "seeds"
    both = config(out, checkpoint=trained, seeds=(0, 3), epochs=1, vote=0, limit=26)
    result = finetune.run(both)
    singles = [json.loads((out / f"seed-{seed}/results.json").read_text()) for seed in (0, 3)]
    assert result["seeds"] == [single["seed"] for single in singles] == [0, 3]
    first, second = (single["accuracy"] for single in singles)
    assert result["accuracy"] == pytest.approx((first + second) / 2)
    assert result["std"]["accuracy"] == pytest.approx(abs(first - second) / 2**0.5)
    assert f"{result['accuracy']:.2f} ± {result['std']['accuracy']:.2f}" in (
        (out / "results.md").read_text()
    )
    with pytest.raises(ConfigError, match="already holds a run"):
        finetune.run(both)
    cut = tmp_path / "cut"
    stop_after(0)
    with pytest.raises(KeyboardInterrupt):
        finetune.run(both.model_copy(update={"out": cut}))
    resumed = finetune.run(both.model_copy(update={"out": cut}), resume=True)
    assert [run["accuracy"] for run in resumed["runs"]] == [first, second]


@pytest.mark.parametrize(
    ("changes", "error", "expected"),
    [
        ({"batch_size": 64}, ConfigError, "fewer than batch_size=64"),
        ({"points": 9000}, DataError, "9000 are asked"),
        ({"points": 32}, ConfigError, "--points 32: the encoder needs 64 points or more"),
        ({"checkpoint": "/no/such.pt"}, CheckpointError, "no checkpoint"),
        ({"task": "segmentation", "data": "/no/such"}, DataError, "does not exist"),
    ],
)
def test_settings_that_do_not_fit_are_named(tmp_path, changes, error, expected):
    with pytest.raises(error, match=expected):
        finetune.run(config(tmp_path / "run", **changes))


def test_weights_that_the_last_step_spoiled_are_not_saved(tmp_path, monkeypatch):
    def spoiling(optimizer, *_):
        step = optimizer.step

        def spoiled():
            step()
            optimizer.param_groups[0]["params"][0].data.fill_(torch.nan)

        optimizer.step = spoiled
        return 0.0

    monkeypatch.setattr(supervised, "set_learning_rate", spoiling)
    with pytest.raises(TrainingError, match=r"weights are not finite in epoch 1; no checkpoint"):
        finetune.run(config(tmp_path / "run", batch_size=20))
    assert not (tmp_path / "run" / "last.pt").exists()


def test_an_encoder_of_other_levels_is_one_clear_line(store, tmp_path):
    two = {"n_centers": (64, 16), "group_sizes": (8, 4), "widths": (12, 24), "depths": (1, 1)}
    encoder = TINY_ENCODER.model_copy(update=two)
    checkpoint_path = tmp_path / "pretrain" / "last.pt"
    pretrain.run(pretrain_config(store, checkpoint_path.parent, epochs=1, encoder=encoder))
    with pytest.raises(ConfigError, match="group_sizes has 3 entries, n_centers has 2"):
        finetune.run(config(tmp_path / "run", checkpoint=checkpoint_path))


def test_the_command_takes_the_recipe_of_the_data(monkeypatch, tmp_path):
    seen = {}

    def run(settings, *, resume):
        seen.update(settings=settings, resume=resume)
        return {}

    monkeypatch.setattr(finetune, "run", run)
    arguments = ["finetune", "--from-scratch", "procedural", "--seeds", "1,2", "--out"]
    monkeypatch.setattr(sys, "argv", ["i2pmae", *arguments, str(tmp_path / "run")])
    with pytest.raises(SystemExit) as exit_:
        main()
    assert exit_.value.code == 0
    settings = seen["settings"]
    assert (settings.recipe, settings.seeds) == ("finetune-own-data", (1, 2))
    assert (settings.head.pooling, settings.epochs) == ("concat", 100)


@pytest.mark.parametrize(
    ("arguments", "code", "expected"),
    [
        (("--cache", "x.zarr"), 2, "--from-scratch"),
        (("some.pt",), 2, "CHECKPOINT"),
        (("--from-scratch",), 1, "DATA"),
        (("--from-scratch", "procedural", "--cache", "x.zarr"), 1, "DATA"),
        (("--from-scratch", "procedural", "--seeds", "0,0"), 1, "seeds"),
    ],
)
def test_wrong_usage_is_one_clear_line(monkeypatch, capsys, arguments, code, expected):
    monkeypatch.setattr(sys, "argv", ["i2pmae", "finetune", *arguments])
    with pytest.raises(SystemExit) as exit_:
        main()
    assert exit_.value.code == code
    assert expected in capsys.readouterr().err
