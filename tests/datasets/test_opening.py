import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from i2pmae.datasets import LAYOUTS, detect_layout, open_labeled_splits, open_source
from i2pmae.datasets.opening import open_split
from i2pmae.errors import ConfigError, DataError

# Writer, --layout where the copy holds several, and sizes of train and test.
COPIES = {
    "modelnet_hdf5": ("modelnet-hdf5", 9, 3),
    "scanobjectnn": ("scanobjectnn-obj-bg", 6, 3),
    "shapenet55": ("shapenet55", 4, 2),
    "modelnet_text": ("modelnet-text", 4, 2),
    "modelnet_pickle": ("modelnet-pickle", 5, 3),
    "few_shot": ("few-shot", 50, 10),
    "shapenetpart": ("shapenetpart", 9, 3),
    "shapenetpart_hdf5": ("shapenetpart-hdf5", 9, 3),
    "partnet_hdf5": ("partnet-hdf5", 8, 4),
    "meshes": ("meshes", 10, 10),
    "clouds": ("clouds", 8, 8),
}


@pytest.fixture(params=COPIES)
def copy(request, write, tmp_path):
    """Path and layout of a tiny copy."""
    return getattr(write, request.param)(tmp_path / "copy"), *COPIES[request.param]


def test_every_layout_has_a_copy_here():
    others = {"partnet", "modelnet10-text", "scanobjectnn-obj-only", "scanobjectnn-pb-t50-rs"}
    others |= {"procedural", "procedural-random", "store", "partnet-instances"}
    assert {layout for layout, _, _ in COPIES.values()} | others == set(LAYOUTS)


def test_layouts_are_detected(copy):
    path, layout, _, _ = copy
    if layout.startswith("scanobjectnn"):
        with pytest.raises(DataError, match=r"several variants.*--layout scanobjectnn-obj-bg"):
            detect_layout(path)
    else:
        assert detect_layout(path) == layout


def test_splits_have_all_their_shapes(copy):
    path, layout, n_train, n_test = copy
    train = open_source(path, layout, "train")
    test = open_source(path, layout, "test")
    every = open_source(path, layout, "all")
    assert (len(train), len(test)) == (n_train, n_test)
    assert sorted(every.ids) == sorted(train.ids + test.ids)
    assert train.class_names == test.class_names == every.class_names
    assert not set(train.ids) & set(test.ids)
    assert len(train.ids) == len(train.labels) == len(train.splits) == len(train)
    assert all(0 <= label < len(train.class_names) for label in every.labels)


def test_shapes_are_what_the_stages_expect(copy):
    path, layout, _, _ = copy
    source = open_source(path, layout, "all", points=40)
    for index in range(len(source)):
        points, parts = source.load(index)
        assert points.dtype == np.float32
        assert points.ndim == 2
        assert points.shape[1] == 3
        assert 1 <= len(points) <= 40
        assert points.flags.owndata
        assert (parts is None) == (source.part_names is None)
        if parts is not None:
            assert parts.dtype == np.uint8
            assert parts.shape == (len(points),)
            assert set(parts.tolist()) <= set(source.class_parts[source.labels[index]])


def test_shapes_depend_on_nothing_but_their_id_and_the_seed(copy):
    path, layout, _, _ = copy
    source = open_source(path, layout, "train", points=20)
    forward = {source.ids[i]: source.load(i) for i in range(len(source))}
    again = open_source(path, layout, "all", points=20)
    shuffled = np.random.default_rng(0).permutation(len(again))
    backward = {again.ids[i]: again.load(int(i)) for i in shuffled}
    few = open_source(path, layout, "train", limit=2, points=20)
    assert few.ids == source.ids[:2]
    for shape_id, shape in forward.items():
        np.testing.assert_array_equal(shape.points, backward[shape_id].points)
    for i, shape_id in enumerate(few.ids):
        np.testing.assert_array_equal(few.load(i).points, forward[shape_id].points)


def test_changing_a_loaded_shape_changes_no_other(copy):
    path, layout, _, _ = copy
    source = open_source(path, layout)
    first = source.load(0).points
    expected = first.copy()
    first += 1
    np.testing.assert_array_equal(source.load(0).points, expected)


def test_sources_survive_pickling_and_threads(copy):
    path, layout, _, _ = copy
    source = open_source(path, layout, "all", points=32)
    alone = [source.load(i).points for i in range(len(source))]
    thawed = pickle.loads(pickle.dumps(source))
    assert thawed.fingerprint() == source.fingerprint()
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(thawed.load, list(range(len(source))) * 3))
    for index, shape in enumerate(together):
        np.testing.assert_array_equal(shape.points, alone[index % len(source)])


