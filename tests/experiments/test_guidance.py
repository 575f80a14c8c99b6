"""The comparison's bookkeeping, and one tiny comparison from end to end."""

import argparse
import json
import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from i2pmae.config import ExtractConfig, PretrainConfig
from i2pmae.recipes import load_config
from i2pmae.store import StoreReader, open_cache

RECIPE = """
epochs = 1
batch_size = 4
points = 256
precision = "fp32"
[encoder]
n_centers = [64, 32, 16]
group_sizes = [8, 4, 4]
widths = [12, 24, 48]
depths = [1, 1, 1]
embedding_width = 8
"""


FINETUNE_RECIPE = """
epochs = 1
batch_size = 4
points = 128
precision = "fp32"
vote = 0
[encoder]
group_sizes = [8, 4, 4]
"""


@pytest.fixture
def guidance(module):
    return module("guidance")


def test_the_recommended_recipe_differs_from_the_paper_by_what_was_compared(module):
    arms = module("guidance_arms")

    def settings(recipe, *overrides):
        return load_config(PretrainConfig, "pretrain", recipe=recipe, overrides=overrides)

    not_compared = [
        *("augment.scale=[0.6666666666666666,1.5]", "augment.shift=0.2"),
        "optim.cosine_epochs=400",
    ]
    assert settings("recommended", *arms.PAPER, *not_compared) == settings("pretrain")
    assert settings("recommended", *arms.NO_AUGMENTATION) == settings("recommended")


def test_budgets(guidance):
    assert [guidance.seconds_of(text) for text in ("90s", "1.5m", "2h")] == [90, 90, 7200]
    with pytest.raises(argparse.ArgumentTypeError, match="2 hours: expected a number"):
        guidance.seconds_of("2 hours")


def test_the_main_comparison_comes_first_seed_by_seed(guidance):
    runs = list(guidance.runs([*guidance.ARMS]))
    assert len(set(runs)) == len(runs) == sum(arm.seeds for arm in guidance.ARMS.values())
    assert set(guidance.runs([*guidance.ARMS], 2)) == {run for run in runs if run[1] < 2}
    assert {arm for arm, _ in runs[: len(guidance.MAIN)]} == {*guidance.MAIN}
    assert {seed for arm, seed in runs if arm == "i2p-mae"} == set(range(5))


def test_every_arm_has_a_store_and_valid_settings(guidance, tmp_path):
    options = argparse.Namespace(work=tmp_path, data="procedural")
    for name, arm in guidance.ARMS.items():
        assert arm.store in guidance.STORES
        assert guidance.set_of(name).pooled[0] in guidance.STORES
        assert name not in arm.against
        # Scores of fine-tuned and of frozen networks have other names: no table would show them.
        assert all(bool(guidance.ARMS[other].start) == bool(arm.start) for other in arm.against)
        if arm.start is None:
            guidance.settings_of(name, 0, options)
        else:
            assert guidance.ARMS[arm.start].seeds >= arm.seeds  # is trained before
            for kind in guidance.set_of(name).finetunings:
                guidance.finetuning_of(name, kind, 0, options)


def test_every_store_has_valid_settings(guidance, tmp_path):
    for arguments in guidance.STORES.values():
        changes = [value for name, value in pairwise(arguments) if name == "--set"]
        options = {"data": "procedural", "cache": tmp_path}
        load_config(ExtractConfig, "extract-2d", overrides=changes, options=options)


def test_copies_are_trained_on_as_the_shapes_are(guidance, tmp_path):
    options = argparse.Namespace(work=tmp_path)
    one, copies = (guidance.settings_of(arm, 0, options) for arm in ("lite0", "lite0-copies"))
    assert copies.augment == one.augment.model_copy(update={"scale_per_axis": False})
    assert times(copies, guidance.CHOSEN["lite0-copies"].copies) == times(one, 1)


def times(config, factor):
    optim = config.optim
    return [factor * n for n in (config.epochs, optim.warmup_epochs, optim.cosine_epochs)]


@pytest.mark.parametrize("arm", ["half", "quarter"])
def test_fewer_shapes_are_trained_on_for_as_many_steps(guidance, tmp_path, arm):
    options = argparse.Namespace(work=tmp_path)
    fewer, all_of_them = (guidance.settings_of(name, 0, options) for name in (arm, "i2p-mae"))
    every = guidance.CHOSEN[guidance.ARMS[arm].store].every
    assert times(fewer, 1) == times(all_of_them, every)


