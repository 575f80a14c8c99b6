import json
import re
import sys

import h5py
import numpy as np
import pytest
import trimesh

from i2pmae.cli import main
from i2pmae.config import CheckDataConfig
from i2pmae.errors import DataError
from i2pmae.stages import check_data

N_POINTS = 600


def cloud(seed, n=N_POINTS):
    return np.random.default_rng(seed).uniform(-0.5, 0.5, (n, 3)).astype(np.float32)


@pytest.fixture
def folder(tmp_path):
    """Six clouds of two classes, two for testing."""
    for seed, place in enumerate(
        (
            "chair/train/a",
            "chair/train/b",
            "chair/test/c",
            "desk/train/d",
            "desk/train/e",
            "desk/test/f",
        )
    ):
        save(tmp_path, place, cloud(seed))
    return tmp_path


def check(data, **options):
    return check_data.run(CheckDataConfig(data=data, **options))


def save(root, place, points):
    file = root / f"{place}.npy"
    file.parent.mkdir(parents=True, exist_ok=True)
    np.save(file, points)


def kinds(result):
    return {(found["id"], found["kind"]) for found in result["suspicious"]}


def test_a_sound_folder(folder):
    found = check(folder)
    assert found["layout"] == "clouds"
    assert (found["shapes"], found["usable"]) == (6, 6)
    assert found["splits"] == {"train": 4, "test": 2}
    assert found["classes"] == {"train": {"chair": 2, "desk": 2}, "test": {"chair": 1, "desk": 1}}
    assert found["points"] == {"min": N_POINTS, "median": N_POINTS, "max": N_POINTS}
    everything = np.concatenate([cloud(seed) for seed in range(6)])
    assert found["range"] == {
        axis: [everything[:, i].min(), everything[:, i].max()] for i, axis in enumerate("xyz")
    }
    assert found["size"]["max"] == pytest.approx(1, abs=0.02)
    assert found["duplicates"] == {
        "within_splits": {},
        "between_splits": {},
        "conflicting": 0,
        "groups": [],
    }
    assert found["bad"] == found["suspicious"] == found["missing"] == []


def test_duplicates_are_found_by_content(folder):
    copy = cloud(0)
    save(folder, "chair/train/x", copy[::-1])  # another order
    save(folder, "chair/test/y", np.hstack([copy, copy]))  # with normals
    save(folder, "desk/test/z", copy.astype(np.float64))  # another class and type
    found = check(folder)["duplicates"]
    assert found["within_splits"] == {"train": 1, "test": 1}
    assert found["between_splits"] == {"train/test": 2}
    assert found["conflicting"] == 1
    assert [sorted(group) for group in found["groups"]] == [
        ["chair/test/y", "chair/train/a", "chair/train/x", "desk/test/z"]
    ]


def test_copies_of_a_mesh_are_duplicates_though_their_points_are_drawn(tmp_path):
    for place, size in {"box/train/a": 1.0, "box/test/b": 1.0, "box/test/c": 2.0}.items():
        file = tmp_path / f"{place}.off"
        file.parent.mkdir(parents=True, exist_ok=True)
        trimesh.creation.box((size, 1, 1)).export(file)
    found = check(tmp_path)
    assert found["points"] is None
    assert found["duplicates"]["between_splits"] == {"train/test": 1}
    assert found["duplicates"]["groups"] == [["box/test/b", "box/train/a"]]


def far(points):
    points[7] = (900, 0, 0)
    return points


@pytest.mark.parametrize(
    ("change", "kind", "words"),
    [
        (far, "outlier", "1 of 600 points"),
        (lambda points: np.vstack([points, points[:20] + 30]), "outlier", "20 of 620 points"),
        (lambda points: points * (1, 0, 1), "flat", "plane"),
        (lambda points: points * (0, 1e-5, 1), "flat", "line"),
        (lambda points: points[:40], "few points", "40 points"),
        (lambda points: points.astype(np.float64) + 5e6, "off origin", "8.66e+06 from the origin"),
    ],
)
@pytest.mark.parametrize("unit", [1, 1e-200, 1e200])
def test_odd_shapes_are_worth_a_look(folder, change, kind, words, unit):
    if unit != 1 and kind == "off origin":
        words = "times its size"
    save(folder, "chair/train/odd", change(cloud(0)).astype(np.float64) * unit)
    found = check(folder)
    assert found["bad"] == []
    assert kinds(found) == {("chair/train/odd", kind)}
    assert words in found["suspicious"][0]["reason"]


