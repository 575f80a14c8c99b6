import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from i2pmae.errors import DataError
from i2pmae.formats.ply import ply_header, read_ply

from ..measures import area

KINDS = ["ascii", "binary_little_endian", "binary_big_endian"]


@pytest.fixture
def read(tmp_path):
    def read(data):
        (tmp_path / "a.ply").write_bytes(data)
        return read_ply(tmp_path / "a.ply")

    return read


def fans(faces):
    """Slow triangulation of convex faces, face by face."""
    return sorted([f[0], f[i], f[i + 1]] for f in faces for i in range(1, len(f) - 1))


ANGLES = np.arange(8) * np.pi / 4
RING = np.column_stack([np.cos(ANGLES), np.sin(ANGLES), np.zeros(8)])


@pytest.mark.parametrize("kind", KINDS)
def test_triangles(write, read, kind):
    vertices, triangles = read(write.ply_bytes(kind=kind))
    np.testing.assert_array_equal(vertices, write.CUBE)
    assert triangles.tolist() == write.CUBE_TRIANGLES


@pytest.mark.parametrize("kind", KINDS)
def test_polygons_of_several_sizes_become_fans(write, read, kind):
    faces = [[0, 1, 2, 3], [4, 6, 7], [0, 1, 3, 4, 5], [2, 3], [1, 3, 5, 7], []]
    _, triangles = read(write.ply_bytes(RING, faces, kind))
    assert sorted(triangles.tolist()) == fans(faces)


@pytest.mark.parametrize("kind", KINDS)
def test_clouds_have_no_faces(write, read, kind, tmp_path):
    vertices, triangles = read(write.ply_bytes(faces=None, kind=kind))
    assert (len(vertices), len(triangles)) == (8, 0)
    assert ply_header(tmp_path / "a.ply").n_faces == 0


HEAD = b"""ply\r
format ascii 1.0\r
comment columns in another order, and other elements before and between\r
element camera 1\r
property float fov\r
element vertex 3\r
property uchar red\r
property double z\r
property double x\r
property float confidence\r
property double y\r
element edge 1\r
property list uchar int ends\r
element face 2\r
property float quality\r
property list uchar float texcoord\r
property list uint8 uint32 vertex_index\r
property int flags\r
end_header\r
"""


def test_other_columns_and_elements_are_passed_over(read):
    rows = "60\n9 3 1 0.5 2\n9 6 4 0.5 5\n9 9 7 0.5 8\n2 0 1\n"
    rows += "0.1 2 0.5 0.5 3 0 1 2 7\n0.1 0 3 2 1 0 7\n"
    vertices, triangles = read(HEAD + rows.replace("\n", "\r\n").encode())
    np.testing.assert_array_equal(vertices, [[1, 2, 3], [4, 5, 6], [7, 8, 9]])
    assert sorted(triangles.tolist()) == [[0, 1, 2], [2, 1, 0]]
    binary = HEAD.replace(b"ascii", b"binary_big_endian") + struct.pack(">f", 60)
    for z, x, y in ((3, 1, 2), (6, 4, 5), (9, 7, 8)):
        binary += struct.pack(">Bddfd", 9, z, x, 0.5, y)
    binary += struct.pack(">B2i", 2, 0, 1)
    binary += struct.pack(">fB2fB3Ii", 0.1, 2, 0.5, 0.5, 3, 0, 1, 2, 7)
    binary += struct.pack(">fBB3Ii", 0.1, 0, 3, 2, 1, 0, 7)
    vertices, triangles = read(binary)
    np.testing.assert_array_equal(vertices, [[1, 2, 3], [4, 5, 6], [7, 8, 9]])
    assert sorted(triangles.tolist()) == [[0, 1, 2], [2, 1, 0]]


@settings(max_examples=60)
@given(
    st.sampled_from(KINDS),
    st.lists(st.lists(st.integers(0, 7), max_size=6, unique=True).map(sorted), max_size=8),
)
def test_any_faces(tmp_path_factory, write, kind, faces):
    file = tmp_path_factory.mktemp("ply") / "a.ply"
    file.write_bytes(write.ply_bytes(RING, faces, kind))
    assert sorted(read_ply(file)[1].tolist()) == fans(faces)


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        (b"ply\n", b"pl\n", "no header of a .ply"),
        (b"end_header", b"end_head", "no header of a .ply"),
        (b"format ascii 1.0\n", b"", "no known format|unknown header line"),
        (b"format ascii", b"format binary", "unknown header line 'format binary 1.0'"),
        (b"vertex 8", b"vertex -8", "unknown header line 'element vertex -8'"),
        (b"vertex 8", b"vertex 9", "11 of 12|cut short|cannot be read"),
        (b"face 12", b"face 11", "lines follow those that its header promises"),
        (b"face 12", b"face 13", "12 of 13 lines of 'face'|cut short"),
        (b"face 12", b"face 99999999999", "promises at least"),
        (b"face 12", b"face 9999999999999999999999", "unknown header line"),
        (b"list uchar", b"list float", "unknown header line"),
        (b"float x", b"float u", "'x' is not in list"),
        (b"float x", b"list uchar float x", "vertices hold lists"),
        (b"\n3 0 1 3", b"\n3 0 1", "a face of 3 corners lists 2"),
        (b"\n3 0 1 3", b"\n-3 0 1 3", "a face of -3 corners"),
        (b"\n3 0 1 3", b"\n3 0 1 8", "names vertex 8; expected 0 to 7"),
        (b"\n3 0 1 3", b"\n3 0 1 -1", "names vertex -1"),
        (b"\n3 0 1 3", b"\n3 0 1 x", "cannot be read"),
        (b"0.0 0.0 1.0", b"0.0 0.0", "cannot be read"),
    ],
)
def test_damaged_files(write, read, old, new, reason):
    data = write.ply_bytes(kind="ascii")
    assert old in data
    with pytest.raises(DataError, match=reason) as caught:
        read(data.replace(old, new, 1))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("line_end", [b"\r", b"\r\n"])