def test_no_two_runs_work_with_one_network(guidance):
    assert guidance.network_of(("finetune-scratch", 1)) == ("i2p-mae", 1)
    assert guidance.network_of(("3d-only", 0)) == ("3d-only", 0)


def test_paired_differences_have_students_interval(guidance):
    # Differences 1, 2, 3: mean 2, standard error 1/sqrt(3), t of 2 degrees of freedom 4.303.
    assert guidance.difference([(2, 1), (4, 2), (4, 1)]) == "+2.0 [-0.5, +4.5]"


def test_tables_and_summary_follow_from_the_runs(guidance, tmp_path):
    for arm, values in {"3d-only": [80, 82], "i2p-mae": [83, 86, 89], "random": [70]}.items():
        for seed, value in enumerate(values):
            scores = {"svm": value, "labels_1": value / 2}
            epochs = [{"loss_2d": 0.5, "loss_3d": 0.1}] * 2 if arm != "random" else []
            run = {"arm": arm, "seed": seed, "scores": scores, "seconds": 10 * seed}
            run["epochs"] = epochs
            guidance.write(guidance.result_file(tmp_path, arm, seed), run)
    summary = guidance.summarize(tmp_path)
    assert summary == json.loads((tmp_path / "summary.json").read_text())
    found = summary["i2p-mae"]
    assert (found["mean"], found["std"], found["n"], found["seconds"]) == (86, 3, 3, 10)
    assert (tmp_path / "curves.png").stat().st_size > 1000
    tables = (tmp_path / "tables.md").read_text()
    assert "| 86.0 ± 3.0 | 43.0 ± 1.5 |" in tables
    assert (
        "| `i2p-mae` minus `3d-only` | 2 | +3.5 [-2.9, +9.9] |" in tables
    )  # of the two seeds that both have


def test_fine_tuned_arms_have_tables_of_their_own(guidance, tmp_path):
    for arm, values in {"finetune-scratch": [70, 72], "finetune-i2p-mae": [80, 84]}.items():
        for seed, value in enumerate(values):
            scores = {"finetuned": value, "finetuned_tenth": value - 10}
            run = {"arm": arm, "seed": seed, "scores": scores, "seconds": 1, "epochs": []}
            guidance.write(guidance.result_file(tmp_path, arm, seed), run)
    run = {"arm": "random", "seed": 0, "scores": {"svm": 1}, "seconds": 0, "epochs": []}
    guidance.write(guidance.result_file(tmp_path, "random", 0), run)
    summary = guidance.summarize(tmp_path)
    assert summary["finetune-i2p-mae"]["mean"] == 82
    assert summary["finetune-i2p-mae"]["metric"].startswith("fine-tuned")
    assert summary["random"]["metric"].startswith("linear SVM")
    lines = (tmp_path / "tables.md").read_text().splitlines()
    assert "| `random` | random weights, not trained | 1 | 1.0 | 0 |" in lines
    # Differences 10 and 12: mean 11, standard error 1, t of 1 degree of freedom 12.706.
    both = "+11.0 [-1.7, +23.7]"
    assert f"| `finetune-i2p-mae` minus `finetune-scratch` | 2 | {both} | {both} |" in lines


def test_data_sets_have_tables_of_their_own_and_one_summary(guidance, tmp_path):
    for arm, value in {"random": 80, "kicad/random": 50}.items():
        run = {"arm": arm, "seed": 0, "scores": {"svm": value}, "seconds": 1, "epochs": []}
        guidance.write(guidance.result_file(tmp_path, arm, 0), run)
    summary = guidance.summarize(tmp_path)
    assert {arm: found["mean"] for arm, found in summary.items()} == {
        "random": 80,
        "kicad/random": 50,
    }
    assert "kicad" not in (tmp_path / "tables.md").read_text()
    lines = guidance.file_of(tmp_path, "kicad", "tables.md").read_text().splitlines()
    assert "| `kicad/random` | random weights, not trained | 1 | 50.0 | 1 |" in lines


