import base64
import json
import struct
import time

import numpy as np
import pytest

from i2pmae.errors import DataError

from ..measures import area, measures, read_triangles

SQUARE = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]], "<f4")
CORNERS = np.array([0, 1, 2, 0, 2, 3], "<u2")
KINDS = {"i1": 5120, "u1": 5121, "i2": 5122, "u2": 5123, "u4": 5125, "f4": 5126}
WIDTHS = {1: "SCALAR", 2: "VEC2", 3: "VEC3", 4: "VEC4", 16: "MAT4"}


class Builder:
    """A scene of one square, changed as a test wants it."""

    def __init__(self):
        self.body = b""
        self.accessors, self.views = [], []
        self.square = self.accessor(SQUARE)
        self.corners = self.accessor(CORNERS)
        self.primitive = {"attributes": {"POSITION": self.square}, "indices": self.corners}
        self.mesh = {"primitives": [self.primitive]}
        self.more = {}
        self.nodes = [{"mesh": 0}]

    def view(self, data, **more):
        self.body += bytes(-len(self.body) % 4)
        offset = len(self.body)
        self.views.append({"buffer": 0, "byteOffset": offset, "byteLength": len(data), **more})
        self.body += data
        return len(self.views) - 1

    def accessor(self, values, *, width=None, view=None, **more):
        values = np.asarray(values)
        kind = KINDS[values.dtype.str[1:]]
        view = self.view(values.tobytes()) if view is None else view
        width = WIDTHS[width or (1 if values.ndim == 1 else values.shape[1])]
        entry = {"bufferView": view, "componentType": kind, "count": len(values), "type": width}
        self.accessors.append({**entry, **more})
        return len(self.accessors) - 1

    def scene(self):
        return {
            "asset": {"version": "2.0"},
            "scene": 0,
            "scenes": [{"nodes": [0]}],
            "nodes": self.nodes,
            "meshes": [self.mesh],
            "accessors": self.accessors,
            "bufferViews": self.views,
            "buffers": [{"byteLength": len(self.body)}],
            **self.more,
        }

    def glb(self):
        text, body = json.dumps(self.scene()).encode(), self.body + bytes(-len(self.body) % 4)
        text += b" " * (-len(text) % 4)
        chunks = struct.pack("<I4s", len(text), b"JSON") + text
        chunks += struct.pack("<I4s", len(body), b"BIN\0") + body
        return b"glTF" + struct.pack("<2I", 2, 12 + len(chunks)) + chunks


@pytest.fixture
def builder():
    return Builder()


@pytest.fixture
def read(tmp_path):
    def read(builder):
        (tmp_path / "a.glb").write_bytes(builder.glb())
        return read_triangles(tmp_path / "a.glb")

    return read


@pytest.mark.parametrize(
    ("mode", "corners"),
    [
        (4, [0, 1, 2, 0, 2, 3]),
        (5, [0, 1, 3, 2]),
        (5, [0, 1, 3, 3, 1, 2]),  # with a triangle of no area between
        (6, [0, 1, 2, 3]),
    ],
)
@pytest.mark.parametrize("indexed", [True, False])
def test_triangles_strips_and_fans(builder, read, mode, corners, indexed):
    builder.primitive["mode"] = mode
    if indexed:
        builder.primitive["indices"] = builder.accessor(np.array(corners, "<u1"))
    else:
        del builder.primitive["indices"]
        builder.primitive["attributes"]["POSITION"] = builder.accessor(SQUARE[corners])
    assert measures(read(builder)) == pytest.approx([1, 0, 0, 0, 1, 1, 0, 0.5, 0.5, 0])


def test_points_and_lines_are_passed_over(builder, read):
    for mode in range(4):
        builder.mesh["primitives"].append({"attributes": {"POSITION": 0}, "mode": mode})
    builder.mesh["primitives"].append({"attributes": {"NORMAL": 0}})  # as the format demands
    assert len(read(builder)) == 2


def test_scenes_are_put_together(builder, read):
    builder.nodes = [
        {"children": [1, 2], "scale": [2, 2, 2]},
        {"mesh": 0, "translation": [5, 0, 0]},
        {"mesh": 0, "matrix": [1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 7, 1]},
        {"mesh": 0, "scale": [9, 9, 9]},  # not in the scene
    ]
    assert measures(read(builder))[:7] == pytest.approx([8, 0, 0, 0, 12, 2, 14])
    half = float(np.sqrt(0.5))
    builder.nodes = [{"mesh": 0, "rotation": [0, half, 0, half], "translation": [0, 0, 1]}]
    assert measures(read(builder))[1:7] == pytest.approx([0, 0, 0, 0, 1, 1], abs=1e-6)


