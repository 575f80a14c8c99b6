import random
import time
import tracemalloc

import numpy as np
import pytest
import trimesh
from hypothesis import given, settings
from hypothesis import strategies as st

from i2pmae.datasets import open_source, survey
from i2pmae.datasets.meshes import read_mesh, sample_surface
from i2pmae.errors import DataError
from i2pmae.formats.polygons import Mesh

from ..measures import area, measures, read_triangles
from ..mutations import damaged

KINDS = ["off", "obj", "ply", "stl", "glb"]


def generator(seed=0):
    return np.random.default_rng(seed)


def as_mesh(triangles):
    return Mesh(triangles.reshape(-1, 3), np.arange(3 * len(triangles)).reshape(-1, 3))


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


def test_points_lie_on_the_surface_in_proportion_to_area():
    # Two squares of area 4 and 1 in the planes z = 0 and z = 1.
    square = np.array([[[0, 0, 0], [1, 0, 0], [1, 1, 0]], [[0, 0, 0], [1, 1, 0], [0, 1, 0]]], float)
    triangles = np.concatenate([square * 2, np.add(square, (0, 0, 1)), square[:1] * 0])
    points = sample_surface(as_mesh(triangles), 20_000, generator())
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
        points = sample_surface(as_mesh(triangles), 30_000, generator())
        assert points.mean(axis=0) == pytest.approx(0.5, abs=0.01)
        assert points.std(axis=0) == pytest.approx(np.sqrt(1 / 18 + 1 / 12), abs=0.01)


def test_the_first_points_are_as_even_as_all(write):
    points = sample_surface(Mesh(write.CUBE, np.array(write.CUBE_TRIANGLES)), 12_000, generator())
    sides = [np.isclose(points[:600, axis], side).mean() for axis in range(3) for side in (0, 1)]
    assert sides == pytest.approx([1 / 6] * 6, abs=0.05)


@settings(max_examples=50)
@given(st.integers(0, 2**31), st.sampled_from([1e-200, 1e-9, 1.0, 1e6, 1e200]))
def test_faces_without_area_get_no_points(seed, size):
    draw = np.random.default_rng(seed)
    triangles = draw.random((6, 3, 3))
    flat = draw.integers(0, 6, 4)
    triangles[flat, 2] = triangles[flat, 1]
    points = sample_surface(as_mesh(triangles * size), 200, np.random.default_rng(seed)) / size
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


def random_mesh(seed):
    draw = np.random.default_rng(seed)
    vertices = draw.normal(size=(draw.integers(4, 60), 3)).astype(np.float32)
    faces = draw.permuted(np.tile(np.arange(len(vertices)), (draw.integers(1, 90), 1)), axis=1)
    return vertices.astype(float), faces[:, :3]


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("obj", {}),
        ("off", {}),
        ("ply", {"encoding": "ascii"}),
        ("ply", {"encoding": "binary"}),
        ("stl", {}),
        ("stl_ascii", {}),
        ("glb", {}),
        ("3mf", {}),
    ],
)
@settings(max_examples=25)
@given(seed=st.integers(0, 2**31))
def test_what_another_program_writes(tmp_path_factory, kind, options, seed):
    vertices, faces = random_mesh(seed)
    file = tmp_path_factory.getbasetemp() / f"random.{kind.removesuffix('_ascii')}"
    mesh = trimesh.Trimesh(vertices, faces, process=False)
    mesh.export(file, file_type=kind, **options)
    expected = pytest.approx(measures(vertices[faces]), rel=1e-5, abs=1e-6)
    assert measures(read_triangles(file)) == expected


DAE = """<?xml version="1.0"?>
<COLLADA xmlns="http://www.collada.org/2005/11/COLLADASchema" version="1.4.1">
<library_geometries><geometry id="g"><mesh>
<source id="p"><float_array id="a" count="{n}">{points}</float_array><technique_common>
<accessor source="#a" count="{n}" stride="3"><param name="X" type="float"/>
<param name="Y" type="float"/><param name="Z" type="float"/></accessor></technique_common></source>
<vertices id="v"><input semantic="POSITION" source="#p"/></vertices>
<triangles count="{n_faces}"><input semantic="VERTEX" source="#v" offset="0"/><p>{corners}</p>
</triangles></mesh></geometry></library_geometries>
<library_visual_scenes><visual_scene id="s"><node><instance_geometry url="#g"/></node>
</visual_scene></library_visual_scenes><scene><instance_visual_scene url="#s"/></scene></COLLADA>
"""


