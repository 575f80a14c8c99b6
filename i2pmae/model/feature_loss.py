"""The 2D loss: predicted image features of visible tokens' neighbors (section 3.4 of the paper)."""

from typing import Any

import torch
from torch import Tensor, nn

from i2pmae.model.layers import product_dtype


class FeatureLoss(nn.Linear):
    """Linear head from a token to the image features of its K neighbors, and its squared error.

    Predictions and targets of a batch are the largest tensors of a step; here neither exists as a
    whole: neighbor by neighbor they are made, compared, and turned into gradients.

    Args:
        width: channels of a token.
        size: K, neighbors of a token.
        n_values: image features of a neighbor, all views together.
    """

    def __init__(self, width: int, size: int, n_values: int):
        super().__init__(width, size * n_values)

    def loss(
        self,
        tokens: Tensor,
        targets: Tensor,
        neighbors: Tensor,
        counted: Tensor,
        seen: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Mean squared error over the tokens that count.

        Args:
            tokens: (M, C).
            targets: (N, n_values), image features of all neighbors that occur.
            neighbors: (M, K) int64 into `targets`.
            counted: (M,) bool.
            seen: (N, V) bool, the views whose features of a neighbor count; None: all.

        Returns:
            Scalar, at least float32, and how many neighbors, or views of them with `seen`, it is
            the mean of.
        """
        dtype = product_dtype(self.weight)
        with torch.autocast(tokens.device.type, enabled=False):
            found: Tensor = _SquaredError.apply(
                tokens.to(dtype),
                self.weight.to(dtype),
                self.bias.to(dtype),
                targets.to(dtype),
                neighbors,
                counted,
                seen,
                torch.is_grad_enabled(),
            )
        if seen is None:
            n_compared, n_values = counted.sum() * neighbors.shape[1], targets.shape[1]
        else:
            n_compared = (counted[:, None, None] * seen[neighbors]).sum()
            n_values = targets.shape[1] // seen.shape[1]
        return found / (n_compared * n_values).clamp(min=1), n_compared


class _SquaredError(torch.autograd.Function):
    """Sum of squared errors; gradients are computed with it, while the errors are at hand."""

    @staticmethod
    def forward(
        ctx: Any,
        tokens: Tensor,
        weight: Tensor,
        bias: Tensor,
        targets: Tensor,
        neighbors: Tensor,
        counted: Tensor,
        seen: Tensor | None,
        needed: bool,
    ) -> Tensor:
        size, exact = neighbors.shape[1], torch.promote_types(tokens.dtype, torch.float32)
        total = tokens.new_zeros((), dtype=exact)
        d_tokens = torch.zeros_like(tokens, dtype=exact)
        d_weight, d_bias = torch.empty_like(weight), torch.empty_like(bias)
        weights, biases = weight.chunk(size), bias.chunk(size)
        for k in range(size):
            error = torch.addmm(biases[k], tokens, weights[k].T)
            error -= targets.index_select(0, neighbors[:, k])
            if seen is None:
                error *= counted[:, None]
            else:
                counts = counted[:, None] & seen.index_select(0, neighbors[:, k])
                error.view(*counts.shape, -1).mul_(counts[..., None])
            # Token by token: one long float32 sum would lose digits.
            total += torch.linalg.vector_norm(error, dim=1, dtype=exact).square().sum()
            if needed:
                d_tokens += error @ weights[k]
                torch.mm(error.T, tokens, out=d_weight.chunk(size)[k])
                d_bias.chunk(size)[k].copy_(error.sum(dim=0))
        ctx.save_for_backward(d_tokens.to(tokens), d_weight, d_bias)
        return total

    @staticmethod
    def backward(ctx: Any, d_total: Tensor) -> tuple[Tensor | None, ...]:
        factor = 2 * d_total
        return (*(factor.to(d.dtype) * d for d in ctx.saved_tensors), *[None] * 5)
