"""Encoders beside each other on one labeled set: several draws of points, paired differences.

    python experiments/encoders.py furniture_meshes i2pmae-small untrained own=runs/own/last.pt \\
        --stores cache/furniture.zarr

Every encoder is frozen and sees the same draws of points; the first draw is that of `i2pmae
evaluate`. `untrained` is the network of the first encoder with random weights, of another seed in
every draw. Features and scores of a draw are kept below `--work`, so that another encoder costs
itself alone.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from guidance import pooled_2d, spread, write
from numpy.typing import NDArray

from i2pmae.atomic_write import atomic_write
from i2pmae.errors import I2PMAEError
from i2pmae.evaluation.bootstrap import Estimate, estimate, resampled_means

UNTRAINED, IMAGE = "untrained", "2d-features"
MEASURES = {"svm": "linear SVM", "labels_5": "5 labels per class", "map": "retrieval mAP"}
RESULTS = Path(__file__).parents[1] / "docs" / "results" / "encoders"

Arrays = dict[str, NDArray[Any]]


def main() -> None:
    """Measure what is left, write down one set's figures and the tables of all sets."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, help="labeled shapes with a train and a test split")
    parser.add_argument(
        "encoders",
        nargs="+",
        type=named,
        metavar="[NAME=]CHECKPOINT",
        help="the first one is compared with all others; `untrained` is its network",
    )
    parser.add_argument(
        "--stores",
        type=Path,
        nargs="+",
        help="one of all shapes, or one each of training and test: adds pooled 2D features",
    )
    parser.add_argument("--up", choices="xyz", default="y", help="axis that points up")
    parser.add_argument("--points", type=int, default=1024, help="of each draw")
    parser.add_argument("--draws", type=int, default=5, help="of points of every shape")
    parser.add_argument("--work", type=Path, default=Path("runs/encoders"), help="what is kept")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the figures")
    options = parser.parse_args()
    try:
        found = measure(options)
    except I2PMAEError as error:
        raise SystemExit(str(error)) from None
    write(options.results / f"{options.data.name}.json", found)
    print(summarize(options.results))
    draw_scores(options.results)


def named(text: str) -> tuple[str, str]:
    """Name and checkpoint of `NAME=CHECKPOINT`; a checkpoint alone is its own name."""
    name, _, checkpoint = text.rpartition("=")
    return name or checkpoint, checkpoint


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Scores of every encoder in percent, and the first one's differences from the others."""
    from i2pmae.checkpoints.names import file_of
    from i2pmae.checkpoints.networks import load_encoder, random_encoder
    from i2pmae.datasets import open_source
    from i2pmae.evaluation.clouds import read_points
    from i2pmae.evaluation.comparison import measure_by_class
    from i2pmae.evaluation.features import extract_features, parts_of_points
    from i2pmae.image_model.weights import file_hash

    sources = [open_source(options.data, split=split, up=options.up) for split in ("train", "test")]
    labels = [np.asarray(source.labels, dtype=np.int64) for source in sources]
    set_key = "-".join(source.fingerprint()[:8] for source in sources)
    folder = options.work / f"{options.data.name}-{set_key}-{options.points}"

    @cache
    def clouds() -> list[NDArray[np.float32]]:
        return [read_points(source, options.points, spare=True) for source in sources]

    def encode(encoder: Any, draw: int) -> Arrays:
        found = {}
        for split, points in zip(("train", "test"), clouds(), strict=True):
            *_, part = parts_of_points(points.shape[1], options.points, draw + 1)
            found[split] = extract_features(
                encoder,
                points[:, part],
                description=f"draw {draw}, {split}",
                total=len(points),
            )
        return found

    def score(features: Arrays) -> Arrays:
        found = measure_by_class(labels, {"own": [features["train"], features["test"]]})
        return dict(found.measures["own"])

    def of_draw(key: str, encoder: Any, draw: int) -> Arrays:
        file = f"{key}-{draw}.npz"

        def features() -> Arrays:
            return kept(folder / "features" / file, lambda: encode(encoder, draw))

        return kept(folder / "scores" / file, lambda: score(features()))

    network = load_encoder(options.encoders[0][1]).config
    measured: dict[str, list[Arrays]] = {}
    hashes: dict[str, str] = {}
    for name, checkpoint in options.encoders:
        print(name, flush=True)
        if checkpoint == UNTRAINED:
            key = (
                f"{UNTRAINED}-{hashlib.sha256(network.model_dump_json().encode()).hexdigest()[:8]}"
            )
            encoders = [random_encoder(network, draw) for draw in range(options.draws)]
        else:
            hashes[name] = file_hash(file_of(checkpoint))
            key = hashes[name][:16]
            encoders = [load_encoder(checkpoint)] * options.draws
        measured[name] = [of_draw(key, encoder, draw) for draw, encoder in enumerate(encoders)]
    if options.stores:
        stores = options.stores[0], options.stores[-1]
        pooled = [
            pooled_2d(store, source.ids) for store, source in zip(stores, sources, strict=True)
        ]
        images = score(dict(zip(("train", "test"), pooled, strict=True)))
        measured[IMAGE] = [images] * options.draws  # all points are seen: there is one draw
    return {
        "data": options.data.name,
        "n_train": len(labels[0]),
        "n_test": len(labels[1]),
        "classes": len(np.unique(labels[0])),
        "points": options.points,
        "draws": options.draws,
        "sha256": hashes,
        **compare(measured),
    }


