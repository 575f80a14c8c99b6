import io
import json
import os
import re
import select
import signal
import struct
import subprocess
import sys

import pytest
from rich.console import Console

from i2pmae import progress
from i2pmae.errors import ConfigError
from i2pmae.progress import (
    Progress,
    format_seconds,
    note,
    print_class_table,
    print_table,
    track,
    warn,
)


@pytest.fixture(autouse=True)
def _default_mode():
    yield
    progress.configure()


@pytest.fixture
def clock(monkeypatch):
    """A clock that tests move."""

    class Clock:
        now = 100.0

    monkeypatch.setattr(progress.time, "monotonic", lambda: Clock.now)
    return Clock


def test_messages_go_to_stderr_unwrapped_and_literally(capsys):
    note("a [bold]note[/] of " + "many words " * 30)
    warn("look out")
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "a [bold]note[/] of " + "many words " * 30 + "\nwarning: look out\n"


def test_quiet_keeps_warnings_only(capsys, clock):
    progress.configure(quiet=True)
    note("a note")
    warn("look out")
    for _ in track(range(3), "counting"):
        clock.now += 20
    assert capsys.readouterr().err == "warning: look out\n"


def test_a_bar_is_plain_lines_without_a_terminal(capsys, clock):
    with Progress("extract", total=200, done=100) as shown:
        for _ in range(4):
            clock.now += 6
            shown.advance(25)
            shown.describe(f"loss {shown.done}")
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "extract 150/200: 4.17/s, 0:12 left, loss 125",
        "extract 200/200: 4.17/s, took 0:24, loss 175",
        "extract 200/200: 4.17/s, took 0:24, loss 200",
    ]


def test_a_slow_bar_without_total(capsys, clock):
    with Progress("train") as shown:
        clock.now += 8
        shown.advance(2)
    assert capsys.readouterr().err == "train 2: 4 s each\n"


def test_track_yields_the_items_and_knows_their_number(capsys):
    assert list(track([5, 6], "items", done=1)) == [5, 6]
    assert capsys.readouterr().err.startswith("items 3/3")
    assert list(track((x for x in "ab"), "letters", 2)) == ["a", "b"]
    assert capsys.readouterr().err.startswith("letters 2/2")


def test_a_failing_block_keeps_its_error_and_ends_the_bar(capsys):
    def fail_at(item):
        assert item < 1

    with pytest.raises(AssertionError):
        any(map(fail_at, track(range(3), "train")))
    assert capsys.readouterr().err.startswith("train 1/3")


@pytest.fixture
def terminal(monkeypatch):
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=100, color_system=None)
    monkeypatch.setattr(progress, "console", console)
    return screen


def test_nested_bars_share_one_display_on_a_terminal(terminal, capsys):
    with Progress("outer", total=2) as outer:
        for _ in track(range(3), "inner"):
            pass
        outer.advance()
        print("result")  # noqa: T201
        note("between")
    shown = terminal.getvalue()
    assert "outer" in shown
    assert "inner" in shown
    assert "between\n" in shown
    assert "1/2" in shown
    assert capsys.readouterr().out == "result\n"
    assert progress._mode.live is None
    assert progress._mode.bars == []


def test_a_table_goes_to_stdout_unwrapped_with_numbers_on_the_right(capsys):
    rows = [["chair " * 30, "93.1 ± 0.2", 7], ["[b]bed[/]", "7.0", 1200]]
    print_table("Accuracy", ["class", "accuracy", "shapes"], rows)
    out, err = capsys.readouterr()
    assert err == ""
    lines = [line.rstrip() for line in out.splitlines()]
    assert lines[0] == "Accuracy"
    chair, bed = lines[4:6]
    assert chair.strip().startswith("chair chair")
    assert chair.endswith("93.1 ± 0.2        7")
    assert bed.strip().startswith("[b]bed[/]")
    assert bed.endswith("       7.0     1200")


def test_tables_join_the_messages_where_stdout_is_for_json(capsys):
    progress.configure(results_on_stderr=True)
    print_table("", ["name"], [["a"]])
    out, err = capsys.readouterr()
    assert out == ""
    assert "a" in err


def test_an_empty_table_shows_its_header(capsys):
    print_table("Shapes", ["id", "label"], [])
    assert "label" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0:00"), (7, "0:07"), (725, "12:05"), (11232, "3:07:12")]
)
def test_durations(seconds, text):
    assert format_seconds(seconds) == text


