"""Commands on run folders and stores that were changed: values or one line, never a traceback."""

import contextlib
import importlib
import json
import os
import random
import shutil
import sys
import time

import pytest

from i2pmae.errors import ConfigError
from i2pmae.stages import finetune

from ..mutations import damaged
from ..stages.test_finetune import config as finetune_config
from ..store.test_hostile import change, sign

main = importlib.import_module("i2pmae.cli.main").main
SECONDS = 30.0


def json_changed(text, rng):
    """A JSON text with other values, kinds or keys in one to three places."""
    document = {"file": json.loads(text)}
    for _ in range(rng.choice([1, 1, 3])):
        with contextlib.suppress(KeyError, IndexError, TypeError):  # of what is gone by now
            change({"": document}, rng)
    return json.dumps(document.get("file"))


def spoiled(folder, rng):
    """Change one file of a folder, and return it."""
    victim = rng.choice(sorted(file for file in folder.rglob("*") if file.is_file()))
    if victim.suffix == ".jsonl" and rng.random() < 0.85:
        lines = victim.read_text().splitlines()
        place = rng.randrange(len(lines))
        lines[place] = json_changed(lines[place], rng)
        victim.write_text("\n".join(lines) + "\n")
    elif victim.suffix == ".json" and rng.random() < 0.85:
        victim.write_text(json_changed(victim.read_text(), rng))
    else:
        victim.write_bytes(damaged(victim.read_bytes(), rng))
    return victim


@pytest.fixture
def command(monkeypatch, capsys):
    """Run a command: 0, or 1 or 2 with one line of bounded length, within seconds."""

    def run(what, *words):
        monkeypatch.setattr(sys, "argv", ["i2pmae", *map(str, words)])
        started = time.process_time()  # a loaded machine must not fail the test
        try:
            with pytest.raises(SystemExit) as ended:
                main()
        except Exception as error:
            raise AssertionError(f"{what}: {words}") from error
        said = capsys.readouterr().err.splitlines()
        complaints = [line for line in said if line.startswith("i2pmae: ")]
        assert ended.value.code in (0, 1, 2), what
        assert len(complaints) <= 1, what
        assert bool(complaints) == (ended.value.code != 0) or words[0] == "verify", what
        assert all(len(line) < 1000 for line in complaints), what
        assert time.process_time() - started < SECONDS, what

    return run


@pytest.fixture(scope="module")
def classifier_run(trained, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "classifier"
    finetune.run(finetune_config(out, checkpoint=trained, epochs=1, vote=0))
    return out


def on_a_run(run, kind, store):
    """Commands that take a run's folder or its checkpoints."""
    best = run / ("last.pt" if kind == "pretrain" else "best.pt")
    page = run.parent / "report.html"
    return [
        ("report", run, "--out", page, "--shapes", 4, "--map", 4, "--cache", store),
        ("report", run, "--out", page, "--shapes", 4, "--map", 4),
        ("compare", run, run),
        ("export", best, "--out", run.parent / "encoder.safetensors"),
        (kind, "--resume", "--out", run, "--epochs", 1 if kind == "finetune" else 3),
        ("embed", best, store, "--out", run.parent / "vectors.npz"),
    ]


def on_a_store(store, checkpoint):
    """Commands that take a store."""
    out = store.parent / "out"
    return [
        ("verify", store),
        ("verify", store, "--repair"),
        ("verify", store, "--recompute", 1),
        ("inspect", store),
        ("copy", store, out / "copy.zarr"),
        ("pretrain", "--cache", store, "--out", out / "run", "--epochs", 1, "--batch-size", 4),
        ("embed", checkpoint, store, "--out", out / "vectors.npz"),
        ("svm", checkpoint, store),
        ("show", store, "--out", out / "pictures"),
        ("report", store, "--out", out / "report.html", "--shapes", 4, "--map", 4),
        ("check-data", store),
        ("extract-2d", store, "--cache", out / "new.zarr", "--dry-run"),
        ("finetune", checkpoint, "--cache", store, "--out", out / "fine", "--epochs", 1),
        ("zero-shot", store),
    ]


SEEDS = pytest.mark.parametrize(
    "seeds", [range(2), pytest.param((*range(2, 6), *range(100, 300)), marks=pytest.mark.slow)]
)


@SEEDS
def test_run_folders(command, trained, classifier_run, store, tmp_path, monkeypatch, seeds):
    monkeypatch.chdir(tmp_path)
    for seed in seeds:
        rng = random.Random(seed)
        kind = rng.choice(["pretrain", "finetune"])
        run = tmp_path / "run"
        shutil.copytree(trained.parent if kind == "pretrain" else classifier_run, run)
        victim = spoiled(run, rng)
        for words in rng.sample(on_a_run(run, kind, store), 2):
            command(f"seed {seed}, {victim.name}", *words)
        shutil.rmtree(run)


@SEEDS
def test_stores(command, trained, store, tmp_path, monkeypatch, seeds):
    monkeypatch.chdir(tmp_path)
    for seed in seeds:
        rng = random.Random(seed)
        copy, out = tmp_path / "copy.zarr", tmp_path / "out"
        shutil.copytree(store, copy)
        victim = spoiled(copy, rng)
        if rng.random() < 0.7:  # with a checksum that fits
            with contextlib.suppress(ValueError, AttributeError):
                files = [file.relative_to(copy).as_posix() for file in copy.rglob("zarr.json")]
                sign(copy, {name: json.loads((copy / name).read_text()) for name in files})
        for words in rng.sample(on_a_store(copy, trained), 2):
            command(f"seed {seed}, {victim.relative_to(copy)}", *words)
        shutil.rmtree(copy)
        shutil.rmtree(out, ignore_errors=True)
    assert os.listdir(tmp_path) in ([], ["cache"])


def test_a_report_opens_no_store_elsewhere_that_a_run_names(
    command, trained, store, tmp_path, monkeypatch
):
    run, page = tmp_path / "run", tmp_path / "a.html"
    shutil.copytree(trained.parent, run)
    saved = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps(saved | {"cache": "s3://bucket/x.zarr"}))
    opened = []
    module = importlib.import_module("i2pmae.report.runs")
    monkeypatch.setattr(module, "resolve_store", lambda path: opened.append(path) or store)
    command("report", "report", run, "--out", page, "--shapes", 2, "--map", 3)
    assert opened == []
    assert "opened only on demand" in page.read_text()
    for place in ("gs://bucket/x.zarr", "s3:/bucket/x.zarr", "//host/share", r"\\host\share"):
        with pytest.raises(ConfigError, match="which is not on this machine"):
            module._here(place)
    for place in ("cache/x.zarr", "/data/x.zarr", "file:///data/x.zarr"):
        assert module._here(place) == place
