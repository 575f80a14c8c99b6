"""The pictures of the documentation, from what `i2pmae demo` leaves behind and from random shapes.

python docs/pictures/make.py [FOLDER OF THE DEMO, or the word random-shapes]
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
from matplotlib.colors import to_rgba_array
from matplotlib.figure import Figure
from PIL import Image

from i2pmae.config import ShowConfig
from i2pmae.datasets import open_source
from i2pmae.geometry.grouping import group, point_indices
from i2pmae.pictures.points import draw_points
from i2pmae.pictures.style import ACCENT, INK, NEUTRAL, PALETTE, panels, save
from i2pmae.report.stage_views import read_shapes
from i2pmae.stages import show
from i2pmae.stages.demo import POINTS, SMALL
from i2pmae.store import StoreReader

HERE = Path(__file__).parent
SHAPES = ("airplane_00", "bench_00")
WIDTH = 900  # pixels
COLORS = 255


def main(demo: Path) -> None:
    """Draw all of them from the demo's folder."""
    store = demo / "cache" / "procedural.zarr"
    with tempfile.TemporaryDirectory() as folder:
        config = ShowConfig(
            cache=store,
            ids=SHAPES,
            checkpoint=demo / "run" / "last.pt",
            points=POINTS,
            out=Path(folder),
        )
        for name, path in show.run(config, table=False)["pictures"].items():
            shrink(Path(path), HERE / f"{name}.png")
        shrink(draw_chances(store, Path(folder) / "chances.png"), HERE / "chances.png")


def draw_chances(store: Path, path: Path) -> Path:
    """Draw how often each center stays visible first, by how the saliency is prepared."""
    reader = StoreReader(store)
    views = read_shapes(reader, reader.indices().tolist(), POINTS)
    grouping = group(views.points, SMALL.n_centers, SMALL.group_sizes)
    saliency = views.saliency.gather(1, point_indices(grouping, 2)).numpy()
    standard = saliency - saliency.mean(axis=1, keepdims=True)
    standard /= standard.std(axis=1, keepdims=True)
    kinds = {
        "as in the paper": (saliency, NEUTRAL),
        "standardized, temperature 1": (standard, PALETTE[0]),
        "standardized, temperature 0.5": (standard / 0.5, ACCENT),
    }
    figure = Figure(figsize=(4.5, 2.3), layout="constrained")
    axes = figure.add_subplot()
    for name, (scores, color) in kinds.items():
        chances = np.exp(scores - scores.max(axis=1, keepdims=True))
        chances /= chances.sum(axis=1, keepdims=True)
        falling = -np.sort(-chances, axis=1).mean(axis=0)
        axes.plot(range(1, len(falling) + 1), 100 * falling, color=color, label=name)
    axes.set(ylim=0)
    axes.set_xlabel("center, the most salient first", fontsize=7, color=INK)
    axes.set_ylabel("chance, %", fontsize=7, color=INK)
    axes.tick_params(labelsize=7, colors=INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=7, labelcolor=INK)
    return save(figure, path)


def draw_random_shapes(path: Path) -> Path:
    """Draw the first shapes of `procedural-random`, colored by the kind of their primitives."""
    source = open_source("procedural-random", split="all", limit=48, points=8192)
    palette = to_rgba_array([*PALETTE, "#A5A02C"])
    figure, axes = panels(6, 8, width=1.1)
    for index, panel in enumerate(axes.ravel()):
        points, parts = source.load(index)
        draw_points(panel, points, palette[parts], relief=0.8, scale=1.2)
    return save(figure, path)


def shrink(source: Path, target: Path) -> None:
    """Bring a picture to a width and few colors, so that it weighs little."""
    image = Image.open(source).convert("RGB")
    height = round(image.height * WIDTH / image.width)
    small = image.resize((WIDTH, height), Image.Resampling.LANCZOS)
    small.quantize(COLORS, dither=Image.Dither.NONE).save(target, optimize=True)


if __name__ == "__main__":
    if sys.argv[1:] == ["random-shapes"]:
        with tempfile.TemporaryDirectory() as folder:
            sheet = draw_random_shapes(Path(folder) / "random-shapes.png")
            shrink(sheet, HERE / "random-shapes.png")
    else:
        main(Path(sys.argv[1] if len(sys.argv) > 1 else "demo"))
