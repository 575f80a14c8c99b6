import json
import os

import numpy as np
import pytest

from i2pmae.datasets import open_source
from i2pmae.errors import ConfigError, DataError
from i2pmae.evaluation.tables import write_table

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
    source = open_source(root, "meshes", split="all")
    names = [*source.class_names, None]
    return [
        (shape, names[label], split)
        for shape, label, split in zip(source.ids, source.labels, source.splits, strict=True)
    ]


def notes(root, layout="auto"):
    return " | ".join(open_source(root, layout, split="all").notes)


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
        # a folder per object, by names (ABC), and by number
        (
            ["00000000/00000000_a1_trimesh_0.obj", "00000001/00000001_b2_trimesh_0.obj"],
            [(None, "")] * 2,
        ),
        ([f"part {name}/{name}.off" for name in "abcdefgh"], [(None, "")] * 8),
        # numbered batches (Objaverse), and objects in them (ABC)
        (["glbs/000-000/a.off", "glbs/000-000/b.off", "glbs/000-001/c.off"], [(None, "")] * 3),
        (["abc_0000/00000001/x.obj", "abc_0001/00000009/y.obj"], [(None, "")] * 2),
        # other words for splits
        (
            ["dev/chair/c.off", "test_set/chair/b.off", "train_set/chair/a.off"],
            [("chair", "val"), ("chair", "test"), ("chair", "train")],
        ),
        (["mine-test/a.off", "mine-train/b.off"], [(None, "test"), (None, "train")]),
        (
            ["crash_test/a.off", "crash_test/b.off", "lamp/c.off"],
            [("crash_test", ""), ("crash_test", ""), ("lamp", "")],
        ),
        (["testdata/bed/a.off", "testdata/lamp/b.off"], [("bed", ""), ("lamp", "")]),
        # sets to evaluate on: the test split, where no other is
        (
            ["Train (1)/bed/a.off", "Test (1)/bed/b.off"],
            [("bed", "test"), ("bed", "train")],
        ),
        (
            ["train/bed/a.off", "val/bed/b.off", "evaluation_set/bed/c.off"],
            [("bed", "test"), ("bed", "train"), ("bed", "val")],
        ),
        (
            ["train/bed/a.off", "test/bed/b.off", "eval/bed/c.off"],
            [("bed", "val"), ("bed", "test"), ("bed", "train")],
        ),
        (["bed/hold-out/a.off", "bed/train/b.off"], [("bed", "test"), ("bed", "train")]),
        # the only folder says what it holds; classes in hexadecimal digits
        (["raw_meshes/a.off", "raw_meshes/b.off"], [(None, ""), (None, "")]),
        (["points/a.off", "points/b.off"], [(None, ""), (None, "")]),
        (["data/train/a.off", "data/test/b.off"], [(None, "test"), (None, "train")]),
        (["chair/a.off"], [("chair", "")]),
        (["a/a0.off", "b/b0.off", "b/b1.off"], [("a", ""), ("b", ""), ("b", "")]),
        # a class that is called like an ending
        (["off/a.off", "on/b.off"], [("off", ""), ("on", "")]),
        (["chair/off/a.off", "lamp/off/b.off"], [("chair", ""), ("lamp", "")]),
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
        ["chair/a.off", "chair/.b.off", ".git/c.off", "__MACOSX/chair/._a.off", "chair/a.png"]
        + [f"{name}/a.off" for name in ("$RECYCLE.BIN", "lost+found", "@eaDir/chair")],
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


@pytest.mark.parametrize(
    ("name", "stored"),
    [
        ("my\u00a0chair", None),
        ("\u0635\u0646\u062f\u0644\u06cc\u200c\u0647\u0627", None),  # Persian, with a joiner
        ("\U0001f468\u200d\U0001f469\u200d\U0001f467", None),  # emoji, with joiners
        ("two  spaces 'and' \"quotes\" $x$ 100%", None),
        ("b\n", "b\\n"),
        ("\x1b[2J", "\\x1b[2J"),
        (os.fsdecode(b"caf\xe9"), "caf\\udce9"),
    ],
)
def test_odd_names_pass(tmp_path, write, name, stored):
    for place in (f"{name}/{name}.off", "lamp/a.off", f"{name} notes/readme"):
        (tmp_path / place).parent.mkdir(exist_ok=True)
        (tmp_path / place).write_bytes(write.off_bytes())
    stored = stored or name
    shapes = found(tmp_path)
    assert (f"{stored}/{stored}", stored, "") in shapes
    assert len(shapes) == 2
    source = open_source(tmp_path)
    assert all(len(source.load(index).points) for index in range(2))


