import json
import re
import shutil

import numpy as np
import pytest
import torch

from i2pmae.checkpoints import checkpoint
from i2pmae.checkpoints.networks import load_pretraining
from i2pmae.config import (
    MaskingConfig,
    OptimConfig,
    PretrainConfig,
    SvmCheckConfig,
    TargetConfig,
)
from i2pmae.errors import ConfigError, DataError, TrainingError
from i2pmae.extraction.encoding import encode_batch
from i2pmae.geometry.projection import PixelMap, pixels, view_axes
from i2pmae.image_model import load_image_model
from i2pmae.stages import extract_2d, pretrain
from i2pmae.store import StoreReader
from i2pmae.training import distributed, loop, pretraining
from i2pmae.training.run_folder import RunFolder
from i2pmae.training.seeding import step_generator, step_seed
from i2pmae.training.target_statistics import channel_statistics

from ..conftest import extract_config, pretrain_config


def metrics(out):
    """Rows without what a clock says."""
    return [
        {key: value for key, value in row.items() if key not in ("shapes_per_s", "wait_share")}
        for row in RunFolder(out).rows()
    ]


def assert_same_run(out, reference):
    assert metrics(out) == metrics(reference)
    ours, theirs = checkpoint.load(out / "last.pt"), checkpoint.load(reference / "last.pt")
    for name, tensor in theirs.model.items():
        assert torch.equal(ours.model[name], tensor), name


def test_a_run_leaves_config_metrics_and_checkpoints(trained):
    out = trained.parent
    assert json.loads((out / "config.json").read_text())["epochs"] == 3
    rows = RunFolder(out).rows()
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    assert rows[-1]["loss"] < rows[0]["loss"]
    assert rows[0]["loss"] == pytest.approx(rows[0]["loss_2d"] + rows[0]["loss_3d"], rel=1e-5)
    assert torch.load(trained, weights_only=True)["kind"] == "pretraining"


def test_the_same_run_twice_gives_the_same_numbers(store, trained, tmp_path):
    pretrain.run(pretrain_config(store, tmp_path / "again"))
    assert_same_run(tmp_path / "again", trained.parent)


def test_a_run_begins_with_what_is_trained_where(store, tmp_path, capsys):
    pretrain.run(pretrain_config(store, tmp_path / "run", epochs=1))
    first, *_ = capsys.readouterr().err.splitlines()
    assert first.startswith("pretrain on cpu, ")
    assert re.search(r", float32: network of 0\.\d\d M parameters \(64, 32, 16 centers\); ", first)
    assert first.endswith("; 20 shapes of 256 points, 1 epoch of 5 steps of 4")


