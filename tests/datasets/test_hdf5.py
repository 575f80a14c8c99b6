import h5py
import numpy as np
import pytest

from i2pmae.datasets import hdf5, open_source
from i2pmae.errors import DataError


def stored(path, name):
    with h5py.File(path / f"ply_data_{name}.h5") as file:
        return file["data"][:], file["label"][:].reshape(-1)


def test_coordinates_are_as_stored(write, tmp_path):
    write.modelnet_hdf5(tmp_path)
    source = open_source(tmp_path, points=20)
    expected = np.concatenate([stored(tmp_path, "train0")[0], stored(tmp_path, "train1")[0]])
    labels = np.concatenate([stored(tmp_path, "train0")[1], stored(tmp_path, "train1")[1]])
    found = np.stack([source.load(i).points for i in range(len(source))])
    np.testing.assert_array_equal(found, expected[:, :20])
    assert source.labels == labels.tolist()
    assert source.ids[0] == "ply_data_train0/00000"
    assert source.ids[-1] == "ply_data_train1/00003"
    assert source.class_names[6] == "night_stand"


def test_blocks_give_the_same_as_memory(write, tmp_path, monkeypatch):
    clouds = np.random.default_rng(0).random((150, 16, 3), np.float32)
    data = np.stack([write.in_unit_sphere(cloud) for cloud in clouds])
    write.modelnet_hdf5(tmp_path)
    write.h5(tmp_path / "ply_data_train0.h5", data, np.zeros(150, np.uint8))
    write.h5(tmp_path / "ply_data_train1.h5", data[::-1], np.zeros((150, 1), np.uint8))
    monkeypatch.setattr(hdf5, "IN_MEMORY", 0)
    monkeypatch.setattr(hdf5, "_BLOCKS_KEPT", 2)
    source = open_source(tmp_path)
    order = np.random.default_rng(1).permutation(300)
    expected = np.concatenate([data, data[::-1]])
    for index in order:
        np.testing.assert_array_equal(source.load(int(index)).points, expected[index])
    assert len(source._blocks) == 2
    assert source._whole == {}


def test_files_are_read_once(write, tmp_path, monkeypatch):
    write.modelnet_hdf5(tmp_path)
    source = open_source(tmp_path)
    opened = []
    original = h5py.File
    monkeypatch.setattr(h5py, "File", lambda *a, **k: (opened.append(a[0]), original(*a, **k))[1])
    for index in [*range(len(source)), *range(len(source))]:
        source.load(index)
    assert len(opened) == 2


@pytest.mark.parametrize("layout", ["modelnet-hdf5", "scanobjectnn-obj-bg"])
def test_clouds_in_another_unit(write, tmp_path, layout):
    hdf5 = layout == "modelnet-hdf5"
    root = (write.modelnet_hdf5 if hdf5 else write.scanobjectnn)(tmp_path)
    name = "ply_data_train0.h5" if hdf5 else "h5_files/main_split/training_objectdataset.h5"
    with h5py.File(root / name) as file:
        data, label = file["data"][:], file["label"][:]
    write.h5(root / name, data * 1000 + 50, label)
    found = open_source(root, layout).load(0).points
    if hdf5:
        np.testing.assert_allclose(found, data[0], atol=1e-5)
    else:  # a published protocol takes them as stored
        np.testing.assert_array_equal(found, data[0] * 1000 + 50)


def test_rows_that_were_never_written_fill_no_memory(write, tmp_path):
    write.modelnet_hdf5(tmp_path)
    with h5py.File(tmp_path / "ply_data_train0.h5", "w") as file:
        n_rows = 22_000_000
        file.create_dataset("data", (n_rows, 1, 3), "u1", chunks=(1 << 16, 1, 3))
        file.create_dataset("label", (n_rows,), "u1", chunks=(1 << 16,))
    with pytest.raises(DataError, match="22000000 shapes; at most 2097152"):
        open_source(tmp_path)


@pytest.mark.parametrize("label", [np.nan, np.inf, 0.5])
def test_labels_that_are_no_whole_numbers(write, tmp_path, label):
    write.modelnet_hdf5(tmp_path)
    data = stored(tmp_path, "train0")[0]
    write.h5(tmp_path / "ply_data_train0.h5", data, np.full(len(data), label))
    with pytest.raises(DataError, match="expected integers"):
        open_source(tmp_path)


def test_limits_read_no_more_rows_than_needed(write, tmp_path):
    write.modelnet_hdf5(tmp_path)
    source = open_source(tmp_path, limit=2, points=10)
    source.load(0)
    assert [rows.shape for rows in source._whole.values()] == [(2, 48, 3)]


@pytest.mark.parametrize("n_classes", [10, 40])
def test_as_many_classes_as_names(write, tmp_path, n_classes):
    write.modelnet_hdf5(tmp_path)
    (tmp_path / "shape_names.txt").write_text("\n".join(f"c{i}" for i in range(n_classes)))
    source = open_source(tmp_path)
    assert len(source.class_names) == n_classes
    assert source.recipe == "finetune-own-data"  # these are not ModelNet's classes


def test_one_list_is_enough_for_its_split(write, tmp_path):
    write.modelnet_hdf5(tmp_path)
    (tmp_path / "test_files.txt").unlink()
    assert len(open_source(tmp_path)) == 9
    assert len(open_source(tmp_path, split="all")) == 9


def test_the_real_set(shapes_hdf5):
    train = open_source(shapes_hdf5)
    test = open_source(shapes_hdf5, split="test")
    assert (train.layout, len(train), len(test)) == ("modelnet-hdf5", 3950, 831)
    assert train.class_names == test.class_names
    assert len(train.class_names) == 10
    points, parts = train.load(3949)
    assert points.shape == (2048, 3)
    assert parts is None
    with h5py.File(shapes_hdf5 / "ply_data_train1.h5") as file:
        np.testing.assert_array_equal(points, file["data"][-1])
        assert train.labels[-1] == file["label"][-1, 0]