def test_shapes_that_cannot_be_used_are_listed_and_the_rest_is_checked(folder):
    save(folder, "chair/train/nan", np.full((600, 3), np.nan))
    (folder / "desk" / "train" / "cut.npy").write_bytes(b"\x93NUMPY")
    found = check(folder)
    assert (found["shapes"], found["usable"]) == (8, 6)
    reasons = {bad["id"]: bad["reason"] for bad in found["bad"]}
    assert set(reasons) == {"chair/train/nan", "desk/train/cut"}
    assert "none of its 600 points is finite" in reasons["chair/train/nan"]
    assert "cut.npy" in reasons["desk/train/cut"]


def test_a_set_without_any_usable_shape_is_an_error(tmp_path):
    save(tmp_path, "a", np.full((600, 3), np.nan))
    with pytest.raises(DataError, match=r"none of its 1 shapes .* is finite"):
        check(tmp_path)


def hdf5(root, splits=("train", "test"), scale=1.0):
    for split in splits:
        with h5py.File(root / f"ply_data_{split}0.h5", "w") as file:
            data = np.stack([cloud(seed + 10 * (split == "test")) for seed in range(4)])
            file["data"], file["label"] = data * scale, np.array([[0], [1], [0], [1]])
        (root / f"{split}_files.txt").write_text(f"data/ply_data_{split}0.h5\n")
    (root / "shape_names.txt").write_text("chair\ndesk\n")
    return root


def test_a_split_that_is_not_there_is_named(tmp_path):
    found = check(hdf5(tmp_path, ("train",)))
    assert found["splits"] == {"train": 4}
    assert len(found["missing"]) == 1
    assert "test_files.txt is missing" in found["missing"][0]


def test_a_near_miss_says_what_is_missing(tmp_path):
    hdf5(tmp_path)
    (tmp_path / "shape_names.txt").unlink()
    with pytest.raises(DataError, match=r"shape_names.txt is missing"):
        check(tmp_path)


def test_coordinates_used_as_stored_should_be_near_one(tmp_path):
    assert check(hdf5(tmp_path))["suspicious"] == []
    assert check(hdf5(tmp_path, scale=100.0))["suspicious"] == []  # scaled when read
    files = tmp_path / "main_split"
    files.mkdir()
    for split in ("train", "test"):
        name = {"train": "training"}.get(split, split)
        (tmp_path / f"ply_data_{split}0.h5").rename(files / f"{name}_objectdataset.h5")
    found = check(files)
    assert {kind for _, kind in kinds(found)} == {"not normalized"}
    assert len(found["suspicious"]) == 8


def test_no_classes_and_no_splits_are_said(tmp_path):
    for seed in range(2):
        save(tmp_path, f"{seed}", cloud(seed))
    found = check(tmp_path)
    assert found["classes"] == {"none": {"unknown": 2}}
    assert any("no classes" in note for note in found["notes"])
    assert found["missing"] == []


def test_a_class_without_training_shapes_is_said(folder):
    save(folder, "lamp/test/a", cloud(20))
    notes = check(folder)["notes"]
    assert any(note.endswith("none to train on: lamp") for note in notes)


def test_real_shapes_are_clean(shapes_hdf5, tmp_path):
    for name in ("ply_data_test0.h5", "test_files.txt", "shape_names.txt"):
        (tmp_path / name).symlink_to(shapes_hdf5 / name)
    found = check(tmp_path)
    assert found["splits"] == {"test": 831}
    assert found["points"]["min"] == 2048
    assert found["suspicious"] == found["bad"] == found["duplicates"]["groups"] == []


