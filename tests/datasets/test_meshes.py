import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from i2pmae.datasets import open_source, survey
from i2pmae.datasets.meshes import read_triangles, sample_surface
from i2pmae.errors import DataError

KINDS = ["off", "obj", "ply", "stl", "glb"]


def generator(seed=0):
    return np.random.default_rng(seed)


def area(triangles):
    edges = triangles[:, 1:] - triangles[:, :1]
    return float(np.linalg.norm(np.cross(edges[:, 0], edges[:, 1]), axis=1).sum() / 2)


@pytest.mark.parametrize("kind", KINDS)
def test_every_format_gives_the_cube(write, tmp_path, kind):
    file = tmp_path / f"cube.{kind}"
    file.write_bytes(getattr(write, f"{kind}_bytes")())
    triangles = read_triangles(file)
    assert triangles.shape == (12, 3, 3)
    assert area(triangles) == pytest.approx(6)
    assert {tuple(corner) for corner in triangles.reshape(-1, 3)} == {
        tuple(corner) for corner in write.CUBE
    }


def test_endings_in_capitals(write, tmp_path):
    (tmp_path / "CUBE.OFF").write_bytes(write.off_bytes())
    assert open_source(tmp_path).load(0).points.shape == (8192, 3)


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data.replace(b"OFF\n8 12 0", b"OFF8 12 0"),  # as in ModelNet
        lambda data: data.replace(b"OFF\n8 12 0", b"OFF 8 12 0"),
        lambda data: b"# a comment\n" + data.replace(b"8 12 0", b"# caf\xe9\n\n8 12 0 # counts"),
        lambda data: data.replace(b"\n", b"\r\n"),
        lambda data: data.replace(b"\n3 ", b"\n\n3  ").rstrip(),
        lambda data: data + b"a line too many\n",
    ],
)
def test_off_files_as_people_write_them(write, tmp_path, change):
    (tmp_path / "a.off").write_bytes(change(write.off_bytes()))
    assert area(read_triangles(tmp_path / "a.off")) == pytest.approx(6)


def test_text_stl_and_obj_with_other_encodings(tmp_path):
    corners = "vertex 0 0 0\nvertex 1 0 0\nvertex 0 1 0\n"
    text = f"solid caf\xe9\nfacet normal 0 0 1\nouter loop\n{corners}endloop\nendfacet\nendsolid\n"
    (tmp_path / "a.stl").write_bytes(text.encode("latin1"))
    assert read_triangles(tmp_path / "a.stl").tolist() == [[[0, 0, 0], [1, 0, 0], [0, 1, 0]]]
    (tmp_path / "a.obj").write_bytes(b"# caf\xe9\no caf\xe9\nv 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n")
    assert area(read_triangles(tmp_path / "a.obj")) == pytest.approx(0.5)


def test_scenes_are_put_together(write, tmp_path):
    nodes = [
        {"children": [1, 2], "scale": [2, 2, 2]},
        {"mesh": 0, "translation": [5, 0, 0]},
        {"mesh": 0, "scale": [1, 1, 3]},
    ]
    (tmp_path / "a.glb").write_bytes(write.glb_bytes(nodes=nodes))
    triangles = read_triangles(tmp_path / "a.glb")
    assert len(triangles) == 24
    assert area(triangles) == pytest.approx(4 * (6 + 14))
    np.testing.assert_allclose(triangles.max(axis=(0, 1)), [12, 2, 6])


def test_nothing_beside_a_mesh_is_opened(write, tmp_path):
    (tmp_path / "material.mtl").mkdir()
    (tmp_path / "a.obj").write_bytes(write.obj_bytes())
    assert len(read_triangles(tmp_path / "a.obj")) == 12
    (tmp_path / "data.bin").write_bytes(bytes(1000))

    def refer(scene):
        scene["buffers"] = [{"byteLength": 240, "uri": "data.bin"}]

    (tmp_path / "a.glb").write_bytes(write.glb_bytes(change=refer))
    with pytest.raises(DataError, match="keeps its data in another file"):
        read_triangles(tmp_path / "a.glb")


def test_copies_of_parts_are_counted(write, tmp_path, monkeypatch):
    monkeypatch.setattr("i2pmae.datasets.meshes._MOST_FACES", 100)
    nodes = [{"children": list(range(1, 12))}, *[{"mesh": 0}] * 11]
    (tmp_path / "a.glb").write_bytes(write.glb_bytes(nodes=nodes))
    with pytest.raises(DataError, match="more than 100 faces"):
        read_triangles(tmp_path / "a.glb")