def test_shapes_are_read_as_their_store_was_made(guidance):
    for arm, settings in guidance.ARMS.items():
        arguments = guidance.STORES[settings.store]
        up = dict(pairwise(arguments)).get("--up", "y")
        assert up == guidance.set_of(arm).up


def test_an_arm_of_another_set_is_refused(guidance, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["x", "data", "--set", "kicad", "--arms", "random"])
    with pytest.raises(SystemExit):
        guidance.main()
    assert "--arms random: set kicad has kicad/i2p-mae, " in capsys.readouterr().err


@pytest.fixture
def tiny(guidance, tmp_path, monkeypatch):
    """Options of a comparison of procedural shapes that takes seconds."""
    model = ("--image-model", "timm:test_vit", "--image-size", "64", "--pretrained", "random")
    model += ("--points", "256", "--precision", "fp32")
    stores = {"vit": model, "vit-test": (*model, "--split", "test")}
    monkeypatch.setattr(guidance, "STORES", stores)
    monkeypatch.setattr(guidance, "RECIPE", tmp_path / "recipe.toml")
    monkeypatch.setattr(guidance, "FINETUNE_RECIPE", tmp_path / "finetune.toml")
    tenth = ("labels=0.5", "epochs=1")
    finetunings = {"finetuned": (), "finetuned_tenth": tenth}
    data_set = replace(guidance.SETS["modelnet10"], finetunings=finetunings)
    monkeypatch.setitem(guidance.SETS, "modelnet10", data_set)
    monkeypatch.setattr(guidance, "POINTS", 128)
    one_seed = replace(guidance.ARMS["i2p-mae"], seeds=1)
    monkeypatch.setitem(guidance.ARMS, "i2p-mae", one_seed)
    (tmp_path / "recipe.toml").write_text(RECIPE)
    (tmp_path / "finetune.toml").write_text(FINETUNE_RECIPE)
    return argparse.Namespace(
        data="procedural",
        set="modelnet10",
        furniture=None,
        vit=None,
        work=tmp_path / "work",
        results=tmp_path / "results",
        budget=600,
        jobs=1,
        seeds=5,
        rescore=False,
        arms=["2d-features", "i2p-mae"],
    )