def test_the_scene_that_is_shown_first(builder, read):
    builder.nodes = [{"mesh": 0}, {"mesh": 0, "scale": [2, 2, 2]}]
    builder.more = {"scenes": [{"nodes": [0]}, {"nodes": [1]}], "scene": 1}
    assert area(read(builder)) == pytest.approx(4)
    del builder.more["scene"]
    builder.more = {"scenes": [], "scene": None}
    assert area(read(builder)) == pytest.approx(5)
    builder.nodes[1]["extensions"] = {"KHR_node_visibility": {"visible": False}}
    assert area(read(builder)) == pytest.approx(1)


def test_sparse_values(builder, read):
    wrong = SQUARE.copy()
    wrong[2] = 9
    where, value = builder.view(np.array([2], "<u2").tobytes()), builder.view(SQUARE[2].tobytes())
    sparse = {
        "count": 1,
        "indices": {"bufferView": where, "componentType": 5123},
        "values": {"bufferView": value},
    }
    builder.primitive["attributes"]["POSITION"] = builder.accessor(wrong, sparse=sparse)
    assert area(read(builder)) == pytest.approx(1)
    del builder.accessors[-1]["bufferView"]  # zeros, but for one
    assert area(read(builder)) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("kind", ["i1", "u1", "i2", "u2"])
@pytest.mark.parametrize("normalized", [True, False])
def test_quantized_positions(builder, read, kind, normalized):
    top = np.iinfo(kind).max
    values = np.zeros((4, 4), "<" + kind)
    values[:, :3] = SQUARE * top
    stride = 4 * values.itemsize
    builder.primitive["attributes"]["POSITION"] = builder.accessor(
        values,
        width=3,
        normalized=normalized,
        view=builder.view(values.tobytes(), byteStride=stride),
    )
    builder.more = {"extensionsRequired": ["KHR_mesh_quantization"]}
    assert area(read(builder)) == pytest.approx(1 if normalized else top**2)


def test_interleaved_values(builder, read):
    rows = np.concatenate([np.full((4, 3), 7), SQUARE], axis=1).astype("<f4")
    view = builder.view(rows.tobytes(), byteStride=24)
    builder.primitive["attributes"]["POSITION"] = builder.accessor(SQUARE, view=view, byteOffset=12)
    assert area(read(builder)) == pytest.approx(1)


def test_instances(builder, read):
    attributes = {
        "TRANSLATION": builder.accessor(np.array([[0, 0, 0], [0, 0, 4]], "<f4")),
        "SCALE": builder.accessor(np.array([[1, 1, 1], [2, 2, 2]], "<f4")),
        "ROTATION": builder.accessor(np.array([[0, 0, 0, 127]] * 2, "i1"), normalized=True),
        "_ID": 0,
    }
    builder.nodes[0]["extensions"] = {"EXT_mesh_gpu_instancing": {"attributes": attributes}}
    builder.nodes[0]["translation"] = [1, 0, 0]
    assert measures(read(builder))[:7] == pytest.approx([5, 1, 0, 0, 3, 2, 4])


def test_morph_targets(builder, read):
    builder.primitive["targets"] = [{"NORMAL": 0}, {"POSITION": builder.square}]
    assert area(read(builder)) == pytest.approx(1)
    builder.mesh["weights"] = [1, 0.5]
    assert area(read(builder)) == pytest.approx(1.5**2)
    builder.nodes[0]["weights"] = [0, 1]
    assert area(read(builder)) == pytest.approx(4)