def test_folders_of_textures_are_no_empty_classes(tmp_path):
    tree(tmp_path, ["chair/a.off", "lamp/b.off", "textures/wood.png"])
    (tmp_path / "chair" / "empty").mkdir()
    assert len(found(tmp_path)) == 2


def test_a_split_without_shapes_is_told(tmp_path):
    tree(tmp_path, ["train/chair/a.off", "train/lamp/b.off"])
    (tmp_path / "test" / "chair").mkdir(parents=True)
    assert "1 folders of a class or split hold no shapes: test" in notes(tmp_path)


@pytest.mark.parametrize("empty", ["sofa", "sofa/train", "lamp/test"])
def test_empty_classes_are_told(tmp_path, empty):
    tree(tmp_path, ["chair/train/a.off", "chair/test/b.off", "lamp/train/c.off"])
    (tmp_path / empty).mkdir(parents=True)
    assert len(found(tmp_path)) == 3
    assert f"1 folders of a class or split hold no shapes: {empty.split('/')[0]}" in notes(tmp_path)


def test_classes_whose_shapes_cannot_be_read_are_told(tmp_path):
    tree(tmp_path, ["chair/train/a.off", "lamp/train/b.blend"])
    assert "hold no shapes: lamp" in notes(tmp_path)
    assert "left out: 1 .blend of formats that are not read" in notes(tmp_path)


def test_what_is_left_out_is_told_by_kind(tmp_path):
    tree(tmp_path, ["b.off", "c.obj", "d/e.tar", "f.blend", "g.png", "h.mtl", "i.png"])
    np.save(tmp_path / "cloud.npy", np.zeros((20, 3)))
    np.save(tmp_path / "labels.npy", np.zeros(20))
    assert notes(tmp_path).endswith(
        "left out: 1 .npy that are point clouds (--layout clouds reads them); 1 .npy that hold no "
        "points; 1 .tar to be unpacked first; 1 .blend of formats that are not read; other files "
        "(2 .png, 1 .mtl)"
    )


def test_one_of_several_endings_is_read(tmp_path):
    tree(tmp_path, ["a/c0.obj", "a/c0.stl", "a/c0.OFF", "a/c1.stl", "b/c0.obj"])
    names = {
        prefer: [entry.file.name for entry in open_source(tmp_path, prefer=prefer).entries]
        for prefer in (None, "stl", ".OFF")
    }
    assert names[None] == ["c0.obj", "c1.stl", "c0.obj"]
    assert names["stl"] == ["c0.stl", "c1.stl", "c0.obj"]
    assert names[".OFF"] == ["c0.OFF", "c1.stl", "c0.obj"]
    assert "2 names have several endings (.obj .off .stl): .obj is read" in notes(tmp_path)
    with pytest.raises(ConfigError, match=r"--prefer ply: .* no such files; .* 2 .obj, 2 .stl"):
        open_source(tmp_path, prefer="ply")
    with pytest.raises(ConfigError, match="--prefer is for folders of single files"):
        open_source("procedural", prefer="ply")


@pytest.mark.parametrize(
    ("files", "read"),
    [
        # 3D-FUTURE
        (["normalized_model.obj", "raw_model.obj", "image.jpg"], "normalized_model.obj"),
        # YCB
        (
            [
                *("google_16k/nontextured.ply", "google_16k/textured.obj", "tsdf/textured.obj"),
                "tsdf/merged_cloud.obj",
            ],
            "google_16k/textured.obj",
        ),
        # nothing that is known, but the same in many folders
        (["hull.obj", "skin.obj"], "hull.obj"),
    ],
)
def test_one_of_several_files_of_an_object_is_read(tmp_path, write, files, read):
    for number in range(25):
        tree(tmp_path, [f"thing {number:02d}/{name}" for name in files])
    for file in tmp_path.glob("**/*.ply"):
        file.write_bytes(write.ply_bytes())
    source = open_source(tmp_path, split="all")
    assert [str(entry.file.relative_to(tmp_path)) for entry in source.entries] == [
        f"thing {number:02d}/{read}" for number in range(25)
    ]
    assert source.class_names == ()
    assert "several files of one object" in notes(tmp_path)