def test_pickled_sources_carry_no_points(copy):
    path, layout, _, _ = copy
    source = open_source(path, layout)
    before = len(pickle.dumps(source))
    for i in range(len(source)):
        source.load(i)
    assert len(pickle.dumps(source)) <= before + 64


def test_fingerprints_follow_contents_not_places(copy, tmp_path):
    path, layout, _, _ = copy
    told = open_source(path, layout).fingerprint()
    assert told == open_source(path, layout).fingerprint()
    assert told != open_source(path, layout, limit=1).fingerprint()
    assert told != open_source(path, layout, "test").fingerprint()
    (tmp_path / "copy").rename(tmp_path / "moved")
    moved = tmp_path / "moved" / path.relative_to(tmp_path / "copy")
    source = open_source(moved, layout)
    assert told == source.fingerprint()
    changed = source.entries[0].file
    changed.write_bytes(changed.read_bytes() + b"\n")
    assert told != open_source(moved, layout).fingerprint()


def test_layouts_know_their_recipe(copy):
    path, layout, _, _ = copy
    source = open_source(path, layout)
    assert source.layout == layout
    expected = {
        "modelnet-hdf5": ("finetune-modelnet40", 1024, None),
        "modelnet-text": ("finetune-modelnet40", 1024, 0.0093),
        "modelnet-pickle": ("finetune-modelnet40", 1024, 0.0093),
        "scanobjectnn-obj-bg": ("finetune-scanobjectnn-obj-bg", None, 0.018),
        "few-shot": ("fewshot-modelnet40", 1024, None),
        "shapenetpart": ("segment-shapenetpart", 2048, None),
        "shapenetpart-hdf5": ("segment-shapenetpart", 2048, None),
        "partnet-hdf5": ("segment-shapenetpart", 2048, None),
    }
    found = (source.recipe, source.svm_points, source.svm_c)
    assert found == expected.get(layout, ("finetune-own-data", 1024, None))


def test_published_layouts_are_read_with_another_name_in_front(write, tmp_path):
    write.shapenet55(tmp_path / "download" / "ShapeNet55-34")
    (tmp_path / "download" / "readme.txt").touch()
    source = open_source(tmp_path / "download")
    assert (source.layout, len(source)) == ("shapenet55", 4)
    assert source.notes[0].endswith("the data set lies in " + str(source.root))
    (tmp_path / "download" / "other").mkdir()
    with pytest.raises(DataError, match=r"ShapeNet55-34 has the layout shapenet55\. Give that"):
        open_source(tmp_path / "download")
    for part in ("ShapeNet-55", "shapenet_pc"):
        with pytest.raises(DataError, match=r"one part of ShapeNet-55\. Give the folder above"):
            open_source(tmp_path / "download" / "ShapeNet55-34" / part)


def test_single_files_are_read(write, tmp_path):
    write.meshes(tmp_path)
    source = open_source(tmp_path / "box" / "test" / "box_0.off", points=10)
    assert (source.layout, source.ids, source.labels, source.splits) == (
        "meshes",
        ["box_0"],
        [-1],
        [""],
    )
    assert source.load(0).points.shape == (10, 3)
    (tmp_path / "c.ply").write_bytes(write.ply_bytes(write.CUBE, None))
    assert open_source(tmp_path / "c.ply").layout == "clouds"


def test_one_shape_without_a_class_is_named(tmp_path):
    points = np.random.default_rng(0).random((64, 3))
    for name in ("train/a/0", "train/b/0", "test/a/0", "test/b/0"):
        (tmp_path / name).parent.mkdir(parents=True)
        np.save(tmp_path / name, points)
    assert [len(source) for source in open_labeled_splits(tmp_path, "a linear SVM")] == [2, 2]
    np.save(tmp_path / "train" / "stray", points)
    with pytest.raises(DataError, match=r"1 of 3 shapes of split 'train' .* \(train/stray\); move"):
        open_labeled_splits(tmp_path, "a linear SVM")
    with pytest.raises(DataError, match="no labeled shapes of split 'train'; a linear SVM needs"):
        open_labeled_splits(tmp_path, "a linear SVM", classes="none")


def test_the_more_frequent_kind_of_file_decides(write, tmp_path):
    write.meshes(tmp_path)
    np.save(tmp_path / "stray.npy", np.zeros((9, 3)))
    source = open_source(tmp_path)
    assert source.layout == "meshes"
    assert source.notes[1:] == [
        "left out: 1 .npy that are point clouds (--layout clouds reads them)"
    ]
    assert open_source(tmp_path, "clouds").layout == "clouds"


