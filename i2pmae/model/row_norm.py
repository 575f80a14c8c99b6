"""BatchNorm over rows, also where its statistics are known before the rows."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from i2pmae.model.chunked import accumulator


class Affine(NamedTuple):
    """BatchNorm as `scale * x + shift`."""

    scale: Tensor  # (C,)
    shift: Tensor  # (C,)


class Moments(NamedTuple):
    """Of every channel over the rows that count."""

    mean: Tensor  # (C,)
    variance: Tensor  # (C,), not corrected for the mean


class RowNorm(nn.BatchNorm1d):
    """BatchNorm over rows (M, C), or its affine map where the moments are known beforehand."""

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor
    momentum: float
    total: Callable[[Tensor], Tensor] | None = None  # sum over processes that share the batch

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        """Rows (M, C) to (M, C)."""
        if self.total is None or not self.training:
            return super().forward(input)
        rows = input.to(self.weight.dtype)
        variance, mean = torch.var_mean(rows, dim=0, correction=0)
        scale, shift = self.map_of(Moments(mean, variance), len(rows))
        return (rows * scale + shift).to(input.dtype)

    def map_of(self, moments: Moments, count: Tensor | int) -> Affine:
        """Map for a batch of these moments over `count` rows; updates the running statistics."""
        if self.total is not None:
            moments, count = _over_processes(moments, count, self.total)
        with torch.no_grad():
            unbiased = moments.variance * (count / (count - 1))
            self.num_batches_tracked += 1
            self.running_mean.lerp_(moments.mean.to(self.running_mean), self.momentum)
            self.running_var.lerp_(unbiased.to(self.running_var), self.momentum)
        return self._map(*moments)

    def running_map(self) -> Affine:
        """Map of evaluation mode."""
        return self._map(self.running_mean, self.running_var)

    def _map(self, mean: Tensor, variance: Tensor) -> Affine:
        scale = self.weight * (variance + self.eps).rsqrt()
        return Affine(scale, self.bias - scale * mean)


def _over_processes(
    moments: Moments, count: Tensor | int, total: Callable[[Tensor], Tensor]
) -> tuple[Moments, Tensor]:
    """Moments of the rows of all processes, and how many rows these are, from one sum."""
    # In float64 the square of the mean may be much larger than the variance.
    mean, variance = (x.to(accumulator(x.device)) for x in moments)
    rows = mean.new_ones(1) * count
    sums = total(torch.cat([rows, rows * mean, rows * (variance + mean.square())]))
    rows, mean, square = sums.split([1, len(mean), len(mean)])
    mean, square = mean / rows, square / rows
    variance = (square - mean.square()).clamp(min=0)
    return Moments(mean.to(moments.mean), variance.to(moments.variance)), rows
