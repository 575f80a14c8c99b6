import ast
import importlib.util
from pathlib import Path

import pytest

pytest.importorskip("mkdocs")


@pytest.fixture(scope="module")
def module():
    path = Path(__file__).parents[2] / "docs" / "messages.py"
    spec = importlib.util.spec_from_file_location("messages", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_messages_are_found_with_their_values_as_an_ellipsis(module):
    tree = ast.parse(
        """
raise DataError(f"{path}: not `JSON` ({error}); "
                "give a run")
raise errors.StoreError("a" if wrong else f"b {c}")
raise ConfigError("first, " + "second")
raise TypeError("wrong use")
raise DataError(text)
raise
"""
    )
    assert [*module.messages(tree)] == [
        "…: not 'JSON' (…); give a run",
        "a",
        "b …",
        "first, second",
    ]


def test_the_page_has_hundreds(module):
    page = module.page()
    assert page.count("\n- `") > 400
    assert "holds no run yet" not in page  # a warning
    assert "already holds a run; add --resume to continue it" in page
