"""Frozen features of many shapes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from i2pmae.errors import DataError
from i2pmae.progress import track


def extract_features(
    encode: Callable[[Tensor], Tensor],
    clouds: Iterable[NDArray[np.float32]],
    *,
    batch_size: int = 32,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    description: str | None = None,
    total: int | None = None,
) -> NDArray[np.float32]:
    """Encode clouds batch by batch, without gradients; clouds are read as they are needed.

    Args:
        encode: (B, N, 3) float32 on `device` -> (B, C) or (B, N, C), in evaluation mode.
        clouds: (N, 3) each, N the same for all.
        batch_size: clouds per call; the last call may get fewer.
        device: where `encode` lives.
        dtype: bfloat16 runs `encode` under autocast.
        description: of the bar; None shows none.
        total: number of clouds, for the bar.

    Returns:
        (S, C) or (S, N, C) float32.

    Raises:
        DataError: if there are no clouds, one has another number of points, or a feature is not
            finite.
    """
    device = torch.device(device)
    if description is not None:
        clouds = track(clouds, description, total)
    features = []
    with (
        torch.inference_mode(),
        torch.autocast(device.type, torch.bfloat16, enabled=dtype == torch.bfloat16),
    ):
        for batch in _batches(clouds, batch_size):
            encoded = encode(torch.from_numpy(batch).to(device))
            features.append(encoded.float().cpu().numpy())
    if not features:
        raise DataError("there are no shapes to encode")
    found = np.concatenate(features)
    bad = int((~np.isfinite(found.reshape(len(found), -1))).any(axis=1).sum())
    if bad:
        raise DataError(
            f"features of {bad} of {len(found)} shapes are not finite; the checkpoint is damaged "
            "or its training diverged"
        )
    return found


def parts_of_points(
    n_stored: int, n_points: int, draws: int, seed: int = 0
) -> Iterator[NDArray[np.int64]]:
    """Indices of `draws` parts of a cloud's points.

    A frozen feature depends on which points of a surface were sampled; the mean over parts does
    so less. The first part is the first points, as published figures take them; then come the
    points not used yet, then those of random orders.

    Args:
        n_stored: points of the cloud.
        n_points: of each part, not more.
        draws: number of parts.
        seed: of the random orders.

    Yields:
        (n_points,) different indices.
    """
    rng = np.random.default_rng(seed)
    order = np.arange(n_stored)
    for _ in range(draws):
        if len(order) < n_points:
            order = rng.permutation(n_stored)
        yield order[:n_points]
        order = order[n_points:]


def _batches(
    clouds: Iterable[NDArray[np.float32]], batch_size: int
) -> Iterator[NDArray[np.float32]]:
    batch: list[NDArray[np.float32]] = []
    n_points = None
    for index, cloud in enumerate(clouds):
        if n_points is None:
            n_points = len(cloud)
        elif len(cloud) != n_points:
            raise DataError(
                f"shape {index} has {len(cloud)} points, those before it have {n_points}; "
                "use as many points as the smallest shape has"
            )
        batch.append(cloud)
        if len(batch) == batch_size:
            yield np.stack(batch).astype(np.float32, copy=False)
            batch = []
    if batch:
        yield np.stack(batch).astype(np.float32, copy=False)
