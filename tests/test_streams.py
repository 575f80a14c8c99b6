import io
import subprocess
import sys
from pathlib import Path

import pytest

from i2pmae.errors import OutputError
from i2pmae.progress import note, print_table
from i2pmae.streams import guarded_streams

FULL = Path("/dev/full")
needs_full = pytest.mark.skipif(not FULL.exists(), reason="has no full device")


@needs_full
def test_messages_on_a_full_device_are_lost_and_nothing_else_is(monkeypatch):
    with FULL.open("w", buffering=1) as full, monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", full)
        with guarded_streams():
            for _ in range(2000):
                note("a message")
            sys.stderr.flush()


@needs_full
def test_a_full_standard_output_is_one_line():
    command = [sys.executable, "-m", "i2pmae", "recipes"]
    with FULL.open("w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "cannot be written to standard output (No space left on device)" in done.stderr


def test_a_standard_output_of_another_encoding_shows_every_name(monkeypatch):
    content = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(content, encoding="ascii"))
    with guarded_streams():
        print_table("Stühle", ["class"], [["صندلی"]])
        sys.stdout.flush()
    shown = content.getvalue().decode("ascii")
    assert "St\\xfchle" in shown
    assert "\\u0635" in shown


def test_a_reader_that_has_left_is_told_apart(monkeypatch):
    class Left(io.StringIO):
        def write(self, _):
            raise BrokenPipeError

    monkeypatch.setattr(sys, "stdout", Left())
    monkeypatch.setattr(sys, "stderr", Left())
    with guarded_streams():
        sys.stderr.write("nobody hears this")
        with pytest.raises(BrokenPipeError):
            sys.stdout.write("nobody reads this")


def test_what_cannot_be_written_is_one_error(monkeypatch):
    class Full(io.StringIO):
        def flush(self):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(sys, "stdout", Full())
    with guarded_streams(), pytest.raises(OutputError, match="No space left"):
        sys.stdout.flush()


def test_keys_in_a_url_are_not_shown(monkeypatch):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with guarded_streams():
        sys.stderr.write("s3://KEY:SE/CRET@bucket/a.zarr, s3:/KEY:SECRET@bucket: no, s3://b/a@1:2")
        shown = sys.stderr.getvalue()
    assert shown == "s3://…@bucket/a.zarr, s3:/…@bucket: no, s3://b/a@1:2"
