import os
import pickle
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from i2pmae.datasets import modelnet_text, open_source
from i2pmae.datasets.parsed import FOLDER_VARIABLE, ParsedFiles, cache_folder
from i2pmae.errors import DataError

LINES = 6
LONG_AGO = 1_600_000_000


class Parser:
    """Parses texts and remembers which."""

    def __init__(self):
        self.seen = []

    def __call__(self, file):
        self.seen.append(file.name)
        return np.loadtxt(file, np.float32, ndmin=2)


def write(file, seed, lines=LINES, changed=LONG_AGO):
    np.savetxt(file, np.random.default_rng(seed).random((lines, 3)), fmt="%.4f")
    os.utime(file, (changed, changed))
    return file


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    monkeypatch.setenv(FOLDER_VARIABLE, str(folder))
    return folder


@pytest.fixture
def files(tmp_path):
    (tmp_path / "data").mkdir()
    return [write(tmp_path / "data" / f"{number}.txt", number) for number in range(4)]


def parsed(files, most_lines=LINES):
    """As a new start of the program would have it."""
    return ParsedFiles("texts", files[0].parent, files, most_lines=most_lines)


def read(files, numbers=None, **settings):
    parser, source = Parser(), parsed(files, **settings)
    tables = [source.read(files[k], parser) for k in (numbers or range(len(files)))]
    return tables, parser.seen


def test_every_text_is_parsed_once(files):
    first, seen = read(files)
    assert seen == ["0.txt", "1.txt", "2.txt", "3.txt"]
    again, seen = read(files)
    assert seen == []
    for old, new, file in zip(first, again, files, strict=True):
        np.testing.assert_array_equal(new, np.loadtxt(file, np.float32))
        np.testing.assert_array_equal(old, new)
        assert new.dtype == np.float32
        new[:] = 0  # belongs to the caller


def test_only_what_is_asked_for_is_parsed(files):
    assert read(files, [2])[1] == ["2.txt"]
    assert read(files)[1] == ["0.txt", "1.txt", "3.txt"]


@pytest.mark.parametrize("change", ["time", "size", "both"])
def test_a_text_that_changed_is_parsed_again(files, change):
    read(files)
    lines = LINES if change == "time" else LINES - 1
    write(files[1], 99, lines, LONG_AGO if change == "size" else LONG_AGO + 1)
    tables, seen = read(files)
    assert seen == ["1.txt"]
    assert tables[1].shape == (lines, 3)
    np.testing.assert_array_equal(tables[1], np.loadtxt(files[1], np.float32))
    assert read(files)[1] == []


def test_a_text_written_just_now_is_not_kept(files):
    files[0].touch()
    for _ in range(2):
        assert "0.txt" in read(files)[1]


def test_longer_texts_are_not_kept_and_shorter_ones_are(files):
    write(files[0], 0, LINES + 1)
    write(files[1], 1, LINES - 1)
    read(files)
    tables, seen = read(files)
    assert seen == ["0.txt"]
    assert [len(table) for table in tables] == [LINES + 1, LINES - 1, LINES, LINES]


@pytest.mark.parametrize("place", range(0, 28 + 12 * LINES, 7))
def test_a_damaged_row_is_parsed_again_and_repaired(files, place):
    expected, _ = read(files)
    path = parsed(files).path
    content = bytearray(path.read_bytes())
    row = len(content) - 2 * (28 + 12 * LINES)  # the third of four
    content[row + place] ^= 0xFF
    path.write_bytes(content)
    tables, seen = read(files)
    assert seen == ["2.txt"]
    np.testing.assert_array_equal(tables, expected)
    assert read(files)[1] == []


@pytest.mark.parametrize("length", [0, 10, 200, 300])
def test_a_file_cut_short_is_filled_again(files, length):
    expected, _ = read(files)
    path = parsed(files).path
    path.write_bytes(path.read_bytes()[:length])
    np.testing.assert_array_equal(read(files)[0], expected)
    np.testing.assert_array_equal(read(files)[0], expected)
    assert read(files)[1] == []


def test_numpy_reads_the_file(files):
    tables, _ = read(files, [0, 1, 3])
    (path,) = (cache_folder() / "parsed").iterdir()
    rows = np.load(path, mmap_mode="r", allow_pickle=False)
    assert rows["lines"].tolist() == [LINES, LINES, 0, LINES]
    np.testing.assert_array_equal(rows["numbers"][[0, 1, 3]], tables)


def test_without_a_writable_folder_texts_are_parsed_each_time(files, cache):
    cache.write_text("a file, no folder")
    for _ in range(2):
        assert len(read(files)[1]) == 4
    assert cache.read_text() == "a file, no folder"


