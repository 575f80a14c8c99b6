import struct

import numpy as np
import pytest

from i2pmae.datasets.clouds import read_cloud
from i2pmae.errors import DataError

POINTS = np.random.default_rng(0).random((60, 3)).round(3)
BEGIN = 96  # of the header: where the points begin
PART = 12  # of the record that says how points are packed: points of a part


@pytest.fixture(params=["1.2", "1.4"])
def packed(request, tmp_path):
    """A `.laz`; from version 1.4 on its points are packed in layers."""
    laspy = pytest.importorskip("laspy")
    pytest.importorskip("lazrs")
    kind = 6 if request.param == "1.4" else 3
    cloud = laspy.LasData(laspy.LasHeader(point_format=kind, version=request.param))
    cloud.header.scales = [1e-4] * 3
    cloud.x, cloud.y, cloud.z = POINTS.T
    cloud.write(tmp_path / "a.laz")
    return tmp_path / "a.laz"


def change(file, place, value):
    data = bytearray(file.read_bytes())
    data[place : place + len(value)] = value
    file.write_bytes(data)


def number(file, place, form="<I"):
    return struct.unpack_from(form, file.read_bytes(), place)[0]


def record(file):
    return file.read_bytes().index(b"laszip encoded") + 52


def test_parts_of_any_size_take_the_memory_of_their_points(packed):
    np.testing.assert_allclose(read_cloud(packed), POINTS, atol=1e-4)
    change(packed, record(packed) + PART, struct.pack("<I", 2**31 - 1))
    np.testing.assert_allclose(read_cloud(packed), POINTS, atol=1e-4)


def test_a_table_at_the_end_of_the_file(packed):
    begin = number(packed, BEGIN)
    table = number(packed, begin, "<q")
    change(packed, begin, struct.pack("<q", -1))
    packed.write_bytes(packed.read_bytes() + struct.pack("<q", table))
    np.testing.assert_allclose(read_cloud(packed), POINTS, atol=1e-4)


def test_what_packed_points_claim_is_compared_with_the_file(packed):
    whole = packed.read_bytes()
    begin = number(packed, BEGIN)
    table = number(packed, begin, "<q")
    changes = {
        table + 4: (struct.pack("<I", 10**9), "1000000000 parts hold 60 points"),
        begin: (struct.pack("<q", len(whole)), "the table of its parts lies outside"),
        record(packed) - 50: (b"no laz", "does not say how its points are packed"),
    }
    if whole[24:26] == b"\x01\x04":
        layer = begin + 8 + 30 + 4  # after a point as it is, and the number of all
        changes[layer] = struct.pack("<I", 2**32 - 1), "a layer of its points ends beyond them"
    for place, (value, reason) in changes.items():
        packed.write_bytes(whole)
        change(packed, place, value)
        with pytest.raises(DataError, match=reason):
            read_cloud(packed)


def test_panics_of_rust_are_one_line(packed, monkeypatch):
    import laspy

    class PanicException(BaseException):
        pass

    def panic(*_):
        raise PanicException("index out of bounds")

    monkeypatch.setattr(laspy.LasReader, "read_points", panic)
    with pytest.raises(DataError, match=r"a\.laz cannot be read: its points are damaged: index"):
        read_cloud(packed)
