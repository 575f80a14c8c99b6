import time

import numpy as np
import pytest

from i2pmae.errors import DataError

from ..measures import area, measures, read_triangles


@pytest.fixture
def read(tmp_path):
    def read(text):
        file = tmp_path / "a.obj"
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
        return read_triangles(file)

    return read


@pytest.fixture
def box(write):
    return write.obj_bytes(write.CUBE * [1, 2, 3]).decode()


@pytest.mark.parametrize(
    "change",
    [
        lambda text: "\n".join("   " + line for line in text.split("\n")),
        lambda text: "\n".join("\t" + line for line in text.split("\n")),
        lambda text: text.replace(" ", "\t"),
        lambda text: text.replace(" ", "   ").replace("\n", "  \n\n"),
        lambda text: text.replace("\n", " # a comment\n"),
        lambda text: text.replace("\n", "# a comment, v 1 2 3\n"),
        lambda text: "# v 1 2\n#f 1 2 3\n" + text,
        lambda text: text.replace("\n", "\r"),
        lambda text: text.replace("\n", "\r\n"),
        lambda text: text.rstrip(),
        lambda text: b"\xef\xbb\xbf" + text.encode(),
        lambda text: text.encode("utf-16"),
        lambda text: text.encode("utf-16-le"),
        lambda text: text.encode("utf-16-be"),
        lambda text: text.encode("utf-32"),
        lambda text: text.encode("utf-32-be"),
        lambda text: text + "\0\0\0",
        lambda text: "# exported from C:\\models\\\n" + text,
        lambda text: ("o caf\xe9\n" + text).encode("latin1"),
        lambda text: text.replace("f 1 2 4 3", "f 1 2 \\\n 4 3"),
        lambda text: text.replace("f ", "fo "),
        lambda text: text.upper(),
        lambda text: text.replace("v 1.0 2.0 3.0", "v 1e0 +2. 0.3E1"),
        lambda text: text.replace(".0\n", ".0 0.5 0.5 0.5\n"),  # colors
        lambda text: text.replace(".0\n", ".0 1.0\n"),  # weights
        lambda text: "g one two\ns off\n" + text + "l 1 2 3\np 1\n",
        lambda text: "vt 0 0\nvn 0 0 1\n" + text.replace("f 1 2 4 3", "f 1/1/1 2//1 4/1 3/"),
        lambda text: text.replace("f 1 2 4 3", "f -8 -7 -5 -6"),
        lambda text: "f 1 2 4 3\n" + text.replace("f 1 2 4 3\n", ""),  # before its vertices
    ],
)
def test_files_as_people_write_them(read, box, change):
    expected = [22, 0, 0, 0, 1, 2, 3, 0.5, 1, 1.5]
    assert measures(read(change(box))) == pytest.approx(expected)


def test_relative_corners_count_from_their_line(read):
    square = "v 0 0 {0}\nv 1 0 {0}\nv 1 1 {0}\nv 0 1 {0}\nf -4 -3 -2 -1\n"
    triangles = read(square.format(0) + square.format(5))
    assert area(triangles) == pytest.approx(2)
    assert sorted(set(triangles[:, :, 2].ravel())) == [0, 5]


def test_relative_corners_count_over_the_parts_a_file_is_read_in(read, monkeypatch):
    monkeypatch.setattr("i2pmae.formats.words._CHUNK", 50)
    text = "".join(f"v 0 0 {z}\nv 1 0 {z}\nv 0 1 {z}\nf -3 -2 -1\n" for z in range(100))
    np.testing.assert_array_equal(read(text)[:, 0, 2], np.arange(100))


def test_faces_with_and_without_texture_of_one_count_of_numbers(read):
    angles = np.arange(6) * np.pi / 3
    text = "".join(f"v {np.cos(a):.9f} {np.sin(a):.9f} 0\n" for a in angles)
    text += "v 10 0 0\nv 11 0 0\nv 10 1 0\nvt 0 0\nf 7/1 8/1 9/1\nf 1 2 3 4 5 6\n"
    assert area(read(text)) == pytest.approx(0.5 + 1.5 * 3**0.5)


def test_concave_faces(read):
    corners = "v 0 0 0\nv 3 0 0\nv 3 1 0\nv 1 1 0\nv 1 3 0\nv 0 3 0\n"
    for face in ("3 4 5 6 1 2", "2 1 6 5 4 3", "4 5 6 1 2 3"):
        assert area(read(f"{corners}f {face}\n")) == pytest.approx(5)


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("f 1 2", "f 0 2", "vertex 0; they are counted from 1"),
        ("f 1 2", "f 9 2", "names vertex 8; expected 0 to 7"),
        ("f 1 2", "f 99999999999999 2", "names vertex 2147483646"),
        ("f 1 2", "f 9999999999999999999999 2", "is no integer"),
        ("f 1 2", "f -9 2", "before the first vertex"),
        ("f 1 2", "f 1.5 2", "'1.5' is no integer"),
        ("f 1 2", "f x 2", "'x' is no integer"),
        ("f 1 2", "f 1,2,3\nf 1 2", "'1,2,3' is no integer"),
        ("f 1 2", "f /1 2", "'/1' is no integer"),
        ("f 1 2", "f1 2", "begins with 'f1'"),
        ("v 1.0 0.0 0.0", "v1.0 0.0 0.0", "begins with 'v1.0'"),
        ("v 1.0 0.0 0.0", "v 1.0 0.0", "fewer than three"),
        ("v 1.0 0.0 0.0", "v 1.0 x 0.0", "could not convert"),
        ("v 1.0 0.0 0.0", "v 1,0 0,0 0,0", "could not convert"),
        ("v 1.0 0.0 0.0", "v 1_0.0 0.0 0.0", "a number holds '_'"),
        ("v 1.0 0.0 0.0", "v 1.0 nan 0.0", "not finite"),
        ("f 1 2", "cstype bspline\nsurf 0 1 0 1 1 2\nf 1 2", "holds 'surf'"),
        ("f 1 2", "call other.obj\nf 1 2", "holds 'call'"),
        ("f 1 2", "f \0 1 2", "is binary"),
    ],
)
def test_damaged_files(read, box, old, new, reason):
    assert old in box
    with pytest.raises(DataError, match=reason) as caught:
        read(box.replace(old, new, 1))
    assert "\n" not in str(caught.value)


def test_materials_cost_nothing(read):
    square = "v 0 0 0\nv 1 0 0\nv 1 1 0\nv 0 1 0\n"
    text = square + "".join(
        f"usemtl material_{i}\ng {i}\nf 1 2 3\nf 1 3 4\n" for i in range(20_000)
    )
    started = time.process_time()
    assert area(read(text)) == pytest.approx(20_000)
    assert time.process_time() - started < 5
