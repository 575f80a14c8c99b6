import numpy as np
import pytest

from i2pmae.datasets import open_source
from i2pmae.datasets.clouds import read_cloud
from i2pmae.errors import DataError
from i2pmae.formats.cloud_arrays import array_kind

POINTS = np.random.default_rng(0).random((40, 3))


@pytest.mark.parametrize(
    ("shape", "dtype", "kind"),
    [
        ((40, 3), "f8", "cloud"),
        ((40, 6), "f4", "cloud"),
        ((40, 3), "i4", "cloud"),
        ((3, 40), "f4", "cloud"),  # refused when it is read
        ((7, 40, 3), "f4", "cloud"),  # likewise
        ((1, 3), "f4", "cloud"),
        ((40,), "i8", "other"),
        ((40, 1), "i8", "other"),
        ((), "f8", "other"),
        ((3, 3), "f8", "other"),
        ((3, 4), "f8", "other"),
        ((4, 4), "f8", "other"),
        ((64, 64, 3), "u1", "other"),
        ((32, 32, 32), "f4", "other"),
        ((40,), "O", "other"),
        ((40, 2), "f8", "unclear"),
        ((40, 3), "c16", "unclear"),
    ],
)
def test_what_an_array_may_be(shape, dtype, kind):
    assert array_kind(shape, np.dtype(dtype)) == kind


@pytest.mark.parametrize(
    "name",
    ["points", "xyz", "Points", "pos", "coords", "pc", "data", "arr_0", "verts", "surface_points"],
)
def test_names_of_the_points_in_an_archive(tmp_path, name):
    np.savez(tmp_path / "a.npz", **{name: POINTS, "labels": np.zeros(40), "camera": np.eye(4)})
    np.testing.assert_array_equal(read_cloud(tmp_path / "a.npz"), POINTS)
    np.savez(tmp_path / "a.npz", **{name: POINTS, "normals": POINTS * 0})
    np.testing.assert_array_equal(read_cloud(tmp_path / "a.npz"), POINTS)


def test_the_only_array_of_an_archive_that_may_be_points(tmp_path):
    others = {"normals": POINTS, "part_labels": POINTS, "rgb": POINTS}
    np.savez(tmp_path / "a.npz", samples=POINTS, **others)
    np.testing.assert_array_equal(read_cloud(tmp_path / "a.npz"), POINTS)
    np.savez(tmp_path / "b.npz", first=POINTS, second=POINTS, **others)
    with pytest.raises(DataError, match="holds the arrays first, second, normals"):
        read_cloud(tmp_path / "b.npz")


@pytest.mark.parametrize("names", [("vertices", "faces"), ("v", "f"), ("mesh_verts", "triangles")])
def test_a_mesh_in_an_archive_is_no_cloud(tmp_path, names):
    arrays = dict(zip(names, (POINTS, np.arange(39).reshape(13, 3)), strict=True))
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(DataError, match=f"a mesh, the arrays {names[0]} and {names[1]}; expected"):
        read_cloud(tmp_path / "a.npz")
    with pytest.raises(DataError, match="holds a mesh"):
        open_source(tmp_path).load(0)
    np.savez(tmp_path / "a.npz", **arrays, points=POINTS + 1)
    np.testing.assert_array_equal(read_cloud(tmp_path / "a.npz"), POINTS + 1)


@pytest.mark.parametrize("names", ["xyz", "XYZ"])
@pytest.mark.parametrize("shape", [(40,), (40, 1), (5, 8)])
def test_coordinates_in_arrays_of_their_own(tmp_path, names, shape):
    axes = {name: axis.reshape(shape) for name, axis in zip(names, POINTS.T, strict=True)}
    np.savez(tmp_path / "a.npz", **axes, intensity=np.zeros(40))
    np.testing.assert_array_equal(read_cloud(tmp_path / "a.npz"), POINTS)
    source = open_source(tmp_path)
    assert (source.count(0), source.load(0).points.shape) == (40, (40, 3))
    np.savez(tmp_path / "b.npz", x=POINTS, y=np.zeros(1), z=np.zeros(40))  # a graph's features
    np.testing.assert_array_equal(read_cloud(tmp_path / "b.npz"), POINTS)


@pytest.mark.parametrize("more", [0, 3, 600])
def test_a_batch_of_one_cloud_is_a_cloud(tmp_path, more):
    rows = np.tile(POINTS, (20, 1))
    rows = np.concatenate([rows, np.zeros((800, more))], axis=1)
    for name, cloud in {"a": rows[None], "b": rows[:, None], "c": rows}.items():
        np.save(tmp_path / f"{name}.npy", cloud)
    source = open_source(tmp_path)
    for index in range(3):
        assert (source.count(index), source.load(index).points.shape) == (800, (800, 3))


def test_structured_arrays(tmp_path):
    fields = [("intensity", "f4"), ("X", "f4"), ("Y", "f4"), ("Z", "i4")]
    values = np.zeros(40, fields)
    for place, name in enumerate("XYZ"):
        values[name] = POINTS[:, place] * 100
    together = np.zeros(40, [("rgb", "u1", (3,)), ("xyz", "f8", (3,))])
    together["xyz"] = POINTS
    np.save(tmp_path / "a.npy", values)
    np.savez(tmp_path / "b.npz", cloud=values)
    np.save(tmp_path / "c.npy", together)
    np.save(tmp_path / "d.npy", values.reshape(5, 8))  # an organized scan
    for name in ("a.npy", "b.npz", "d.npy"):
        np.testing.assert_allclose(read_cloud(tmp_path / name), POINTS * 100, atol=1)
    np.testing.assert_array_equal(read_cloud(tmp_path / "c.npy"), POINTS)
    source = open_source(tmp_path)
    assert [source.count(index) for index in range(4)] == [40] * 4


def test_structured_arrays_without_points_are_none(tmp_path):
    np.save(tmp_path / "a.npy", POINTS)
    np.save(tmp_path / "b.npy", np.zeros(40, [("x", "f4"), ("label", "U3")]))
    np.save(tmp_path / "c.npy", np.zeros(40, [("a", "f4"), ("b", "f4")]))
    assert open_source(tmp_path).ids == ["a"]


def test_transposed_clouds_are_refused_with_the_remedy(tmp_path):
    np.save(tmp_path / "a.npy", np.random.default_rng(0).random((3, 2048)))
    with pytest.raises(DataError, match=r"shape \(3, 2048\); expected one point a row.*Transpose"):
        open_source(tmp_path).load(0)
