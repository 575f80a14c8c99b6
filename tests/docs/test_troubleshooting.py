"""Messages that the page on troubleshooting quotes are messages of the package."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "troubleshooting.md"
ANYTHING = "…"
QUOTED = re.findall(r"^`(.+)`\n:   ", PAGE.read_text(), re.MULTILINE)


def texts() -> str:
    """All texts in the package's code, a line each, without backticks, values as an ellipsis."""
    found = set()
    for file in sorted((ROOT / "i2pmae").rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.add(node.value)
            elif isinstance(node, ast.JoinedStr):
                found.add("".join(map(_part, node.values)))
    return "\n".join(" ".join(text.replace("`", "").split()) for text in found)


def _part(node: ast.expr) -> str:
    return str(node.value) if isinstance(node, ast.Constant) else ANYTHING


@pytest.fixture(scope="module")
def package():
    return texts()


@pytest.mark.parametrize("message", QUOTED)
def test_a_quoted_message_is_in_the_package(package, message):
    pattern = ".*".join(map(re.escape, message.split(ANYTHING)))
    assert re.search(pattern, package), message


def test_the_page_quotes_messages():
    assert len(QUOTED) > 30
