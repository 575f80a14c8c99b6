import os
import subprocess
import sys

import pytest

from i2pmae.atomic_write import atomic_write, written
from i2pmae.errors import CheckpointError, DataError

CODE = """
import sys, time
from pathlib import Path
from i2pmae.atomic_write import atomic_write, written
from i2pmae.errors import CheckpointError, DataError
with atomic_write(Path(sys.argv[1])) as temporary:
    temporary.write_text("half")
    print("writing", flush=True)
    sys.stdin.readline()
    temporary.write_text(sys.argv[2])
"""


@pytest.fixture
def writer(tmp_path):
    """Start a process that is in the middle of writing `file`."""
    children = []

    def start(text):
        command = [sys.executable, "-c", CODE, str(tmp_path / "file"), text]
        child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        children.append(child)
        assert child.stdout.readline() == "writing\n"
        return child

    yield start
    for child in children:
        child.kill()
        child.communicate()


def age(folder):
    for path in folder.iterdir():
        os.utime(path, (0, 0))


def test_the_old_file_stays_until_the_new_one_is_whole(tmp_path):
    file = tmp_path / "deep" / "file"
    with atomic_write(file) as temporary:
        temporary.write_text("old")
    with pytest.raises(FileNotFoundError), atomic_write(file) as temporary:
        (temporary / "nowhere").write_text("half")
    assert file.read_text() == "old"
    assert [path.name for path in file.parent.iterdir()] == ["file"]


def test_what_a_killed_writer_left_is_removed_by_the_next(tmp_path, writer):
    killed = writer("never")
    killed.kill()
    killed.wait()
    age(tmp_path)
    assert len(list(tmp_path.iterdir())) == 1
    with atomic_write(tmp_path / "file") as temporary:
        temporary.write_text("new")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_two_writers_of_one_file_do_not_spoil_each_other(tmp_path, writer):
    first, second = writer("first"), writer("second")
    age(tmp_path)
    with atomic_write(tmp_path / "file") as temporary:  # neither is abandoned, whatever their age
        temporary.write_text("third")
    for child, text in ((second, "second"), (first, "first")):
        child.communicate("\n")
        assert (child.returncode, (tmp_path / "file").read_text()) == (0, text)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_file_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").touch()
    place = tmp_path / "file" / "a.csv"
    failure = r"cannot write .*a\.csv: .*\. "
    with pytest.raises(DataError, match=f"{failure}Choose another folder"), written(place):
        pass
    with (
        pytest.raises(CheckpointError, match=f"{failure}Make room"),
        written(place, CheckpointError, "Make room."),
    ):
        pass
    with written(tmp_path / "b" / "c.txt") as temporary:
        temporary.write_text("whole")
    assert (tmp_path / "b" / "c.txt").read_text() == "whole"
