"""What the pipeline sees of some stored shapes, step by step: for pictures and reports."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from i2pmae.config import EncoderConfig, MaskingConfig
from i2pmae.errors import CheckpointError
from i2pmae.geometry.grouping import Grouping, gather_rows, group, point_indices
from i2pmae.geometry.projection import back_project, mean_over_views
from i2pmae.geometry.transforms import normalize_to_unit_sphere, random_subset
from i2pmae.model.masking import carry_through, guided_mask
from i2pmae.model.pretraining import TARGET_LEVEL, PretrainingModel, PretrainingOutput
from i2pmae.store import StoreReader
from i2pmae.store.point_features import stored_pixels, stored_visible
from i2pmae.training.seeding import step_generator
from i2pmae.training.stored import to_tensors

Clouds = list[NDArray[np.float32]]
_POINTS, _MASKS = 0, 1  # counters of what is drawn at random


@dataclass(frozen=True)
class ShapeViews:
    """Some shapes of a store, and what the image model saw of them."""

    points: Tensor  # (S, N, 3) float32 in the unit sphere
    saliency: Tensor  # (S, N) of each point, mean over the views that see it
    features: Tensor  # (S, N, C) of each point, mean over the views that see it
    pictures: NDArray[np.uint8]  # (S, V, H, W) depth maps, or (S, V, H, W, 3) normals
    saliency_maps: NDArray[np.float32]  # (S, V, h, w)
    pixels: Tensor  # (S, V, N, 2) int64
    seen: Tensor | None  # (S, V, N) bool, views that see a point; None: all count
    batch: dict[str, Tensor]  # arrays of the store, shapes first


class Hidden(NamedTuple):
    """Centers of every level, fine to coarse, and which of them the encoder does not see."""

    centers: list[NDArray[np.float32]]  # per level (S, G, 3)
    masked: list[NDArray[np.bool_]]  # per level (S, G)
    points: NDArray[np.bool_]  # (S, N) points in no group that the encoder sees


class Reconstruction(NamedTuple):
    """What a pre-trained network makes of what it sees; per shape."""

    hidden: Hidden
    visible: Clouds  # (n, 3) points of visible groups
    made: Clouds  # (m, 3) reconstructed points of hidden ones; none where there is no 3D head
    centers: Clouds  # (k, 3) of visible groups, the finest level; none without a 2D head
    targets: Clouds  # (k, C) image features of these centers as they are asked for, mean over views
    predicted: Clouds  # (k, C) what the network predicts of them


def read_shapes(
    reader: StoreReader, indices: Sequence[int], n_points: int, seed: int = 0
) -> ShapeViews:
    """Read shapes and bring saliency and features back to their points.

    Args:
        reader: a finished store.
        indices: shapes.
        n_points: N, drawn at random from each shape; at most as many as the store holds.
        seed: of the drawing.
    """
    name = reader.info.spec.pictures
    read = reader.read(indices, [*reader.step_arrays, name])
    pictures, saliency_maps = read.pop(name), read["saliency"]
    batch = to_tensors(read)
    chosen = random_subset(batch["points"], n_points, step_generator(seed, _POINTS))
    canonical = gather_rows(batch["points"], chosen)
    at = stored_pixels(batch, canonical, torch.from_numpy(reader.view_axes), reader.image_size)
    saliency = back_project(batch["saliency"][..., None], at, reader.image_size)
    features = back_project(batch["features"], at, reader.image_size, batch.get("feature_scale"))
    seen = stored_visible(batch, chosen)
    return ShapeViews(
        points=normalize_to_unit_sphere(canonical),
        saliency=mean_over_views(saliency, seen).squeeze(-1),
        features=mean_over_views(features, seen),
        pictures=pictures,
        saliency_maps=saliency_maps,
        pixels=at,
        seen=seen,
        batch=batch,
    )


def draw_masks(
    views: ShapeViews,
    encoder: EncoderConfig | None = None,
    masking: MaskingConfig | None = None,
    seed: int = 0,
) -> Hidden:
    """Draw 2D-guided masks as pre-training does.

    Args:
        views: shapes.
        encoder: levels; None: the paper's, halved until the clouds have enough points.
        masking: how tokens are hidden; None: the paper's.
        seed: of the masks.
    """
    encoder = encoder or encoder_for(views.points.shape[1])
    masking = masking or MaskingConfig()
    grouping = group(views.points, encoder.n_centers, encoder.group_sizes)
    coarsest = point_indices(grouping, len(encoder.n_centers) - 1)
    masked = guided_mask(
        views.saliency.gather(1, coarsest),
        masking.ratio,
        masking.temperature,
        masking.standardize,
        step_generator(seed, _MASKS),
    )
    masks = carry_through(masked, grouping.neighbor_indices, encoder.n_centers)
    return _hidden(views, grouping, masks)


def encoder_for(n_points: int) -> EncoderConfig:
    """The paper's levels, halved until clouds of `n_points` have two points per finest center."""
    paper = EncoderConfig()
    centers = paper.n_centers
    while 2 * centers[0] > n_points and centers[-1] > 2:
        centers = tuple(n // 2 for n in centers)
    groups = tuple(
        min(size, before)
        for size, before in zip(paper.group_sizes, (n_points, *centers), strict=False)
    )
    return paper.model_copy(update={"n_centers": centers, "group_sizes": groups})


@torch.inference_mode()
def reconstruct(model: PretrainingModel, views: ShapeViews, seed: int = 0) -> Reconstruction:
    """Hide, encode, decode, and take from both heads what they predict.

    Args:
        model: pre-trained on features like those of `views`; see `require_fit`.
        views: shapes with at least as many points as the finest level has centers.
        seed: of the masks.
    """
    output = model(
        views.points,
        views.batch["features"],
        views.batch["saliency"],
        views.pixels,
        generator=step_generator(seed, _MASKS),
        feature_scale=views.batch.get("feature_scale"),
        seen=views.seen,
    )
    grouping, shapes = output.grouping, range(len(views.points))
    hidden = _hidden(views, grouping, output.masks)
    seen = grouping.neighborhoods[0] + grouping.centers[0][:, :, None]
    visible = [seen[row][~output.masks[0][row]].flatten(0, 1).numpy() for row in shapes]
    made = [np.zeros((0, 3), np.float32) for _ in shapes]
    if model.targets.kind != "2d":
        neighbors = model.reconstruct(output.decoded) + grouping.centers[TARGET_LEVEL][:, :, None]
        masked = output.masks[TARGET_LEVEL]
        made = [neighbors[row][masked[row]].flatten(0, 1).numpy() for row in shapes]
    compared = [(np.zeros((0, 3), np.float32),) * 3 for _ in shapes]
    if model.targets.kind != "3d":
        targets = model.semantic_targets(
            grouping,
            output.packings,
            views.batch["features"],
            views.pixels,
            views.batch.get("feature_scale"),
            views.seen,
        )
        true = model.unstandardize(targets)
        compared = [_compare_features(model, views, output, true[row], row) for row in shapes]
    return Reconstruction(
        hidden, visible, made, *(list(column) for column in zip(*compared, strict=True))
    )


def require_fit(model: PretrainingModel, reader: StoreReader, n_points: int, name: str) -> None:
    """Refuse a network that was not pre-trained on stores like this one.

    Args:
        model: the network.
        reader: the store.
        n_points: points per shape that the network is to see.
        name: of the checkpoint, for the message.

    Raises:
        CheckpointError: if sizes differ.
    """
    if model.config.n_centers[0] > n_points:
        raise CheckpointError(
            f"{name} has {model.config.n_centers[0]} centers at its finest level, more than the "
            f"{n_points} points per shape that are shown; raise --points or take another store"
        )
    if model.targets.kind == "3d":
        return
    size = model.config.group_sizes[TARGET_LEVEL]
    expected = reader.n_views * reader.channels
    found = len(model.head_2d.weight) // size
    if found != expected or model.image_size != reader.image_size:
        raise CheckpointError(
            f"{name} predicts {found} values per point from images of {model.image_size} pixels, "
            f"{reader.path} holds {expected} from images of {reader.image_size}; it was "
            "pre-trained on another store: pass that one"
        )


def _compare_features(
    model: PretrainingModel, views: ShapeViews, output: PretrainingOutput, true: Tensor, row: int
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """Centers that the network predicts features of, the true ones and the predicted ones.

    A center is predicted once for every visible group it belongs to; the mean counts. `true`
    (L, V, C) is what the 2D loss compares with.
    """
    grouping = output.grouping
    tokens = output.decoded[row][~output.masks[TARGET_LEVEL][row]]
    neighbors = grouping.neighbor_indices[TARGET_LEVEL][row][~output.masks[TARGET_LEVEL][row]]
    said = model.predict_features(tokens)  # (M, K, V, C)
    centers = grouping.centers[TARGET_LEVEL - 1][row]
    finest = point_indices(grouping, TARGET_LEVEL - 1)[row]
    total = said.new_zeros(len(centers), *said.shape[2:])
    total.index_add_(0, neighbors.flatten(), said.flatten(0, 1))
    times = torch.bincount(neighbors.flatten(), minlength=len(centers))
    told = times > 0
    if model.targets.tokens_2d == "visible":
        true = true[output.packings[0].position[row]]
    seen = None if views.seen is None else views.seen[row, :, finest[told]][None]
    both = torch.stack([true[told], total[told] / times[told, None, None]]).transpose(1, 2)
    true, predicted = mean_over_views(both, seen).unbind()
    return centers[told].numpy(), true.numpy(), predicted.numpy()


def _hidden(views: ShapeViews, grouping: Grouping, masks: Sequence[Tensor]) -> Hidden:
    seen = torch.zeros(views.points.shape[:2], dtype=torch.int64)
    visible = (~masks[0])[..., None].expand_as(grouping.neighbor_indices[0]).long()
    seen.scatter_add_(1, grouping.neighbor_indices[0].flatten(1), visible.flatten(1))
    return Hidden(
        [centers.numpy() for centers in grouping.centers],
        [mask.numpy() for mask in masks],
        (seen == 0).numpy(),
    )
