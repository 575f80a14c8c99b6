import itertools
import json
import sys

import numpy as np
import pytest
import torch

import i2pmae
from i2pmae.checkpoints import checkpoint
from i2pmae.cli import main
from i2pmae.config import AugmentConfig, FinetuneConfig, HeadConfig, OptimConfig, to_plain
from i2pmae.errors import CheckpointError, ConfigError, DataError, TrainingError
from i2pmae.stages import finetune, pretrain
from i2pmae.training import loop, supervised
from i2pmae.training.run_folder import RunFolder

from ..conftest import TINY_ENCODER, pretrain_config
from .test_pretrain import metrics

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
        f"{result['mean_class_accuracy']:.2f} | {result['accuracy_vote']:.2f} |\n"
    ) in text
    assert "| last epoch |" in text
    assert "published" not in text


def test_the_classifier_loads_and_predicts(finetuned):
    out, result = finetuned
    model = i2pmae.load_classifier(result["checkpoint"])
    logits = model(torch.rand(2, 128, 3))
    assert not model.training
    assert logits.shape == (2, len(model.class_names)) == (2, 12)
    assert model.class_names[0] == "airplane"
    assert i2pmae.load_encoder(out / "last.pt")(torch.rand(1, 128, 3)).shape == (1, 48)


def test_the_encoder_starts_from_the_checkpoint(trained, tmp_path, monkeypatch):
    started = {}

    def stop(training, *_):
        started.update(training.model.state_dict())
        raise KeyboardInterrupt

    monkeypatch.setattr(loop, "train_epoch", stop)
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
    make = loop.make_optimizer
    monkeypatch.setattr(
        loop, "make_optimizer", lambda model, *rest: built.append(model) or make(model, *rest)
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
    path = tmp_path / "run" / "config.json"
    saved = json.loads(path.read_text())
    assert saved["encoder"]["widths"] == [12, 24, 48]  # of the network, not of the recipe
    assert saved["command"] == result["command"] == "finetune"
    del saved["command"]
    path.write_text(json.dumps(saved | {"encoder": to_plain(wider)}))  # as version 0.1 did
    again = config(tmp_path / "run", checkpoint=trained, from_scratch=True, epochs=1, encoder=wider)
    assert finetune.run(again, resume=True) == result


@pytest.fixture
def stop_after(monkeypatch):
    """Interrupts a run when it has finished some epochs."""

    def stop_after(n_epochs):
        train_epoch = loop.train_epoch

        def stopping(training, *arguments):
            if training.epoch == n_epochs:
                monkeypatch.setattr(loop, "train_epoch", train_epoch)
                raise KeyboardInterrupt
            return train_epoch(training, *arguments)

        monkeypatch.setattr(loop, "train_epoch", stopping)

    return stop_after


def test_an_interrupted_run_resumes_to_the_same_numbers(trained, finetuned, tmp_path, stop_after):
    reference, expected = finetuned
    out = tmp_path / "cut"
    stop_after(1)
    with pytest.raises(KeyboardInterrupt):
        finetune.run(config(out, checkpoint=trained))
    result = finetune.run(config(out, checkpoint=trained), resume=True)
    assert metrics(out) == metrics(reference)
    for key in (*ACCURACIES, "best_epoch"):
        assert result[key] == expected[key]


@pytest.fixture
def clouds(tmp_path):
    """A folder of 24 clouds of 128 points."""
    rng = np.random.default_rng(0)
    for split, name in itertools.product(("train", "test"), ("bed", "lamp")):
        (tmp_path / "data" / split / name).mkdir(parents=True)
        for number in range(6):
            np.save(tmp_path / "data" / split / name / f"{number}.npy", rng.random((128, 3)))
    return tmp_path / "data"


def test_more_points_than_a_shape_has_are_refused(tmp_path, clouds):
    with pytest.raises(DataError, match="has 128 points, 129 are asked; set --points 128 or fewer"):
        finetune.run(config(tmp_path / "run", data=clouds, limit=None, batch_size=4, points=129))


def test_other_shapes_are_refused_on_resume(trained, tmp_path, clouds, stop_after):
    values = config(tmp_path / "run", checkpoint=trained, data=clouds, limit=None, batch_size=4)
    stop_after(1)
    with pytest.raises(KeyboardInterrupt):
        finetune.run(values)
    (clouds / "train" / "bed" / "6.npy").symlink_to(clouds / "test" / "bed" / "0.npy")
    with pytest.raises(ConfigError, match=r"shapes or labels of .* have changed since .*run was "):
        finetune.run(values, resume=True)
    (clouds / "train" / "bed" / "6.npy").unlink()
    assert finetune.run(values, resume=True)["epochs"] == values.epochs


def test_a_finished_run_is_not_evaluated_again(trained, finetuned, monkeypatch):
    out, expected = finetuned
    monkeypatch.setattr("i2pmae.training.supervised.predict", lambda *_, **__: 1 / 0)
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


def test_one_shape_at_a_time_is_refused_where_the_head_has_a_norm(trained, tmp_path, parts_store):
    alone = {"checkpoint": trained, "batch_size": 4, "accumulate": 4, "epochs": 1, "vote": 0}
    stored = {"data": None, "cache": parts_store, "task": "segmentation", "points": 64}
    for out, changes in (("mlp", {}), ("segmenter", stored)):
        with pytest.raises(ConfigError, match="needs two; lower accumulate"):
            finetune.run(config(tmp_path / out, **alone | changes))
    assert finetune.run(config(tmp_path / "probe", **alone | PROBED))["epochs"] == 1


PROBED = {
    "head": HeadConfig(kind="probe", width=16, pooling="concat"),
    "groups": "checkpoint",
    "vote": 0,
}


@pytest.fixture(scope="module")
def probed(trained, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "probed"
    return out, finetune.run(config(out, checkpoint=trained, **PROBED))


def test_a_probe_s_head_starts_fitted(probed):
    out, result = probed
    rows = RunFolder(out).rows()
    assert [row["epoch"] for row in rows] == [0, 1, 2]
    assert "loss" not in rows[0]
    best = max(rows[1:], key=lambda row: (row["validation_accuracy"], -row["epoch"]))
    by = best["validation_accuracy"] - rows[0]["validation_accuracy"]
    is_convincing = by * result["n_validation"] / 100 > 1.5  # shapes
    assert result["best_epoch"] == (best["epoch"] if is_convincing else 0)
    assert result["validation_accuracy"] >= rows[0]["validation_accuracy"]
    assert result["baselines"]["chance"] == pytest.approx(100 / 12)
    assert result["accuracy"] > 2.5 * result["baselines"]["chance"]
    assert 0 < result["baselines"]["linear_probe"] <= 100
    text = (out / "results.md").read_text()
    assert "| linear probe of its encoder | |" in text.replace("|  |", "| |")
    assert "Fine-tuned, the network is" in text


def test_a_probe_s_head_sees_no_validation_shape_and_counts_classes_as_asked(
    trained, tmp_path, monkeypatch
):
    def fitted(_model, clouds, _config, weights, _dtype):
        raise KeyboardInterrupt(clouds.labels, weights)

    monkeypatch.setattr(supervised, "fit_head", fitted)
    values = config(tmp_path / "run", checkpoint=trained, class_weights="balanced", **PROBED)
    with pytest.raises(KeyboardInterrupt) as stopped:
        finetune.run(values)
    labels, weights = stopped.value.args
    _, fit, held_out = supervised.divide(supervised.open_labeled(values).train, values)
    assert len(held_out.labels) > 0
    assert labels.tolist() == fit.labels.tolist()
    assert weights.shape == (12,)


def test_embeddings_of_groups_stay_under_a_probed_head(probed, trained):
    out, _ = probed
    kept, saved = (checkpoint.load(path).model for path in (out / "last.pt", trained))
    moved = {name: not torch.equal(kept[name], saved[name]) for name in kept if name in saved}
    assert not any(moved[name] for name in moved if name.startswith("encoder.embeddings."))
    assert all(
        moved[name] for name in moved if name.startswith("encoder.blocks.") and "mlp.0" in name
    )


def test_the_probe_itself_is_kept_where_training_spoils_it(trained, tmp_path):
    wild = OptimConfig(lr=0.3, warmup_epochs=0, cosine_epochs=1)
    values = config(tmp_path / "run", checkpoint=trained, epochs=1, optim=wild, **PROBED)
    result = finetune.run(values)
    assert result["best_epoch"] == 0
    kept = checkpoint.load(result["checkpoint"]).model
    saved = checkpoint.load(trained).model
    assert all(torch.equal(kept[n], saved[n]) for n in kept if n.startswith("encoder."))
    assert torch.equal(kept["norm.weight"], saved["encoder.norms.2.weight"])
    last = i2pmae.load_classifier(result["checkpoint"])  # fitted to the validation shapes as well
    assert checkpoint.load(result["checkpoint"]).epoch == 0
    assert len(last.class_names) == 12


@pytest.mark.parametrize("n_epochs", [0, 1])
def test_a_probed_run_resumes_to_the_same_numbers(trained, probed, tmp_path, stop_after, n_epochs):
    reference, expected = probed
    out = tmp_path / "cut"
    stop_after(n_epochs)
    with pytest.raises(KeyboardInterrupt):
        finetune.run(config(out, checkpoint=trained, **PROBED))
    result = finetune.run(config(out, checkpoint=trained, **PROBED), resume=True)
    assert metrics(out) == metrics(reference)
    for key in ("accuracy", "accuracy_last", "best_epoch", "baselines"):
        assert result[key] == expected[key]


def test_a_run_without_progress_stops_and_is_finished(trained, tmp_path, monkeypatch):
    wild = OptimConfig(lr=0.3, warmup_epochs=0, cosine_epochs=9)
    values = config(
        tmp_path / "run", checkpoint=trained, epochs=9, optim=wild, patience=1, **PROBED
    )
    result = finetune.run(values)
    assert result["epochs"] == result["best_epoch"] + 1 < 9
    monkeypatch.setattr("i2pmae.training.supervised.predict", lambda *_, **__: 1 / 0)
    assert finetune.run(values, resume=True) == result


@pytest.mark.parametrize(
    ("changes", "error", "expected"),
    [
        ({"batch_size": 64}, ConfigError, "fewer than batch_size=64"),
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

    monkeypatch.setattr(loop, "set_learning_rate", spoiling)
    with pytest.raises(
        TrainingError, match=r"weights are not finite in step 1 of epoch 1, .*no checkpoint"
    ):
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

    def run(settings, *, resume=False):
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
    assert (settings.head.pooling, settings.epochs) == ("concat", 50)


@pytest.mark.parametrize(
    ("arguments", "code", "expected"),
    [
        (("--cache", "x.zarr"), 1, "--from-scratch"),
        (("some.pt",), 1, "CHECKPOINT"),
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
