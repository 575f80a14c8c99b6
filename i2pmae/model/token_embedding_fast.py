"""`TokenEmbedding` with a fraction of its work; the same values and gradients.


- The third layer acts on [group maximum, member's feature]: half of it is the same for all members.
- No ReLU lies between the second layer and the third's other half: one matrix stands for both.
- BatchNorm's statistics follow from the first two moments of what enters the linear layer before
  it. So they are known before that layer runs, and its weights can take over the normalization.
- A finer token belongs to many groups: what does not depend on the group is computed once.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from i2pmae.model.chunked import (
    GatheredTokens,
    GroupTokens,
    PointFeatures,
    accumulator,
    group_maximum,
)
from i2pmae.model.layers import product_dtype
from i2pmae.model.row_norm import Affine, Moments
from i2pmae.model.token_embedding import TokenEmbedding


class GroupCounts:
    """Which groups count in BatchNorm's statistics, and sums over their members.

    Args:
        counted: (M,) bool; None: all groups count.
        n_groups: M.
        size: members K of a group.
        like: gives dtype and device of the weights.
    """

    def __init__(self, counted: Tensor | None, n_groups: int, size: int, like: Tensor):
        self.size = size
        self.weights = None if counted is None else counted.to(like.dtype)
        self.n_groups: Tensor | int = n_groups if self.weights is None else self.weights.sum()
        self.total = self.n_groups * size  # members

    def weigh(self, x: Tensor) -> Tensor:
        """Rows of groups (M, C), zero where the group does not count."""
        return x if self.weights is None else x * self.weights[:, None]

    def weigh_members(self, x: Tensor) -> Tensor:
        """Rows of members (M K, C), zero where the group does not count."""
        if self.weights is None:
            return x
        return x * self.weights.repeat_interleave(self.size)[:, None].to(x.dtype)

    def memberships(self, flat: Tensor, n_finer: int, like: Tensor) -> Tensor:
        """How many groups that count each finer token belongs to, (n_finer,)."""
        ones = like.new_ones(1).expand(flat.shape[0])
        if self.weights is not None:
            ones = self.weights.repeat_interleave(self.size)
        return like.new_zeros(n_finer).index_add_(0, flat, ones)

    def center(self, of_group: Tensor) -> tuple[Tensor, Tensor]:
        """Values of groups (M, C) without their mean, and the mean."""
        mean = self.weigh(of_group).sum(dim=0) / self.n_groups
        return of_group - mean, mean

    def add_groups(
        self, members: Moments, centered: Tensor, mean: Tensor, product: Tensor
    ) -> Moments:
        """Moments of (member's value + group's value).

        Args:
            members: of the member's value.
            centered: (M, C) the group's value without its mean.
            mean: (C,) of the group's value.
            product: (C,) sum over members of the member's value times the centered group's.
        """
        variance = self.weigh(centered.square()).sum(dim=0) / self.n_groups
        variance = members.variance + 2 * product / self.total + variance
        return Moments(members.mean + mean, variance)


class PointEmbedding(TokenEmbedding):
    """Tokens of level 0, from the coordinates of each center's neighbors."""

    def embed(self, neighborhoods: Tensor, counted: Tensor | None = None) -> Tensor:
        """`forward`, fast: groups (M, K, 3) to tokens (M, C).

        Args:
            neighborhoods: coordinates relative to the center.
            counted: (M,) bool, groups that count in BatchNorm's statistics; None: all.
        """
        weight = self.point_in.weight
        dtype = product_dtype(weight)
        rows = neighborhoods.flatten(0, 1).to(weight.dtype)
        counts = GroupCounts(counted, neighborhoods.shape[0], neighborhoods.shape[1], weight)
        with torch.autocast(weight.device.type, enabled=False):
            first = self._first_map(rows, counts)
            features, largest, sums, second = PointFeatures.apply(
                rows,
                first.scale[:, None] * weight,
                first.shift,
                self.point_out.weight.to(dtype),
                counts.weights,
                counts.size,
            )
            of_member, of_group = _of_member(self), _of_group(self, largest)
            third = self._third_map(of_member, of_group, sums, second, counts)
            tokens: Tensor = GroupTokens.apply(
                features,
                (third.scale[:, None] * of_member).to(dtype),
                (third.scale * of_group + third.shift).to(dtype),
                self.group_out.weight.to(dtype),
                counts.size,
            )
            return tokens + self.group_out.bias.to(dtype)

    def _first_map(self, rows: Tensor, counts: GroupCounts) -> Affine:
        """Bias of the first layer and its BatchNorm, on coordinates times the layer's weight."""
        layer = self.point_in
        found = self.point_norm.running_map()
        if self.training:
            rows = rows.to(accumulator(rows.device))
            weighted = counts.weigh_members(rows)
            mean = weighted.sum(dim=0) / counts.total
            covariance = (weighted.T @ rows / counts.total - mean[:, None] * mean).to(layer.weight)
            variance = ((layer.weight @ covariance) * layer.weight).sum(dim=1)
            moments = Moments(layer.weight @ mean.to(layer.weight) + layer.bias, variance)
            found = self.point_norm.map_of(moments, counts.total)
        return Affine(found.scale, found.shift + found.scale * layer.bias)

    def _third_map(
        self, of_member: Tensor, of_group: Tensor, sums: Tensor, second: Tensor, counts: GroupCounts
    ) -> Affine:
        """BatchNorm of the third layer, from sums and second moment of the features."""
        if not self.training:
            return self.group_norm.running_map()
        mean = counts.weigh(sums).sum(dim=0, dtype=second.dtype) / counts.total
        covariance = (second / counts.total - mean[:, None] * mean).to(of_member)
        members = Moments(
            of_member @ mean.to(of_member), ((of_member @ covariance) * of_member).sum(dim=1)
        )
        centered, group_mean = counts.center(of_group)
        cross = ((counts.weigh(centered).T @ sums) * of_member).sum(dim=1)
        moments = counts.add_groups(members, centered, group_mean, cross)
        return self.group_norm.map_of(moments, counts.total)