@pytest.mark.slow
def test_pooled_features_are_means_over_kept_patches(guidance, tiny):
    assert guidance.extract("vit", tiny, time.monotonic() + 600)
    path = tiny.work / "stores" / "vit.zarr"
    ids = [str(name) for name in StoreReader(path).read_all("id")]
    found = guidance.pooled_2d(path, ids[::-1])
    stored = open_cache(path)["features"][0, 1].compute().reshape(-1, 64)
    expected = stored[stored.any(axis=1)].mean(axis=0)
    np.testing.assert_allclose(found[-1].reshape(3, -1)[1], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_a_comparison_from_end_to_end(guidance, tiny):
    for store in guidance.STORES:
        assert guidance.extract(store, tiny, time.monotonic() + 600)
    for arm in ("2d-features", "random", "i2p-mae"):
        guidance.do_run(arm, 0, tiny)
    summary = guidance.summarize(tiny.results)
    assert {*summary} == {"2d-features", "random", "i2p-mae"}
    run = json.loads(guidance.result_file(tiny.results, "i2p-mae", 0).read_text())
    assert {"svm", "svm_2_draws", "with_2d", "labels_1", "map"} <= run["scores"].keys()
    assert run["validation"].keys() < run["scores"].keys()
    assert [row["epoch"] for row in run["epochs"]] == [1]
    assert run["seconds"] > 0
    assert guidance.work_through(tiny) == 0  # nothing is left, nothing is done again
    guidance.do_run("finetune-i2p-mae", 0, tiny)
    run = json.loads(guidance.result_file(tiny.results, "finetune-i2p-mae", 0).read_text())
    kinds = guidance.SETS["modelnet10"].finetunings
    assert {*run["scores"]} == {*kinds}
    assert [(row["run"], row["epoch"]) for row in run["epochs"]] == [
        ("finetuned", 1),
        ("finetuned_tenth", 1),
    ]
    assert {run["settings"][kind]["labels"] for kind in kinds} == {1, 0.5}
    assert run["settings"]["finetuned"]["encoder"]["widths"] == [12, 24, 48]  # the checkpoint's


def test_some_of_the_shapes_as_they_are(guidance, tiny):
    from i2pmae.datasets import open_source

    folder = guidance.write_chosen(tiny, tiny.work / "shapes", guidance.Chosen(every=4))
    source = open_source("procedural", split="train")
    files = sorted(folder.iterdir())
    assert len(files) == math.ceil(len(source) / 4)
    points, found = source.load(4).points, np.load(files[1])
    sizes = np.ptp(found, axis=0) / np.ptp(points, axis=0)
    np.testing.assert_allclose(sizes, sizes[0], rtol=1e-5)


@pytest.mark.slow
def test_copies_are_stretched(guidance, tiny):
    from i2pmae.datasets import open_source

    folder = guidance.write_chosen(tiny, tiny.work / "shapes", guidance.Chosen(copies=2))
    source = open_source("procedural", split="train")
    files = sorted(folder.iterdir())
    assert len(files) == 2 * len(source)
    points = source.load(0).points
    for file in files[:2]:
        found = np.load(file)
        sizes = np.ptp(found, axis=0) / np.ptp(points, axis=0)
        assert np.ptp(sizes / sizes.mean()) > 0.05  # not the same along all axes
    assert not np.array_equal(np.load(files[0]), np.load(files[1]))


@pytest.mark.slow
def test_pictures_of_arms(guidance, tiny, module, monkeypatch):
    pictures = module("guidance_pictures")
    monkeypatch.setattr(pictures, "guidance", guidance)
    monkeypatch.setattr(pictures, "CLASSES", ("airplane", "bench"))
    monkeypatch.setattr(pictures, "ARMS", {"random": "random", "i2p-mae": "ours"})
    for store in guidance.STORES:
        assert guidance.extract(store, tiny, time.monotonic() + 600)
    guidance.pretrained(guidance.settings_of("i2p-mae", 0, tiny))
    monkeypatch.setattr(
        "sys.argv",
        ["x", "procedural", "--work", str(tiny.work), "--results", str(tiny.work)],
    )
    pictures.main()
    for name in ("masks", "features"):
        assert (tiny.work / f"{name}.png").stat().st_size > 10_000


WORK = """
import signal, sys, time
from pathlib import Path

signal.signal(signal.SIGINT, lambda *_: Path("interrupted").touch())
signal.signal(signal.SIGTERM, lambda *_: sys.exit(Path("saved").touch()))
Path("began").touch()
time.sleep(100)
"""
STOPPED = """
import signal, sys
import guidance

signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job ignores it
sys.executable = "./work"
if "run" in sys.argv:
    guidance.extract = lambda *_: True
sys.argv = ["guidance.py", "procedural", "--results", "results", "--work", "work_folder"]
guidance.main()
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("kind", ["extraction", "run"])
def test_work_in_progress_saves_itself_when_the_script_is_stopped(guidance, number, kind, tmp_path):
    work = tmp_path / "work"
    work.write_text(f"#!{sys.executable}\n{WORK}")
    work.chmod(0o755)
    process = subprocess.Popen(
        [sys.executable, "-c", STOPPED, kind],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(guidance.FOLDER)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    end = time.monotonic() + 60
    while not (tmp_path / "began").exists() and time.monotonic() < end:
        time.sleep(0.05)
    if number == signal.SIGINT:
        os.killpg(process.pid, number)  # as a terminal does
    else:
        process.send_signal(number)
    said, complaint = process.communicate(timeout=60)
    assert (tmp_path / "saved").exists()
    assert not (tmp_path / "interrupted").exists()  # asked once, by its parent
    assert (said, complaint) == ("", "guidance.py: stopped; rerun the command to resume\n")
    assert process.returncode == 128 + number


def test_work_that_does_not_end_is_ended(guidance, monkeypatch):
    monkeypatch.setattr(guidance, "PATIENCE", 0.2)
    script = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(100)"
    process = subprocess.Popen([sys.executable, "-c", script])
    time.sleep(0.5)  # until it ignores it
    guidance.stop([process])
    assert process.wait(10) < 0


@pytest.mark.slow
def test_no_time_means_that_all_is_left(guidance, tiny):
    for store in guidance.STORES:
        guidance.extract(store, tiny, time.monotonic() + 600)
    tiny.budget = 0
    assert guidance.work_through(tiny) == 2