def test_numbered_shapes_of_classes_are_no_files_of_objects(tmp_path):
    tree(tmp_path, [f"a/class {c:02d}/{n:03d}.off" for c in range(25) for n in range(2)])
    source = open_source(tmp_path / "a")
    assert (len(source), len(source.class_names)) == (50, 25)
    for names in (("001", "002"), ("one", "two")):
        root = tmp_path / names[0]
        tree(root, [f"{c}/{name}/model.off" for c in ("chair", "lamp") for name in names])
        source = open_source(root)
        assert (len(source), source.class_names) == (4, ("chair", "lamp"))


def test_occupancy_networks(tmp_path):
    rng = np.random.default_rng(0)
    for synset in ("02691156", "03001627"):
        for number in range(3):
            folder = tmp_path / synset / f"{synset}{number}"
            folder.mkdir(parents=True)
            points = rng.random((30, 3))
            np.savez(folder / "pointcloud.npz", points=points, normals=points)
            np.savez(folder / "points.npz", points=points * 9, occupancies=np.zeros(4, np.uint8))
        for number, name in enumerate(("train", "val", "test")):
            (tmp_path / synset / f"{name}.lst").write_text(f"{synset}{number}\n")
    source = open_source(tmp_path, split="all")
    assert source.ids[0] == "02691156/026911560/pointcloud"
    assert source.class_names == ("02691156", "03001627")
    assert source.splits == ["train", "val", "test"] * 2
    assert "several files of one object (pointcloud, points): pointcloud is read" in notes(tmp_path)


@pytest.mark.parametrize(
    ("lines", "place"),
    [
        (["chair/a", "lamp/c"], "train.txt"),
        (["chair/a.off 0", "lamp/c.off 1"], "train.txt"),
        (['"chair\\\\a.off"', "./lamp/c.off"], "train.csv"),
        (["a", "c"], "splits/my_train_list.txt"),
        (["a.off", "c.off", "gone.off"], "lists/train.lst"),
        (['["a", "c"]'], "train.json"),
    ],
)
def test_lists_are_splits(tmp_path, lines, place):
    tree(tmp_path, ["chair/a.off", "chair/b.off", "lamp/c.off", place, "notes.txt"])
    (tmp_path / place).write_text("\n".join(lines).replace("\\\\", "\\"))
    assert found(tmp_path) == [
        ("chair/a", "chair", "train"),
        ("chair/b", "chair", ""),
        ("lamp/c", "lamp", "train"),
    ]
    assert f"splits from lists such as {place}: 2 train" in notes(tmp_path)
    assert ("1 names in lists match no shape: gone.off" in notes(tmp_path)) == (len(lines) == 3)


@pytest.mark.parametrize(
    ("place", "text"),
    [
        ("train.txt", "/home/me/data/chair/a.npy\n/home/me/data/lamp/c.npy"),  # of another machine
        ("train.txt", "shapes/chair/a\nshapes/lamp/c"),
        ("train.csv", "filename,label\na.off,chair\nc.off,lamp"),
        ("splits.json", '{"train": ["a", "c"], "names": ["b"]}'),
        ("splits.json", '{"train": {"chair": ["chair/a"], "lamp": ["c"]}}'),
        ("splits.json", '{"chair": {"training": ["a"]}, "lamp": {"training": ["c"]}}'),
        ("splits.json", '{"chair/a": "train", "lamp/c": "train", "chair/b": "unknown"}'),
        ("train.json", '[{"model_id": "a", "color": "red"}, {"model_id": "c"}]'),
        ("meta.csv", "label,file,split\n0,a.off,train\n1,c.off,train\n0,b.off,\n"),
    ],
)
def test_tables_and_lists_of_other_machines_are_splits(tmp_path, place, text):
    tree(tmp_path, ["chair/a.off", "chair/b.off", "lamp/c.off"])
    (tmp_path / place).write_text(text)
    assert [split for *_, split in found(tmp_path)] == ["train", "", "train"]
    assert "match no shape" not in notes(tmp_path)


