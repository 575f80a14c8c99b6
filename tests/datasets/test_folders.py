import os

import pytest

from i2pmae.datasets import open_source
from i2pmae.datasets.folders import CLOUD_SUFFIXES, contents, entries_of, left_out, walk
from i2pmae.errors import DataError

PLY = b"ply\nformat ascii 1.0\nelement vertex 1\n" + b"".join(
    b"property float %c\n" % axis for axis in b"xyz"
)
PLY += b"end_header\n0 0 0\n"


def tree(root, names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def found(root):
    """(id, class, split) of each shape."""
    entries, classes = entries_of(root, walk(root), (".off", ".obj"))
    return [(e.id, classes[e.label] if e.label >= 0 else None, e.split) for e in entries]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        # class, then split
        (
            ["chair/train/a.off", "chair/test/b.off", "lamp/train/c.obj"],
            [("chair", "test"), ("chair", "train"), ("lamp", "train")],
        ),
        # split, then class
        (
            ["test/chair/b.off", "train/chair/a.off", "train/lamp/c.off"],
            [("chair", "test"), ("chair", "train"), ("lamp", "train")],
        ),
        # longer words, other cases
        (
            ["Training/chair/a.off", "Validation/chair/b.off", "testing/chair/c.off"],
            [("chair", "train"), ("chair", "val"), ("chair", "test")],
        ),
        # folders around everything say nothing
        (
            ["x/ModelNet10/bed/test/b.off", "x/ModelNet10/sofa/train/a.off"],
            [("bed", "test"), ("sofa", "train")],
        ),
        # deeper folders do not matter
        (
            ["chair/train/office/a.off", "chair/train/b/c/d.off", "lamp/train/e.off"],
            [("chair", "train"), ("chair", "train"), ("lamp", "train")],
        ),
        # no splits
        (["bed/a.off", "bed/b.off", "sofa/c.off"], [("bed", ""), ("bed", ""), ("sofa", "")]),
        # one class, no splits
        (["chair/a.off", "chair/b.off"], [("chair", ""), ("chair", "")]),
        # no classes
        (["test/b.off", "train/a.off"], [(None, "test"), (None, "train")]),
        # neither
        (["a.off", "b.off"], [(None, ""), (None, "")]),
        # a class of trains, with and without splits
        (
            ["boat/train/b.off", "train/test/c.off", "train/train/a.off"],
            [("boat", "train"), ("train", "test"), ("train", "train")],
        ),
        (["boat/a.off", "boat/b.off", "train/c.off"], [("boat", ""), ("boat", ""), ("train", "")]),
        # held-out shapes are never taken for a class, however few
        (
            ["boat/a.off", "boat/b.off", "car/c.off", "test/boat/d.off", "val/car/e.off"],
            [("boat", ""), ("boat", ""), ("car", ""), ("boat", "test"), ("car", "val")],
        ),
        # outside the splits
        (
            ["chair/a.off", "chair/test/b.off", "chair/train/c.off"],
            [("chair", ""), ("chair", "test"), ("chair", "train")],
        ),
        # a folder per object, as some collections have it
        (["o1/model.obj", "o2/model.obj", "o3/model.obj"], [(None, "")] * 3),
        # a folder per object within classes
        (
            ["02691156/h1/models/m.obj", "02691156/h2/models/m.obj", "03001627/h3/models/m.obj"],
            [("02691156", ""), ("02691156", ""), ("03001627", "")],
        ),
    ],
)
def test_class_and_split_come_from_folders(tmp_path, names, expected):
    tree(tmp_path, names)
    shapes = found(tmp_path)
    assert [shape[1:] for shape in shapes] == expected
    assert [shape[0] for shape in shapes] == [os.path.splitext(name)[0] for name in sorted(names)]


def test_hidden_files_and_unrelated_ones_are_passed_over(tmp_path):
    tree(
        tmp_path,
        ["chair/a.off", "chair/.b.off", ".git/c.off", "__MACOSX/chair/._a.off", "chair/a.png"],
    )
    (tmp_path / "chair" / "d.off").mkdir()
    os.mkfifo(tmp_path / "chair" / "e.off")
    assert [shape[0] for shape in found(tmp_path)] == ["chair/a"]