def test_real_meshes_are_clean(furniture, tmp_path):
    for split in ("train", "test"):
        (tmp_path / "lamp" / split).parent.mkdir(exist_ok=True)
        (tmp_path / "lamp" / split).symlink_to(furniture / "lamp" / split)
    found = check(tmp_path)
    assert found["splits"] == {"train": 16, "test": 8}
    assert found["suspicious"] == found["bad"] == found["duplicates"]["groups"] == []


def command(monkeypatch, capsys, *arguments):
    monkeypatch.setattr(sys, "argv", ["i2pmae", "check-data", *map(str, arguments)])
    with pytest.raises(SystemExit) as exit_:
        main()
    captured = capsys.readouterr()
    return exit_.value.code, captured.out, captured.err


def test_the_command_prints_tables_or_one_object(folder, monkeypatch, capsys):
    save(folder, "chair/test/y", cloud(0)[:30])
    code, out, _ = command(monkeypatch, capsys, folder)
    assert code == 0
    assert re.search(r"stored by extract-2d +\d+ of every shape", out)
    assert "few points" in out
    assert "Shapes per class" in out
    code, out, _ = command(monkeypatch, capsys, folder, "--json", "--layout", "clouds")
    assert code == 0
    assert json.loads(out)["suspicious"][0]["id"] == "chair/test/y"


def test_long_lists_are_cut_in_tables_only(folder, monkeypatch, capsys):
    for number in range(30):
        save(folder, f"desk/train/{number}", cloud(number + 50, 10))
    _, out, _ = command(monkeypatch, capsys, folder)
    assert "first 20 of 30" in out
    _, out, _ = command(monkeypatch, capsys, folder, "--json")
    assert len(json.loads(out)["suspicious"]) == 30


@pytest.mark.parametrize("content", ["nothing", "text", "no such folder"])
def test_what_is_no_data_set_is_one_line(tmp_path, monkeypatch, capsys, content):
    root = tmp_path / "data"
    if content != "no such folder":
        root.mkdir()
    if content == "text":
        (root / "readme.md").write_text("hello")
    code, out, err = command(monkeypatch, capsys, root, "--json")
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert str(root) in err


def test_a_diagnosis_says_what_to_type_next(tmp_path):
    rng = np.random.default_rng(0)
    for number in range(12):
        top = rng.random((600, 3)) * (1, 1, 0.05) + (0, 0, 1)
        legs = rng.integers(0, 2, (200, 3)) * (1, 1, 0) + rng.random((200, 3)) * (0, 0, 1)
        save(tmp_path, f"a/{number}", np.concatenate([top, legs]))
    save(tmp_path, "b/small", cloud(1, 100))
    np.save(tmp_path / "labels.npy", np.arange(12))
    (tmp_path / "b" / "drawing.dwg").touch()
    found = check(tmp_path)
    assert found["up"]["axis"] == "z"
    assert "along z" in found["up"]["reason"]
    assert found["stored_points"] == 800
    assert found["notes"][0] == "13 point clouds (13 .npy); 2 classes by folder: a, b"
    assert (
        "left out: 1 .npy that hold no points; 1 .dwg of formats that are not read"
        in found["notes"]
    )
    assert {finding["id"]: finding["kind"] for finding in found["suspicious"]}["b/small"] == (
        "few points"
    )
    assert found["next"] == f"i2pmae extract-2d {tmp_path} --up z --on-error skip"
    assert check(tmp_path, up="x")["next"].endswith("--up x --on-error skip")
    assert check(tmp_path, layout="clouds", prefer="npy")["next"] == (
        f"i2pmae extract-2d {tmp_path} --layout clouds --prefer npy --up z --on-error skip"
    )


def test_a_split_to_be_tested_on_is_extracted_as_well(folder):
    assert check(folder)["next"] == f"i2pmae extract-2d {folder} --split all"