@pytest.mark.parametrize("call", ["open", "truncate", "replace"])
def test_a_full_disk_goes_unnoticed(files, cache, monkeypatch, call):
    def full(*_arguments, **_options):
        raise OSError(28, "No space left on device")

    if call == "open":
        read(files, [0])
        real = Path.open
        monkeypatch.setattr(
            Path, "open", lambda self, mode="r": full() if "+" in mode else real(self, mode)
        )
    else:
        monkeypatch.setattr(os, "replace" if call == "replace" else "fdopen", full)
    tables, seen = read(files)
    assert seen == ["0.txt", "1.txt", "2.txt", "3.txt"][call == "open" :]
    np.testing.assert_array_equal(tables[3], np.loadtxt(files[3], np.float32))
    monkeypatch.undo()
    monkeypatch.setenv(FOLDER_VARIABLE, str(cache))
    left_over = [file.name for file in (cache / "parsed").iterdir() if file.name.startswith(".")]
    assert left_over == []


def test_errors_of_the_parser_are_passed_on(files):
    def fail(_file):
        raise DataError("damaged")

    source = parsed(files)
    for _ in range(2):
        with pytest.raises(DataError, match="damaged"):
            source.read(files[0], fail)


def test_the_folder_may_move(files, tmp_path):
    read(files)
    moved = shutil.copytree(files[0].parent, tmp_path / "elsewhere")  # keeps times
    assert read([moved / file.name for file in files])[1] == []


def test_other_lists_and_layouts_keep_their_own(files):
    read(files)
    assert len(read(files[:2])[1]) == 2
    assert len(read(files, most_lines=LINES + 1)[1]) == 4


def test_threads_and_copies_share_the_file(files):
    source = pickle.loads(pickle.dumps(parsed(files)))
    with ThreadPoolExecutor(8) as pool:
        tables = list(pool.map(lambda k: source.read(files[k % 4], Parser()), range(64)))
    for number, table in enumerate(tables):
        np.testing.assert_array_equal(table, np.loadtxt(files[number % 4], np.float32))
    assert read(files)[1] == []


def modelnet(root):
    names = {"train": ["chair_0001", "chair_0002", "night_stand_0001"], "test": ["chair_0900"]}
    for split, shapes in names.items():
        (root / f"modelnet40_{split}.txt").write_text("".join(f"{name}\n" for name in shapes))
        for name in shapes:
            folder = root / name.rpartition("_")[0]
            folder.mkdir(exist_ok=True)
            points = np.random.default_rng(len(name)).random((20, 6))
            np.savetxt(folder / f"{name}.txt", points, fmt="%.5f", delimiter=",")
            os.utime(folder / f"{name}.txt", (LONG_AGO, LONG_AGO))
    (root / "modelnet40_shape_names.txt").write_text("chair\nnight_stand\n")
    return root


def test_modelnet_is_parsed_once_whatever_part_is_read(tmp_path, monkeypatch):
    root = modelnet(tmp_path)
    parse, seen = modelnet_text._parse_points, []

    def watched(file):
        seen.append(file.stem)
        return parse(file)

    monkeypatch.setattr(modelnet_text, "_parse_points", watched)
    train = open_source(root, split="train")
    points = [train.load(index).points for index in range(3)]
    assert set(seen) == {"chair_0001", "chair_0002", "night_stand_0001"}
    seen.clear()
    everything = open_source(root, split="all")
    again = [everything.load(index).points for index in range(4)]
    assert set(seen) == {"chair_0900"}
    np.testing.assert_array_equal(again[:3], points)
    assert open_source(root, split="train").fingerprint() == train.fingerprint()


def test_a_spoilt_text_is_noticed_though_its_numbers_were_kept(tmp_path):
    root = modelnet(tmp_path)
    open_source(root).load(0)
    file = root / "chair" / "chair_0001.txt"
    file.write_text(file.read_text().replace(",", ";"))
    os.utime(file, (LONG_AGO + 5, LONG_AGO + 5))
    with pytest.raises(DataError, match=r"chair_0001\.txt: line 1"):
        open_source(root).load(0)


@pytest.mark.parametrize(
    ("platform", "variables", "expected"),
    [
        ("linux", {"I2PMAE_CACHE_DIR": "/a/b", "XDG_CACHE_HOME": "/x"}, "/a/b"),
        ("linux", {"XDG_CACHE_HOME": "/x"}, "/x/i2pmae"),
        ("linux", {"XDG_CACHE_HOME": "not/absolute"}, "/home/me/.cache/i2pmae"),
        ("linux", {"I2PMAE_CACHE_DIR": ""}, "/home/me/.cache/i2pmae"),
        ("darwin", {"XDG_CACHE_HOME": "/x"}, "/home/me/Library/Caches/i2pmae"),
        ("win32", {"LOCALAPPDATA": "/local"}, "/local/i2pmae/Cache"),
    ],
)
def test_the_folder_is_the_platforms(monkeypatch, platform, variables, expected):
    for name in (FOLDER_VARIABLE, "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(Path, "home", lambda: Path("/home/me"))
    monkeypatch.setattr(sys, "platform", platform)
    assert cache_folder() == Path(expected)


def test_without_a_home_texts_are_parsed_each_time(files, monkeypatch):
    def homeless():
        raise RuntimeError("Could not determine home directory.")

    for name in (FOLDER_VARIABLE, "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    assert cache_folder() is None
    for _ in range(2):
        assert len(read(files)[1]) == 4
