import struct
import sys

import numpy as np
import pytest

from i2pmae.datasets import clouds, open_source
from i2pmae.datasets.clouds import read_cloud
from i2pmae.datasets.source import random_order, shape_generator, to_unit_sphere
from i2pmae.errors import DataError


@pytest.fixture
def points():
    """Rounded, so that compression shortens them."""
    return np.random.default_rng(0).random((60, 3)).round(1)


@pytest.fixture
def saved(tmp_path, points):
    """Write the points in a format and return the file."""

    def saved(name):
        file = tmp_path / name
        if name.endswith(".npy"):
            np.save(file, points)
        elif name.endswith(".npz"):
            np.savez_compressed(file, points=points, colors=points)
        elif name.endswith(".las"):
            laspy = pytest.importorskip("laspy")
            cloud = laspy.LasData(laspy.LasHeader(point_format=3, version="1.2"))
            cloud.header.scales = [1e-6] * 3
            cloud.x, cloud.y, cloud.z = points.T
            cloud.write(file)
        elif name.endswith(".pcd"):
            pypcd4 = pytest.importorskip("pypcd4")
            encoding = pypcd4.Encoding(name.split(".")[0])
            pypcd4.PointCloud.from_xyz_points(points.astype(np.float32)).save(file, encoding)
        else:
            raise AssertionError(name)
        return file

    return saved


NAMES = ["a.npy", "a.npz", "a.las", "ascii.pcd", "binary.pcd", "binary_compressed.pcd"]


@pytest.mark.parametrize("name", NAMES)
def test_every_format_gives_the_points(saved, points, name):
    np.testing.assert_allclose(read_cloud(saved(name))[:, :3], points, atol=1e-6)


@pytest.mark.parametrize(
    "text",
    [
        "0 1 2\n3 4 5\n",
        "0\t1\t2\n3\t4\t5",
        "0, 1, 2\r\n3, 4, 5\r\n",
        "0;1;2\n3;4;5\n",
        "# x y z\n0 1 2\n\n3 4 5\n",
        "\ufeff0 1 2 255 0 0\n3 4 5 0 255 0\n",
        "  0.0   1e0  2\n+3 4. 5e0\n",
    ],
)
def test_xyz_files_as_people_write_them(tmp_path, text):
    (tmp_path / "a.xyz").write_bytes(text.encode())
    np.testing.assert_array_equal(read_cloud(tmp_path / "a.xyz")[:, :3], [[0, 1, 2], [3, 4, 5]])


def test_xyz_keeps_the_precision_of_map_coordinates(tmp_path):
    (tmp_path / "a.xyz").write_text("500000.125 4649776.001 1\n500000.250 4649776.002 2\n")
    expected = [[500000.125, 4649776.001, 1], [500000.25, 4649776.002, 2]]
    np.testing.assert_array_equal(read_cloud(tmp_path / "a.xyz"), expected)


@pytest.mark.parametrize(
    "arrays",
    [
        {"points": 0, "other": 1},
        {"xyz": 0, "labels": 1},
        {"anything": 0},
        {"points": 0, "vertices": 1, "arr_0": 1},
    ],
)
def test_the_array_of_points_in_an_npz(tmp_path, points, arrays):
    values = {name: points if number == 0 else points * 0 for name, number in arrays.items()}
    np.savez(tmp_path / "a.npz", **values)
    np.testing.assert_array_equal(read_cloud(tmp_path / "a.npz"), points)


def test_a_random_subset_centred_and_scaled(tmp_path, points):
    np.save(tmp_path / "a.npy", points)
    found = open_source(tmp_path, points=25, seed=3).load(0).points
    order = random_order(60, 25, shape_generator(3, "a"))
    np.testing.assert_allclose(found, to_unit_sphere(points[order]), atol=1e-6)
    whole = open_source(tmp_path, points=100).load(0).points
    assert whole.shape == (60, 3)
    assert np.linalg.norm(whole, axis=1).max() == pytest.approx(1)


