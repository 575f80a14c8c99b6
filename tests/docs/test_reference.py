import importlib.util
import re
from pathlib import Path

import pytest

from i2pmae.commands import COMMANDS, settings_of

pytest.importorskip("mkdocs")


@pytest.fixture(scope="module")
def page() -> str:
    path = Path(__file__).parents[2] / "docs" / "reference.py"
    spec = importlib.util.spec_from_file_location("reference", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.page()


def test_every_command_and_setting_is_there(page):
    sections = dict(re.findall(r"^## (\S+)\n(.*?)(?=^## |\Z)", page, re.M | re.S))
    assert list(sections) == list(COMMANDS)
    for name, command in COMMANDS.items():
        rows = [line for line in sections[name].splitlines() if line.startswith("| ")][2:]
        assert {row.count(" | ") for row in rows} == {4}
        keys = [row.split(" | ")[1].strip("`") for row in rows]
        assert keys[: -len(command.flags) or None] == [s.key for s in settings_of(command.kind)]


def test_types_bounds_choices_and_defaults_are_shown(page):
    assert "| `--pose` | `views.pose` | `axis`, `upright`, `oblique` | `axis` |" in page
    assert "| `--views` | `views.n_views` | integer, > 0, ≤ 64 | `3` |" in page
    assert "|  | `optim.lr` | number, > 0 | `0.0005` |" in page
    assert "| `DATA` | `data` | path | required |" in page
    assert "|  | `augment.scale` | list: number | `[0.6667, 1.5]` |" in page
    assert "| `--resume` |" in page
