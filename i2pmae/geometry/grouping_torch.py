"""Nearest neighbors in tensor operations, on any device."""

import torch
from torch import Tensor

from i2pmae.device import on_cpu

CHUNK = 1 << 18  # distances held at once on a CPU: they stay in its cache, 2-3 times as fast


def nearest_neighbors_torch(queries: Tensor, points: Tensor, k: int) -> Tensor:
    """`nearest_neighbors` in tensor operations, on any device."""
    batch, n_points, _ = points.shape
    order = torch.arange(n_points, device=points.device)
    chunk = max(1, CHUNK // (batch * n_points)) if on_cpu(points) else queries.shape[1]
    found = []
    for part in queries.split(chunk, dim=1):
        # Bits of non-negative floats sort as integers; the index behind them breaks ties.
        bits = squared_distances(part, points).view(torch.int32).long()
        key = bits.bitwise_left_shift_(32).bitwise_or_(order)
        found.append(key.topk(k, dim=-1, largest=False).values.bitwise_and_(0xFFFFFFFF))
    return torch.cat(found, dim=1)


def squared_distances(queries: Tensor, points: Tensor) -> Tensor:
    """Squared distances of all pairs by differences, (B, Q, 3) and (B, N, 3) to (B, Q, N)."""
    # Coordinates of one axis lie side by side in memory: twice as fast on a CPU.
    rows, columns = queries.mT[..., None], points.mT.contiguous()[:, :, None]
    total = (rows[:, 0] - columns[:, 0]).square_()
    for axis in (1, 2):
        total += (rows[:, axis] - columns[:, axis]).square_()
    return total