def test_events_are_lines_of_json_even_where_nothing_is_shown(tmp_path, capsys, clock):
    progress.log_events(tmp_path / "logs" / "log.jsonl")
    progress.be_quiet()
    note("a note")
    warn("look out")
    with Progress("train", total=3) as shown:
        for _ in range(3):
            clock.now += 11
            shown.advance()
        shown.describe("loss 1")
    assert capsys.readouterr().err == "warning: look out\n"
    lines = (tmp_path / "logs" / "log.jsonl").read_text().splitlines()
    events = [json.loads(line) for line in lines]
    assert [event["event"] for event in events] == ["note", "warning", *["progress"] * 4]
    assert events[0]["message"] == "a note"
    assert events[0]["time"].endswith("+00:00")
    assert [event["done"] for event in events[2:]] == [1, 2, 3, 3]
    assert events[-1]["status"] == "loss 1"
    assert events[-1]["memory_bytes"]["memory"] > 1e7


def test_a_log_that_cannot_be_written_is_one_clear_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"--log-json .*choose another file"):
        progress.log_events(tmp_path / "file" / "log.jsonl")


def test_a_terminal_shows_memory_beside_the_bar(monkeypatch):
    terminal = Console(file=io.StringIO(), force_terminal=True, width=140)
    monkeypatch.setattr(progress, "console", terminal)
    with Progress("train", total=2) as shown:
        shown.advance(2)
    assert "GB" in terminal.file.getvalue()


def test_modes_add_up(capsys):
    progress.be_quiet()
    progress.results_to_stderr()
    note("a note")
    print_table("", ["a"], [["1"]])
    out, err = capsys.readouterr()
    assert out == ""
    assert "note" not in err
    assert "1" in err


def test_tables_of_classes_are_cut_but_their_totals_are_not(capsys):
    rows = [[f"class {number}", number] for number in range(41)]
    print_class_table("Classes", ["class", "n"], rows, [["all", 820]])
    out = capsys.readouterr().out
    assert out.startswith("Classes, first 40 of 41 classes (--json lists all)\n")
    assert "class 39" in out
    assert "class 40" not in out
    assert "820" in out
    print_class_table("Classes", ["class", "n"], rows[:40])
    assert capsys.readouterr().out.startswith("Classes\n")


ESCAPES = "a\x1b]0;title\x07\x9b2J\u202eb\r\u2028c"
SHOWN = r"a\x1b]0;title\x07\x9b2J\u202eb\r\u2028c"


def test_no_control_character_reaches_the_terminal(capsys, monkeypatch):
    note(ESCAPES)
    warn(ESCAPES)
    progress.print_text(f"{ESCAPES}\nnext\tline")
    print_table(ESCAPES, [ESCAPES], [[ESCAPES]])
    progress.print_json({"id": ESCAPES})
    with Progress(ESCAPES, total=1) as shown:
        shown.describe(ESCAPES)
    progress.print_error(ESCAPES)
    out, err = capsys.readouterr()
    shown_on_terminal = io.StringIO()
    monkeypatch.setattr(progress, "console", Console(file=shown_on_terminal, force_terminal=True))
    with Progress(ESCAPES, total=1) as shown:
        shown.describe(ESCAPES)
    for text in (out, err):
        assert set(filter(str.isspace, text)) <= {" ", "\n", "\t"}
        assert all(char.isprintable() or char in "\n\t" for char in text)
    assert out.count(SHOWN) == 4
    assert err.count(SHOWN) == 4
    assert "\x1b]" not in shown_on_terminal.getvalue()
    assert "next\tline\n" in out


def test_an_error_is_one_line_of_bounded_length(capsys):
    progress.print_error("x" * 10**6 + " is wrong\n; " + "word " * 10**5 + "choose another --out")
    err = capsys.readouterr().err
    assert err.startswith("i2pmae: xxx")
    assert err.endswith("choose another --out\n")
    assert "is wrong ; word" in err
    assert len(err) < 850


@pytest.mark.parametrize("width", [40, 60, 80, 100, 120])
def test_a_line_fits_and_leaves_out_what_matters_least(monkeypatch, clock, width):
    monkeypatch.setattr(progress, "memory_bytes", lambda: {"memory": 1.2e9})
    screen = io.StringIO()
    terminal = Console(file=screen, force_terminal=True, width=width, color_system=None)
    monkeypatch.setattr(progress, "console", terminal)
    with Progress("pretrain", total=240000) as shown:
        clock.now += 100
        shown.advance(12345)
        for loss in (0.3, 0.1):
            shown.describe("epoch 3/300", "waiting 3.2%", losses=[loss])
    line = screen.getvalue().split("\r")[-1].splitlines()[0].removeprefix("\x1b[2K")
    assert line.startswith("pretrain ━━━━")
    assert len(line) < width
    parts = ["12345/240000", "123/s", "30:44 left", "loss 0.2"]
    parts += ["epoch 3/300", "waiting 3.2%", "memory 1.2 GB"]
    there = [part in line for part in parts]
    assert there == sorted(there, reverse=True)
    assert sum(there) == {40: 2, 60: 4, 80: 5, 100: 7, 120: 7}[width]


