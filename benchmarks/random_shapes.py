"""Shapes a second that `procedural-random` makes on one core, beside those of `procedural`.

Both make as many points of each shape, in turns; each figure is the median over the turns after
one to warm up, in processor seconds, which other programs disturb less. `*_per_s`: shapes a second.
`vs_procedural_*`: rate of random shapes over that of everyday ones.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
from output import show

from i2pmae.datasets import ShapeSource, open_source

POINTS = (2048, 8192)
NAMES = ("procedural-random", "procedural")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object only")
    parser.add_argument("--quick", action="store_true", help="does it run: one turn of few shapes")
    parser.add_argument("--shapes", type=int, default=87, help="shapes per turn")
    parser.add_argument("--turns", type=int, default=7, help="measurements of each way")
    options = parser.parse_args()
    result = measure(*((12, 1) if options.quick else (options.shapes, options.turns)))
    show(result, as_json=options.json)


def measure(n_shapes: int, turns: int) -> dict[str, float]:
    """Median shapes a second of each source and number of points, and their ratios."""
    result = {}
    for points in POINTS:
        sources = {
            name: open_source(name, split="all", limit=(turns + 1) * n_shapes, points=points)
            for name in NAMES
        }
        rates: dict[str, list[float]] = {name: [] for name in NAMES}
        for turn in range(turns + 1):
            for name, source in sources.items():
                spent = seconds(source, range(turn * n_shapes, (turn + 1) * n_shapes))
                if turn:
                    rates[name].append(n_shapes / spent)
        for name, values in rates.items():
            result[f"{name}_{points}_per_s"] = float(np.median(values))
        result[f"vs_procedural_{points}"] = float(
            np.median(np.divide(rates[NAMES[0]], rates[NAMES[1]]))
        )
    return result


def seconds(source: ShapeSource, indices: range) -> float:
    """Processor time that shapes take; there may be fewer of them, which take turns."""
    begin = time.process_time()
    for index in indices:
        source.load(index % len(source))
    return time.process_time() - begin


if __name__ == "__main__":
    main()
