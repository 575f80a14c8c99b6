"""The page of faults names tests that exist."""

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
PAGE = (TESTS.parent / "docs" / "faults.md").read_text()
ROWS = [line for line in PAGE.splitlines() if "::" in line]


@pytest.mark.parametrize("row", ROWS)
def test_every_row_names_a_test_that_is_there(row):
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    named = re.findall(r"`([\w/]+\.py)::(?:\w+::)?(test_\w+)`", row)
    assert named
    for file, name in named:
        assert re.search(rf"^ *def {name}\(", (TESTS / file).read_text(), re.M)
    assert cells[-1] in ("0", "not run"), "what loses something is to be repaired, not listed"
    assert cells[-2]


def test_the_page_is_long():
    assert len(ROWS) > 40
