"""Pictures of the arms that `guidance.py` has trained: what stays visible, what features look like.

    python experiments/guidance_pictures.py modelnet10_vox24 --work runs/guidance

draws `masks.png` (how often a center stays visible, by how saliency is used) and `features.png`
(the tokens of the middle scale, their three main components as colors, arm by arm) into
`--results`, from the networks of seed 0. Shapes are the first test shape of some classes.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from types import SimpleNamespace

import guidance
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from i2pmae.checkpoints.networks import load_encoder, random_encoder
from i2pmae.errors import StoreError
from i2pmae.geometry.grouping import group, point_indices
from i2pmae.model.decoder import interpolate
from i2pmae.model.frozen import FrozenEncoder
from i2pmae.model.masking import guided_mask, random_mask
from i2pmae.pictures.points import draw_points, shape_rows
from i2pmae.pictures.shapes import feature_colors
from i2pmae.pictures.style import (
    FRAME,
    NEUTRAL,
    SALIENCY,
    color_bar,
    save,
)
from i2pmae.report.stage_views import ShapeViews, read_shapes
from i2pmae.store import StoreReader

CLASSES = ("chair", "table", "toilet", "monitor")
ARMS = {  # and what stands above them
    "random": "random",
    "3d-only": "3d-only",
    "i2p-mae": "i2p-mae",
    "block-6-16-epochs-no-augmentation": "block 6, 16 epochs",
}
DRAWS, RATIO, WIDTH, UP, PIXELS = 400, 0.8, 1.5, "z", 1000


def main() -> None:
    """Draw both pictures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, help="ModelNet10 (24^3 voxels)")
    parser.add_argument("--work", type=Path, default=Path("runs/guidance"), help="of guidance.py")
    parser.add_argument("--results", type=Path, default=guidance.FOLDER.parent / "docs/results")
    options = parser.parse_args()
    try:
        reader = StoreReader(options.work / "stores" / "vit-test.zarr")
    except StoreError as error:
        raise SystemExit(f"{error} (made by guidance.py)") from None
    labels = reader.read_all("label")
    names = list(reader.info.class_names)
    chosen = [int(np.flatnonzero(labels == names.index(name))[0]) for name in CLASSES]
    views = read_shapes(reader, chosen, guidance.POINTS)
    pictures = [
        draw_masks(options.results / "masks.png", views),
        draw_features(options.results / "features.png", views, options.work),
    ]
    for path in pictures:
        drawn = Image.open(path).convert("RGB")
        drawn.thumbnail((PIXELS, PIXELS), Image.Resampling.LANCZOS)
        drawn.quantize(255, dither=Image.Dither.NONE).save(path, optimize=True)
        print(path)


def draw_masks(path: Path, views: ShapeViews) -> Path:
    """How often each of the coarsest centers stays visible, per way to mask."""
    sizes = guidance.settings_of("i2p-mae", 0, SimpleNamespace(work=Path())).encoder
    grouping = group(views.points, sizes.n_centers, sizes.group_sizes)
    saliency = views.saliency.gather(1, point_indices(grouping, len(sizes.n_centers) - 1))
    many = saliency.repeat_interleave(DRAWS, dim=0)
    generator = torch.Generator().manual_seed(0)
    masks = {
        "random": random_mask(*many.shape, RATIO, generator),
        "2D-guided, as released": guided_mask(many, RATIO, generator=generator),
        "2D-guided, standardized": guided_mask(many, RATIO, 1.0, True, generator),
        "temperature .25": guided_mask(many, RATIO, 0.25, True, generator),
    }
    clouds = views.points.numpy()
    titles = ("saliency", *masks)
    figure, axes = shape_rows(clouds, CLASSES, titles, width=WIDTH, up=UP, bottom=0.4)
    per_draw = [mask.float().view(len(clouds), DRAWS, -1) for mask in masks.values()]
    for column, values in enumerate([views.saliency, *per_draw]):
        for row, cloud in enumerate(clouds):
            if column == 0:
                shown = values[row] - values[row].min()
                draw_points(axes[row, 0], cloud, SALIENCY(np.asarray(shown / shown.max())), up=UP)
                continue
            visible = 1 - values[row].mean(dim=0).numpy()
            draw_points(axes[row, column], cloud, FRAME, up=UP, relief=0.3)
            colors = SALIENCY((visible / 0.6).clip(0, 1))
            at = grouping.centers[-1][row].numpy()
            draw_points(axes[row, column], at, colors, frame=cloud, up=UP, relief=0, scale=2.2)
    color_bar(figure, SALIENCY, "never visible", "visible 60% of the time")
    return save(figure, path)


def draw_features(path: Path, views: ShapeViews, work: Path) -> Path:
    """Tokens of the middle scale, brought to the points, and the 2D features beside them."""
    columns = {"points": None, "2D features": views.features.numpy()}
    for arm, name in ARMS.items():
        columns[name] = tokens_at_points(encoder_of(arm, work), views.points)
    clouds = views.points.numpy()
    figure, axes = shape_rows(clouds, CLASSES, [*columns], width=WIDTH, up=UP, bottom=0.0)
    for column, features in enumerate(columns.values()):
        colors = [NEUTRAL] * len(clouds) if features is None else feature_colors(features)
        for row, (cloud, color) in enumerate(zip(clouds, colors, strict=True)):
            relief = 1.0 if features is None else 0.35
            draw_points(axes[row, column], cloud, color, up=UP, relief=relief)
    return save(figure, path)


def encoder_of(arm: str, work: Path) -> FrozenEncoder:
    """The encoder of an arm's first seed."""
    config = guidance.settings_of(arm, 0, SimpleNamespace(work=work))
    if guidance.ARMS[arm].features == "random":
        return random_encoder(config.encoder, 0)
    return load_encoder(config.out / "last.pt")


@torch.inference_mode()
def tokens_at_points(encoder: FrozenEncoder, points: Tensor) -> NDArray[np.float32]:
    """Level-1 tokens at every point: (S, N, C)."""
    grouping = group(points, encoder.config.n_centers, encoder.config.group_sizes)
    tokens = encoder.encoder(grouping)[1]
    return interpolate(points, grouping.centers[1], tokens).float().numpy()


if __name__ == "__main__":
    main()