def test_what_all_will_take_is_said_after_a_few_steps(store, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(loop, "_SOON", 0.0)
    pretrain.run(pretrain_config(store, tmp_path / "run", epochs=2))
    said = re.findall(
        r"^about 0:\d\d for the (\d+) steps that are left$", capsys.readouterr().err, re.M
    )
    assert said == ["6"]


@pytest.mark.parametrize("steps", [2, 5, 8])
def test_an_interrupted_run_resumes_to_the_same_numbers(
    store, trained, tmp_path, monkeypatch, steps
):
    out, taken = tmp_path / "cut", []
    step = pretraining.pretraining_step

    def stopping(*arguments):
        taken.append(1)
        if len(taken) == steps:
            import os
            import signal

            os.kill(os.getpid(), signal.SIGINT)
        return step(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(pretraining, "pretraining_step", stopping)
        with pytest.raises(KeyboardInterrupt):
            pretrain.run(pretrain_config(store, out))
    saved = checkpoint.load(out / "last.pt")
    assert saved.epoch * 5 + saved.step == steps
    pretrain.run(pretrain_config(store, out), resume=True)
    assert_same_run(out, trained.parent)


def test_resume_after_a_kill_before_the_first_checkpoint_starts_again(store, trained, tmp_path):
    config = pretrain_config(store, tmp_path / "early")
    RunFolder(config.out).start(config, resume=False)
    pretrain.run(config, resume=True)
    assert_same_run(config.out, trained.parent)


@pytest.mark.parametrize(
    "changes",
    [
        {"masking": MaskingConfig(strategy="random"), "targets": TargetConfig(kind="3d")},
        {"masking": MaskingConfig(strategy="random"), "targets": TargetConfig(kind="2d")},
        {"masking": MaskingConfig(standardize=True, temperature=0.5)},
        {"targets": TargetConfig(standardize=True, tokens_2d="all")},
        {"embed": "visible"},
        {"accumulate": 4},
        {"optim": OptimConfig(schedule="step", warmup_epochs=1, cosine_epochs=3)},
        {"precision": "bf16", "optim": OptimConfig(clip_norm=1.0)},
    ],
)
def test_every_switch_trains(store, tmp_path, changes):
    config = pretrain_config(store, tmp_path / "run", epochs=1, **changes)
    result = pretrain.run(config)
    if config.targets.kind != "both":
        absent = {"2d": "loss_3d", "3d": "loss_2d"}[config.targets.kind]
        assert result[absent] == 0
    assert result["loss"] > 0


def test_what_targets_are_standardized_by_is_kept(store, tmp_path, monkeypatch):
    config = pretrain_config(
        store, tmp_path / "run", epochs=1, targets=TargetConfig(standardize=True)
    )
    reader, looked_at = StoreReader(store), []

    def statistics(reader, indices):
        looked_at.append(indices.tolist())
        return channel_statistics(reader, indices)

    monkeypatch.setattr(pretraining, "channel_statistics", statistics)
    monkeypatch.setattr(StoreReader, "indices", lambda *_: np.arange(12))
    pretrain.run(config)
    assert looked_at == [[*range(12)]]  # the shapes that are trained on
    mean, deviation = channel_statistics(reader, np.arange(12))
    kept = load_pretraining(config.out / "last.pt")
    torch.testing.assert_close(kept.target_mean, mean)
    torch.testing.assert_close(kept.target_deviation, deviation)
    assert mean.abs().max() > 0


def test_accumulated_gradients_are_the_mean_over_parts(store, tmp_path):
    reader, process_group = StoreReader(store), distributed.ProcessGroup()
    config = pretrain_config(store, tmp_path / "run", accumulate=2)
    torch.manual_seed(0)
    model = pretraining.build_model(config, reader)
    training = loop.Training("pretraining", model, config, process_group)
    task = pretraining.PretrainingTask(
        config, reader, np.arange(20), process_group, torch.device("cpu"), lambda _epoch: {}
    )
    halves = [
        {name: torch.from_numpy(array) for name, array in reader.read(rows).items()}
        for rows in ([0, 5], [9, 2])
    ]
    losses = loop.gradients(training, task, iter(halves))
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    model.zero_grad()
    seed = step_seed(config.seed, 0, 0)
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    expected = [
        pretraining.pretraining_step(model, half, config, view_axes(3), generator).loss
        for half in halves
    ]
    torch.stack(expected).mean().backward()
    assert losses[0].item() == pytest.approx(torch.stack(expected).mean().item())
    for name, gradient in found.items():
        torch.testing.assert_close(model.get_parameter(name).grad, gradient, msg=name)


def test_the_svm_check_is_logged_and_reads_its_shapes_once(
    store, parts_folder, tmp_path, monkeypatch
):
    read, reads = pretrain.svm.read_points, []
    monkeypatch.setattr(
        pretrain.svm, "read_points", lambda *a, **k: reads.append(a) or read(*a, **k)
    )
    svm = SvmCheckConfig(data=parts_folder, every=2, points=64)
    result = pretrain.run(pretrain_config(store, tmp_path / "run", epochs=3, svm=svm))
    assert 0 < result["svm_accuracy"] <= 100
    rows = RunFolder(tmp_path / "run").rows()
    assert ["svm_accuracy" in row for row in rows] == [False, True, True]  # the last always
    assert len(reads) == 2  # of two splits


def test_an_epoch_is_kept_whatever_becomes_of_its_svm_check(
    store, parts_folder, tmp_path, monkeypatch
):
    def broken(*_):
        raise DataError("no such shape")

    monkeypatch.setattr(pretrain.svm.Check, "__call__", broken)
    config = pretrain_config(
        store, tmp_path / "run", svm=SvmCheckConfig(data=parts_folder, every=2, points=64)
    )
    with pytest.raises(DataError, match="no such shape"):
        pretrain.run(config)
    assert checkpoint.load(config.out / "last.pt").epoch == 2
    assert [row["epoch"] for row in RunFolder(config.out).rows()] == [1, 2]


def test_a_finished_run_without_its_rows_is_one_clear_line(trained, tmp_path):
    shutil.copytree(trained.parent, tmp_path / "run")
    (tmp_path / "run" / "metrics.jsonl").unlink()
    saved = checkpoint.load(trained)
    config = PretrainConfig.model_validate({**saved.config, "out": tmp_path / "run"})
    with pytest.raises(ConfigError, match="has no row of epoch 3"):
        pretrain.run(config, resume=True)


def test_kept_checkpoints_hold_the_weights_of_their_epoch(store, tmp_path):
    config = pretrain_config(store, tmp_path / "run", epochs=2, checkpoint_every=1)
    pretrain.run(config)
    assert checkpoint.load(config.out / "epoch-0001.pt").epoch == 1


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"batch_size": 21}, "fewer than batch_size=21"),
        ({"points": 1000}, "512 points per shape"),
        ({"points": 32}, "the encoder needs 64 points or more"),
        ({"svm": SvmCheckConfig(data="procedural", points=32)}, "svm.points 32: the encoder needs"),
        ({"svm": SvmCheckConfig(data="/no/such")}, "does not exist"),
    ],
)
def test_settings_that_do_not_fit_the_store_are_named(store, tmp_path, changes, expected):
    with pytest.raises((ConfigError, DataError), match=expected):
        pretrain.run(pretrain_config(store, tmp_path / "run", **changes))
    assert not (tmp_path / "run").exists()


