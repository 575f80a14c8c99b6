"""The widest layers of the network, chunk by chunk, with gradients written by hand.

The level-0 embedding works on every neighbor of every center: 65,536 rows of up to 512 channels in
a batch of 8 clouds. Layer by layer it is limited by memory, not by arithmetic. Here a chunk of rows
passes through several layers while it lies in a CPU's cache, and only what the backward pass needs
is kept. On other devices a single chunk holds all rows.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from i2pmae.device import on_cpu

CHUNK_BYTES = 4 << 20  # of a chunk's widest layer: what two cores' caches hold


def accumulator(device: torch.device) -> torch.dtype:
    """Dtype for sums over many rows whose small differences matter."""
    return torch.float32 if device.type == "mps" else torch.float64


def group_maximum(rows: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Maximum over each group of `size` consecutive rows, and where in the group it lies.

    Max pooling finds it several times as fast as `max(dim=1)`; the first of equal rows counts.

    Args:
        rows: (M K, C).
        size: K.

    Returns:
        (M, C), and (M, C) int64 within the group.
    """
    values, where = F.max_pool2d(_as_images(rows, size), (size, 1), return_indices=True)
    return values.flatten(1), where.flatten(1)


def spread_maximum(gradient: Tensor, where: Tensor, rows: Tensor, size: int) -> Tensor:
    """Gradient (M K, C) of `group_maximum` for its rows, of which only the shape is used."""
    kernel = (size, 1)
    spread: Tensor = torch.ops.aten.max_pool2d_with_indices_backward(
        _as_images(gradient, 1),  # in the layout of the rows, else all is copied back and forth
        _as_images(rows, size),
        kernel,
        kernel,
        (0, 0),
        (1, 1),
        False,
        _as_images(where, 1),
    )
    return spread.permute(0, 2, 3, 1).reshape(rows.shape)


