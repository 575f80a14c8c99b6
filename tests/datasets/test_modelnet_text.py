import pickle
import shutil

import numpy as np
import pytest

from i2pmae.datasets import detect_layout, open_source
from i2pmae.datasets.hdf5 import MODELNET40_NAMES
from i2pmae.geometry.coordinates import to_unit_sphere


def parsed(file):
    """Slow reading: one number at a time."""
    lines = file.read_text().splitlines()
    return np.array([[float(word) for word in line.split(",")[:3]] for line in lines], np.float32)


def test_classes_end_at_the_last_underscore(write, tmp_path):
    source = open_source(write.modelnet_text(tmp_path))
    assert source.ids[1] == "night_stand/night_stand_0001"
    assert [source.class_names[label] for label in source.labels] == [
        "airplane",
        "night_stand",
        "airplane",
        "tv_stand",
    ]


def test_points_agree_with_slow_reading(write, tmp_path):
    source = open_source(write.modelnet_text(tmp_path))
    for index, shape_id in enumerate(source.ids):
        expected = to_unit_sphere(parsed(tmp_path / f"{shape_id}.txt"))
        np.testing.assert_allclose(source.load(index).points, expected, atol=1e-6)


def test_the_first_8192_lines_decide_centre_and_scale(write, tmp_path):
    write.modelnet_text(tmp_path)
    rows = np.random.default_rng(0).random((8300, 6)).astype(np.float32)
    rows[8200, :3] = 50  # beyond what is read
    for file in tmp_path.glob("*/*.txt"):
        np.savetxt(file, rows, delimiter=",", fmt="%.9g")
    whole = open_source(tmp_path).load(0).points
    assert whole.shape == (8192, 3)
    np.testing.assert_allclose(whole, to_unit_sphere(rows[:8192, :3]), atol=1e-6)
    np.testing.assert_array_equal(open_source(tmp_path, points=1024).load(0).points, whole[:1024])
    assert np.abs(open_source(tmp_path, points=8300).load(0).points[0]).max() < 0.1


def test_modelnet10_lies_in_the_same_folder(write, tmp_path):
    write.modelnet_text(tmp_path)
    (tmp_path / "modelnet10_train.txt").write_text("night_stand_0001\n")
    (tmp_path / "modelnet10_shape_names.txt").write_text("night_stand\n")
    assert detect_layout(tmp_path) == "modelnet-text"
    source = open_source(tmp_path, "modelnet10-text")
    assert (source.ids, source.labels) == (["night_stand/night_stand_0001"], [0])


def test_there_are_forty_names():
    assert len(set(MODELNET40_NAMES)) == 40
    assert list(MODELNET40_NAMES) == sorted(MODELNET40_NAMES)


@pytest.mark.parametrize("protocol", range(6))
def test_pickles_of_every_protocol(write, tmp_path, protocol):
    write.modelnet_pickle(tmp_path, protocol)
    source = open_source(tmp_path, points=20)
    assert source.layout == "modelnet-pickle"
    assert source.class_names == MODELNET40_NAMES
    assert source.labels == [0, 7, 14, 21, 28]
    assert source.ids == [f"train/0000{row}" for row in range(5)]
    for row in range(5):
        expected = to_unit_sphere(write.cloud(row, columns=6)[:, :3])[:20]
        np.testing.assert_allclose(source.load(row).points, expected, atol=1e-6)


def test_pickles_are_opened_by_file_too(write, tmp_path):
    write.modelnet_pickle(tmp_path)
    file = tmp_path / "modelnet40_test_8192pts_fps.dat"
    assert len(open_source(file, split="test")) == 3


def test_text_goes_before_pickles_where_both_lie(write, tmp_path):
    write.modelnet_text(tmp_path)
    write.modelnet_pickle(tmp_path)
    assert detect_layout(tmp_path) == "modelnet-text"
    (tmp_path / "modelnet40_shape_names.txt").write_text("\n".join(MODELNET40_NAMES))
    assert len(open_source(tmp_path, "modelnet-pickle")) == 5


def test_pickles_beside_the_lists_of_texts_that_are_not_there(write, tmp_path):
    write.modelnet_text(tmp_path)
    assert open_source(tmp_path).layout == "modelnet-text"
    for folder in ("airplane", "night_stand", "tv_stand"):
        shutil.rmtree(tmp_path / folder)
    write.modelnet_pickle(tmp_path)
    (tmp_path / "modelnet40_shape_names.txt").write_text("\n".join(MODELNET40_NAMES) + "\n")
    assert open_source(tmp_path).layout == "modelnet-pickle"


def test_pickles_of_other_sizes(write, tmp_path):
    write.modelnet_pickle(tmp_path)
    for split in ("train", "test"):
        file = tmp_path / f"modelnet40_{split}_8192pts_fps.dat"
        clouds, labels = pickle.loads(file.read_bytes())
        value = [[cloud[:20] for cloud in clouds], [label // 7 for label in labels]]
        (tmp_path / f"modelnet10_{split}_1024pts.dat").write_bytes(pickle.dumps(value))
    assert len(open_source(tmp_path).load(0).points) == 48
    one = open_source(tmp_path / "modelnet10_train_1024pts.dat", split="all")
    assert (len(one), len(one.class_names), one.svm_c) == (8, 10, None)
    assert len(one.load(0).points) == 20
