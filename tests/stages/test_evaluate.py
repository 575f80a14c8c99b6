import json
import sys

import numpy as np
import pytest

import i2pmae
from i2pmae.cli import main
from i2pmae.config import EvaluateConfig
from i2pmae.errors import ConfigError, StoreMismatchError
from i2pmae.stages import evaluate, svm

KINDS = ["pretrained", "untrained", "chance"]


@pytest.fixture(autouse=True)
def _shared_runs_stay_as_they_are(monkeypatch):
    monkeypatch.setattr(evaluate, "keep_evaluation", lambda *_: None)


def config(checkpoint, data, **changes):
    values = {"checkpoint": checkpoint, "data": data, "points": 128, "bootstrap": 50}
    return EvaluateConfig(**(values | changes))


def test_the_test_split_as_svm_scores_it(trained, capsys):
    found = evaluate.run(config(trained, "procedural", limit=60))
    assert (found["protocol"], found["n_train"], found["n_test"]) == ("test split", 60, 60)
    assert list(found["scores"]) == KINDS
    assert all("parts" in found["scores"][kind] for kind in KINDS)  # the shapes have labeled ones
    assert found["conclusions"][2].startswith("Parts of points: pre-trained ")
    pretrained, untrained = (found["scores"][kind]["svm"]["value"] for kind in KINDS[:2])
    same = svm.SvmConfig(checkpoint=trained, data="procedural", points=128, limit=60)
    assert svm.run(same, table=False)["accuracy"] == pytest.approx(pretrained)
    random = same.model_copy(update={"random_weights": True})
    assert svm.run(random, table=False)["accuracy"] == pytest.approx(untrained)
    gain = found["differences"]["pretrained_minus_untrained"]["svm"]
    assert gain["value"] == pytest.approx(pretrained - untrained)
    assert gain["low"] <= gain["value"] <= gain["high"]
    printed = capsys.readouterr().out
    assert "pre-trained minus untrained" in printed
    assert printed.rstrip().endswith(found["conclusions"][-1])


def test_only_one_s_own_encoder_is_to_be_compared_with_the_shipped_one(trained):
    for checkpoint, is_own in ((trained, True), ("i2pmae-small", False)):
        found = evaluate.run(config(checkpoint, "procedural", limit=60, points=256))
        assert ("compare with the shipped encoder" in found["conclusions"][-1]) == is_own


def test_2d_features_of_a_store(trained, store):
    with pytest.raises(StoreMismatchError, match=r"lacks 40 of 60 shapes .* --split all"):
        evaluate.run(config(trained, "procedural", limit=60, cache=store))


def test_2d_features_beside_the_encoder(untrained, parts_folder, parts_store):
    found = evaluate.run(config(untrained, parts_folder, cache=parts_store, points=64))
    assert list(found["scores"]) == ["pretrained", "untrained", "image_features", "chance"]
    assert found["conclusions"][1].startswith("Beside the pooled 2D features: ")
    assert "pretrained_minus_image_features" in found["differences"]
    # A part is told by its height, and so is where a view shows it: not by the points alone.
    assert {"parts"} <= found["scores"]["image_features"].keys()
    assert found["scores"]["chance"]["parts"]["value"] < 40
    assert found["scores"]["untrained"]["parts"]["value"] > 60


def test_a_store_brings_its_own_2d_features(untrained, parts_store):
    found = evaluate.run(config(untrained, parts_store, points=64))
    assert "pretrained_minus_image_features" in found["differences"]


@pytest.fixture
def clouds(tmp_path):
    for index in range(8):
        folder = tmp_path / "clouds" / ("flat" if index % 2 else "long")
        folder.mkdir(parents=True, exist_ok=True)
        scale = (1, 0.1, 1) if index % 2 else (0.1, 1 + index, 0.1)
        points = np.random.default_rng(index).normal(size=(200, 3)) * scale
        np.save(folder / f"{index}.npy", points)
    return tmp_path / "clouds"


def test_without_a_test_split_by_cross_validation(untrained, clouds):
    found = evaluate.run(config(untrained, clouds, folds=4))
    assert (found["protocol"], found["n_test"]) == ("4-fold cross-validation", 8)
    assert found["classes"] == 2
    assert found["scores"]["chance"]["svm"]["value"] == 50


def test_without_classes_by_identification(untrained, clouds):
    for file in [*clouds.glob("*/*.npy")]:
        file.rename(clouds / file.name)
    (clouds / "0-broken.npy").write_bytes(b"nothing")
    found = evaluate.run(config(untrained, clouds, on_error="skip"))
    assert found["protocol"] == "identification among all"
    assert (found["points"], found["n_test"]) == (100, 8)  # halves of 200 points
    assert found["skipped"] == ["0-broken"]
    assert found["scores"]["chance"]["identification"]["value"] == pytest.approx(12.5)
    with pytest.raises(ConfigError, match="--points 40"):
        evaluate.run(config(untrained, clouds, points=40, on_error="skip"))


def test_halves_of_shapes_with_too_few_points_are_not_the_same_points(untrained, tmp_path):
    for index in range(8):
        points = np.random.default_rng(index).normal(size=(200 if index else 800, 3))
        np.save(tmp_path / f"{index}.npy", points)  # noise: one half does not tell the other
    found = evaluate.run(config(untrained, tmp_path, points=None))
    assert found["points"] == 400
    assert found["scores"]["pretrained"]["identification"]["value"] < 50


@pytest.mark.parametrize(("kinds", "points"), [(("flat", "long"), 9000), (("",), 5000)])
def test_more_points_than_are_read_by_default_are_not_repeated(
    untrained, tmp_path, capfd, kinds, points
):
    for kind in kinds:
        (tmp_path / kind).mkdir(exist_ok=True)
        for index in range(3):
            cloud = np.random.default_rng(index).normal(size=(10_000, 3))
            np.save(tmp_path / kind / f"{index}{kind}.npy", cloud)
    assert evaluate.run(config(untrained, tmp_path, points=points))["points"] == points
    assert "repeated" not in capfd.readouterr().err


def test_a_limit_that_leaves_one_class_is_said(untrained, clouds, capfd):
    found = evaluate.run(config(untrained, clouds, limit=3))
    assert found["protocol"] == "identification among all"
    assert "1 of 2 classes in what is read, too few to classify" in capfd.readouterr().err


def test_the_command_and_the_function(untrained, clouds, monkeypatch, capsys):
    arguments = ["evaluate", untrained, clouds, "--points", 128, "--bootstrap", 50, "--json"]
    monkeypatch.setattr(sys, "argv", ["i2pmae", *map(str, arguments)])
    with pytest.raises(SystemExit) as exit_:
        main()
    assert exit_.value.code == 0
    found = json.loads(capsys.readouterr().out)
    assert found == i2pmae.evaluate(untrained, clouds, points=128, bootstrap=50, quiet=True)
