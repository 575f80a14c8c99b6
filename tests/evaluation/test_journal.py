import pytest

from i2pmae.errors import DataError
from i2pmae.evaluation.journal import Journal
from i2pmae.interrupts import what_is_saved


def rows(*names):
    return [{"id": name} for name in names]


def test_what_was_kept_is_there_again_and_half_a_line_is_not(tmp_path):
    out, settings = tmp_path / "new" / "out.csv", {"a": {"b": 1}, "c": [1, 2]}
    with Journal(out, settings, 5) as journal:
        journal.add(2, rows("x", "y"))
        journal.add(3, rows("z"))
        assert what_is_saved() == f"{journal.path} holds 3 of 5 shapes"
    with journal.path.open("ab") as file:
        file.write(b'{"n_done": 5, "rows": [{"id"')
    with Journal(out, {**settings, "c": (1, 2)}, 5) as journal:
        assert journal.n_done == 3
        journal.add(5, rows("v", "w"))
        assert list(journal.rows()) == rows("x", "y", "z", "v", "w")
        journal.finish()
    assert not journal.path.exists()
    assert what_is_saved() is None


def test_rows_with_an_error_are_to_be_replaced_and_all_others_stay(tmp_path):
    bad = {"id": "y", "error": "no reader"}
    with Journal(tmp_path / "out.csv", {}, 5) as journal:
        journal.add(3, [*rows("x"), bad, bad])
        assert (journal.failed, journal.missing) == ([], [3, 4])
    for _ in range(2):
        with Journal(tmp_path / "out.csv", {}, 5) as journal:
            assert (journal.failed, journal.missing) == ([1, 2], [1, 2, 3, 4])
            journal.replace({2: bad})
    with Journal(tmp_path / "out.csv", {}, 5) as journal:
        journal.replace({1: {"id": "y"}})
        journal.add(4, rows("v"))
    with Journal(tmp_path / "out.csv", {}, 5) as journal:
        assert (journal.n_done, journal.failed) == (4, [2])
        assert list(journal.rows()) == [*rows("x", "y"), bad, *rows("v")]


@pytest.mark.parametrize("content", [b"", b"nothing\n", b"[1]\n", b'{"a": 2}\n{"n_done": 1}\n'])
def test_files_of_other_settings_or_of_none_start_anew(tmp_path, content):
    journal = Journal(tmp_path / "out.csv", {"a": 1}, 5)
    journal.path.write_bytes(content)
    with journal:
        assert journal.n_done == 0
        journal.add(1, rows("x"))
        assert list(journal.rows()) == rows("x")
    assert journal.path.exists()


def test_nothing_is_left_where_nothing_was_done_and_bad_places_are_said(tmp_path):
    with Journal(tmp_path / "out.csv", {}, 5) as journal:
        pass
    assert not journal.path.exists()
    assert what_is_saved() is None
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"cannot write .*out\.csv\.unfinished: "):
        Journal(tmp_path / "file" / "out.csv", {}, 5).__enter__()
