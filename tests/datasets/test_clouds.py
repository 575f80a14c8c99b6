import random
import sys
import time
from functools import partial

import numpy as np
import pytest
import trimesh
from hypothesis import given, settings
from hypothesis import strategies as st

from i2pmae.datasets import clouds, open_source, survey
from i2pmae.datasets.check import shared_points
from i2pmae.datasets.clouds import read_cloud
from i2pmae.datasets.source import random_order, shape_generator
from i2pmae.errors import DataError
from i2pmae.geometry.coordinates import to_unit_sphere, usable

from ..mutations import damaged


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
        elif name.endswith((".las", ".laz")):
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


NAMES = ["a.npy", "a.npz", "a.las", "a.laz", "ascii.pcd", "binary.pcd", "binary_compressed.pcd"]


@pytest.mark.parametrize("name", NAMES)
def test_every_format_gives_the_points(saved, points, name):
    np.testing.assert_allclose(read_cloud(saved(name))[:, :3], points, atol=1e-6)


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


def test_a_random_subset_centered_and_scaled(tmp_path, points):
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
    assert len(open_source(tmp_path, split="all").notes) == 1
    (tmp_path / "a.ply").unlink()
    saved("binary.pcd")
    assert len(open_source(tmp_path, split="all").notes) == 1


@pytest.mark.parametrize(("name", "package"), [("a.las", "laspy"), ("a.laz", "lazrs")])
def test_missing_packages_are_named_at_once(tmp_path, monkeypatch, name, package):
    (tmp_path / name).touch()
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(DataError, match=rf"{package}, which is not installed.*i2pmae\[clouds\]"):
        open_source(tmp_path)


@pytest.mark.parametrize(
    ("place", "value", "reason"),
    [
        (0, b"LASX", "no .las file or is cut short"),
        (96, b"\xff\xff\xff\x7f", "no .las file or is cut short"),
        (100, b"\xff\xff\xff\xff", "no .las file or is cut short"),
        (104, b"\x83", "cannot be read"),
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


def test_organised_clouds_have_points_without_a_measurement(tmp_path, points):
    pypcd4 = pytest.importorskip("pypcd4")
    for name, rows in {"a": 60, "b": 3}.items():
        organised = points.astype(np.float32)
        organised[: 60 - rows : 1, 2] = np.nan
        pypcd4.PointCloud.from_xyz_points(organised).save(tmp_path / f"{name}.pcd")
    source = open_source(tmp_path)
    assert [len(source.load(index).points) for index in (0, 1)] == [60, 3]
    assert source.not_finite == {1: 57}


def write_text(file, points, mark, header):
    np.savetxt(file, points, "%.9g", delimiter=mark, header=header, comments="")


def write_table(file, points, **options):
    pandas = pytest.importorskip("pandas")
    table = pandas.DataFrame(points, columns=["x", "y", "z"])
    table.insert(options.pop("where", 3), "label", "chair")
    table.to_csv(file, **options)


def write_ply(file, points, encoding):
    file.write_bytes(trimesh.PointCloud(points).export(file_type="ply", encoding=encoding))


def write_las(file, points, version):
    laspy = pytest.importorskip("laspy")
    cloud = laspy.LasData(
        laspy.LasHeader(point_format=6 if version == "1.4" else 3, version=version)
    )
    cloud.header.scales = [1e-8 * np.abs(points).max()] * 3
    cloud.x, cloud.y, cloud.z = points.T
    cloud.write(file)


def write_structured(file, points):
    dtype = [("z", ">f8"), ("ring", "u2"), ("x", "<f8"), ("y", "<f4")]
    values = np.zeros(len(points), dtype)
    values["x"], values["y"], values["z"] = points.T
    np.save(file, values)


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("a.xyz", partial(write_text, mark=" ", header="")),
        ("a.txt", partial(write_text, mark="\t", header="# x y z")),
        ("a.csv", partial(write_text, mark=";", header="X;Y;Z")),
        ("b.csv", partial(write_table, index=True, where=0)),
        ("c.csv", partial(write_table, index=False, sep=";", decimal=",")),
        ("a.pts", lambda file, points: write_text(file, points, " ", f"{len(points)}")),
        ("a.ply", partial(write_ply, encoding="binary")),
        ("b.ply", partial(write_ply, encoding="ascii")),
        ("a.las", partial(write_las, version="1.2")),
        ("a.laz", partial(write_las, version="1.4")),
        ("a.npy", lambda file, points: np.save(file, np.asfortranarray(points))),
        ("b.npy", write_structured),
        ("a.npz", lambda file, points: np.savez_compressed(file, pos=points, normal=points)),
        ("b.npz", lambda file, p: np.savez(file, x=p[:, 0], y=p[:, 1], z=p[:, 2])),
    ],
)
@settings(max_examples=10)
@given(seed=st.integers(0, 2**31), n=st.integers(12, 60), size=st.sampled_from([1e-3, 1, 1e3]))
def test_what_another_program_writes(tmp_path_factory, name, written, seed, n, size):
    points = (size * np.random.default_rng(seed).normal(size=(n, 3))).astype(np.float32)
    file = tmp_path_factory.getbasetemp() / name
    written(file, points.astype(float))
    np.testing.assert_allclose(read_cloud(file)[:, :3], points, rtol=1e-6, atol=2e-5 * size)
    source = open_source(file)
    assert source.layout == "clouds"
    assert source.count(0) in (n, None)


@pytest.mark.parametrize("n_seeds", [10, pytest.param(1000, marks=pytest.mark.slow)])
def test_random_damage(saved, tmp_path, n_seeds):
    files = [saved(name) for name in NAMES]
    for name, options in {"a.csv": {}, "b.csv": {"sep": ";", "decimal": ","}}.items():
        write_table(tmp_path / name, np.random.default_rng(0).random((20, 3)), **options)
        files.append(tmp_path / name)
    for file in files:
        whole = file.read_bytes()
        victim = tmp_path / f"damaged{file.suffix}"
        complaints = set()
        for seed in range(n_seeds):
            victim.write_bytes(damaged(whole, random.Random(f"{file.name} {seed}")))
            started = time.process_time()
            try:
                usable(read_cloud(victim))
            except DataError as error:
                complaints.add(str(error))
            assert time.process_time() - started < 5, f"{file.name} {seed}"
        assert complaints
        assert not any("\n" in line for line in complaints)


def test_clouds_that_people_met(cases):
    texts = sorted((cases / "clouds").glob("*.xyz"))
    assert len(texts) >= 4
    for file in texts:
        assert read_cloud(file).shape[0] == 700, file.name
    source = open_source(cases / "clouds" / "one-small-cloud")
    shared, small = shared_points(survey(source).n_points)
    assert shared == 3000
    assert [source.ids[index] for index in small] == ["tiny"]
    bad = survey(open_source(cases / "clouds" / "transposed")).bad
    assert "Transpose it" in bad[4]
    assert len(bad) == 1
