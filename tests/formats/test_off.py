import struct

import numpy as np
import pytest

from i2pmae.errors import DataError

from ..measures import area, measures, read_triangles

BOX = pytest.approx([22, 0, 0, 0, 1, 2, 3, 0.5, 1, 1.5])


@pytest.fixture
def read(tmp_path):
    def read(data):
        (tmp_path / "a.off").write_bytes(data)
        return read_triangles(tmp_path / "a.off")

    return read


@pytest.fixture
def box(write):
    return write.CUBE * [1, 2, 3]


def with_values(write, vertices, *values):
    return write.off_bytes(np.concatenate([vertices, np.tile(values, (8, 1))], axis=1))


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data.replace(b"OFF\n8 12 0", b"OFF8 12 0"),  # as in ModelNet
        lambda data: data.replace(b"OFF\n8 12 0", b"OFF 8 12 0"),
        lambda data: data.replace(b"OFF\n8 12 0", b"OFF\n8 12"),
        lambda data: data.replace(b"OFF\n8 12 0", b"OFF\n8\n12\n0"),
        lambda data: data.replace(b"OFF", b"off"),
        lambda data: b"# a comment\n" + data.replace(b"8 12 0", b"# caf\xe9\n\n8 12 0 # counts"),
        lambda data: data.replace(b"\n", b"\r\n"),
        lambda data: data.replace(b"\n", b"\r"),
        lambda data: b"\xef\xbb\xbf" + data,
        lambda data: data.decode().encode("utf-16"),
        lambda data: data.replace(b"\n3 ", b"\n\n3  ").rstrip(),
        lambda data: data.replace(b"\n3 ", b"\n  3\t"),
        lambda data: data + b"a line too many\n",
        lambda data: data.replace(b" ", b"\n"),
        lambda data: data.replace(b" ", b"\n").replace(b"\n3\n", b" \n3 "),
        lambda data: data.replace(b"\n", b" "),
        lambda data: data.replace(b"0\n3", b"0 255 0 0\n3"),  # colors of some faces
    ],
)
def test_text_as_people_write_it(read, write, box, change):
    assert measures(read(change(write.off_bytes(box)))) == BOX


def test_vertices_with_more_values(read, write, box):
    for head, values in (
        (b"OFF", (255, 0, 0)),
        (b"COFF", (255, 0, 0)),
        (b"COFF", (1.0, 0.5, 0.5, 1.0)),
        (b"NOFF", (0, 0, 1)),
        (b"CNOFF", (0, 0, 1, 1.0, 0.5, 0.5, 1.0)),
        (b"STOFF", (0.5, 0.5)),
        (b"NCSTOFF", (0, 0, 1, 255, 0, 0, 0.5, 0.5)),
    ):
        data = with_values(write, box, *values).replace(b"OFF", head)
        assert measures(read(data)) == BOX
    assert measures(read(with_values(write, box * 2, 2).replace(b"OFF", b"4OFF"))) == BOX
    assert measures(read(write.off_bytes(box).replace(b"OFF", b"nOFF 3"))) == BOX


@pytest.mark.parametrize("n_colors", [0, 3])
@pytest.mark.parametrize("faces", ["CUBE_FACES", "CUBE_TRIANGLES", "both"])
def test_binary_files(read, write, box, n_colors, faces):
    if faces == "both":
        faces = write.CUBE_FACES[:3] + write.CUBE_TRIANGLES[6:]
    else:
        faces = getattr(write, faces)
    data = b"OFF BINARY\n" + struct.pack(">3i", 8, len(faces), 0) + box.astype(">f4").tobytes()
    for face in faces:
        data += struct.pack(f">{len(face) + 2}i", len(face), *face, n_colors) + bytes(4 * n_colors)
    assert measures(read(data)) == BOX
    with pytest.raises(DataError, match=r"it ends in|cannot be read"):
        read(data[:-9])


def test_concave_faces(read, write):
    corners = np.array([(0, 0, 0), (3, 0, 0), (3, 1, 0), (1, 1, 0), (1, 3, 0), (0, 3, 0)], float)
    assert area(read(write.off_bytes(corners, [(2, 3, 4, 5, 0, 1)]))) == pytest.approx(5)


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        (b"OFF\n", b"", "has no header"),
        (b"OFF\n8 12 0", b"OFF\n8 x 0", "promises no numbers"),
        (b"OFF", b"nOFF 4", "not of three dimensions"),
        (b"8 12 0", b"8 11 0", "more faces follow than the 11"),
        (b"8 12 0", b"8 13 0", "holds 20 lines of vertices and faces, its header promises 21"),
        (b"8 12 0", b"8 999999999999 0", "cut short"),
        (b"1.0 2.0 3.0", b"1.0 2.0", "another number of values"),
        (b"1.0 2.0 3.0", b"1.0 x 3.0", "could not convert"),
        (b"3 0 1 3", b"3 0 1", "fewer corners than it promises"),
        (b"3 0 1 3", b"3 0 1 8", "names vertex 8; expected 0 to 7"),
        (b"3 0 1 3", b"3 0 1 -1", "names vertex -1"),
        (b"3 0 1 3", b"3 0 1 0.5", "'0.5' is no integer"),
    ],
)
def test_damaged_files(read, write, box, old, new, reason):
    data = write.off_bytes(box)
    assert old in data
    with pytest.raises(DataError, match=reason) as caught:
        read(data.replace(old, new, 1))
    assert "\n" not in str(caught.value)
