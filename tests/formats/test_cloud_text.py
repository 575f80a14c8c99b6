import io

import numpy as np
import pytest

from i2pmae.datasets import open_source
from i2pmae.errors import DataError
from i2pmae.formats.cloud_text import looks_like_points, read_text_cloud

EXPECTED = np.arange(30.0).reshape(10, 3) / 2


def rows(mark=" ", end="\n", more="", comma=False):
    lines = [mark.join(f"{value:g}" for value in row) for row in EXPECTED]
    text = "".join(line + more + end for line in lines)
    return text.replace(".", ",") if comma else text


@pytest.mark.parametrize(
    "text",
    [
        rows(),
        rows("\t").rstrip(),
        rows(", ", "\r\n"),
        rows(",", "\r"),
        rows(";"),
        rows(more=" ").replace("\n", "\n\n"),
        rows(",", more=","),
        "# x y z\n" + rows(),
        "\ufeff" + rows(more=" 255 0 0"),
        "//X Y Z R G B\n" + rows(more=" 255 0 0"),  # CloudCompare
        "10\n" + rows(),
        "10\n" + rows(more=" -1200 10 20 30"),  # Leica's .pts
        "//X,Y,Z\n10\n".replace("10\n", "") + rows(","),
        "x,y,z\n" + rows(","),
        '"Points:0","Points:1","Points:2"\n' + rows(","),  # ParaView
        "X [m]; Y [m]; Z [m]\n" + rows("; ", comma=True),  # German spreadsheets
        rows("\t", comma=True),
        "id,x,y,z\n" + "".join(f"7,{line}\n" for line in rows(",").splitlines()),
        "label x y z\n" + "".join(f"chair {line}\n" for line in rows().splitlines()),
        "0,1,2\n" + rows(","),  # pandas, where columns have no names
        ",0,1,2\n" + "".join(f"{i},{line}\n" for i, line in enumerate(rows(",").splitlines())),
        "made by a scanner\nunits: m\n\n" + rows(),
        "".join(f"{i} {line}\n" for i, line in enumerate(rows().splitlines(), start=1)),
        "x,y,z,class\n" + rows(",", more=",chair"),
        "no,x_mm,y_mm,z_mm\n" + "".join(f"7,{line}\n" for line in rows(",").splitlines()),
        '"x","y","z"\n' + rows('","', '"\n').replace("\n", '\n"').removesuffix('"').join(['"', ""]),
        "x y z\n" + rows(more=" 0.5" * 3000),
        "x,y,z,1,2\n" + rows(",", more=",7,8"),
        "east;north;height\n" + rows(";"),
        "# made by a scanner\n" + rows(more=" 7"),
        "no,a,b,c\n" + "".join(f"{i},{line}\n" for i, line in enumerate(rows(",").splitlines())),
        "# POINT3D_ID, X, Y, Z, R, G, B, ERROR, TRACK[] as (IMAGE_ID, POINT2D_IDX)\n# 10 points\n"
        + "".join(f"7 {line} 0 0 0 1{' 2 3' * i}\n" for i, line in enumerate(rows().splitlines())),
    ],
)
@pytest.mark.parametrize("name", ["a.xyz", "a.txt", "a.csv", "a.pts"])
def test_tables_as_people_and_programs_write_them(tmp_path, text, name):
    (tmp_path / name).write_bytes(text.encode())
    np.testing.assert_array_equal(read_text_cloud(tmp_path / name)[:, :3], EXPECTED)
    assert open_source(tmp_path).layout == "clouds"


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("name", ["a.xyz", "a.csv"])
def test_encodings_of_spreadsheets(tmp_path, encoding, name):
    (tmp_path / name).write_text("x;y;z\n" + rows(";"), encoding=encoding)
    np.testing.assert_array_equal(read_text_cloud(tmp_path / name)[:, :3], EXPECTED)
    assert open_source(tmp_path).layout == "clouds"


def test_a_first_point_on_a_grid_is_no_header(tmp_path):
    (tmp_path / "a.csv").write_text("0,1,2\n" + "3,4,5\n" * 9)
    assert len(read_text_cloud(tmp_path / "a.csv")) == 10


def test_utf16_and_comments_in_other_encodings(tmp_path):
    (tmp_path / "a.txt").write_bytes(rows().encode("utf-16"))
    (tmp_path / "b.txt").write_bytes(b"# gr\xfc\xdfe\n" + rows().encode())
    for name in ("a.txt", "b.txt"):
        np.testing.assert_array_equal(read_text_cloud(tmp_path / name), EXPECTED)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("11\n" + rows(), "holds 10 points, its first line promises 11: it is cut short"),
        (rows() + "1 2\n", "the number of columns changed"),
        (rows() + "1 2 x\n", "cannot be read"),
        ("hello\n" * 50, "no numbers in its first lines, such as 'hello'"),
        ("", "is empty"),
        ("1 2\n" * 20, "no numbers"),
        ("\0" * 20, "is binary"),
        ("intensity,a,b,c\n" + rows(",", more=",7"), "names its columns intensity, a, b, c; expec"),
        ("id x y height\n" + rows(more=" 7"), "expected x, y and z among them. Rename"),
    ],
)
def test_what_is_no_table_of_points(tmp_path, text, reason):
    (tmp_path / "a.xyz").write_text(text)
    with pytest.raises(DataError, match=reason):
        read_text_cloud(tmp_path / "a.xyz")


@pytest.mark.parametrize(
    "text",
    [
        "chair/a.off\n" * 30,
        "0\n1\n2\n" * 30,
        "1 0 0 0\n0 1 0 0\n0 0 1 0\n0 0 0 1\n",  # a camera
        "Read me.\n" * 3,
        "1,2\n" * 30,
        "",
    ],
)
def test_prose_lists_and_cameras_are_no_clouds(text):
    assert not looks_like_points(io.BytesIO(text.encode()))


def test_texts_beside_shapes_are_read_as_such_only_if_they_are_points(tmp_path):
    for number in range(3):
        (tmp_path / f"{number}.txt").write_text(rows())
    (tmp_path / "readme.txt").write_text("three clouds")
    source = open_source(tmp_path)
    assert source.ids == ["0", "1", "2"]
    assert source.notes[1] == "left out: other files (1 .txt)"