def test_links_are_followed_once(tmp_path):
    tree(tmp_path, ["data/chair/a.off", "other/b.off"])
    (tmp_path / "data" / "lamp").symlink_to(tmp_path / "other")
    (tmp_path / "data" / "chair" / "again").symlink_to(tmp_path / "data")
    assert [shape[:2] for shape in found(tmp_path / "data")] == [
        ("chair/a", "chair"),
        ("lamp/b", "lamp"),
    ]


def test_links_to_nowhere_are_shapes_that_cannot_be_read(tmp_path):
    tree(tmp_path, ["chair/a.off"])
    (tmp_path / "chair" / "b.off").symlink_to(tmp_path / "gone.off")
    (tmp_path / "chair" / "c.off").symlink_to(tmp_path / "chair" / "c.off")
    (tmp_path / "chair" / "notes").symlink_to(tmp_path / "gone")
    assert [shape[0] for shape in found(tmp_path)] == ["chair/a", "chair/b", "chair/c"]
    source = open_source(tmp_path, layout="meshes")
    for index in (1, 2):
        with pytest.raises(DataError, match="chair/"):
            source.load(index)
    (tmp_path / "plys").mkdir()
    (tmp_path / "plys" / "a.ply").symlink_to(tmp_path / "gone.ply")
    (tmp_path / "plys" / "b.ply").write_bytes(PLY)
    assert open_source(tmp_path / "plys").layout == "clouds"  # the first that is there tells


def test_links_do_not_make_the_order_matter(tmp_path):
    for order, names in (("a", ("real", "alias")), ("b", ("alias", "real"))):
        root = tmp_path / order
        root.mkdir()
        for name in names:
            if name == "real":
                tree(root, ["real/a.off"])
            else:
                (root / "alias").symlink_to(root / "real")
        assert found(root) == [("real/a", "real", "")]


def test_names_that_cannot_be_stored(tmp_path):
    tree(tmp_path, ["chair/a.off", "chair/Icon\r"])
    assert len(found(tmp_path)) == 1
    tree(tmp_path, ["chair/b\n.off"])
    with pytest.raises(DataError, match=r"chair: the name 'b\\n\.off' holds characters"):
        found(tmp_path)


def test_folders_of_textures_are_no_empty_classes(tmp_path):
    tree(tmp_path, ["chair/a.off", "lamp/b.off", "textures/wood.png"])
    (tmp_path / "chair" / "empty").mkdir()
    assert len(found(tmp_path)) == 2


@pytest.mark.parametrize("empty", ["sofa", "sofa/train", "lamp/test"])
def test_empty_classes_are_refused(tmp_path, empty):
    tree(tmp_path, ["chair/train/a.off", "chair/test/b.off", "lamp/train/c.off"])
    (tmp_path / empty).mkdir(parents=True)
    name = empty.split("/")[0]
    with pytest.raises(DataError, match=rf"{name}.* holds no shapes: an empty class"):
        found(tmp_path)


def test_classes_whose_shapes_cannot_be_read_are_refused(tmp_path):
    tree(tmp_path, ["chair/train/a.off", "lamp/train/b.fbx"])
    with pytest.raises(DataError, match=r"lamp.* holds no shapes"):
        found(tmp_path)


def test_what_is_left_out_is_said(tmp_path):
    folder = walk(tree(tmp_path, ["a.npy", "b.off", "c.obj", "d/e.tar", "f.laz", "g.ply"]))
    assert left_out(folder, CLOUD_SUFFIXES) == [
        "2 files are left out; --layout meshes reads them",
        "2 packed files are left out, such as d/e.tar; unpack them",
    ]
    assert contents(folder).startswith("6 files (")


def test_no_shapes_at_all(tmp_path):
    with pytest.raises(DataError, match=r"holds no files; expected .*\.off \.obj\. Convert"):
        found(tmp_path)
    tree(tmp_path, ["a.zip"])
    with pytest.raises(DataError, match=r"holds 1 files \(1 \.zip\).* Unpack them"):
        found(tmp_path)


def test_order_does_not_depend_on_the_file_system(tmp_path):
    names = [f"c{i % 3}/s{i}.off" for i in range(40)]
    tree(tmp_path / "up", names)
    tree(tmp_path / "down", names[::-1])
    assert found(tmp_path / "up") == found(tmp_path / "down")
