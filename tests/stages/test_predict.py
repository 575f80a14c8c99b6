import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
import trimesh

import i2pmae
from i2pmae.checkpoints import checkpoint
from i2pmae.checkpoints.networks import load_classifier
from i2pmae.config import HeadConfig, PredictConfig, SegmentHeadConfig, to_plain
from i2pmae.datasets import open_source
from i2pmae.errors import CheckpointError, ConfigError, DataError
from i2pmae.geometry.sampling import farthest_points
from i2pmae.model.classifier import Classifier
from i2pmae.model.segmenter import Segmenter
from i2pmae.stages import predict
from i2pmae.training import predictors

from ..conftest import TINY_ENCODER

CLASSES = ("ball", "box", "can")


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    torch.manual_seed(0)
    head = HeadConfig(width=16)
    network = Classifier(TINY_ENCODER, head, len(CLASSES))
    path = tmp_path_factory.mktemp("runs") / "classifier.pt"
    config = {"encoder": to_plain(TINY_ENCODER), "head": to_plain(head)}
    config |= {"points": 128, "sampling": "fps"}
    extra = {"class_names": list(CLASSES), "up": "z"}
    checkpoint.save(path, kind="classifier", config=config, model=network.state_dict(), extra=extra)
    return path


@pytest.fixture(scope="module")
def segmenter(parts_folder, tmp_path_factory):
    torch.manual_seed(0)
    source = open_source(parts_folder, split="all")
    head = SegmentHeadConfig(level_widths=(16, 12), widths=(16, 12, 8))
    n_parts, n_classes = len(source.part_names), len(source.class_names)
    network = Segmenter(TINY_ENCODER, n_parts, n_classes, head)
    path = tmp_path_factory.mktemp("runs") / "segmenter.pt"
    extra = {
        "class_names": list(source.class_names),
        "part_names": list(source.part_names),
        "class_parts": [list(parts) for parts in source.class_parts],
    }
    config = {"encoder": to_plain(TINY_ENCODER), "points": 100, "sampling": "random"}
    checkpoint.save(path, kind="segmenter", config=config, model=network.state_dict(), extra=extra)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("shapes")
    for number in range(4):
        for kind, shape in {
            "box": trimesh.creation.box((1, 1 + number, 2)),
            "ball": trimesh.creation.icosphere(1),
        }.items():
            (root / kind).mkdir(exist_ok=True)
            shape.export(root / kind / f"{kind}_{number}.stl")
    (root / "box" / "broken.stl").write_bytes(b"nothing")
    return root


def run(network, shapes, out, **changes):
    several = shapes if isinstance(shapes, tuple) else (shapes,)
    values = {"checkpoint": network, "shapes": several, "out": out, "batch_size": 3}
    return predict.run(PredictConfig(**(values | changes)))