def test_clouds_may_differ_in_their_number_of_points(tmp_path, points):
    np.save(tmp_path / "a.npy", points)
    np.save(tmp_path / "b.npy", points[:17])
    source = open_source(tmp_path, points=30)
    assert [len(source.load(i).points) for i in (0, 1)] == [30, 17]


@pytest.mark.parametrize(("columns", "notes"), [(3, 0), (6, 1)])
def test_other_columns_are_ignored_with_a_note(tmp_path, columns, notes):
    np.save(tmp_path / "a.npy", np.random.default_rng(0).random((9, columns)))
    found = [note for note in open_source(tmp_path, split="all").notes if "only x, y, z" in note]
    assert len(found) == notes


def test_notes_look_at_headers_of_other_formats(write, saved, tmp_path):
    (tmp_path / "a.ply").write_bytes(write.ply_bytes(faces=None))
    assert open_source(tmp_path, split="all").notes == []
    (tmp_path / "a.ply").unlink()
    saved("binary.pcd")
    assert open_source(tmp_path, split="all").notes == []


@pytest.mark.parametrize(("name", "package"), [("a.las", "laspy"), ("a.pcd", "pypcd4")])
def test_missing_packages_are_named_at_once(tmp_path, monkeypatch, name, package):
    (tmp_path / name).touch()
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(DataError, match=rf"{package}, which is not installed.*i2pmae\[clouds\]"):
        open_source(tmp_path)


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        (b"POINTS 60", b"POINTS 61", "it is cut short"),
        (b"POINTS 60", b"POINTS 99999999999", "it is cut short"),
        (b"POINTS 60", b"POINTS -1", "expected numbers"),
        (b"POINTS 60", b"POINTS", "expected numbers"),
        (b"COUNT 1 1 1", b"COUNT 1 1 1000000000", "1000000002 values a point"),
        (b"SIZE 4 4 4", b"SIZE 4 4", "differ in length"),
        (b"SIZE 4 4 4", b"SIZE 4 4 3", "cannot be read"),
        (b"FIELDS x y z", b"FIELDS x y w", "cannot be read"),
        (b"DATA binary", b"DATA other", "cannot be read"),
        (b"DATA binary", b"", "cannot be read"),
    ],
)
def test_damaged_pcd_headers(saved, old, new, reason):
    file = saved("binary.pcd")
    data = file.read_bytes()
    assert old in data
    file.write_bytes(data.replace(old, new, 1))
    with pytest.raises(DataError, match=reason):
        read_cloud(file)


def test_compressed_pcd_must_unpack_to_what_the_header_says(saved):
    file = saved("binary_compressed.pcd")
    data = file.read_bytes()
    place = data.index(b"binary_compressed\n") + 18
    for sizes in ((10, 720), (2**31, 720), (700, 2**31)):
        file.write_bytes(data[:place] + struct.pack("<II", *sizes) + data[place + 8 :])
        with pytest.raises(DataError, match=r"compressed\.pcd cannot be read"):
            read_cloud(file)


@pytest.mark.parametrize(
    ("place", "value", "reason"),
    [
        (0, b"LASX", "no .las file or is cut short"),
        (96, b"\xff\xff\xff\x7f", "no .las file or is cut short"),
        (100, b"\xff\xff\xff\xff", "no .las file or is cut short"),
        (104, b"\x83", "is compressed .* Convert it to .las"),
        (107, b"\xff\xff\xff\x7f", "promises .* bytes of points"),
    ],
)
def test_damaged_las_headers(saved, place, value, reason):
    file = saved("a.las")
    data = bytearray(file.read_bytes())
    data[place : place + len(value)] = value
    file.write_bytes(data)
    with pytest.raises(DataError, match=reason):
        read_cloud(file)
    file.write_bytes(data[:50])
    with pytest.raises(DataError, match=r"a\.las"):
        read_cloud(file)


def test_every_suffix_has_a_reader():
    assert set(clouds._READERS) == set(clouds.CLOUD_SUFFIXES)