class PointFeatures(torch.autograd.Function):
    """relu(A x + a) of every row, and what later layers need of all rows.

    Args of `apply`:
        x: (M K, 3), coordinates; they get no gradient.
        weight: (C, 3), A.
        bias: (C,), a.
        out_weight: (D, C) of a linear layer whose group maximum is needed.
        counted: (M,) weight of each group in the second moment; None: all alike.
        size: K.

    Returns of `apply`:
        features: (M K, C) of the dtype of `out_weight`. May be read by one differentiable
            operation only, as its gradient is changed in place.
        largest: (M, D), group maximum of the features times `out_weight`.
        sums: (M, C), sum of the features of each group, in the dtype of `x`.
        second: (C, C), sum over the counted rows of features times features.
    """

    @staticmethod
    def forward(  # noqa: D102
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        out_weight: Tensor,
        counted: Tensor | None,
        size: int,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        width, dtype, n_groups = len(weight), out_weight.dtype, x.shape[0] // size
        features = x.new_empty(x.shape[0], width, dtype=dtype)
        sums = x.new_empty(n_groups, width)
        largest = x.new_empty(n_groups, len(out_weight), dtype=dtype)
        where = torch.empty_like(largest, dtype=torch.int64)
        second = x.new_zeros(width, width, dtype=accumulator(x.device))
        for groups, rows in _chunks(n_groups, size, weight):
            part = features[rows]
            part.copy_(torch.addmm(bias, x[rows], weight.T).relu_())
            largest[groups], where[groups] = group_maximum(part @ out_weight.T, size)
            sums[groups] = part.view(-1, size, width).sum(dim=1, dtype=sums.dtype)
            second += _weighted(part, counted, groups, size).T @ part
        ctx.save_for_backward(x, weight, out_weight, counted, features, where)
        ctx.size = size
        return features, largest, sums, second

    @staticmethod
    def backward(  # noqa: D102
        ctx: Any, d_features: Tensor, d_largest: Tensor, d_sums: Tensor, d_second: Tensor
    ) -> tuple[Tensor | None, ...]:
        x, weight, out_weight, counted, features, where = ctx.saved_tensors
        size, dtype = ctx.size, out_weight.dtype
        d_weight, d_bias = torch.zeros_like(weight), weight.new_zeros(len(weight))
        d_out_weight = torch.zeros_like(out_weight, dtype=weight.dtype)
        d_second = (d_second + d_second.T).to(dtype)
        d_sums = d_sums.to(dtype)
        for groups, rows in _chunks(len(where), size, weight):
            part, d_part = features[rows], d_features[rows]
            product = part.new_empty(len(part), len(out_weight))
            d_product = spread_maximum(d_largest[groups], where[groups], product, size)
            d_out_weight += d_product.T @ part
            d_part.addmm_(d_product, out_weight)
            d_part.addmm_(_weighted(part, counted, groups, size), d_second)
            d_part.view(-1, size, part.shape[1]).add_(d_sums[groups, None])
            d_before = _relu_gradient(d_part, part).to(weight.dtype)
            d_weight += d_before.T @ x[rows]
            d_bias += d_before.sum(dim=0)
        return None, d_weight, d_bias, d_out_weight.to(dtype), None, None


class GroupTokens(torch.autograd.Function):
    """Group maximum of V relu(W features + offset of the group).

    The widest layer is not kept: computing it again costs a product from the cache, reading it
    back costs as much traffic as everything else here.

    Args of `apply`:
        features: (M K, C).
        weight: (D, C), W.
        offsets: (M, D), added to every row of the group.
        out_weight: (E, D), V.
        size: K.

    Returns of `apply`:
        (M, E).
    """

    @staticmethod
    def forward(  # noqa: D102
        ctx: Any,
        features: Tensor,
        weight: Tensor,
        offsets: Tensor,
        out_weight: Tensor,
        size: int,
    ) -> Tensor:
        tokens = features.new_empty(offsets.shape[0], len(out_weight))
        where = torch.empty_like(tokens, dtype=torch.int64)
        for groups, rows in _chunks(offsets.shape[0], size, weight):
            part = _hidden(features[rows] @ weight.T, offsets[groups], size)
            tokens[groups], where[groups] = group_maximum(part @ out_weight.T, size)
        ctx.save_for_backward(features, weight, offsets, out_weight, where)
        ctx.size = size
        return tokens

    @staticmethod
    def backward(ctx: Any, d_tokens: Tensor) -> tuple[Tensor | None, ...]:  # noqa: D102
        features, weight, offsets, out_weight, where = ctx.saved_tensors
        d_features = torch.empty_like(features)
        d_weight, d_out_weight = _zeros(weight), _zeros(out_weight)
        d_offsets = torch.empty_like(offsets)
        for groups, rows in _chunks(len(where), ctx.size, weight):
            part = _hidden(features[rows] @ weight.T, offsets[groups], ctx.size)
            d_part, d_offsets[groups], d_out = _tokens_gradient(
                d_tokens[groups], where[groups], part, out_weight, ctx.size
            )
            d_out_weight += d_out
            d_weight += d_part.T @ features[rows]
            torch.mm(d_part, weight, out=d_features[rows])
        return d_features, d_weight.to(weight), d_offsets, d_out_weight.to(out_weight), None


class GatheredTokens(torch.autograd.Function):
    """Group maximum of V relu(features of the group's members + offset of the group).

    Args of `apply`:
        features: (N, D).
        neighbors: (M, K) int64 into the features, the members of each group.
        offsets: (M, D), added to every member of the group.
        out_weight: (E, D), V.

    Returns of `apply`:
        (M, E).
    """

    @staticmethod
    def forward(  # noqa: D102
        ctx: Any, features: Tensor, neighbors: Tensor, offsets: Tensor, out_weight: Tensor
    ) -> Tensor:
        size, flat = neighbors.shape[1], neighbors.flatten()
        tokens = features.new_empty(offsets.shape[0], len(out_weight))
        where = torch.empty_like(tokens, dtype=torch.int64)
        for groups, rows in _chunks(offsets.shape[0], size, out_weight.T):
            part = _hidden(features.index_select(0, flat[rows]), offsets[groups], size)
            tokens[groups], where[groups] = group_maximum(part @ out_weight.T, size)
        ctx.save_for_backward(features, neighbors, offsets, out_weight, where)
        return tokens

    @staticmethod
    def backward(ctx: Any, d_tokens: Tensor) -> tuple[Tensor | None, ...]:  # noqa: D102
        features, neighbors, offsets, out_weight, where = ctx.saved_tensors
        size, flat = neighbors.shape[1], neighbors.flatten()
        d_features, d_out_weight = _zeros(features), _zeros(out_weight)
        d_offsets = torch.empty_like(offsets)
        for groups, rows in _chunks(len(where), size, out_weight.T):
            part = _hidden(features.index_select(0, flat[rows]), offsets[groups], size)
            d_part, d_offsets[groups], d_out = _tokens_gradient(
                d_tokens[groups], where[groups], part, out_weight, size
            )
            d_out_weight += d_out
            d_features.index_add_(0, flat[rows], d_part.to(d_features))
        return d_features.to(features), None, d_offsets, d_out_weight.to(out_weight)


def _hidden(part: Tensor, offsets: Tensor, size: int) -> Tensor:
    """relu(part + offset of the group), in place."""
    part.view(offsets.shape[0], size, -1).add_(offsets[:, None]).relu_()
    return part


def _tokens_gradient(
    d_tokens: Tensor, where: Tensor, part: Tensor, out_weight: Tensor, size: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients for `part`, the offsets and `out_weight`; `part` is the ReLU's output."""
    product = part.new_empty(len(part), len(out_weight))
    d_product = spread_maximum(d_tokens, where, product, size)
    d_part = _relu_gradient(d_product @ out_weight, part)
    return d_part, d_part.view(len(where), size, -1).sum(dim=1), d_product.T @ part


def _zeros(like: Tensor) -> Tensor:
    """Zeros to sum up a gradient in, at least in float32."""
    return torch.zeros_like(like, dtype=torch.promote_types(like.dtype, torch.float32))


def _chunks(n_groups: int, size: int, weight: Tensor) -> Iterator[tuple[slice, slice]]:
    """Slices of groups, and of the rows of these groups; `weight` (D, C) makes D channels."""
    if not on_cpu(weight):
        yield slice(None), slice(None)
        return
    step = max(1, CHUNK_BYTES // (len(weight) * weight.element_size()) // size)
    for start in range(0, n_groups, step):
        stop = min(start + step, n_groups)
        yield slice(start, stop), slice(start * size, stop * size)


def _as_images(rows: Tensor, size: int) -> Tensor:
    """Rows (M K, C) as M images of C channels and K x 1 pixels, channels last in memory."""
    return rows.view(-1, size, 1, rows.shape[1]).permute(0, 3, 1, 2)


def _relu_gradient(gradient: Tensor, output: Tensor) -> Tensor:
    """Gradient before a ReLU from that behind it, in place."""
    before: Tensor = torch.ops.aten.threshold_backward.grad_input(
        gradient, output, 0, grad_input=gradient
    )
    return before


def _weighted(rows: Tensor, counted: Tensor | None, groups: slice, size: int) -> Tensor:
    """Rows times the weight of their group."""
    if counted is None:
        return rows
    return rows * counted[groups].repeat_interleave(size)[:, None].to(rows.dtype)