@settings(max_examples=25)
@given(seed=st.integers(0, 2**31))
def test_collada_and_gltf_of_random_meshes(tmp_path_factory, seed):
    vertices, faces = random_mesh(seed)
    expected = pytest.approx(measures(vertices[faces]), rel=1e-5, abs=1e-6)
    folder = tmp_path_factory.getbasetemp()
    points, corners = (" ".join(map(repr, a.ravel().tolist())) for a in (vertices, faces))
    text = DAE.format(n=len(vertices), points=points, n_faces=len(faces), corners=corners)
    (folder / "random.dae").write_text(text)
    assert measures(read_triangles(folder / "random.dae")) == expected
    scene = trimesh.Scene(trimesh.Trimesh(vertices, faces, process=False))
    for name, data in scene.export(file_type="gltf").items():
        (folder / name).write_bytes(data)
    assert measures(read_triangles(folder / "model.gltf")) == expected


def test_scenes_that_another_program_writes(tmp_path):
    scene = trimesh.Scene()
    parts = []
    for seed in range(5):
        vertices, faces = random_mesh(seed)
        place = trimesh.transformations.random_rotation_matrix(np.full(3, 0.1 + 0.15 * seed))
        place[:3, 3] = seed
        scene.add_geometry(trimesh.Trimesh(vertices, faces, process=False), transform=place)
        parts.append((vertices @ place[:3, :3].T + place[:3, 3])[faces])
    expected = pytest.approx(measures(np.concatenate(parts)), rel=1e-5)
    scene.export(tmp_path / "a.glb")
    assert measures(read_triangles(tmp_path / "a.glb")) == expected
    for name, data in scene.export(file_type="gltf").items():
        (tmp_path / name).write_bytes(data)
    assert measures(read_triangles(tmp_path / "model.gltf")) == expected


def test_memory_is_that_of_the_faces(write, tmp_path):
    n = 200_000
    quads = np.full((n, 5), 4, np.uint8)
    quads[:, 1:] = np.random.default_rng(0).integers(0, 8, (n, 4))
    head = (
        write.ply_bytes(faces=[]).replace(b"face 0", b"face %d" % n).replace(b"int v", b"uchar v")
    )
    part = np.random.default_rng(0).random((300, 3))
    nodes = [{"children": list(range(1, 1001))}, *[{"mesh": 0}] * 1000]
    apart = np.arange(300).reshape(-1, 3)
    files = {
        "quads.ply": (head + quads.tobytes(), 400_000),
        "copies.glb": (write.glb_bytes(part, apart, nodes), 100_000),
        "text.stl": (b"solid\n" * 1_000_000 + b"facet", None),
        "text.ply": (head.replace(b"binary_little_endian", b"ascii") + b"0\n" * 8 * n, None),
    }
    for name, (data, n_faces) in files.items():
        (tmp_path / name).write_bytes(data)
        tracemalloc.start()
        try:
            mesh = read_mesh(tmp_path / name)
            sample_surface(mesh, 1000, generator())
            assert len(mesh.faces) == n_faces
        except DataError:
            assert n_faces is None
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 20 * len(data) + 200 * (n_faces or 0) + 100e6, name


