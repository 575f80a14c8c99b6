import os

import pytest

from i2pmae.datasets.folders import contents, counted, escaped, not_read, walk


def tree(root, names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def test_all_files_and_folders_but_hidden_ones(tmp_path):
    tree(tmp_path, ["b/c.off", "a.txt", ".git/x", "__MACOSX/b/._c.off", "b/.hidden", "b/d/e"])
    folder = walk(tmp_path)
    assert folder.files == [("a.txt",), ("b", "c.off"), ("b", "d", "e")]
    assert folder.folders == [("b",), ("b", "d")]
    assert walk(tmp_path / "a.txt").files == [("a.txt",)]


def test_the_listing_does_not_depend_on_the_file_system(tmp_path):
    names = [f"{i % 7}/{i}.off" for i in range(50)]
    assert walk(tree(tmp_path / "up", names)) == walk(tree(tmp_path / "down", names[::-1]))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("chair 1", "chair 1"),
        ("a\u00a0b\u200c", "a\u00a0b\u200c"),
        ("a\nb\tc", "a\\nb\\tc"),
        ("\x1b]0;x\x07", "\\x1b]0;x\\x07"),
        ("a\u2028b", "a\\u2028b"),
        (os.fsdecode(b"\xff"), "\\udcff"),
    ],
)
def test_names_are_escaped_where_they_cannot_be_stored(name, expected):
    assert escaped(name) == expected


def test_files_are_counted_by_kind():
    files = [(name,) for name in ("a.OFF", "b.off", "c.png", "d", "e.tar", "f.skp", "g.Skp")]
    assert counted(files) == "2 .off, 2 .skp, 1 .png, 1 no ending, 1 .tar"
    assert not_read(files[2:]) == [
        "1 .tar to be unpacked first",
        "2 .skp of formats that are not read",
        "other files (1 .png, 1 no ending)",
    ]
    assert not_read([]) == []
    assert counted([(f"x.k{i}",) for i in range(9)]).endswith("1 .k5, ...")


def test_contents(tmp_path):
    assert contents(walk(tmp_path)) == "no files"
    assert contents(walk(tree(tmp_path, ["a.obj", "b.obj"]))) == "2 files (2 .obj)"
