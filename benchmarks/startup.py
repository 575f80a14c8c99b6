"""How long the command and the package take to start, against the bare interpreter.

Every way is a new process; the ways take turns, each figure is the median of all turns after one
to warm up (files in the page cache, bytecode compiled). `help_s`: `i2pmae --help`, start of
Python included. `import_s`: the statement `import i2pmae` alone; `imports_torch`: whether torch
came with it. `python_s`: `python -c pass`, the yardstick. `help_cpu_s`: processor seconds of the
command, which other programs disturb less.
"""

from __future__ import annotations

import argparse
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from output import show

IMPORT = """
import sys, time
begin = time.perf_counter()
import i2pmae
print(time.perf_counter() - begin, "torch" in sys.modules)
"""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object only")
    parser.add_argument("--quick", action="store_true", help="does it run: one turn")
    parser.add_argument("--turns", type=int, default=11, help="measurements of each way")
    options = parser.parse_args()
    result = measure(1 if options.quick else options.turns)
    show(result, as_json=options.json)


def measure(turns: int) -> dict[str, float | bool]:
    """Median seconds of each way."""
    found: list[bool] = []
    cpu_seconds: list[float] = []

    def seconds_of_import() -> float:
        seconds, has_torch = output(sys.executable, "-c", IMPORT).split()
        found.append(has_torch == "True")
        return float(seconds)

    def seconds_of_help() -> float:
        before = children_cpu_seconds()
        seconds = seconds_of(*command(), "--help")
        cpu_seconds.append(children_cpu_seconds() - before)
        return seconds

    ways: dict[str, Callable[[], float]] = {
        "python_s": lambda: seconds_of(sys.executable, "-c", "pass"),
        "import_s": seconds_of_import,
        "help_s": seconds_of_help,
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(turns + 1):
        for name, way in ways.items():
            spent = way()
            if turn:
                seconds[name].append(spent)
    result: dict[str, float | bool] = {name: float(np.median(x)) for name, x in seconds.items()}
    help_cpu = float(np.median(cpu_seconds[1:]))
    return {**result, "help_cpu_s": help_cpu, "imports_torch": any(found)}


def command() -> list[str]:
    """The installed command beside this interpreter, or what it stands for."""
    installed = shutil.which("i2pmae", path=str(Path(sys.executable).parent))
    return [installed] if installed else [sys.executable, "-m", "i2pmae"]


def seconds_of(*words: str) -> float:
    """Wall time of a process."""
    begin = time.perf_counter()
    output(*words)
    return time.perf_counter() - begin


def children_cpu_seconds() -> float:
    """Processor time of all processes that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def output(*words: str) -> str:
    """What a process prints."""
    return subprocess.run(words, capture_output=True, check=True, text=True).stdout


if __name__ == "__main__":
    main()