def test_skins_stand_in_rest_pose(builder, read):
    # The left side is held by a joint that stands still, the right one by a joint moved by 2.
    joints = np.array([[0, 1, 0, 0]] * 4, "u1")
    weights = np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 1, 0, 0], [1, 0, 0, 0]], "<f4")
    builder.primitive["attributes"].update(
        JOINTS_0=builder.accessor(joints), WEIGHTS_0=builder.accessor(weights)
    )
    bound = np.stack([np.eye(4), np.eye(4)]).astype("<f4")
    bound[1, :3, 3] = -3, 0, 0
    matrices = builder.accessor(bound.transpose(0, 2, 1).reshape(2, 16))
    builder.nodes = [
        {"mesh": 0, "skin": 0, "scale": [9, 9, 9]},  # of no meaning, as the format says
        {"children": [2]},
        {"translation": [5, 0, 0]},
    ]
    builder.more = {
        "scenes": [{"nodes": [0, 1]}],
        "skins": [{"joints": [1, 2], "inverseBindMatrices": matrices}],
    }
    expected = pytest.approx([3, 0, 0, 0, 3, 1, 0, 1.5, 0.5, 0])
    assert measures(read(builder)) == expected
    # Weights that do not come to 1, and more than four joints.
    builder.primitive["attributes"].update(
        WEIGHTS_0=builder.accessor(weights / 2),
        JOINTS_1=builder.accessor(joints),
        WEIGHTS_1=builder.accessor(weights * 3),
    )
    assert measures(read(builder)) == expected


@pytest.mark.parametrize(
    "name",
    ["KHR_draco_mesh_compression", "EXT_meshopt_compression", "KHR_gaussian_splatting", "x" * 99],
)
def test_extensions_that_change_geometry_are_named(builder, read, name):
    builder.more = {"extensionsRequired": ["KHR_materials_unlit", name]}
    with pytest.raises(DataError, match=f"requires the extension {name[:40]}.*not read"):
        read(builder)
    builder.more = {"extensionsRequired": ["KHR_materials_unlit", "EXT_texture_webp"]}
    assert len(read(builder)) == 2


def without_data(builder):
    del builder.accessors[0]["bufferView"]


def two_parents(builder):
    builder.nodes = [{"children": [1, 2]}, {"children": [2]}, {"mesh": 0}]


def ring(builder):
    builder.nodes = [{"children": [1]}, {"children": [0], "mesh": 0}]