@pytest.fixture(scope="module")
def of_every_kind(write, tmp_path_factory):
    """A small file of each format, and of each way to write it."""
    folder = tmp_path_factory.mktemp("kinds")
    ball = trimesh.creation.icosphere(1)
    for kind in ("obj", "off", "ply", "stl", "glb", "dae", "3mf"):
        ball.export(folder / f"a.{kind}")
    ball.export(folder / "text.stl", file_type="stl_ascii")
    ball.export(folder / "text.ply", encoding="ascii")
    faces = b"".join(np.array([3, *face, 0], ">i4").tobytes() for face in ball.faces)
    head = b"OFF BINARY\n" + np.array([len(ball.vertices), len(ball.faces), 0], ">i4").tobytes()
    (folder / "binary.off").write_bytes(head + ball.vertices.astype(">f4").tobytes() + faces)
    strips = write.ply_bytes(faces=[[0, 1, 2, 3, -1, 4, 5, 6]], kind="ascii")
    (folder / "strips.ply").write_bytes(strips.replace(b"face", b"tristrips"))
    scene = ball.export(file_type="gltf")
    (folder / "a.gltf").write_bytes(scene["model.gltf"])
    (folder / "gltf_buffer_0.bin").write_bytes(scene["gltf_buffer_0.bin"])
    (folder / "gltf_buffer_1.bin").write_bytes(scene["gltf_buffer_1.bin"])
    return sorted(path for path in folder.iterdir() if path.suffix != ".bin")


def complaint(file):
    """What is wrong with a file; nothing if it gives a surface."""
    try:
        mesh = read_mesh(file)
        sample_surface(mesh, 10, generator())
    except DataError as error:
        return str(error)
    assert len(mesh.faces)
    assert mesh.faces.min() >= 0
    assert mesh.faces.max() < len(mesh.vertices)
    return ""


@pytest.mark.parametrize("n_seeds", [10, pytest.param(2000, marks=pytest.mark.slow)])
def test_random_damage(of_every_kind, n_seeds):
    for file in of_every_kind:
        assert not complaint(file)
        whole = file.read_bytes()
        victim = file.with_name(f"damaged{file.suffix}")
        complaints = set()
        for seed in range(n_seeds):
            victim.write_bytes(damaged(whole, random.Random(f"{file.name} {seed}")))
            started = time.process_time()
            complaints.add(complaint(victim))
            assert time.process_time() - started < 5, f"{file.name} {seed}"
        assert complaints != {""}
        assert not any("\n" in line for line in complaints)
        victim.unlink()


def test_files_that_people_met(cases):
    right = {
        "obj/relative-indices.obj": 2,
        "obj/mixed-references.obj": 0.5 + 1.5 * 3**0.5,
        "obj/hexagonal-prism.obj": 6 + 3 * 3**0.5,
        "obj/concave-l.obj": 5,
        "stl/cut2.stl": 2,
        "stl/two.stl": 2,
        "stl/up.stl": 1,
        "glb/fan.glb": 2,
        "glb/inst.glb": 2,
        "glb/quant.glb": 2,
    }
    files = sorted(path for kind in ("obj", "stl", "glb") for path in (cases / kind).iterdir())
    assert len(files) >= 20
    for file in files:
        name = file.relative_to(cases).as_posix()
        if name == "stl/cut.stl":
            with pytest.raises(DataError, match="facet 4 is cut short"):
                read_triangles(file)
        elif file.stem.startswith("box-") or name in right:
            assert area(read_triangles(file)) == pytest.approx(right.get(name, 22), rel=1e-5), name
        else:
            assert name == "glb/sparse.glb"
            assert read_triangles(file).max() == 5


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


def test_points_lie_on_their_surface_whatever_axis_is_up(tmp_path):
    box = trimesh.creation.box((1, 2, 4)).apply_translation((30, -9, 7))
    box.export(tmp_path / "box.ply")
    for up, extents in (("y", (1, 2, 4)), ("z", (1, 4, 2))):
        source = open_source(tmp_path, points=300, up=up)
        shape, mesh = source.load_with_surface(0)
        np.testing.assert_array_equal(shape.points, source.load(0).points)
        low, high = mesh.vertices.min(axis=0), mesh.vertices.max(axis=0)
        np.testing.assert_allclose((high - low) / (high - low)[0], extents, rtol=1e-5)
        beside = np.minimum(shape.points - low, high - shape.points)
        assert beside.min() > -1e-5
        assert beside.min(axis=1).max() < 1e-5  # on one of the faces