def test_shapes_that_lists_put_into_several_splits_are_counted(tmp_path):
    tree(tmp_path, ["a.off", "b.off"])
    (tmp_path / "test.txt").write_text("a\n")
    (tmp_path / "train.txt").write_text("a\nb\n")
    assert "1 shapes are listed in several splits: the last one counts" in notes(tmp_path)


def test_lists_in_folders_of_classes_name_shapes_of_these(tmp_path):
    tree(tmp_path, [f"{name}/{n:04d}.off" for name in ("chair", "table") for n in range(4)])
    for place, names in {
        "chair/train.txt": "0000 0001 0002",
        "chair/test.txt": "0003",
        "table/train.txt": "0001 0002 0003",
        "table/test.txt": "0000",
    }.items():
        (tmp_path / place).write_text("\n".join(names.split()))
    shapes = found(tmp_path)
    assert [shape for shape, _, split in shapes if split == "test"] == ["chair/0003", "table/0000"]
    assert "splits from lists such as chair/test.txt: 2 test, 6 train" in notes(tmp_path)
    assert "several splits" not in notes(tmp_path)


def test_shapenetcore_with_its_table(tmp_path):
    models = [("02691156", "a1", "train"), ("02691156", "b2", "val"), ("03001627", "a1", "test")]
    tree(tmp_path, [f"{synset}/{model}/models/model_normalized.obj" for synset, model, _ in models])
    rows = [f"{i},{s},{s},{m},{split}" for i, (s, m, split) in enumerate(models)]
    (tmp_path / "all.csv").write_text("\n".join(["id,synsetId,subSynsetId,modelId,split", *rows]))
    assert [shape[1:] for shape in found(tmp_path)] == [(s, split) for s, _, split in models]


def test_3d_future_with_its_table(tmp_path):
    ids = ["0a1b2c3d", "1a1b2c3d", "2a1b2c3d"]
    tree(tmp_path, [f"{name}/{file}_model.obj" for name in ids for file in ("raw", "normalized")])
    kinds = [("Bed", "King-size Bed"), ("Sofa", "Loveseat Sofa"), ("Others", None)]
    rows = [
        {"model_id": name, "super-category": above, "category": kind}
        for name, (above, kind) in zip(ids, kinds, strict=True)
    ]
    (tmp_path / "model_info.json").write_text(json.dumps(rows))
    assert [shape[:2] for shape in found(tmp_path)] == [
        (f"{name}/normalized_model", kind or above)
        for name, (above, kind) in zip(ids, kinds, strict=True)
    ]
    assert "; 3 classes from model_info.json" in notes(tmp_path)
    source = open_source(tmp_path, classes="none")
    assert source.class_names == ()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("labels.csv", "file,label\n0.off,bed\n1.off,lamp\n2.off,bed\n3.off,lamp\n"),
        ("a.csv", "id,Class,split\n0,bed,train\n1,lamp,train\n2,bed,test\n3,lamp,test\n"),
        ("a.json", '{"0.off": "bed", "1.off": "lamp", "2.off": "bed", "3.off": "lamp"}'),
        ("a.json", '{"bed": ["0", "2"], "lamp": ["1", "3"]}'),
        ("a.json", '[{"name": "0", "class": "bed"}, {"name": "1", "class": "lamp"}, '
         '{"name": "2", "class": "bed"}, {"name": "3", "class": "lamp"}]'),
    ],
)  # fmt: skip
def test_tables_are_classes(tmp_path, name, text):
    tree(tmp_path, [f"meshes/{i}.off" for i in range(4)])
    (tmp_path / name).write_text(text)
    assert [shape[1] for shape in found(tmp_path)] == ["bed", "lamp", "bed", "lamp"]
    assert f"; 2 classes from {name}" in notes(tmp_path)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.json", '{"0": "red", "1": "blue", "2": "green", "3": "white"}'),  # each another
        ("a.json", '{"0": "train", "1": "train", "2": "test", "3": "test"}'),
        ("labels.csv", "file,label\n0.off,bed\n"),
        ("labels.csv", "file,label\na.off,bed\nb.off,bed\n"),
        ("labels.csv", "label,weight\nbed,0.5\nbed,1.7\nlamp,2.25\nlamp,3.5e-05\n"),  # not 0.off
        ("labels.csv", "file,label\n0,bed\n0.off,bed\nmeshes/0,bed\n"),  # one of four
        ("labels.csv", ""),
        ("labels.csv", f"file,label\n0,bed\n1,lamp\n2,bed\n3,{'lamp' * 40_000}\n"),
        ("a.json", "[1, [2]]"),
    ],
)
def test_tables_that_are_no_classes(tmp_path, name, text):
    tree(tmp_path, [f"meshes/{i}.off" for i in range(4)])
    (tmp_path / name).write_text(text)
    assert "no classes: meshes is the only folder" in notes(tmp_path)


