import pytest

from i2pmae.datasets.naming import (
    one_ending,
    one_variant,
    places_of,
    split_folders,
    split_of,
    without_values,
)
from i2pmae.errors import ConfigError


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train", "train"),
        ("Training", "train"),
        ("TEST", "test"),
        ("testing", "test"),
        ("valid", "val"),
        ("validation", "val"),
        ("dev", "val"),
        ("train_set", "train"),
        ("TrainSet", "train"),
        ("test-data", "test"),
        ("val files", "val"),
        ("modelnet40_train", "train"),
        ("my.test.list", "test"),
        ("trn", "train"),
        ("tst", "test"),
        ("trainval", "train"),
        ("train+val", "train"),
        ("eval", "eval"),
        ("Evaluation_set", "eval"),
        ("holdout", "eval"),
        ("held-out", "eval"),
        ("Train (1)", "train"),
        ("01_train", "train"),
        ("train2", "train"),
        ("test2017", "test"),
        ("trains", ""),
        ("contest", ""),
        ("tester", ""),
        ("interval", ""),
        ("training wheels", ""),
    ],
)
def test_names_of_splits(name, split):
    assert split_of(name) == split


def test_names_with_something_in_front_count_beside_another_split():
    assert split_folders([("a_train", "x"), ("a_test", "y")]) == [0, 0]
    assert split_folders([("a_train", "x"), ("b_test", "y")]) == [-1, -1]
    assert split_folders([("train", "test", "x")]) == [1]
    assert split_folders([("test_models", "x"), ("test_models", "y")]) == [-1, -1]
    assert split_folders([("test", "x")]) == [0]


def test_order_of_endings():
    shapes = [("a.obj",), ("a.stl",), ("b.stl",), ("b.xyz",)]
    kept, left_out, endings = one_ending(shapes, [".stl", ".obj"])
    assert kept == [("a.stl",), ("b.stl",)]
    assert left_out == [("a.obj",), ("b.xyz",)]
    assert endings == {".obj", ".stl", ".xyz"}


@pytest.mark.parametrize(
    ("read", "left_out"),
    [
        (["points/a.npy", "points/b.npy"], ["normals/a.npy", "colors/b.npz"]),
        (["bed/pts/a.npy"], ["bed/point_normals/a.npy", "bed/Labels/a.txt"]),
        (["a.npy", "b_points.npy"], ["a_normals.npy", "a-label.npy", "b_rgb.npy"]),
        (["scan_1_full.npy"], ["scan_1_colors.npy"]),
        (["normals/a.npy", "normals/b.npy"], []),
        (["label/a.npy", "bed/b.npy", "lamp/a_seg.npy"], []),
    ],
)
def test_values_of_points_in_files_of_their_own(read, left_out):
    shapes = sorted(tuple(name.split("/")) for name in read + left_out)
    kept, others = without_values(shapes)
    assert ["/".join(parts) for parts in kept] == sorted(read)
    assert ["/".join(parts) for parts in others] == sorted(left_out)


def test_a_file_that_some_objects_lack():
    shapes = [
        *[(f"o{i}", "points.npz") for i in range(5)],
        *[(f"o{i}", "pointcloud.npz") for i in range(4)],
    ]
    kept, left_out, said = one_variant(sorted(shapes))
    assert kept == [*[(f"o{i}", "pointcloud.npz") for i in range(4)], ("o4", "points.npz")]
    assert len(left_out) == 4
    assert said == (
        "folders hold several files of one object (pointcloud, points): pointcloud is read"
    )


@pytest.mark.parametrize(
    "shapes",
    [
        [],
        [("a.off",)],
        [("chair", "a.off"), ("chair", "b.off"), ("lamp", "a.off"), ("lamp", "b.off")],
        [(c, f"{i}", "model.off") for c in "ab" for i in range(3)],
    ],
)
def test_shapes_that_are_no_variants(shapes):
    assert one_variant(shapes) == (shapes, [], "")


def read(paths, classes="auto"):
    shapes = [tuple(path.split("/")) for path in paths]
    return [tuple(place) for place in places_of(shapes, classes).places]


@pytest.mark.parametrize("pattern", ["{class_name}_{split}", "{split}-{class_name}"])
def test_class_and_split_in_one_name(pattern):
    pairs = [(c, s) for c in ("arm chair", "lamp") for s in ("train", "test")]
    paths = [f"{pattern.format(class_name=c, split=s)}/a.off" for c, s in pairs]
    assert read(paths) == pairs
    within = [f"mine_{s}/{c}/a.off" for c, s in pairs] + [f"own_{s}/bed/a.off" for _, s in pairs]
    assert {c for c, _ in read(within)} == {"arm chair", "lamp", "bed"}


@pytest.mark.parametrize(
    "folders",
    [
        ["part1", "part2"],
        ["3D-FUTURE-model-part1", "3D-FUTURE-model-part2"],
        ["0000", "0001"],
        ["0a", "3f"],
    ],
)
def test_folders_that_share_out_shapes(folders):
    paths = [f"{name}/{name}{i}{'9c' * 8}.glb" for name in folders for i in range(3)]
    assert {c for c, _ in read(paths)} == {""}
    assert {c for c, _ in read(paths, "folders")} == {*folders}


def test_folders_with_numbers_that_are_classes():
    paths = [f"{name}/{i:04d}.off" for name in ("000", "001", "002") for i in range(3)]
    assert {c for c, _ in read(paths)} == {"000", "001", "002"}
    assert {c for c, _ in read(paths, "none")} == {""}


def test_folders_named_after_endings_say_nothing():
    paths = ["obj/chair/a.obj", "obj/lamp/b.obj", "stl/chair/a.stl", "stl/lamp/b.stl"]
    assert [c for c, _ in read(paths)] == ["chair", "lamp"] * 2
    shapes = [tuple(path.split("/")) for path in paths]
    assert one_ending(shapes, [".stl"])[0] == shapes[2:]


def test_classes_as_the_user_says():
    paths = [f"{a}/train/{b}/x.off" for a in ("mine", "yours") for b in ("chair", "lamp")]
    assert [c for c, _ in read(paths)] == ["mine", "mine", "yours", "yours"]
    assert read(paths, "2") == [("chair", "train"), ("lamp", "train")] * 2
    with pytest.raises(ConfigError, match=r"--classes 3: .* at most 2 levels .* Use 1 to 2, auto,"):
        read(paths, "3")


def test_why_there_are_no_classes():
    assert places_of([("a.off",)]).classes == (
        "no classes: the files lie in no folders of their own"
    )
    assert "numbered batches" in places_of([("batch_1", "a.off"), ("batch_2", "b.off")]).classes
    assert "holds one object" in places_of([("x", "m.off"), ("y", "m.off")]).classes
    assert places_of([("x", "a.off"), ("x", "b.off")]).classes == "1 class by folder: x"