class TokenMerging(TokenEmbedding):
    """Tokens of a coarser level, from the finer tokens of each center's neighbors."""

    def merge(self, finer: Tensor, neighbors: Tensor, counted: Tensor | None = None) -> Tensor:
        """`forward` of `finer[neighbors]`, fast: groups of finer tokens to tokens (M, C).

        Args:
            finer: (N, C_in), tokens of the finer level, all clouds in a row.
            neighbors: (M, K) int64 into `finer`.
            counted: (M,) bool, groups that count in BatchNorm's statistics; None: all.
        """
        weight = self.point_in.weight
        dtype = product_dtype(weight)
        counts = GroupCounts(counted, neighbors.shape[0], neighbors.shape[1], weight)
        flat = neighbors.flatten()
        with torch.autocast(weight.device.type, enabled=False):
            members = counts.memberships(flat, finer.shape[0], weight)
            x = F.linear(finer.to(dtype), weight.to(dtype)).to(weight.dtype)
            first = self._first_map(x, members, counts)
            features = (x * first.scale + first.shift).relu().to(dtype)
            seconds = F.linear(features, self.point_out.weight.to(dtype))
            largest = group_maximum(seconds.index_select(0, flat), counts.size)[0]
            of_group = _of_group(self, largest)
            x = F.linear(features, _of_member(self).to(dtype)).to(weight.dtype)
            third = self._third_map(x, of_group, flat, members, counts)
            tokens: Tensor = GatheredTokens.apply(
                (third.scale * x).to(dtype),
                neighbors,
                (third.scale * of_group + third.shift).to(dtype),
                self.group_out.weight.to(dtype),
            )
            return tokens + self.group_out.bias.to(dtype)

    def _first_map(self, x: Tensor, members: Tensor, counts: GroupCounts) -> Affine:
        """Bias of the first layer and its BatchNorm, on tokens times the layer's weight."""
        found = self.point_norm.running_map()
        bias = self.point_in.bias
        if self.training:
            moments = _moments(x, members, counts.total)
            moments = Moments(moments.mean + bias, moments.variance)
            found = self.point_norm.map_of(moments, counts.total)
        return Affine(found.scale, found.shift + found.scale * bias)

    def _third_map(
        self, x: Tensor, of_group: Tensor, flat: Tensor, members: Tensor, counts: GroupCounts
    ) -> Affine:
        """BatchNorm of the third layer, whose output is `x` of the member plus `of_group`."""
        if not self.training:
            return self.group_norm.running_map()
        moments = _moments(x, members, counts.total)
        centered, group_mean = counts.center(of_group)
        sums = x.index_select(0, flat).view(-1, counts.size, x.shape[1]).sum(dim=1)
        cross = (counts.weigh(centered) * sums).sum(dim=0)
        moments = counts.add_groups(moments, centered, group_mean, cross)
        return self.group_norm.map_of(moments, counts.total)


def _of_member(layers: TokenEmbedding) -> Tensor:
    """Second layer and the third's second half as one matrix."""
    return layers.group_in.weight.chunk(2, dim=1)[1] @ layers.point_out.weight


def _of_group(layers: TokenEmbedding, largest: Tensor) -> Tensor:
    """What the third layer adds for all members of a group, (M, D).

    Args:
        layers: of the embedding.
        largest: (M, C), group maximum of the second layer without its bias.
    """
    of_group = layers.group_in.weight.chunk(2, dim=1)[0]
    bias = layers.group_in.bias + layers.group_in.weight @ layers.point_out.bias.repeat(2)
    return F.linear(largest, of_group.to(largest.dtype)).to(bias.dtype) + bias


def _moments(x: Tensor, weights: Tensor, total: Tensor | int) -> Moments:
    """Moments of the rows (N, C) of which each counts `weights` (N,) times, `total` in all."""
    mean = weights @ x / total
    return Moments(mean, weights @ (x - mean).square() / total)
