import numpy as np

from i2pmae.datasets import open_source
from i2pmae.geometry.coordinates import to_unit_sphere


def test_taxonomies_are_the_classes(write, tmp_path):
    write.shapenet55(tmp_path)
    train = open_source(tmp_path)
    test = open_source(tmp_path, split="test")
    assert train.class_names == test.class_names == ("02691156", "03001627", "04379243")
    assert train.ids == ["02691156-aa11", "02691156-bb22", "03001627-cc33", "04379243-dd44"]
    assert train.labels == [0, 0, 1, 2]
    assert test.labels == [0, 1]


def test_the_first_points_are_kept_then_centered_and_scaled(write, tmp_path):
    write.shapenet55(tmp_path)
    for n in (10, 64, 8192):
        points, _ = open_source(tmp_path, points=n).load(1)
        expected = to_unit_sphere(np.load(tmp_path / "shapenet_pc" / "02691156-bb22.npy")[:n])
        np.testing.assert_allclose(points, expected, atol=1e-6)
        assert np.linalg.norm(points, axis=1).max() == np.float32(1)


def test_only_the_list_of_the_split_is_needed(write, tmp_path):
    write.shapenet55(tmp_path)
    (tmp_path / "ShapeNet-55" / "test.txt").unlink()
    assert len(open_source(tmp_path)) == len(open_source(tmp_path, split="all")) == 4


def test_columns_beyond_the_third_are_ignored(write, tmp_path):
    write.shapenet55(tmp_path)
    file = tmp_path / "shapenet_pc" / "02691156-aa11.npy"
    plain = open_source(tmp_path).load(0).points
    np.save(file, np.concatenate([np.load(file), np.ones((64, 3), np.float32)], axis=1))
    np.testing.assert_array_equal(open_source(tmp_path).load(0).points, plain)


def test_one_damaged_cloud_does_not_condemn_the_others(write, tmp_path):
    write.shapenet55(tmp_path)
    np.save(tmp_path / "shapenet_pc" / "02691156-aa11.npy", np.zeros((9, 3)))
    source = open_source(tmp_path)
    assert [len(source.load(i).points) for i in (1, 2, 3)] == [64, 64, 64]
    (tmp_path / "shapenet_pc" / "02691156-aa11.npy").unlink()
    source = open_source(tmp_path)
    assert [len(source.load(i).points) for i in (1, 2, 3)] == [64, 64, 64]
