"""How scripts print their figures: as a table, or with `--json` as one JSON object."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping


def show(figures: Mapping[str, float], *, as_json: bool) -> None:
    """Print one JSON object, or a row per figure below the machine's load."""
    if as_json:
        print(json.dumps(figures))
        return
    print(f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    for name, value in figures.items():
        print(f"{name:30} {value:10.3f}")
