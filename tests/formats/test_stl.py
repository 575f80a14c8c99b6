import struct
import time

import numpy as np
import pytest

from i2pmae.errors import DataError

from ..measures import area, measures, read_triangles


def text_of(triangles, name="a", end="endsolid a\n"):
    facets = "".join(
        "facet normal 0 0 1\n outer loop\n"
        + "".join(f"  vertex {x:e} {y:e} {z:e}\n" for x, y, z in triangle)
        + " endloop\nendfacet\n"
        for triangle in triangles
    )
    return f"solid {name}\n{facets}{end}"


@pytest.fixture
def read(tmp_path):
    def read(data):
        file = tmp_path / "a.stl"
        file.write_bytes(data if isinstance(data, bytes) else data.encode())
        return read_triangles(file)

    return read


@pytest.fixture
def box(write):
    return (write.CUBE * [1, 2, 3])[write.CUBE_TRIANGLES]


BOX = pytest.approx([22, 0, 0, 0, 1, 2, 3, 0.5, 1, 1.5])


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text,
        str.upper,
        lambda text: text.replace("solid", "Solid").replace("facet", "Facet"),
        lambda text: text.replace(" ", "\t"),
        lambda text: text.replace("\n", "\r"),
        lambda text: text.replace("\n", "\r\n"),
        lambda text: text.replace("\n", " "),
        lambda text: "\n\n  " + text + "\n\n",
        lambda text: b"\xef\xbb\xbf" + text.encode(),
        lambda text: text.encode("utf-16"),
        lambda text: text.replace("solid a", "solid caf\xe9").encode("latin1"),
        lambda text: text.replace("solid a", "solid"),
        lambda text: text.replace("solid a", "solid facet 3 vertex 1 2 3"),
        lambda text: text.removesuffix("endsolid a\n"),
        lambda text: text.replace("endsolid", "end solid"),
        lambda text: text.replace("endloop", "end loop").replace("endfacet", "end  facet"),
        lambda text: "# made by hand, facet\n" + text.replace("\nfacet", "\n  // a comment\nfacet"),
        lambda text: text + "\0\0\0",
        lambda text: text.replace("normal 0 0 1", "normal nan -nan(ind) 1"),
    ],
)
def test_text_as_people_write_it(read, box, change):
    assert measures(read(change(text_of(box)))) == BOX


def test_every_solid_is_read(read, box):
    far = np.add(box, (0, 0, 10))
    for end in ("endsolid a\n", ""):
        triangles = read(text_of(box, "a", end) + text_of(far, "b", end))
        assert measures(triangles) == pytest.approx([44, 0, 0, 0, 1, 2, 13, 0.5, 1, 6.5])


@pytest.mark.parametrize(
    ("head", "count", "tail"),
    [
        (b"", 12, b""),
        (b"solid facet normal vertex", 12, b""),
        (b"solid x", 12, b"\0\0\0\0"),
        (b"", 12, b"\n"),
        (b"", 12, b"made by x"),
        (b"", 12, bytes(428)),
        (b"", 0, b""),
        (b"", 2**32 - 1, b""),
    ],
)
def test_binary_files_as_people_write_them(read, write, head, count, tail):
    facets = write.stl_bytes(write.CUBE * [1, 2, 3])[84:]
    assert measures(read(head.ljust(80) + struct.pack("<I", count) + facets + tail)) == BOX


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda text: text[: len(text) * 2 // 3], "facet 9 .*cut short"),
        (lambda text: text.replace("  vertex", "", 1), "facet 1 has .* where 'vertex' belongs"),
        (lambda text: text.replace(" endloop", "  vertex 1 1 1\n endloop", 1), "no triangle"),
        (lambda text: text.replace("vertex 0", "vertex x0", 1), "could not convert"),
        (lambda text: text.replace("vertex 0.000000e+00", "vertex nan", 1), "1 of 12 faces"),
        (lambda text: text.replace("endfacet", "", 1), "facet 1 has .* where 'endfacet' belongs"),
        (lambda _: "solid a\nendsolid a\n", "has no faces"),
        (lambda _: "404", "is neither text nor"),
    ],
)
def test_damaged_text(read, box, change, reason):
    with pytest.raises(DataError, match=reason) as caught:
        read(change(text_of(box)))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("lost", [1, 50, 70, 500])
def test_binary_files_cut_short(read, write, lost):
    with pytest.raises(DataError, match="is neither text nor 684 bytes long"):
        read(write.stl_bytes()[:-lost])


def test_more_facets_than_promised(read, write):
    with pytest.raises(DataError, match="continues for 684 bytes after the 12 facets"):
        read(write.stl_bytes() * 2)


def test_many_solids_cost_little(read, box):
    text = "".join(text_of(np.add(box[:2], (0, 0, i)), f"part {i}") for i in range(10_000))
    started = time.process_time()
    triangles = read(text)
    assert time.process_time() - started < 5
    assert len(triangles) == 20_000
    assert area(triangles) == pytest.approx(10_000 * area(box[:2]))
    assert np.ptp(triangles[:, 0, 2]) == pytest.approx(9_999 + np.ptp(box[:2, 0, 2]))