def of_many_zeros(builder):
    where = {"bufferView": 1, "componentType": 5123}
    sparse = {"count": 1, "indices": where, "values": {"bufferView": 0}}
    builder.accessors[0].update(count=10**10, sparse=sparse)
    without_data(builder)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (without_data, "accessor 0 has no data, or compressed ones"),
        (two_parents, "node 2 has two parents"),
        (ring, "nodes contain each other"),
        (of_many_zeros, "expands to far more than it stores"),
        (lambda b: b.accessors[0].update(count=5), "reaches beyond its view of 48 bytes"),
        (lambda b: b.accessors[0].update(count=-1), "negative number of entries"),
        (lambda b: b.accessors[0].update(byteOffset=-4), "reaches beyond"),
        (lambda b: b.views[0].update(byteLength=10**6), "is cut short|reaches beyond"),
        (lambda b: b.views[1].update(byteLength=10**6, byteOffset=99), "it is cut short"),
        (lambda b: b.nodes[0].update(mesh=-1), "-1 is no index"),
        (lambda b: b.nodes[0].update(mesh=7), "cannot be read"),
        (lambda b: b.primitive.update(mode=7), "mode 7"),
        (lambda b: b.more.update(asset={"version": "1.0"}), "is of glTF 1.0; expected 2.0"),
        (lambda b: b.more.update(nodes=[{}] * 100_001), "has 100001 nodes"),
        (lambda b: b.primitive.update(indices=b.accessor(np.array([0, 1, 4], "<u2"))), "vertex 4"),
        (lambda b: b.primitive.update(indices=0), "no unsigned integers"),
        (lambda b: b.nodes[0].update(translation=[0, 0, float("nan")]), "not finite"),
        (lambda b: b.nodes.clear(), "list index out of range"),
    ],
)
def test_damaged_files(builder, read, change, reason):
    change(builder)
    with pytest.raises(DataError, match=reason) as caught:
        read(builder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("length", [3, 11, 19, 100, -1])
def test_files_cut_short(builder, tmp_path, length):
    (tmp_path / "a.glb").write_bytes(builder.glb()[:length])
    with pytest.raises(DataError, match="cut short"):
        read_triangles(tmp_path / "a.glb")


def test_buffers_within_the_text(builder, tmp_path):
    scene = builder.scene()
    body = base64.b64encode(builder.body).decode()
    scene["buffers"][0]["uri"] = "data:application/octet-stream;base64," + body
    (tmp_path / "a.gltf").write_text(json.dumps(scene), encoding="utf-8-sig")
    assert len(read_triangles(tmp_path / "a.gltf")) == 2
    del scene["buffers"][0]["uri"]
    (tmp_path / "a.gltf").write_text(json.dumps(scene))
    with pytest.raises(DataError, match="buffer 0 has no data"):
        read_triangles(tmp_path / "a.gltf")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_what_a_file_holds_counts_not_its_ending(builder, tmp_path, encoding):
    (tmp_path / "a.gltf").write_bytes(builder.glb())
    assert len(read_triangles(tmp_path / "a.gltf")) == 2
    scene = builder.scene()
    body = base64.b64encode(builder.body).decode()
    scene["buffers"][0]["uri"] = "data:application/gltf-buffer;base64," + body
    kind = "gltf" if encoding == "utf-16" else "glb"
    (tmp_path / f"b.{kind}").write_text(json.dumps(scene), encoding=encoding)
    assert len(read_triangles(tmp_path / f"b.{kind}")) == 2


@pytest.fixture
def refer(builder, tmp_path):
    def refer(uri, ending="gltf"):
        builder.more = {"buffers": [{"byteLength": len(builder.body), "uri": uri}]}
        inner = tmp_path / "shapes"
        inner.mkdir(exist_ok=True)
        (inner / "a.gltf").write_text(json.dumps(builder.scene()))
        (inner / "a.glb").write_bytes(builder.glb())
        return read_triangles(inner / f"a.{ending}")

    return refer


def test_buffers_beside_the_file(builder, tmp_path, refer):
    (tmp_path / "shapes" / "parts").mkdir(parents=True)
    (tmp_path / "shapes" / "a b.bin").write_bytes(builder.body)
    (tmp_path / "shapes" / "parts" / "b.bin").write_bytes(builder.body)
    (tmp_path / "shapes" / "c%20d.bin").write_bytes(builder.body)
    for uri in ("a%20b.bin", "a b.bin", "./a%20b.bin", "parts/b.bin", "c%20d.bin"):
        assert len(refer(uri)) == 2
    with pytest.raises(DataError, match="keeps its data in another file"):
        refer("a%20b.bin", "glb")
    (tmp_path / "shapes" / "parts" / "b.bin").write_bytes(builder.body[:-1])
    with pytest.raises(DataError, match="it is cut short"):
        refer("parts/b.bin")


@pytest.mark.parametrize(
    "uri",
    ["../b.bin", "parts/../../b.bin", "%2e%2e/b.bin", "..\\b.bin", "{root}/b.bin",
     "file://{root}/b.bin", "http://localhost/b.bin", "C:\\b.bin"],
)  # fmt: skip
def test_buffers_elsewhere_are_not_opened(builder, tmp_path, refer, uri):
    (tmp_path / "b.bin").write_bytes(builder.body)
    with pytest.raises(DataError, match="which is not in its folder"):
        refer(uri.format(root=tmp_path))


def test_buffers_that_are_no_files(tmp_path, refer):
    (tmp_path / "shapes" / "parts").mkdir(parents=True)
    for uri in ("none.bin", "parts", ""):
        with pytest.raises(DataError, match=r"is missing|is a folder|not in its folder"):
            refer(uri)


def test_many_nodes_cost_little(builder, read):
    builder.nodes = [{"children": list(range(1, 20_001))}]
    builder.nodes += [{"mesh": 0, "translation": [0, 0, i]} for i in range(20_000)]
    started = time.process_time()
    assert len(read(builder)) == 40_000
    builder.nodes = [
        {"children": [i + 1], "mesh": 0, "translation": [0, 0, 1]} for i in range(20_000)
    ]
    builder.nodes.append({})
    assert read(builder)[:, :, 2].max() == pytest.approx(20_000)
    assert time.process_time() - started < 15


def test_copies_of_parts_are_counted(builder, read, monkeypatch):
    monkeypatch.setattr("i2pmae.formats.polygons.MOST_FACES", 100)
    builder.nodes = [{"children": list(range(1, 52))}, *[{"mesh": 0}] * 51]
    with pytest.raises(DataError, match="more than 100 faces"):
        read(builder)
    # Vertices without faces are not copied along.
    builder.nodes = [{"mesh": 0}]
    builder.primitive["attributes"]["POSITION"] = builder.accessor(np.tile(SQUARE, (1000, 1)))
    assert len(read(builder)) == 2