def rows_of(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def test_every_shape_has_a_row_and_bad_ones_say_why(classifier, folder, tmp_path):
    out = tmp_path / "p.csv"
    result = run(classifier, folder, out, top=2)
    assert (result["shapes"], result["skipped"]) == (8, ["box/broken"])
    rows = rows_of(out)
    assert [row["id"] for row in rows] == sorted(row["id"] for row in rows)
    assert list(rows[0]) == [
        *("id", "class", "probability", "class_2", "probability_2", "true_class", "error"),
    ]
    bad = rows.pop([row["id"] for row in rows].index("box/broken"))
    assert "broken.stl" in bad["error"]
    assert bad["class"] == ""
    source, network = open_source(folder, split="all"), load_classifier(classifier)
    for row in rows:
        points = torch.from_numpy(source.load(source.ids.index(row["id"])).points)[None]
        with torch.inference_mode():
            scores = network(points[:, farthest_points(points, 128)[0]]).softmax(dim=1)[0]
        best = scores.argsort(descending=True)[:2].tolist()
        assert [row["class"], row["class_2"]] == [CLASSES[k] for k in best]
        assert float(row["probability"]) == pytest.approx(float(scores[best[0]]), abs=1e-4)
        assert row["true_class"] == row["id"].split("/")[0]
    assert not list(tmp_path.glob("*.unfinished"))
    assert not list(tmp_path.glob("*.lock"))


def test_a_network_sees_as_many_points_as_it_was_trained_with(classifier, tmp_path, capfd):
    saved = checkpoint.load(classifier)
    extra = {"class_names": list(CLASSES)}
    network, config = tmp_path / "many.pt", saved.config | {"points": 9000, "sampling": "first"}
    checkpoint.save(network, kind="classifier", config=config, model=saved.model, extra=extra)
    np.save(tmp_path / "cloud.npy", np.random.default_rng(0).normal(size=(10_000, 3)))
    run(network, tmp_path / "cloud.npy", tmp_path / "p.csv")
    assert "repeated" not in capfd.readouterr().err


def test_labels_give_accuracy_and_confusion(classifier, folder, tmp_path):
    out = tmp_path / "p.json"
    result = run(classifier, folder, out)
    saved = json.loads(out.read_text())
    assert saved["about"]["points"] == 128
    pairs = [(row["true_class"], row["class"]) for row in saved["shapes"] if row["class"]]
    right = [true == found for true, found in pairs]
    figures = result["figures"]
    assert figures["accuracy"] == pytest.approx(100 * sum(right) / 8)
    assert figures["classes"] == list(CLASSES)
    expected = [[pairs.count((true, found)) for found in CLASSES] for true in CLASSES]
    assert figures["confusion"] == expected
    assert set(figures["per_class"]) == {"ball", "box"}
    assert figures["mean_class_accuracy"] == pytest.approx(
        np.mean([*figures["per_class"].values()])
    )


def test_figures_of_training_shapes_are_named(classifier, folder, tmp_path, capsys):
    shapes = tmp_path / "shapes"
    for kind in ("box", "ball"):
        for number, split in enumerate(("train", "train", "test")):
            (shapes / kind / split).mkdir(parents=True, exist_ok=True)
            name = f"{kind}_{number}.stl"
            shutil.copy(folder / kind / name, shapes / kind / split / name)
    for split, is_told in (("all", True), ("test", False)):
        run(classifier, shapes, tmp_path / f"{split}.csv", split=split)
        assert ("4 of these shapes belong to the train" in capsys.readouterr().err) == is_told


@pytest.mark.parametrize("ending", ["csv", "json"])
def test_tables_beside_the_shapes_are_not_taken_for_their_classes(
    classifier, segmenter, folder, tmp_path, ending
):
    shapes = tmp_path / "shapes"
    shapes.mkdir()
    for file in folder.glob("box/box_?.stl"):
        shutil.copy(file, shapes)
    run(classifier, shapes, shapes / f"a.{ending}")
    run(segmenter, shapes, tmp_path / f"b.{ending}", category="Mug")
    shutil.copy(tmp_path / f"b.{ending}", shapes)
    assert open_source(shapes, split="all").class_names == ()


def test_labels_that_the_network_does_not_know_are_counted(classifier, folder, tmp_path, capsys):
    for kind, names in {"ball": ["a"], "lamp": ["b", "c"]}.items():
        (tmp_path / "shapes" / kind).mkdir(parents=True)
        for name in names:
            shutil.copy(folder / "ball" / "ball_0.stl", tmp_path / "shapes" / kind / f"{name}.stl")
    figures = run(classifier, tmp_path / "shapes", tmp_path / "p.csv")["figures"]
    assert (figures["n_labeled"], figures["unknown"]) == (1, {"lamp": 2})
    assert (
        "warning: 2 of 3 labeled shapes are of classes that the network does not know (lamp 2): "
        "they do not count in the accuracy"
    ) in capsys.readouterr().err
    assert run(classifier, folder, tmp_path / "p.csv", on_error="skip")["figures"]["unknown"] == {}


def test_parquet_holds_the_same(classifier, folder, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    run(classifier, folder, tmp_path / "p.csv")
    run(classifier, folder, tmp_path / "p.parquet")
    table = parquet.read_table(tmp_path / "p.parquet").to_pylist()
    for row, text in zip(table, rows_of(tmp_path / "p.csv"), strict=True):
        assert {name: "" if value is None else str(value) for name, value in row.items()} == text


def test_files_stores_and_shapes_without_a_class(classifier, folder, store, tmp_path, capsys):
    files = [folder / "box" / "box_0.stl", folder / "ball" / "ball_1.stl"]
    run(classifier, files[0], tmp_path / "one.csv")
    assert [row["id"] for row in rows_of(tmp_path / "one.csv")] == ["box_0"]
    run(classifier, tuple(files), tmp_path / "two.csv")
    assert [row["id"] for row in rows_of(tmp_path / "two.csv")] == ["ball/ball_1", "box/box_0"]
    with pytest.raises(DataError, match="is a folder; several paths must be files"):
        run(classifier, (files[0], folder), tmp_path / "two.csv")
    with pytest.raises(DataError, match=r"gone\.stl does not exist"):
        run(classifier, (files[0], folder / "gone.stl"), tmp_path / "two.csv")
    result = run(classifier, store, tmp_path / "store.csv", limit=3)
    assert result["shapes"] == 3
    assert result["figures"] is None  # other classes
    assert (
        "no accuracy: the network knows ball, box, can, and no class of" in capsys.readouterr().err
    )


@pytest.mark.parametrize("vote", [0, 2])
def test_a_stopped_command_resumes_to_the_same_table(
    classifier, folder, tmp_path, monkeypatch, vote
):
    whole, out = tmp_path / "whole.csv", tmp_path / "p.csv"
    run(classifier, folder, whole, vote=vote)
    original, calls = predictors.ClassPredictor.rows, []

    def stopped(self, shapes, indices):
        calls.append(indices)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return original(self, shapes, indices)

    monkeypatch.setattr(predictors.ClassPredictor, "rows", stopped)
    with pytest.raises(KeyboardInterrupt):
        run(classifier, folder, out, vote=vote)
    assert not out.exists()
    unfinished = tmp_path / "p.csv.unfinished"
    with unfinished.open("ab") as file:
        file.write(b'{"n_done": 9, "rows": [{"id": "ha')  # killed while it wrote
    run(classifier, folder, out, vote=vote)
    assert calls[3] == calls[2]  # what was done is not done again
    assert out.read_bytes() == whole.read_bytes()
    assert not unfinished.exists()


@pytest.mark.parametrize("last", [None, 1])
def test_shapes_that_could_not_be_read_are_read_again(
    classifier, folder, tmp_path, monkeypatch, last
):
    whole, out = tmp_path / "whole.csv", tmp_path / "p.csv"
    run(classifier, folder, whole)
    kind, seen = type(open_source(folder)), []
    original, rows = kind.load, predictors.ClassPredictor.rows

    def failing(self, index):
        if last is None or index in (0, 2):
            raise DataError("a package is missing")
        return original(self, index)

    def stopped(self, shapes, indices):
        if len(seen) == last:
            raise KeyboardInterrupt
        seen.append(list(indices))
        return rows(self, shapes, indices)

    monkeypatch.setattr(kind, "load", failing)
    monkeypatch.setattr(predictors.ClassPredictor, "rows", stopped)
    with pytest.raises(DataError if last is None else KeyboardInterrupt):
        run(classifier, folder, out)
    monkeypatch.setattr(kind, "load", original)
    last = -1
    done = {index for batch in seen for index in batch}
    seen.clear()
    assert run(classifier, folder, out)["skipped"] == ["box/broken"]
    assert not done & {index for batch in seen for index in batch}
    assert out.read_bytes() == whole.read_bytes()


def test_other_settings_or_files_start_anew(classifier, folder, tmp_path, monkeypatch, capsys):
    out = tmp_path / "p.csv"
    monkeypatch.setattr(predict, "_draw", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run(classifier, folder, out)
    monkeypatch.undo()
    assert run(classifier, folder, out, top=1)["shapes"] == 8
    assert "top: it has 3, this command expects 1): starting over" in capsys.readouterr().err
    assert "class_2" not in rows_of(out)[0]
    monkeypatch.setattr(predict, "_draw", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run(classifier, folder, out)
    monkeypatch.undo()
    os.utime(folder / "ball" / "ball_0.stl")
    run(classifier, folder, out)
    assert "begun before files of the shapes changed: starting over" in capsys.readouterr().err


@pytest.mark.slow
def test_ctrl_c_on_the_command_line_says_how_to_go_on(classifier, tmp_path):
    mesh = trimesh.creation.icosphere(3)
    (tmp_path / "many").mkdir()
    mesh.export(tmp_path / "many" / "0.ply")
    for number in range(1, 3000):
        os.link(tmp_path / "many" / "0.ply", tmp_path / "many" / f"{number}.ply")
    arguments = ["predict", classifier, tmp_path / "many", "--out", tmp_path / "p.csv"]
    arguments += ["--batch-size", 4, "--log-json", tmp_path / "log"]
    process = subprocess.Popen(
        [sys.executable, "-m", "i2pmae", *map(str, arguments)], stderr=subprocess.PIPE, text=True
    )
    unfinished, until = tmp_path / "p.csv.unfinished", time.monotonic() + 200
    while not unfinished.exists() or unfinished.read_bytes().count(b"\n") < 3:
        assert time.monotonic() < until
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "of 3000 shapes; to resume: i2pmae predict" in err
    assert "Traceback" not in err


def test_segmenters_write_points_with_parts_and_a_picture(segmenter, parts_folder, tmp_path):
    out = tmp_path / "parts.csv"
    result = run(segmenter, parts_folder, out, split="test")
    rows = rows_of(out)
    assert len(rows) == result["shapes"] == result["figures"]["n_labeled"] == 6
    assert result["figures"]["instance_miou"] == pytest.approx(
        np.mean([float(row["iou"]) for row in rows])
    )
    assert (tmp_path / "parts.png").read_bytes().startswith(b"\x89PNG")
    source = open_source(parts_folder, split="test")
    of_mug = set(source.class_parts[source.class_names.index("Mug")])
    row = next(row for row in rows if row["category"] == "Mug")
    cloud = trimesh.load(row["file"])
    labels = cloud.metadata["_ply_raw"]["vertex"]["data"]["part"]
    assert cloud.vertices.shape == (100, 3)
    assert set(labels.ravel().tolist()) <= of_mug
    first = min(of_mug)
    with open(row["file"], "rb") as file:
        assert (
            f"comment part {int(labels.min())} {source.part_names[int(labels.min())]}".encode()
            in (file.read(400))
        )
    assert int(labels.min()) >= first
    run(segmenter, parts_folder, out, split="test", format="npz")
    saved = np.load(tmp_path / "parts" / f"{row['id']}.npz")
    assert saved["points"].shape == (100, 3)
    np.testing.assert_array_equal(saved["parts"], labels.ravel())


@pytest.mark.parametrize("kind", ["ply", "npz"])
def test_segmenters_overwrite_only_their_own_files(segmenter, parts_folder, tmp_path, kind):
    out = tmp_path / "parts.csv"
    values = {"split": "test", "limit": 1, "format": kind}
    for _ in range(2):
        run(segmenter, parts_folder, out, **values)
    file = tmp_path / "parts" / f"{rows_of(out)[0]['id']}.{kind}"
    again = {"category": "Mug", "format": kind}
    with pytest.raises(DataError, match=r"parts/.* is one of the shapes and would be overwritten"):
        run(segmenter, file, file.parent.with_suffix(".csv"), **again)
    with pytest.raises(DataError, match="among the shapes of"):
        run(segmenter, tmp_path / "parts", out, **again)
    file.write_bytes(b"corrected by hand")
    with pytest.raises(DataError, match="was not written by i2pmae predict"):
        run(segmenter, parts_folder, out, **values)
    assert file.read_bytes() == b"corrected by hand"


def test_segmenters_ask_for_the_category_where_classes_do_not_say_it(segmenter, folder, tmp_path):
    out = tmp_path / "p.csv"
    with pytest.raises(DataError, match=r"knows \(Knife, Mug\)\. Name the category"):
        run(segmenter, folder, out)
    with pytest.raises(ConfigError, match="--category Car: the segmenter knows Knife, Mug"):
        run(segmenter, folder, out, category="Car")
    result = run(segmenter, folder, out, category="Mug", limit=2)
    assert result["counts"] == {"Mug": 2}
    assert result["picture"] == str(tmp_path / "p.png")
    with pytest.raises(ConfigError, match="--vote is for classifiers"):
        run(segmenter, folder, out, category="Mug", vote=2)


def test_mistakes_are_one_line(classifier, untrained, folder, tmp_path):
    with pytest.raises(CheckpointError, match="knows no classes"):
        run(untrained, folder, tmp_path / "p.csv")
    with pytest.raises(DataError, match=r"\.csv, \.parquet or \.json, not '\.txt'"):
        run(classifier, folder, tmp_path / "p.txt")
    with pytest.raises(DataError, match=r"none of the 1 shapes can be read, such as broken"):
        run(classifier, folder / "box" / "broken.stl", tmp_path / "p.csv")
    with pytest.raises(DataError, match="--on-error skip"):
        run(classifier, folder, tmp_path / "p.csv", on_error="stop")
    with pytest.raises(ConfigError, match="needs 64 points"):
        run(classifier, folder, tmp_path / "p.csv", points=20)


def test_a_classifier_names_clouds_in_any_unit(classifier):
    network = i2pmae.load_classifier(classifier)
    assert (network.n_points, network.up) == (128, "z")
    cloud = np.random.default_rng(0).random((500, 3))
    (one,) = network.predict(cloud, top=2)
    assert one.name == one.top[0][0]
    assert one.probability == one.top[0][1] >= one.top[1][1]
    assert {name for name, _ in one.top} <= set(CLASSES)
    (other, _) = network.predict(torch.from_numpy(np.stack([70 + 1000 * cloud] * 2)))
    assert other.name == one.name
    assert other.probability == pytest.approx(one.probability, abs=1e-3)
    assert sum(probability for _, probability in other.top) == pytest.approx(1, abs=1e-5)
    (gaps,) = network.predict(np.concatenate([cloud, np.full((20, 3), np.nan)]))
    assert gaps.probability == pytest.approx(one.probability, abs=1e-5)
