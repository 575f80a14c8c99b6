"""Kernels by Triton's interpreter."""

import os
import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

_SCRIPT = """
import importlib, sys, torch
module, name, cases, found = sys.argv[1:]
function = getattr(importlib.import_module(module), name)
torch.save({case: function(*given) for case, given in torch.load(cases).items()}, found)
"""


@pytest.fixture(scope="session")
def interpret(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., dict[str, Tensor]]:
    """Answers of a kernel's function in a process of its own.

    The interpreter must be asked for before Triton is imported.
    """

    def interpret(module: str, name: str, cases: dict[str, tuple]) -> dict[str, Tensor]:
        folder = tmp_path_factory.mktemp("triton")
        torch.save(cases, folder / "cases.pt")
        subprocess.run(
            [sys.executable, "-c", _SCRIPT, module, name, folder / "cases.pt", folder / "found.pt"],
            check=True,
            timeout=300,
            env={**os.environ, "TRITON_INTERPRET": "1"},
        )
        return torch.load(folder / "found.pt")

    return interpret
