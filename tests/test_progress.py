import io
import json

import pytest
from rich.console import Console

from i2pmae import progress
from i2pmae.errors import ConfigError
from i2pmae.progress import Progress, format_seconds, note, print_table, track, warn


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
    assert progress._mode.display is None
    assert progress._mode.n_bars == 0


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