def test_a_run_is_never_overwritten(store, trained):
    with pytest.raises(ConfigError, match="already holds a run"):
        pretrain.run(pretrain_config(store, trained.parent))


def test_resuming_with_other_settings_is_refused(store, trained):
    with pytest.raises(ConfigError, match="seed: the run has 0, this command expects 1"):
        pretrain.run(pretrain_config(store, trained.parent, seed=1), resume=True)


def test_resuming_from_another_store_is_refused(trained, tmp_path):
    other = tmp_path / "other.zarr"
    extract_2d.run(extract_config(other, seed=1))
    before = (trained.parent / "config.json").read_text()
    with pytest.raises(ConfigError, match="from another store"):
        pretrain.run(pretrain_config(other, trained.parent), resume=True)
    assert (trained.parent / "config.json").read_text() == before


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_checkpoint(store, tmp_path):
    config = pretrain_config(store, tmp_path / "run", optim=OptimConfig(lr=1e30, warmup_epochs=0))
    with pytest.raises(TrainingError, match="not finite in step"):
        pretrain.run(config)


def test_the_cached_step_equals_the_online_step(store):
    """Targets from the store and targets rendered and encoded on the spot, same masks."""
    reader = StoreReader(store)
    config = pretrain_config(store, store.parent / "unused")
    torch.manual_seed(0)
    model = pretraining.build_model(config, reader).eval()
    batch = {name: torch.from_numpy(array) for name, array in reader.read([0, 5, 9]).items()}
    axes = view_axes(3)
    image_model = load_image_model(
        "timm:test_vit", "random", 64, "own", torch.device("cpu"), torch.float32
    )
    online = encode_batch(batch["points"], axes, image_model, "sum", 2048)
    pixel_map = PixelMap(batch["pixel_origin"], batch["pixel_size"], batch["pixel_shift"].long())
    at = pixels(batch["points"], pixel_map, axes, 64)
    masked = torch.rand(3, 16, generator=step_generator(0)).argsort(dim=1) >= 4
    with torch.no_grad():
        cached = model(
            batch["points"],
            batch["features"],
            batch["saliency"],
            at,
            feature_scale=batch["feature_scale"],
            masked=masked,
        )
        direct = model(batch["points"], online["features"], online["saliency"], at, masked=masked)
    assert cached.loss_3d == direct.loss_3d
    # Quantization adds a twelfth of the squared step, a thousandth of the features' power.
    assert cached.loss_2d == pytest.approx(direct.loss_2d.item(), rel=5e-3)


def test_the_whole_network_comes_back_from_a_checkpoint(trained):
    model = load_pretraining(trained)
    assert not model.training
    assert model.image_size == 64


def test_a_store_is_found_in_a_folder_that_holds_only_it(store, tmp_path):
    config = pretrain_config(store.parent, tmp_path / "run", epochs=1)
    assert pretrain.run(config)["epoch"] == 1


def test_two_stores_in_the_folder_are_listed(tmp_path):
    for name in ("a.zarr", "b.zarr"):
        extract_2d.run(extract_config(tmp_path / "cache" / name, limit=2))
    with pytest.raises(Exception, match=r"a\.zarr.*b\.zarr"):
        pretrain.run(pretrain_config(tmp_path / "cache", tmp_path / "run"))


def test_a_run_cannot_end_before_what_it_has_done(trained, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(trained.parent, out)
    settings = json.loads((out / "config.json").read_text()) | {"out": str(out), "epochs": 2}
    settings.pop("command")
    fewer = PretrainConfig.model_validate(settings)
    before = (out / "config.json").read_text()
    with pytest.raises(ConfigError, match="has finished 3 epochs, more than the 2 that are asked"):
        pretrain.run(fewer, resume=True)
    assert (out / "config.json").read_text() == before