@pytest.mark.parametrize(("kind", "n_erased"), [("xterm-256color", 2), ("linux", 1)])
def test_lines_that_a_narrower_terminal_has_wrapped_are_erased(
    monkeypatch, terminal, kind, n_erased
):
    monkeypatch.setenv("TERM", kind)
    monkeypatch.delenv("XTERM_VERSION", raising=False)
    monkeypatch.setattr(progress, "memory_bytes", dict)
    with Progress("train", total=3) as shown:
        shown.describe("a status that makes the line longer than half of the terminal's width")
        progress._mode.live.refresh()
        assert progress._mode.drawn[0] > 60
        progress.console.width = 60
        before = terminal.tell()
        progress._mode.live.refresh()
        assert terminal.getvalue()[before:].count("\x1b[2K") == n_erased


def test_where_there_is_nothing_to_do_nothing_is_shown(terminal):
    with Progress("train", total=0):
        pass
    assert "train" not in terminal.getvalue()
    assert "0/0" not in terminal.getvalue()


def test_without_a_terminal_nothing_to_do_is_no_line(capsys):
    assert list(track([], "train")) == []
    assert capsys.readouterr().err == ""


def test_the_log_holds_the_mean_of_the_last_100_losses(tmp_path):
    progress.log_events(tmp_path / "log.jsonl")
    with Progress("train", total=2) as shown:
        shown.describe("epoch 1", losses=[9.0, *[1.0] * 50])
        shown.describe("epoch 1", losses=[0.5] * 50)
    (last,) = map(json.loads, (tmp_path / "log.jsonl").read_text().splitlines())
    assert (last["loss"], last["status"]) == (0.75, "epoch 1")


SCRIPT = """
import sys
from i2pmae import progress
from i2pmae.progress import Progress, note, print_error
note("an earlier line")
try:
    with Progress("pretrain", total=240000) as bar, Progress("read many shapes", total=50) as inner:
        bar.describe("epoch 3/300", "2D 0.1234, 3D 0.4321", "waiting 3.2%", losses=[0.25])
        for _ in range(50):
            bar.advance(77)
            inner.advance()
            progress._mode.live.refresh()
            print("drawn", file=sys.stdout, flush=True)
            sys.stdin.readline()
except KeyboardInterrupt:
    print_error("stopped")
"""


def test_bars_in_a_terminal_that_is_resized_and_interrupted():
    """A terminal that cuts lines when it gets narrower; tmux and others wrap them."""
    pyte = pytest.importorskip("pyte")
    pty, termios, fcntl = map(pytest.importorskip, ("pty", "termios", "fcntl"))
    ours, theirs = pty.openpty()
    screen = pyte.Screen(120, 12)
    stream = pyte.ByteStream(screen)

    def resize(width):
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 12, width, 0, 0))
        screen.resize(columns=width)

    def read():
        while select.select([ours], [], [], 0.1)[0]:
            stream.feed(os.read(ours, 65536))
        return [line.rstrip() for line in screen.display if line.strip()]

    resize(120)
    environment = {**os.environ, "TERM": "linux"}
    environment.pop("COLUMNS", None)
    with subprocess.Popen(
        [sys.executable, "-c", SCRIPT],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=theirs,
        env=environment,
        text=True,
    ) as process:
        for width in (120, 100, 80, 60, 120):
            process.stdout.readline()
            resize(width)
            process.stdin.write("\n")
            process.stdin.flush()
            process.stdout.readline()
            process.stdin.write("\n")
            process.stdin.flush()
            lines = read()
            assert lines[0] == "an earlier line"
            assert len(lines) == 3
            assert re.match(r"pretrain +━+ \d+/240000 .*/s.* left.* loss 0.25", lines[1])
            assert re.match(r"read \w+[…\w ]* +━+ \d+/50 .*(/s| s each)", lines[2])
            assert ("waiting 3.2%" in lines[1]) == (width == 120)
        process.send_signal(signal.SIGINT)
        process.wait(20)
    lines = read()
    os.close(ours)
    os.close(theirs)
    assert lines[0] == "an earlier line"
    assert re.match(r"pretrain +━+ \d+/240000", lines[1])
    assert lines[2:] == ["i2pmae: stopped"]