@pytest.mark.parametrize(
    ("given", "nearest"),
    [("modelnet", "modelnet-"), ("mesh", "meshes"), ("shapenet-part", "shapenetpart")],
)
def test_misspelt_layouts_suggest_the_nearest(tmp_path, given, nearest):
    with pytest.raises(ConfigError, match=f"layout '{given}' is unknown.*Did you mean {nearest}"):
        open_source(tmp_path, given)


@pytest.mark.parametrize("bad", [{"split": "dev"}, {"points": 0}, {"limit": 0}])
def test_bad_arguments_are_refused(bad):
    with pytest.raises(ConfigError, match=next(iter(bad))):
        open_source("procedural", **bad)


def test_nothing_found_says_what_was_found(tmp_path):
    (tmp_path / "a.jpg").touch()
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "b.jpg").touch()
    (tmp_path / "readme").touch()
    with pytest.raises(DataError, match=r"holds 3 files \(2 .jpg, 1 no ending\): no known layout"):
        open_source(tmp_path)
    with pytest.raises(DataError, match=r"nowhere does not exist\. Give"):
        open_source(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"su does not exist\. Did you mean .*sub\?"):
        open_source(tmp_path / "su")


def test_files_that_are_no_shapes_are_told_with_the_reason(tmp_path):
    np.save(tmp_path / "a.npy", np.arange(60))
    for path in (tmp_path, tmp_path / "a.npy"):
        with pytest.raises(DataError, match=r"a.npy.*holds an array of shape \(60,\); expected"):
            open_source(path).load(0)
    np.save(tmp_path / "a.npy", np.array({"points": 1}), allow_pickle=True)
    for path in (tmp_path, tmp_path / "a.npy"):
        with pytest.raises(DataError, match=r"a\.npy holds an array of object"):
            open_source(path).load(0)
    (tmp_path / "a.npy").unlink()
    (tmp_path / "notes.txt").write_text("of the scans")
    for path in (tmp_path, tmp_path / "notes.txt"):
        with pytest.raises(
            DataError, match="no numbers in its first lines, such as 'of the scans'"
        ):
            open_source(path).load(0)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("clouds.h5", "train_files.txt, test_files.txt and shape_names.txt"),
        ("chair/chair_0001.txt", "modelnet40_train.txt, modelnet40_test.txt"),
        ("chairs.zip", "Unpack its archives first, such as chairs.zip"),
        ("chair.fbx", "convert the shapes"),
    ],
)
def test_near_misses_say_what_is_missing(tmp_path, name, hint):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).touch()
    with pytest.raises(DataError, match=hint):
        open_source(tmp_path)


def test_paths_that_cannot_be_looked_at(tmp_path):
    with pytest.raises(DataError, match=r"cannot be read: File name too long\. Check the path"):
        open_source(tmp_path / ("a" * 300))


def test_data_without_splits_counts_as_training_data(write, tmp_path):
    (tmp_path / "a.off").write_bytes(write.off_bytes())
    (tmp_path / "b.off").write_bytes(write.off_bytes())
    source = open_source(tmp_path)
    assert source.splits == ["", ""]
    assert source.notes[1:] == ["no train and test split was found: all 2 shapes are used"]
    with pytest.raises(DataError, match="no shapes of split 'test'; splits found: none"):
        open_source(tmp_path, split="test")


def test_several_files_are_read_as_the_layout_says(tmp_path, write):
    for name in ("a.off", "b.off"):
        (tmp_path / name).write_bytes(write.off_bytes())
    files = [tmp_path / "a.off", tmp_path / "b.off"]
    assert open_split(*files).layout == open_split(*files, layout="meshes").layout == "meshes"
    with pytest.raises(DataError, match=r"holds 2 files \(2 .off\); expected .* --layout meshes"):
        open_split(*files, layout="clouds")
    with pytest.raises(ConfigError, match="--layout store is for one path; several files"):
        open_split(*files, layout="store")


def test_classes_are_chosen_of_own_folders_alone(tmp_path, write):
    with pytest.raises(ConfigError, match="classes 'all' is unknown; use auto, folders"):
        open_source(tmp_path, classes="all")
    with pytest.raises(ConfigError, match=r"--classes is for folders of single files; .* is few-"):
        open_source(write.few_shot(tmp_path / "a"), classes="none")