@pytest.mark.parametrize("ending", [".csv", ".json"])
def test_predictions_are_no_classes(tmp_path, ending):
    tree(tmp_path, [f"{i}.off" for i in range(4)])
    rows = [{"id": str(i), "class": "bed", "probability": 0.67} for i in range(4)]
    classes = {"id": "text", "class": "text", "probability": "number", "error": "text"}
    write_table(tmp_path / f"a{ending}", classes, rows, {"i2pmae": "0.1.0"})
    parts = {"id": "text", "category": "text", "parts": "text", "error": "text"}
    rows = [{"id": str(i), "category": "bed", "parts": "leg 9"} for i in range(4)]
    write_table(tmp_path / f"b{ending}", parts, rows, {"i2pmae": "0.1.0"})
    assert {shape[1] for shape in found(tmp_path)} == {None}
    (tmp_path / "labels.csv").write_text("file,label\n0,bed\n1,lamp\n2,bed\n3,lamp\n")
    assert [shape[1] for shape in found(tmp_path)] == ["bed", "lamp", "bed", "lamp"]
    assert "disagree" not in notes(tmp_path)


def test_the_first_of_tables_that_disagree_counts(tmp_path):
    tree(tmp_path, [f"{i}.off" for i in range(5)])
    (tmp_path / "a.csv").write_text("file,label\n0,bed\n1,lamp\n2,bed\n3,lamp\n")
    (tmp_path / "b.csv").write_text("file,label\n0,bed\n1,lamp\n2,lamp\n3,bed\n4,bed\n")
    assert [shape[1] for shape in found(tmp_path)] == ["bed", "lamp", "bed", "lamp", "bed"]
    assert "tables disagree about the class of 2 shapes: the first one counts" in notes(tmp_path)


def test_scanobjectnn_has_a_class_bin(tmp_path):
    scan = np.concatenate([[40], np.random.default_rng(0).normal(size=440)]).astype("<f4")
    for name in ("bag", "bin", "box"):
        (tmp_path / "object_dataset" / name).mkdir(parents=True)
        for i in range(2):
            (tmp_path / "object_dataset" / name / f"{i}.bin").write_bytes(scan.tobytes())
    assert open_source(tmp_path).class_names == ("bag", "bin", "box")


def test_folders_of_objects_that_are_classes(tmp_path):
    tree(tmp_path, [f"{c}/{f}.off" for c in ("chair", "lamp") for f in ("model", "mesh")])
    assert len(open_source(tmp_path)) == 2
    source = open_source(tmp_path, classes="folders")
    assert (len(source), source.class_names) == (4, ("chair", "lamp"))


def test_normals_in_files_of_their_own_are_no_clouds(tmp_path):
    cloud = np.random.default_rng(0).random((40, 3))
    for place in ("a/points/0", "a/normals/0", "b/x_points", "b/x_normals"):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        np.save(tmp_path / place, cloud)
    assert open_source(tmp_path).ids == ["a/points/0", "b/x_points"]
    assert "2 files hold values of points in other files: a/normals/0.npy" in notes(tmp_path)
    for name in ("one", "two", "three"):
        (tmp_path / "objects" / name).mkdir(parents=True)
        for values in ("points", "normals"):
            np.save(tmp_path / "objects" / name / values, cloud)
    source = open_source(tmp_path / "objects")
    assert source.ids == ["one/points", "three/points", "two/points"]


