"""The scripts as modules."""

import importlib
import sys
from pathlib import Path
from types import ModuleType

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def module(monkeypatch):
    """Import a script by its name."""
    monkeypatch.syspath_prepend(FOLDER)
    imported = []

    def load(name: str) -> ModuleType:
        imported.append(name)
        return importlib.import_module(name)

    yield load
    for name in {*imported, "reader"}:
        sys.modules.pop(name, None)