def test_points_lie_on_the_surface_in_proportion_to_area():
    # Two squares of area 4 and 1 in the planes z = 0 and z = 1.
    square = np.array([[[0, 0, 0], [1, 0, 0], [1, 1, 0]], [[0, 0, 0], [1, 1, 0], [0, 1, 0]]], float)
    triangles = np.concatenate([square * 2, np.add(square, (0, 0, 1)), square[:1] * 0])
    points = sample_surface(triangles, 20_000, generator())
    low = points[:, 2] == 0
    assert low.mean() == pytest.approx(0.8, abs=0.01)
    assert np.isin(points[:, 2], (0, 1)).all()
    grid = np.histogram2d(points[low, 0], points[low, 1], bins=4, range=[(0, 2), (0, 2)])[0]
    np.testing.assert_allclose(grid / low.sum(), 1 / 16, atol=0.006)


def test_triangulation_does_not_matter(write):
    coarse = write.CUBE[write.CUBE_TRIANGLES]
    middle = coarse.mean(axis=1)
    fine = np.concatenate(
        [np.stack([coarse[:, i], coarse[:, (i + 1) % 3], middle], axis=1) for i in range(3)]
    )
    for triangles in (coarse, fine):
        points = sample_surface(triangles, 30_000, generator())
        assert points.mean(axis=0) == pytest.approx(0.5, abs=0.01)
        assert points.std(axis=0) == pytest.approx(np.sqrt(1 / 18 + 1 / 12), abs=0.01)


def test_the_first_points_are_as_even_as_all(write):
    points = sample_surface(write.CUBE[write.CUBE_TRIANGLES], 12_000, generator())
    sides = [np.isclose(points[:600, axis], side).mean() for axis in range(3) for side in (0, 1)]
    assert sides == pytest.approx([1 / 6] * 6, abs=0.05)


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 2**31), st.sampled_from([1e-200, 1e-9, 1.0, 1e6, 1e200]))
def test_faces_without_area_get_no_points(seed, size):
    draw = np.random.default_rng(seed)
    triangles = draw.random((6, 3, 3))
    flat = draw.integers(0, 6, 4)
    triangles[flat, 2] = triangles[flat, 1]
    points = sample_surface(triangles * size, 200, np.random.default_rng(seed)) / size
    full = [face for face in range(6) if face not in flat]
    if full:
        corners = triangles[full]
        normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        normals /= np.linalg.norm(normals, axis=1, keepdims=True)
        heights = np.abs(((points[:, None] - corners[None, :, 0]) * normals[None]).sum(axis=2))
        assert heights.min(axis=1).max() < 1e-6


def test_shapes_have_exactly_the_points_asked_for(write, tmp_path):
    source = open_source(write.meshes(tmp_path), points=777)
    for index in range(len(source)):
        points, _ = source.load(index)
        assert points.shape == (777, 3)
        assert np.linalg.norm(points, axis=1).max() == pytest.approx(1)


def test_seeds_and_ids_decide_the_draw(write, tmp_path):
    for name in ("a", "b"):
        (tmp_path / f"{name}.off").write_bytes(write.off_bytes())
    source = open_source(tmp_path, points=50)
    first, second = source.load(0).points, source.load(1).points
    assert (first != second).any()
    assert (open_source(tmp_path, points=50, seed=1).load(0).points != first).any()
    (tmp_path / "b.off").unlink()
    np.testing.assert_array_equal(open_source(tmp_path, points=50).load(0).points, first)


def test_primitives_that_are_no_faces_are_passed_over(write, tmp_path):
    def add_lines(scene):
        scene["meshes"][0]["primitives"].append({"attributes": {"POSITION": 0}, "mode": 1})
        scene["meshes"][0]["primitives"].append({"attributes": {"POSITION": 0}, "mode": 0})

    (tmp_path / "a.glb").write_bytes(write.glb_bytes(change=add_lines))
    assert len(read_triangles(tmp_path / "a.glb")) == 12


def test_embedded_buffers_are_read(write, tmp_path):
    import base64

    data = write.glb_bytes()
    n = int.from_bytes(data[12:16], "little")
    scene = json.loads(data[20 : 20 + n])
    body = base64.b64encode(data[20 + n + 8 :]).decode()

    def embed(scene):
        scene["buffers"][0]["uri"] = "data:application/octet-stream;base64," + body

    (tmp_path / "a.glb").write_bytes(write.glb_bytes(change=embed))
    assert scene["buffers"] == [{"byteLength": 240}]
    assert len(read_triangles(tmp_path / "a.glb")) == 12


def test_the_real_meshes(furniture):
    source = open_source(furniture, split="all", points=256)
    assert (source.layout, len(source), len(source.class_names)) == ("meshes", 206, 10)
    assert (source.splits.count("train"), source.splits.count("test")) == (139, 67)
    assert "appliance/train/dryer_machine_00" in source.ids
    assert survey(source).bad == {}
    again = open_source(furniture, split="test", points=256, limit=3)
    for index, shape_id in enumerate(again.ids):
        expected = source.load(source.ids.index(shape_id)).points
        np.testing.assert_array_equal(again.load(index).points, expected)
