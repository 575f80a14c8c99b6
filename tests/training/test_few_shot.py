import json
import pickle
import shutil
import sys

import numpy as np
import pytest

from i2pmae.cli import main
from i2pmae.config import FewShotConfig, FewShotSplitConfig, FinetuneConfig, OptimConfig
from i2pmae.datasets import open_source
from i2pmae.errors import ConfigError, DataError
from i2pmae.stages import finetune
from i2pmae.training import few_shot
from i2pmae.training.few_shot import _published_recipe
from i2pmae.training.own_data import default_recipe, find_shapes
from i2pmae.training.run_folder import RunFolder

from ..conftest import TINY_ENCODER

SETTINGS = FewShotConfig(ways=(2, 3), shots=(2,), folds=2, tests=2)


def config(out, **changes) -> FinetuneConfig:
    values = {
        "task": "few-shot",
        "data": "procedural",
        "out": out,
        "epochs": 1,
        "points": 64,
        "sampling": "first",
        "precision": "fp32",
        "encoder": TINY_ENCODER,
        "few_shot": SETTINGS,
        "optim": OptimConfig(lr=1e-3, warmup_epochs=0, cosine_epochs=1),
    }
    return FinetuneConfig(**(values | changes))


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """A run on episodes drawn on the spot."""
    out = tmp_path_factory.mktemp("runs") / "drawn"
    return out, finetune.run(config(out))


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The same episodes as index files."""
    out = tmp_path_factory.mktemp("data") / "folds"
    few_shot.split(FewShotSplitConfig(data="procedural", out=out, few_shot=SETTINGS))
    return out


def test_every_setting_is_the_mean_over_its_folds(drawn):
    out, result = drawn
    assert result["settings"] == ["2way_2shot", "3way_2shot"]
    for setting in result["settings"]:
        accuracies = result["folds"][setting]
        assert len(accuracies) == 2
        assert result[setting] == pytest.approx(np.mean(accuracies))
        assert result["std"][setting] == pytest.approx(np.std(accuracies, ddof=1))
    text = (out / "results.md").read_text()
    cell = f"{result['2way_2shot']:.2f} ± {result['std']['2way_2shot']:.2f}"
    assert "| weights | 2-way 2-shot % | 3-way 2-shot % |\n" in text
    assert f"| last epoch | {cell} |" in text


def test_written_folds_give_the_numbers_of_drawn_ones(drawn, written, tmp_path):
    assert sorted(path.name for path in (written / "2way_2shot").iterdir()) == ["0.json", "1.json"]
    result = finetune.run(config(tmp_path / "run", data=written))
    assert result["folds"] == drawn[1]["folds"]


def split(out, **changes):
    values = {"data": "procedural", "few_shot": SETTINGS}
    return few_shot.split(FewShotSplitConfig(out=out, **values | changes))


def test_folds_are_never_mixed_with_others(written, tmp_path, parts_folder):
    def folds(folder):
        return {file: file.read_bytes() for file in sorted(folder.glob("*/*.json"))}

    out = tmp_path / "folds"
    shutil.copytree(written, out)
    (out / "fewshot-split.json").rename(out / "config.json")  # as an earlier version did
    before = folds(out)
    (out / "3way_2shot" / "1.json").unlink()
    split(out)  # finishes one that was killed
    assert folds(out) == before
    fewer = SETTINGS.model_copy(update={"ways": (2,), "folds": 1})
    for changes, reason in (
        ({"seed": 1}, r"0\.json \(seed: the fold has 0, this command expects 1\)"),
        ({"few_shot": fewer}, r"1\.json \(this command does not write it\)"),
        ({"few_shot": SETTINGS.model_copy(update={"tests": 1})}, "it names other"),
        ({"data": parts_folder, "few_shot": fewer}, "data: the fold has procedural, this"),
    ):
        with pytest.raises(ConfigError, match=f"holds other folds, such as 2way_2shot/.*{reason}"):
            split(out, **changes)
    assert folds(out) == before


def test_folds_are_not_written_into_a_run(drawn, tmp_path):
    with pytest.raises(ConfigError, match="holds a run; choose another folder"):
        split(drawn[0])
    shutil.copy(drawn[0] / "config.json", tmp_path)  # of one that has just begun
    with pytest.raises(ConfigError, match="holds a run; choose another folder"):
        split(tmp_path)


def test_folds_have_more_points_than_are_read_by_default(written, tmp_path):
    for data in (written, "procedural"):
        fit, _ = few_shot._folds(config(tmp_path, data=data, points=9000))[0].load()
        fit.prepare()
        assert next(fit.in_order(1)).points.shape == (1, 9000, 3)


def test_half_a_fold_of_a_killed_split_is_no_fold(written, tmp_path):
    folds = tmp_path / "2way_2shot"
    shutil.copytree(written / "2way_2shot", folds)
    (folds / ".2.123.tmp.json").write_text("{")
    assert [len(files) for files in few_shot._fold_files(folds).values()] == [2]


def test_a_written_fold_names_shapes_of_both_splits(written):
    fold = json.loads((written / "3way_2shot" / "1.json").read_text())
    source = open_source("procedural", split="all")
    for split, shapes in (("train", fold["train"]), ("test", fold["test"])):
        assert sorted(shapes.values()) == [0, 0, 1, 1, 2, 2]
        for name, label in shapes.items():
            place = source.ids.index(name)
            assert source.splits[place] == split
            assert source.class_names[source.labels[place]] == fold["classes"][label]


def test_episodes_of_a_store_are_drawn_as_well(parts_store, tmp_path):
    settings = FewShotConfig(ways=(2,), shots=(3,), folds=1, tests=2)
    result = finetune.run(config(tmp_path / "run", data=None, cache=parts_store, few_shot=settings))
    assert result["settings"] == ["2way_3shot"]
    assert "std" in result
    assert result["std"] == {}


def test_a_limit_holds_for_a_store_and_not_for_written_folds(parts_store, written, tmp_path):
    with pytest.raises(DataError):  # the first shapes are too few for an episode
        finetune.run(config(tmp_path / "run", data=None, cache=parts_store, limit=2))
    with pytest.raises(ConfigError, match="say which shapes they take"):
        finetune.run(config(tmp_path / "run", data=written, limit=2))


@pytest.fixture
def pickles(tmp_path):
    """Published episodes: 2-way 8-shot, flat clouds and tall ones."""
    generator = np.random.default_rng(0)

    def shapes(n):
        sizes = np.array([[1, 0.05, 1], [0.05, 1, 0.05]])
        return [
            (np.hstack([generator.normal(size=(80, 3)) * sizes[label], np.ones((80, 3))]), label, 7)
            for label in (0, 1)
            for _ in range(n)
        ]

    folder = tmp_path / "episodes" / "2way_8shot"
    folder.mkdir(parents=True)
    for fold in range(3):
        content = {"train": shapes(8), "test": shapes(5)}
        (folder / f"{fold}.pkl").write_bytes(pickle.dumps(content))
    return folder.parent


@pytest.mark.parametrize(
    ("place", "n_folds"), [("", 2), ("2way_8shot", 2), ("2way_8shot/1.pkl", 1)]
)
def test_published_pickles_are_found(pickles, tmp_path, place, n_folds):
    asked = FewShotConfig(ways=(2, 5), shots=(8,), folds=2)
    result = finetune.run(config(tmp_path / "run", data=pickles / place, few_shot=asked))
    assert result["settings"] == ["2way_8shot"]
    assert len(result["folds"]["2way_8shot"]) == n_folds


def test_only_published_episodes_have_published_figures(pickles, tmp_path):
    own = tmp_path / "own" / "5way_10shot"
    own.mkdir(parents=True)
    (own / "0.json").write_text("{}")
    assert _published_recipe(config(tmp_path / "run", data=pickles)) == "fewshot-modelnet40"
    assert _published_recipe(config(tmp_path / "run", data=own.parent)) is None


def test_episodes_are_learned(pickles, tmp_path):
    asked = FewShotConfig(ways=(2,), shots=(8,), folds=1)
    # BatchNorm's running variance needs a hundred steps to forget where it started.
    schedule = {"epochs": 30, "optim": OptimConfig(lr=5e-3, warmup_epochs=0, cosine_epochs=30)}
    result = finetune.run(
        config(tmp_path / "run", data=pickles, few_shot=asked, batch_size=4, **schedule)
    )
    assert result["2way_8shot"] >= 80


def test_settings_that_are_not_there_are_named(pickles, tmp_path):
    asked = FewShotConfig(ways=(5,), shots=(10,))
    with pytest.raises(DataError, match="episodes of 2way_8shot, none of the settings asked for"):
        finetune.run(config(tmp_path / "run", data=pickles, few_shot=asked))


def test_an_interrupted_run_goes_on_after_its_last_fold(drawn, tmp_path, monkeypatch):
    _, expected = drawn
    settings = config(tmp_path / "cut")
    with monkeypatch.context() as patch:
        train_epoch = few_shot.train_epoch

        def stopping(training, *arguments, **options):
            if training.counters == (3, 2, 0):
                raise KeyboardInterrupt
            return train_epoch(training, *arguments, **options)

        patch.setattr(few_shot, "train_epoch", stopping)
        with pytest.raises(KeyboardInterrupt):
            finetune.run(settings)
    assert len(RunFolder(settings.out).rows()) == 2
    with (settings.out / "metrics.jsonl").open("a") as file:
        file.write('{"setting": "3way')  # a row that was being written
    with pytest.raises(ConfigError, match="already holds a run"):
        finetune.run(settings)
    assert finetune.run(settings, resume=True)["folds"] == expected["folds"]
    with pytest.raises(
        ConfigError, match="epochs: the run has 1, this command expects 2"
    ):  # no fold would have them
        finetune.run(config(settings.out, epochs=2), resume=True)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda fold: fold["train"].update(nothing=0), "'nothing' is not in procedural"),
        (lambda fold: fold["test"].update({next(iter(fold["test"])): 2}), "labels are not 0 to 1"),
        (lambda fold: fold.update(fingerprint="0"), "is not, or no longer, the data set"),
        (lambda fold: fold.update(format="x"), "its format is not i2pmae-few-shot-fold"),
        (lambda fold: fold.update(train={}), "'train' is no object"),
        (lambda fold: fold.update(test=[1]), "'test' is no object"),
        (lambda fold: fold.pop("layout"), "'layout' is missing"),
        (lambda fold: fold.update(up=["z"]), "'up' is no axis"),
        (lambda fold: fold.update(data="/no/such", layout="meshes"), "/no/such does not exist"),
    ],
)
def test_damaged_folds_are_one_clear_line(written, tmp_path, change, expected):
    fold = json.loads((written / "2way_2shot" / "0.json").read_text())
    change(fold)
    folder = tmp_path / "2way_2shot"
    folder.mkdir()
    (folder / "0.json").write_text(json.dumps(fold))
    with pytest.raises(DataError, match=expected) as error:
        finetune.run(config(tmp_path / "run", data=folder))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"[" * 100_000, b"[]"])
def test_files_that_are_no_folds_are_one_clear_line(tmp_path, content):
    folder = tmp_path / "2way_2shot"
    folder.mkdir()
    (folder / "0.json").write_bytes(content)
    with pytest.raises(DataError, match=r"0\.json is no usable fold"):
        finetune.run(config(tmp_path / "run", data=folder))


def test_a_moved_data_set_can_be_named(parts_folder, tmp_path):
    there, here, folds = tmp_path / "there", tmp_path / "here", tmp_path / "folds"
    shutil.copytree(parts_folder, there)
    settings = FewShotConfig(ways=(2,), shots=(2,), folds=1, tests=2)
    few_shot.split(FewShotSplitConfig(data=there, out=folds, few_shot=settings))
    there.rename(here)
    with pytest.raises(DataError, match="there does not exist"):
        finetune.run(config(tmp_path / "lost", data=folds, few_shot=settings))
    told = settings.model_copy(update={"data": here})
    result = finetune.run(config(tmp_path / "found", data=folds, few_shot=told))
    assert len(result["folds"]["2way_2shot"]) == 1


def test_shapes_are_turned_as_where_folds_were_drawn(parts_folder, tmp_path, monkeypatch):
    settings = FewShotConfig(ways=(2,), shots=(2,), folds=1, tests=2)
    how = {"data": parts_folder, "few_shot": settings}
    folds = {up: tmp_path / up for up in ("y", "z")}
    for up, out in folds.items():
        split(out, up=up, **how)
    split(folds["z"], up="z", **how)  # again
    with pytest.raises(ConfigError, match="up: the fold has z, this command expects y"):
        split(folds["z"], **how)

    opened, open_source = [], few_shot.open_source

    def opening(*arguments, **options):
        opened.append(options["up"])
        return open_source(*arguments, **options)

    monkeypatch.setattr(few_shot, "open_source", opening)
    runs = {
        up: config(tmp_path / f"run-{up}", data=out, few_shot=settings) for up, out in folds.items()
    }
    results = {up: finetune.run(run) for up, run in runs.items()}
    assert opened == ["y", "z"]
    assert json.loads((runs["z"].out / "config.json").read_text())["up"] == "z"
    assert finetune.run(runs["z"], resume=True) == results["z"]
    other = config(tmp_path / "other", data=folds["z"], few_shot=settings, up="y")
    with pytest.raises(ConfigError, match=r"--up y: .* drawn from shapes with z up; leave"):
        finetune.run(other)

    file = folds["z"] / "2way_2shot" / "0.json"
    content = json.loads(file.read_text())
    del content["up"]  # as an earlier version wrote it
    file.write_text(json.dumps(content))
    for changes, up in (({}, "y"), ({"up": "z"}, "z")):
        old = config(tmp_path / f"old-{up}", data=folds["z"], few_shot=settings, **changes)
        finetune.run(old)
        assert opened[-1] == up
    split(folds["z"], up="z", **how)
    assert json.loads(file.read_text())["up"] == "z"


def test_a_pickle_outside_a_folder_of_its_setting_is_refused(pickles, tmp_path):
    path = tmp_path / "0.pkl"
    path.write_bytes((pickles / "2way_8shot" / "0.pkl").read_bytes())
    with pytest.raises(DataError, match="says its setting"):
        finetune.run(config(tmp_path / "run", data=path))


def test_the_command_writes_folds_that_finetune_takes(monkeypatch, capsys, tmp_path):
    sizes = ["--ways", "2,3", "--shots", "1", "--folds", "2", "--tests", "1"]
    arguments = ["fewshot-split", "procedural", "--out", str(tmp_path), "--json", *sizes]
    monkeypatch.setattr(sys, "argv", ["i2pmae", *arguments])
    with pytest.raises(SystemExit) as exit_:
        main()
    assert exit_.value.code == 0
    assert json.loads(capsys.readouterr().out)["settings"] == ["2way_1shot", "3way_1shot"]
    assert json.loads((tmp_path / "fewshot-split.json").read_text())["few_shot"]["ways"] == [2, 3]
    assert len(list(tmp_path.glob("*way_1shot/*.json"))) == 4
    assert default_recipe(find_shapes({"data": tmp_path})) == "fewshot-modelnet40"