@pytest.mark.parametrize("names", [("normal", "abnormal"), ("box", "label"), ("colors", "lamp")])
def test_classes_called_like_values_are_classes(tmp_path, names):
    rng = np.random.default_rng(0)
    for name in names:
        (tmp_path / name).mkdir()
        for number in range(4):
            np.save(tmp_path / name / f"{number}.npy", rng.standard_normal((40, 3)))
    source = open_source(tmp_path)
    assert (len(source), source.class_names) == (8, tuple(sorted(names)))


def test_stray_arrays_do_not_decide(tmp_path, write):
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.ply").write_bytes(write.ply_bytes())
        for number in range(5):
            np.save(tmp_path / name / f"{number:03d}.npy", np.eye(4))
            (tmp_path / name / f"{number:03d}.png").touch()
    (tmp_path / "cloud.ply").write_bytes(write.ply_bytes(write.cloud(0), None))
    np.save(tmp_path / "labels.npy", np.arange(3))
    source = open_source(tmp_path)
    assert (source.layout, len(source)) == ("meshes", 3)
    assert "1 .ply that are point clouds" in notes(tmp_path)
    assert "16 .npy that hold no points" in notes(tmp_path)
    assert len(open_source(tmp_path, "clouds")) == 1


def test_stand_ins_are_called_what_they_are(tmp_path, write):
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12345\n"
    page = b"\n<!DOCTYPE html><html><title>Sign in</title></html>"
    for number, data in enumerate((pointer, b"/annex/objects/SHA256E-s9--0.off", page)):
        (tmp_path / f"{number}.off").write_bytes(data)
        (tmp_path / f"{number}.ply").write_bytes(data)
    (tmp_path / "3.ply").write_bytes(write.ply_bytes())
    source = open_source(tmp_path)
    for index, words in enumerate(("git lfs pull", "git annex get", "is a web page")):
        with pytest.raises(DataError, match=words):
            source.load(index)
    assert len(source.load(3).points)


def test_no_shapes_at_all(tmp_path):
    with pytest.raises(DataError, match=r"holds no files; expected .*\.off .*\. Convert"):
        found(tmp_path)
    tree(tmp_path, ["a.zip"])
    with pytest.raises(DataError, match=r"holds 1 files \(1 \.zip\).* Unpack them"):
        found(tmp_path)


def test_order_does_not_depend_on_the_file_system(tmp_path):
    names = [f"c{i % 3}/s{i}.off" for i in range(40)]
    tree(tmp_path / "up", names)
    tree(tmp_path / "down", names[::-1])
    assert found(tmp_path / "up") == found(tmp_path / "down")


def test_folders_that_people_met(cases):
    expected = {
        "meshes-and-labels-npy": ("meshes", 6, "left out: 1 .npy that hold no points"),
        "meshes-with-camera-matrices": ("meshes", 3, "left out: 12 .npy that hold no points"),
        "ply-meshes-and-clouds": ("meshes", 4, "2 .ply that are point clouds"),
        "no-break-space-in-a-file-name": ("meshes", 2, "2 classes by folder: chair, table"),
        "no-break-space-in-an-unrelated-folder": ("meshes", 2, "2 classes by folder"),
        "train_set-test_set": ("meshes", 4, "2 classes by folder: chair, table"),
    }
    for name, (layout, n_shapes, note) in expected.items():
        source = open_source(cases / "folders" / name, split="all")
        assert (source.layout, len(source)) == (layout, n_shapes), name
        assert note in " | ".join(source.notes)
        assert all(len(source.load(index).points) for index in range(n_shapes))
    splits = open_source(cases / "folders" / "train_set-test_set", split="all").splits
    assert sorted(splits) == ["test", "test", "train", "train"]
    for layout, n_shapes in (("meshes", 5), ("clouds", 6)):
        source = open_source(cases / "folders" / "lfs-pointers", layout)
        assert len(source) == n_shapes
        for index in range(n_shapes):
            with pytest.raises(DataError, match="is a Git LFS pointer"):
                source.load(index)
