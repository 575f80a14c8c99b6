import os
import platform
import subprocess
import sys

import pytest

SCRIPT = """
import resource, time
from i2pmae.allocator import keep_freed_memory
took_effect = keep_freed_memory() if {keep} else None
import numpy as np
def touch():
    np.ones(8_000_000)
touch()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    touch()
print(took_effect, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""

is_glibc = platform.libc_ver()[0] == "glibc"


def run(keep, monkeypatch, **settings):
    for name in [*os.environ]:
        if name.startswith(("MALLOC_", "GLIBC_TUNABLES", "LD_PRELOAD")):  # dask sets one
            monkeypatch.delenv(name)
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    command = [sys.executable, "-c", SCRIPT.format(keep=keep)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    took_effect, faults = done.stdout.split()
    return took_effect, int(faults)


@pytest.mark.skipif(not is_glibc, reason="needs glibc")
def test_large_blocks_are_mapped_once(monkeypatch):
    _, usually = run(False, monkeypatch)
    took_effect, kept = run(True, monkeypatch)
    assert took_effect == "True"
    assert usually > 1000  # 64 MB five times, page by page
    assert kept < usually / 10


def test_settings_of_the_user_win(monkeypatch):
    took_effect, _ = run(True, monkeypatch, MALLOC_ARENA_MAX="4")
    assert took_effect == "False"
