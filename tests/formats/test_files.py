import io

import numpy as np
import pytest

from i2pmae.errors import DataError, one_line
from i2pmae.formats.files import (
    check_npy_header,
    parsing,
    plain_name,
    read_columns,
    read_names,
    read_npy,
    read_text,
    require_file,
)


def test_one_line():
    assert one_line(" a\n b\t c\r\n") == "a b c"
    assert one_line("x" * 50, longest=10) == "xxxxxxx..."


@pytest.mark.parametrize(
    "error",
    [ValueError("a\nb"), KeyError("k"), OSError(2, "gone"), RecursionError("deep")],
)
def test_whatever_a_parser_raises_becomes_one_line(tmp_path, error):
    (tmp_path / "another.bin").touch()

    def parse():
        with parsing(tmp_path / "a.bin", "Repair it."):
            raise error

    with pytest.raises(DataError, match=r"a\.bin .*Repair it\.$") as caught:
        parse()
    assert "\n" not in str(caught.value)
    assert caught.value.__cause__ is error


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(), DataError("as it is")])
def test_what_is_no_parsing_error_passes(tmp_path, error):
    def parse():
        with parsing(tmp_path, "Repair it."):
            raise error

    with pytest.raises(type(error)) as caught:
        parse()
    assert caught.value is error


@pytest.mark.parametrize("name", ["a", "a.npy", "night_stand_0001", "..a", "a b", "é"])
def test_plain_names(tmp_path, name):
    assert plain_name(name, tmp_path) == name


@pytest.mark.parametrize(
    "name", ["", ".", "..", "a/b", "/a", "..\\a", "a\0b", "a\nb", "\x1b[2J", "a" * 300]
)
def test_names_that_lead_elsewhere(tmp_path, name):
    with pytest.raises(DataError, match="expected a plain name"):
        plain_name(name, tmp_path)


def test_lists_without_a_last_line_end(tmp_path):
    (tmp_path / "a.txt").write_text("one\ntwo ")
    assert read_names(tmp_path / "a.txt", "names") == ["one", "two"]


def test_peoples_own_text_may_have_marks_and_windows_line_ends(tmp_path):
    (tmp_path / "a.xyz").write_bytes(b"\xef\xbb\xbf1 2 3\r\n")
    assert read_text(tmp_path / "a.xyz", strict=False) == "1 2 3\r\n"


@pytest.mark.parametrize(
    ("present", "suggested"),
    [
        ("shapes_names.txt", True),
        ("Shape_names.txt", True),
        ("other.txt", False),
    ],
)
def test_near_names_are_suggested(tmp_path, present, suggested):
    (tmp_path / present).touch()
    with pytest.raises(DataError, match="is missing") as caught:
        require_file(tmp_path / "shape_names.txt", "names")
    assert (f"{present} is there" in str(caught.value)) == suggested


@pytest.mark.parametrize("present", ["train_files.txt", "test_files2.txt"])
def test_other_splits_and_numbers_are_no_misspelling(tmp_path, present):
    (tmp_path / present).touch()
    with pytest.raises(DataError, match=r"it holds names\. Download"):
        require_file(tmp_path / "test_files.txt", "names")


@pytest.mark.parametrize("dtype", ["<f4", ">f8", "<i2", "u1", "<f2"])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
def test_npy_files_of_every_kind(tmp_path, dtype, order, version):
    values = np.asarray(np.arange(12).reshape(4, 3), dtype=dtype, order=order)
    with (tmp_path / "a.npy").open("wb") as stream:
        np.lib.format.write_array(stream, values, version=version)
    np.testing.assert_array_equal(read_npy(tmp_path / "a.npy"), values)


def test_npy_headers_are_checked_before_anything_is_allocated():
    head = io.BytesIO()
    fields = {"descr": "<f8", "fortran_order": False, "shape": (10**9, 10**9, 3)}
    np.lib.format.write_array_header_1_0(head, fields)
    head.seek(0)
    with pytest.raises(DataError, match="its header asks for 24000000000000000"):
        check_npy_header(head, 200, "a.npy")


def test_columns_by_commas_and_spaces(tmp_path):
    (tmp_path / "a.txt").write_text("1,2,3\n4,5,6\n")
    (tmp_path / "b.txt").write_text("1 2 3\n4 5  6 \n")
    for name, delimiter in (("a.txt", ","), ("b.txt", None)):
        found = read_columns(tmp_path / name, delimiter, 3)
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, [[1, 2, 3], [4, 5, 6]])