def kept(path: Path, make: Callable[[], Arrays]) -> Arrays:
    """Arrays of a file, made now unless they were before."""
    if not path.exists():
        found = make()
        with atomic_write(path) as partial:
            np.savez(partial, **found)
    with np.load(path) as file:
        return {name: file[name] for name in file.files}


def compare(measured: Mapping[str, Sequence[Arrays]]) -> dict[str, Any]:
    """Scores and differences with 95% intervals over shapes and draws.

    Args:
        measured: encoder -> per draw, measure -> (T,) percent of the test shapes.
    """
    scores: dict[str, Any] = {name: {} for name in measured}
    first, *others = measured
    differences: dict[str, Any] = {other: {} for other in others}
    for key in MEASURES:
        values = np.array([[draw[key] for draw in draws] for draws in measured.values()])
        means = resampled_means(values)  # (1 + resamples, encoders)
        for index, name in enumerate(measured):
            of_draws = [float(np.nanmean(draw)) for draw in values[index]]
            scores[name][key] = spread(of_draws) | {"interval": plain(estimate(means[:, index]))}
        for index, other in enumerate(others, 1):
            differences[other][key] = plain(estimate(means[:, 0] - means[:, index]))
    return {"scores": scores, "first": first, "first_minus": differences}


def plain(found: Estimate) -> list[float]:
    """Value, low and high with two decimals."""
    return [round(value, 2) for value in found]


def summarize(results: Path) -> str:
    """Write `tables.md` from the figures of all sets; its text."""
    parts = []
    for path in sorted(results.glob("*.json")):
        found = json.loads(path.read_text())
        title = f"`{found['data']}`: {found['n_train']} training and {found['n_test']} test shapes"
        lines = [f"{title}, {found['classes']} classes; draws of points: {found['draws']}.", ""]
        lines += [f"| encoder | {' | '.join(MEASURES.values())} |", "|---|---|---|---|"]
        for name, of_name in found["scores"].items():
            cells = [
                ("{mean:.1f} ± {std:.1f}" if of_name[key]["std"] else "{mean:.1f}").format(
                    **of_name[key]
                )
                for key in MEASURES
            ]
            lines.append(f"| {name} | {' | '.join(cells)} |")
        for other, by in found["first_minus"].items():
            cells = [Estimate(*by[key]).signed for key in MEASURES]
            lines.append(f"| {found['first']} minus {other} | {' | '.join(cells)} |")
        parts.append("\n".join(lines))
    text = "\n\n".join(parts) + "\n"
    (results / "tables.md").write_text(text)
    return text


def draw_scores(results: Path) -> None:
    """Draw `scores.png` from the figures of all sets: a dot per encoder, 95% intervals as lines."""
    from i2pmae.pictures.style import ACCENT, PALETTE, name_column, name_row, panels, save

    sets = [json.loads(path.read_text()) for path in sorted(results.glob("*.json"))]
    names = list(dict.fromkeys(name for found in sets for name in found["scores"]))
    colors = dict(zip(names, (ACCENT, *PALETTE), strict=False))
    heights = [1.2] * len(sets)
    figure, axes = panels(
        len(sets), len(MEASURES), width=2.0, heights=heights, left=1.1, bottom=0.2
    )
    for index, (row, found) in enumerate(zip(axes, sets, strict=True)):
        for panel, key in zip(row, MEASURES, strict=True):
            for height, name in enumerate(reversed(names)):
                if name in found["scores"]:
                    value, low, high = found["scores"][name][key]["interval"]
                    panel.plot([low, high], [height, height], color=colors[name], linewidth=1.5)
                    panel.plot(value, height, "o", color=colors[name], markersize=4)
            panel.set(xlim=(20, 100), ylim=(-0.5, len(names) - 0.5), xticks=(40, 60, 80))
            panel.tick_params(labelsize=6, length=2, labelbottom=index == len(sets) - 1)
            panel.grid(axis="x", linewidth=0.3)
        row[0].set_yticks(range(len(names)), reversed(names))
        name_row(row[0], found["data"].replace("_", " "))
    for panel, measure in zip(axes[0], MEASURES.values(), strict=True):
        name_column(panel, f"{measure}, %")
    save(figure, results / "scores.png")


if __name__ == "__main__":
    main()
