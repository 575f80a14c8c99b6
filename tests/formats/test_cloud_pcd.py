import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from i2pmae.datasets import open_source
from i2pmae.errors import DataError
from i2pmae.formats.cloud_pcd import pcd_header, read_pcd

POINTS = np.random.default_rng(0).random((60, 3)).round(1)  # so that compression shortens them
HEAD = """# .PCD v.7 - Point Cloud Data file format
VERSION .7
FIELDS x y z
SIZE 4 4 4
TYPE F F F
COUNT 1 1 1
WIDTH 60
HEIGHT 1
VIEWPOINT 0 0 0 1 0 0 0
POINTS 60
DATA ascii
"""


def text(mark=" ", end="\n", before=(), after=()):
    rows = [[*before, *row, *after] for row in POINTS.tolist()]
    return "".join(mark.join(map(str, row)) + end for row in rows)


def fields(names, sizes, types, counts):
    head = HEAD.replace("FIELDS x y z", f"FIELDS {names}").replace("SIZE 4 4 4", f"SIZE {sizes}")
    return head.replace("TYPE F F F", f"TYPE {types}").replace("COUNT 1 1 1", f"COUNT {counts}")


@pytest.fixture
def saved(tmp_path):
    """A file of the points as pypcd4 writes it."""

    def saved(kind):
        pypcd4 = pytest.importorskip("pypcd4")
        file = tmp_path / f"{kind}.pcd"
        cloud = pypcd4.PointCloud.from_xyz_points(POINTS.astype(np.float32))
        cloud.save(file, pypcd4.Encoding(kind))
        return file

    return saved


@pytest.mark.parametrize(
    "content",
    [
        HEAD + text(),
        HEAD + text("  "),
        HEAD + text("\t", " \n"),
        HEAD + " " + text(end="\n ").rstrip(),
        (HEAD + text()).replace("\n", "\r\n"),
        HEAD + text() + "\n\n",
        HEAD.replace("# .PCD", "# Stück") + text(),
        HEAD.replace("COUNT 1 1 1\n", "") + text(),
        HEAD.replace(".7\nF", ".5\nF").replace("FIELDS", "COLUMNS").replace("SIZE 4 4 4\n", "")
        + text(),
        HEAD.replace("POINTS 60\n", "").replace("60\nHEIGHT 1", "6\nHEIGHT 10") + text(),
        HEAD.replace("x y z", "X Y Z").replace("VIEWPOINT 0 0 0 1 0 0 0\n", "") + text(),
        fields("n x y z rgb", "4 4 4 4 4", "F F F F U", "2 1 1 1 1")
        + text(before=(7, 8), after=(4294967295,)),
        fields("x y z my-label", "4 4 4 1", "F F F U", "1 1 1 1") + text(after=("nan",)),
    ],
)
def test_text_as_people_write_it(tmp_path, content):
    (tmp_path / "a.pcd").write_text(content, encoding="utf-8", newline="")
    np.testing.assert_array_equal(read_pcd(tmp_path / "a.pcd"), POINTS)
    assert pcd_header(tmp_path / "a.pcd").n_points == 60
    assert len(open_source(tmp_path).load(0).points) == 60


def test_padding_and_several_values_a_field(tmp_path):
    head = fields("x y _ z rgb _", "8 8 1 8 4 1", "F F U F U U", "1 1 4 1 1 12")
    row = np.dtype([("xy", "<f8", 2), ("a", "u1", 4), ("z", "<f8"), ("b", "u1", 16)])
    rows = np.ones(60, row)
    rows["xy"], rows["z"] = POINTS[:, :2], POINTS[:, 2]
    data = head.replace("ascii", "binary").encode() + rows.tobytes() + b"\0\0"
    (tmp_path / "a.pcd").write_bytes(data)
    np.testing.assert_array_equal(read_pcd(tmp_path / "a.pcd"), POINTS)


@pytest.mark.parametrize("kind", ["ascii", "binary", "binary_compressed"])
@settings(max_examples=20)
@given(
    seed=st.integers(0, 2**31),
    n=st.integers(1, 300),
    digits=st.integers(0, 6),
    where=st.integers(0, 2),
)
def test_what_another_program_writes(tmp_path_factory, kind, seed, n, digits, where):
    pypcd4 = pytest.importorskip("pypcd4")
    rng = np.random.default_rng(seed)
    points = rng.normal(size=(n, 3)).round(digits).astype(np.float32)
    names, columns = ["x", "y", "z"], [*points.T]
    names.insert(where, "ring")
    columns.insert(where, rng.integers(0, 99, n, np.uint16))
    cloud = pypcd4.PointCloud.from_points(columns, names, [column.dtype for column in columns])
    file = tmp_path_factory.getbasetemp() / "random.pcd"
    try:
        cloud.save(file, pypcd4.Encoding(kind))
    except TypeError:  # pypcd4 writes no compressed file that would be longer
        return
    np.testing.assert_allclose(read_pcd(file), points, rtol=1e-6)


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        (b"POINTS 60", b"POINTS 61", "it is cut short"),
        (b"POINTS 60", b"POINTS 99999999999", "it is cut short"),
        (b"POINTS 60", b"POINTS -1", "expected numbers"),
        (b"POINTS 60", b"POINTS", "expected numbers"),
        (b"COUNT 1 1 1", b"COUNT 1 1 1000000000", "1000000002 values a point"),
        (b"SIZE 4 4 4", b"SIZE 4 4", "differ in length"),
        (b"POINTS 60\n", b"WIDTH\n", "expected numbers"),
        (b"SIZE 4 4 4", b"SIZE 4 4 3", "its field z is of type F and size 3"),
        (b"FIELDS x y z", b"FIELDS x y w", "no fields x, y and z, but x y w"),
        (b"DATA binary", b"DATA other", "DATA other is not known"),
        (b"DATA binary", b"", "no line DATA"),
    ],
)
def test_damaged_pcd_headers(saved, old, new, reason):
    file = saved("binary")
    data = file.read_bytes()
    assert old in data
    file.write_bytes(data.replace(old, new, 1))
    with pytest.raises(DataError, match=reason):
        read_pcd(file)


def test_compressed_pcd_must_unpack_to_what_the_header_says(saved):
    file = saved("binary_compressed")
    data = file.read_bytes()
    place = data.index(b"binary_compressed\n") + 18
    for sizes in ((10, 720), (2**31, 720), (700, 2**31)):
        file.write_bytes(data[:place] + struct.pack("<II", *sizes) + data[place + 8 :])
        with pytest.raises(DataError, match=r"compressed\.pcd cannot be read"):
            read_pcd(file)
    for change in (b"\xff" * 9, b"\xe0\xff\xff"):  # goes back to before the first byte
        file.write_bytes(data[: place + 8] + change + data[place + 8 + len(change) :])
        with pytest.raises(DataError, match="compressed points are damaged"):
            read_pcd(file)


def test_text_cut_short_or_too_long(tmp_path):
    for n in (59, 61, 70):
        content = HEAD.replace("POINTS 60", f"POINTS {n}") + text()
        (tmp_path / "a.pcd").write_text(content)
        with pytest.raises(DataError, match=f"holds 60 points, its header promises {n}"):
            read_pcd(tmp_path / "a.pcd")
