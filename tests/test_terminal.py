import subprocess
import sys

import pytest

from i2pmae.terminal import one_line, printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain, Stühle, صندلی, 椅子, 🪑", "plain, Stühle, صندلی, 椅子, 🪑"),
        (
            "no-break\xa0space, joined: \u0645\u200c\u06cc",
            "no-break\xa0space, joined: \u0645\u200c\u06cc",
        ),
        ("\x1b[2J\x1b]52;c;bHM=\x07", r"\x1b[2J\x1b]52;c;bHM=\x07"),
        ("\x9b31m\x00\x7f\t\n", r"\x9b31m\x00\x7f\t\n"),
        ("gpj.\u202eexe\u2066", r"gpj.\u202eexe\u2066"),
        ("lone \udcff, a\u2028b", r"lone \udcff, a\u2028b"),
    ],
)
def test_only_what_a_terminal_obeys_is_escaped(text, shown):
    assert printable(text) == shown
    assert printable("a\nb", keep="\n") == "a\nb"


def test_one_line_keeps_both_ends():
    assert one_line(" a\n b\x1b ") == r"a b\x1b"
    assert one_line("x" * 301) == "x" * 299 + "…"
    line = one_line(f"{'y' * 900} found; {'many words ' * 200} choose another --out")
    assert line.startswith("yyy")
    assert line.endswith("choose another --out")
    assert len(line) == 803


def test_python_s_own_messages_are_escaped():
    code = (
        "import logging, warnings\n"
        "from i2pmae.terminal import guard\n"
        "guard()\n"
        "warnings.warn('warned \\x1b]0;a\\x07')\n"
        "logging.getLogger('library').warning('logged \\x1b]0;a\\x07')\n"
        "raise ValueError('raised \\x1b]0;a\\x07')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    for said in ("UserWarning: warned", "logged", "ValueError: raised"):
        assert rf"{said} \x1b]0;a\x07" in done.stderr
    assert "\x1b" not in done.stderr
    assert "Traceback (most recent call last):\n" in done.stderr