def test_headers_of_other_systems(write, read, kind, line_end):
    data = write.ply_bytes(kind=kind)
    end = len(data) if kind == "ascii" else data.index(b"end_header\n") + 11
    vertices, triangles = read(data[:end].replace(b"\n", line_end) + data[end:])
    np.testing.assert_array_equal(vertices, write.CUBE)
    assert triangles.tolist() == write.CUBE_TRIANGLES


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("old", "new"),
    [
        (
            b"float x\nproperty float y\nproperty float z",
            b"float X\nproperty float Y\nproperty float Z",
        ),
        (b"element vertex", b"element Vertex"),
        (b"element face", b"element FACE"),
        (b"vertex_indices", b"vertex_index"),
        (b"list uchar int", b"LIST UCHAR Int"),
        (b"ply\n", b"\xef\xbb\xbfply\n"),
    ],
)
def test_names_as_people_write_them(write, read, kind, old, new):
    data = write.ply_bytes(kind=kind)
    assert old in data
    assert read(data.replace(old, new, 1))[1].tolist() == write.CUBE_TRIANGLES


@pytest.mark.parametrize("kind", ["ascii", "binary_little_endian"])
def test_columns_of_truth_values(write, read, kind):
    data = write.ply_bytes(kind=kind).replace(b"property list", b"property bool ok\nproperty list")
    if kind == "ascii":
        data = data.replace(b"\n3 ", b"\n1 3 ")
    else:
        faces = b"".join(struct.pack("<BB3i", 1, 3, *face) for face in write.CUBE_TRIANGLES)
        data = data[: data.index(b"end_header\n") + 11 + 8 * 12] + faces
    assert sorted(read(data)[1].tolist()) == sorted(write.CUBE_TRIANGLES)


@pytest.mark.parametrize("kind", KINDS)
def test_strips_of_triangles(write, read, kind, tmp_path):
    strips = [[0, 1, 2, 3, -1, 4, 5, 6], [7, 6, 5, 4, 3], [0, 1]]
    data = write.ply_bytes(RING, strips, kind).replace(b"element face", b"element tristrips")
    expected = [[0, 1, 2], [1, 2, 3], [4, 5, 6], [7, 6, 5], [6, 5, 4], [5, 4, 3]]
    assert sorted(read(data)[1].tolist()) == sorted(expected)
    assert ply_header(tmp_path / "a.ply").n_faces == 3


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (b"faces", [[0, 1, 2], [0, 2, 3]]),
        (b"polygon", [[0, 1, 2], [0, 2, 3]]),
        (b"triangle_fan", [[0, 1, 2], [0, 2, 3]]),
        (b"tri_strips", [[0, 1, 2], [1, 2, 3]]),
    ],
)
def test_surfaces_by_other_names(write, read, kind, name, expected):
    data = write.ply_bytes(RING, [[0, 1, 2, 3]], kind).replace(b"element face", b"element " + name)
    assert sorted(read(data)[1].tolist()) == sorted(expected)


@pytest.mark.parametrize("kind", KINDS)
def test_vertices_listed_otherwise(write, read, kind, tmp_path):
    data = write.ply_bytes(kind=kind)
    assert len(read(data.replace(b"element face", b"element range_grid")).faces) == 0
    with pytest.raises(DataError, match="'tetrahedra' lists vertices, but not as faces"):
        read(data.replace(b"element face", b"element tetrahedra"))
    assert ply_header(tmp_path / "a.ply").n_faces  # not a cloud


def test_headers_in_capitals(write, read):
    head, end, rest = write.ply_bytes().partition(b"end_header")
    vertices, triangles = read(head.upper() + end.upper() + rest)
    assert (len(vertices), len(triangles)) == (8, 12)


@pytest.mark.parametrize("kind", KINDS)
def test_concave_faces(write, read, kind):
    corners = np.array([(0, 0, 0), (3, 0, 0), (3, 1, 0), (1, 1, 0), (1, 3, 0), (0, 3, 0)], float)
    vertices, triangles = read(write.ply_bytes(corners, [[2, 3, 4, 5, 0, 1]], kind))
    assert area(vertices[triangles]) == pytest.approx(5)


def test_faces_without_corners_are_named(write, read):
    data = write.ply_bytes()
    for old, new in ((b"vertex_indices", b"corners"), (b"uchar int vertex", b"uchar float vertex")):
        with pytest.raises(DataError, match="'face' has no integers vertex_indices or"):
            read(data.replace(old, new))


def test_lists_that_claim_more_than_there_is(write, read):
    data = write.ply_bytes(kind="binary_little_endian").replace(b"uchar int", b"uint uint")
    with pytest.raises(DataError, match=r"cannot be read|cut short"):
        read(data)
