import collections
import contextlib
import pickle
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from i2pmae.errors import DataError
from i2pmae.formats.files import read_pickle
from i2pmae.untrusted.unpickling import as_array


@pytest.fixture
def file(tmp_path):
    return tmp_path / "a.pkl"


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("dtype", ["<f4", ">f4", "f8", "f2", "i4", "u1", "?", ">i8"])
def test_arrays_come_out_as_they_went_in(file, protocol, dtype):
    array = np.random.default_rng(0).integers(0, 2, (6, 5)).astype(dtype)
    values = {"c": array, "f": np.asfortranarray(array), "flat": array[0], "one": array[0, 0]}
    file.write_bytes(pickle.dumps(values, protocol=protocol))
    found = read_pickle(file)
    np.testing.assert_array_equal(as_array(found["c"]), array[:, :3])
    np.testing.assert_array_equal(as_array(found["f"]), array[:, :3])
    np.testing.assert_array_equal(as_array(found["flat"]), array[0])
    assert found["one"] == array[0, 0]
    assert as_array(found["c"]).dtype == array.dtype.newbyteorder("=")
    assert as_array(found["c"]).flags.owndata


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_large_arrays_lie_outside_frames(file, protocol):
    arrays = [np.random.default_rng(row).random((4000, 6)) for row in range(3)]
    file.write_bytes(pickle.dumps(arrays, protocol=protocol))
    for found, expected in zip(read_pickle(file), arrays, strict=True):
        np.testing.assert_array_equal(as_array(found), expected[:, :3])


def test_pickles_of_python_2_and_old_numpy(file):
    file.write_bytes(
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR"
        b"(I1\n(I2\ntcnumpy\ndtype\n(S'f4'\nI0\nI1\ntR(I3\nS'<'\nNNNI-1\nI-1\nI0\ntb"
        b"I00\nS'\\x00\\x00\\x80?\\x00\\x00\\x00@'\ntb."
    )
    np.testing.assert_array_equal(as_array(read_pickle(file)), [1, 2])


def test_other_values_are_no_arrays():
    assert as_array("text") is None
    assert as_array(None) is None
    assert as_array(10**400) is None
    assert as_array(7) == 7
    assert as_array(np.float32(2)) == 2


class Calls:
    def __init__(self, function, *args):
        self.reduced = function, args

    def __reduce__(self):
        return self.reduced


@pytest.mark.parametrize(
    "value",
    [
        Calls(eval, "1"),
        Calls(print, "hello"),
        Calls(getattr, "a", "b"),
        Calls(np.zeros, 10),
        Calls(np.load, "a"),
        Calls(np.frombuffer, b"aaaa"),
        Calls(np.memmap, "a"),
        Calls(bytearray, 10**9),
        collections.OrderedDict(),
        Calls,
        np.zeros(3).astype(object),
        np.zeros(2, "datetime64[s]"),
        np.zeros(2, [("x", "f4")]),
        np.zeros(2, "S5"),
        np.ma.zeros(3),
    ],
)
def test_nothing_else_is_built(file, value):
    for protocol in range(6):
        file.write_bytes(pickle.dumps([value], protocol=protocol))
        with pytest.raises(DataError, match=r"a\.pkl"):
            read_pickle(file)


MEMORY = [
    b"\x80\x04]r\xff\xff\xff\x7f.",  # a memo of two billion entries
    b"\x80\x05\x96\xff\xff\xff\xff\x01\0\0\0.",  # bytes that are not there
    b"\x80\x04\x8e\xff\xff\xff\xff\x01\0\0\0.",
    b"\x80\x04\x95\xff\xff\xff\xff\x01\0\0\0.",
    b"\x80\x04T\xff\xff\xff\x7f.",
    b"\x80\x02cnumpy\ndtype\n(X\x02\0\0\0f4I0\nI1\ntRq\0cnumpy.core.multiarray\nscalar\nh\0"
    b"X\x01\0\0\0a\x86R.",
    b"\x80\x04L" + b"9" * 10_000 + b"L\n.",
    b"\x80\x04" + b"]" * 100_000 + b".",
    b"\x80\x04]" + b"2" * 100_000 + b"e.",
]


@pytest.mark.parametrize("data", MEMORY)
def test_small_files_take_little_memory(file, data):
    file.write_bytes(data)
    tracemalloc.start()
    with contextlib.suppress(DataError):
        assert isinstance(read_pickle(file), list)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 50e6


@settings(max_examples=100)
@given(st.data())
def test_damaged_pickles_end_in_data_or_one_line(tmp_path_factory, data):
    file = tmp_path_factory.mktemp("fuzz") / "a.pkl"
    arrays = [np.ones((3, 6), np.float32)] * 2
    good = bytearray(
        pickle.dumps([arrays, [np.array([1])] * 2], protocol=data.draw(st.integers(0, 5)))
    )
    for _ in range(data.draw(st.integers(1, 4))):
        good[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    file.write_bytes(
        good[: data.draw(st.integers(0, len(good)))] if data.draw(st.booleans()) else good
    )
    with contextlib.suppress(DataError):  # anything else is a bug
        read_pickle(file)
