"""Voting: the mean of a classifier's logits over several draws of the same cloud."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Generator, Tensor

from i2pmae.geometry.grouping import gather_rows
from i2pmae.geometry.sampling import farthest_points
from i2pmae.geometry.transforms import random_subset

POOL_RATIO = 1200 / 1024  # farthest points that a draw chooses from, per point used


def vote(
    classify: Callable[[Tensor], Tensor],
    clouds: Tensor,
    augment: Callable[[Tensor, Generator], Tensor],
    generator: Generator,
    *,
    n_points: int = 1024,
    n_draws: int = 10,
) -> Tensor:
    """Mean logits of several random subsets of each cloud, each augmented as in training.

    Every draw takes `n_points` of the 1.17 times as many farthest points, or all points of a
    cloud that has no more.

    Differs: the official code reports the best of 49 such votes on the test set and fails at
        2048 points; ours votes once, at any number of points.

    Args:
        classify: (B, M, 3) -> (B, classes) logits, in evaluation mode.
        clouds: (B, N, 3).
        augment: the training augmentation: clouds and generator -> clouds.
        generator: of the draws and the augmentation.
        n_points: M, points per draw.
        n_draws: how many draws are averaged.

    Returns:
        (B, classes) float32.

    Raises:
        ValueError: if nothing is drawn.

    Source: section 4.2 of the paper; 10 draws as in the official recipe.
    """
    if n_draws < 1:
        raise ValueError(f"n_draws={n_draws}: a vote needs at least one")
    available = clouds.shape[1]
    n_points = min(n_points, available)
    n_pool = min(available, round(POOL_RATIO * n_points))
    pool = gather_rows(clouds, farthest_points(clouds, n_pool)) if n_pool < available else clouds
    logits = []
    with torch.inference_mode():
        for _ in range(n_draws):
            drawn = gather_rows(pool, random_subset(pool, n_points, generator))
            logits.append(classify(augment(drawn, generator)).float())
    return torch.stack(logits).mean(dim=0)
