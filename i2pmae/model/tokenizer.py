"""Neighborhoods to tokens: a mini-PointNet per group (section 3.1 of the paper).

Every point of a group passes two linear layers; the group's maximum is set beside each point's
feature; two more linear layers and a maximum over the group give its token. The algebra below
gives the numbers of that chain with less work:

- The third layer acts on [group maximum, point feature]; its first half is needed once per group.
- No ReLU lies between the second layer and the third's other half: one matrix stands for both.
- BatchNorm's statistics follow from the first two moments of what enters the linear layer before
  it. So they are known before that layer runs, and its weights can take over the normalization.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from i2pmae.model.chunked import GroupTokens, PointFeatures, accumulator


class Affine(NamedTuple):
    """BatchNorm as `scale * x + shift`."""

    scale: Tensor  # (C,)
    shift: Tensor  # (C,)


class RowNorm(nn.BatchNorm1d):
    """BatchNorm over rows (M, C), or its affine map where the moments are known beforehand."""

    def batch_map(self, mean: Tensor, variance: Tensor, count: Tensor | int) -> Affine:
        """Map for a batch of these moments; the running statistics take note of them.

        Args:
            mean: (C,) of the batch.
            variance: (C,) of the batch, divided by `count`.
            count: rows that the moments were taken over.
        """
        with torch.no_grad():
            unbiased = variance * (count / (count - 1))
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean.to(self.running_mean), self.momentum)
            self.running_var.lerp_(unbiased.to(self.running_var), self.momentum)
        return self._map(mean, variance)

    def running_map(self) -> Affine:
        """Map of evaluation mode."""
        return self._map(self.running_mean, self.running_var)

    def _map(self, mean: Tensor, variance: Tensor) -> Affine:
        scale = self.weight * (variance + self.eps).rsqrt()
        return Affine(scale, self.bias - scale * mean)


class TokenEmbedding(nn.Module):
    """The layers of one level's embedding.

    Args:
        width_in: channels of a point, or of a finer token.
        hidden: widths of the first three linear layers.
        width: channels of a token.

    Source: Point-M2AE, section 3.1; PointNet.
    """

    def __init__(self, width_in: int, hidden: tuple[int, int, int], width: int):
        super().__init__()
        first, second, third = hidden
        self.point_in = nn.Linear(width_in, first)
        self.point_norm = RowNorm(first)
        self.point_out = nn.Linear(first, second)
        self.group_in = nn.Linear(2 * second, third)
        self.group_norm = RowNorm(third)
        self.group_out = nn.Linear(third, width)


class PointEmbedding(TokenEmbedding):
    """Tokens of level 0, from the coordinates of each center's neighbors."""

    def forward(self, neighborhoods: Tensor, counted: Tensor | None = None) -> Tensor:
        """Groups (M, K, 3) to tokens (M, C).

        Args:
            neighborhoods: coordinates relative to the center.
            counted: (M,) bool, groups that count in BatchNorm's statistics; None: all.
        """
        device, dtype = neighborhoods.device.type, self.point_in.weight.dtype
        weights = None if counted is None else counted.to(dtype)
        if torch.is_autocast_enabled(device):
            dtype = torch.get_autocast_dtype(device)
        with torch.autocast(device, enabled=False):
            return self._embed(neighborhoods, weights, dtype)

    def _embed(self, neighborhoods: Tensor, weights: Tensor | None, dtype: torch.dtype) -> Tensor:
        n_groups, size, _ = neighborhoods.shape
        rows = neighborhoods.flatten(0, 1).to(self.point_in.weight.dtype)
        count = n_groups * size if weights is None else weights.sum() * size
        first = self._point_affine(rows, weights, count, size)
        features, largest, sums, second = PointFeatures.apply(
            rows,
            first.scale[:, None] * self.point_in.weight,
            first.shift,
            self.point_out.weight.to(dtype),
            weights,
            size,
        )
        of_group, of_point = self.group_in.weight.chunk(2, dim=1)
        joined = of_point @ self.point_out.weight
        offsets = F.linear(largest, of_group.to(dtype)).to(rows.dtype)
        bias = self.group_in.bias + self.group_in.weight @ self.point_out.bias.repeat(2)
        offsets = offsets + bias
        second_map = self._group_affine(joined, offsets, sums, second, weights, count)
        tokens: Tensor = GroupTokens.apply(
            features,
            (second_map.scale[:, None] * joined).to(dtype),
            (second_map.scale * offsets + second_map.shift).to(dtype),
            self.group_out.weight.to(dtype),
            size,
        )
        return tokens + self.group_out.bias.to(dtype)

    def _point_affine(
        self, rows: Tensor, weights: Tensor | None, count: Tensor | int, size: int
    ) -> Affine:
        """First linear layer's bias and BatchNorm, as a map of its product with the weight."""
        norm, layer = self.point_norm, self.point_in
        if not self.training:
            running = norm.running_map()
            return Affine(running.scale, running.shift + running.scale * layer.bias)
        rows = rows.to(accumulator(rows.device))
        weighted = rows if weights is None else rows * weights.repeat_interleave(size)[:, None]
        mean = weighted.sum(dim=0) / count
        covariance = (weighted.T @ rows / count - mean[:, None] * mean).to(layer.weight)
        mean = mean.to(layer.weight)
        variance = ((layer.weight @ covariance) * layer.weight).sum(dim=1)
        found = norm.batch_map(layer.weight @ mean + layer.bias, variance, count)
        return Affine(found.scale, found.shift + found.scale * layer.bias)

    def _group_affine(
        self,
        joined: Tensor,
        offsets: Tensor,
        sums: Tensor,
        second: Tensor,
        weights: Tensor | None,
        count: Tensor | int,
    ) -> Affine:
        """BatchNorm of features @ joined.T + offset of the group.

        Args:
            joined: (D, C).
            offsets: (M, D).
            sums: (M, C), sum of the features of each group.
            second: (C, C), second moment of the features, not divided by the count.
            weights: (M,), how much each group counts; None: all alike.
            count: number of rows.
        """
        if not self.training:
            return self.group_norm.running_map()
        n_groups = len(offsets) if weights is None else weights.sum()
        if weights is not None:
            sums, weighted = sums * weights[:, None], offsets * weights[:, None]
        else:
            weighted = offsets
        mean = sums.sum(dim=0, dtype=second.dtype) / count
        covariance = (second / count - mean[:, None] * mean).to(joined)
        mean = mean.to(joined)
        offset_mean = weighted.sum(dim=0) / n_groups
        centered = offsets - offset_mean
        cross = centered.T @ sums / count  # (D, C): sums of equal weight, so the mean drops out
        spread = centered.square()
        spread = spread if weights is None else spread * weights[:, None]
        variance = ((joined @ covariance + 2 * cross) * joined).sum(dim=1)
        variance = variance + spread.sum(dim=0) / n_groups
        return self.group_norm.batch_map(joined @ mean + offset_mean, variance, count)


class TokenMerging(TokenEmbedding):
    """Tokens of a coarser level, from the tokens of each center's neighbors."""

    def forward(self, finer: Tensor, neighbors: Tensor, counted: Tensor | None = None) -> Tensor:
        """Finer tokens (N, C_in) and groups of them to tokens (M, C).

        Args:
            finer: tokens of the finer level, all clouds in a row.
            neighbors: (M, K) int64 into `finer`.
            counted: (M,) bool, groups that count in BatchNorm's statistics; None: all.
        """
        n_groups, size = neighbors.shape
        rows = finer[neighbors.flatten()]
        rows = self.point_out(self.point_norm(self.point_in(rows)).relu())
        largest = rows.view(n_groups, size, -1).amax(dim=1)
        of_group, of_point = self.group_in.weight.chunk(2, dim=1)
        rows = F.linear(rows, of_point).view(n_groups, size, -1)
        rows = rows + F.linear(largest, of_group, self.group_in.bias)[:, None]
        rows = self.group_norm(rows.flatten(0, 1)).relu()
        return self.group_out(rows).view(n_groups, size, -1).amax(dim=1)
