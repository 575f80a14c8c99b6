"""Multi-head self-attention."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

CHUNK_SCORES = 1 << 20  # scores held at once on a CPU: they stay in its cache


class Attention(nn.Module):
    """Multi-head self-attention with an optional bias per pair of tokens.

    Args:
        width: channels of a token.
        n_heads: a divisor of the width.
    """

    def __init__(self, width: int, n_heads: int):
        super().__init__()
        self.n_heads = n_heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.projection = nn.Linear(width, width)

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """(B, L, C) to (B, L, C); `bias` (B, 1 or L, L) is added to the scores."""
        found: Tensor = self.projection(attend(self.qkv(x), self.n_heads, bias))
        return found


def attend(qkv: Tensor, n_heads: int, bias: Tensor | None = None) -> Tensor:
    """softmax(q k / sqrt(width of a head) + bias) v of every head.

    Args:
        qkv: (B, L, 3 C): queries, keys, values; in each of them head after head.
        n_heads: number of heads.
        bias: (B, 1 or L, L), added to the scores; gets no gradient.

    Returns:
        (B, L, C).
    """
    if qkv.requires_grad and qkv.device.type == "cpu" and qkv.dtype == torch.bfloat16:
        found: Tensor = _ChunkedAttention.apply(qkv, n_heads, bias)
        return found
    q, k, v = _split(qkv, n_heads)
    mask = None if bias is None else bias[:, None].to(q.dtype)
    fused = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    return fused.transpose(1, 2).flatten(2)


class _ChunkedAttention(torch.autograd.Function):
    """Plain matrix products, a few clouds at a time.

    On CPUs the backward pass of torch's fused attention is slow in bfloat16, and only there.
    """

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, n_heads: int, bias: Tensor | None) -> Tensor:
        parts = _split(qkv, n_heads).contiguous()
        _, batch, _, length, head = parts.shape
        parts[0] *= head**-0.5
        found = torch.empty_like(parts[0])
        step = max(1, CHUNK_SCORES // (n_heads * length**2))
        ctx.chunks = [slice(start, start + step) for start in range(0, batch, step)]
        weights = []
        for chunk in ctx.chunks:
            q, k, v = parts[:, chunk].flatten(1, 2)
            scores = torch.bmm(q, k.transpose(1, 2))
            if bias is not None:
                scores.view(-1, n_heads, length, length).add_(bias[chunk, None])
            weights.append(torch.softmax(scores, dim=-1, out=scores))
            torch.bmm(scores, v, out=found[chunk].flatten(0, 1))
        ctx.save_for_backward(parts, *weights)
        return found.transpose(1, 2).flatten(2)

    @staticmethod
    def backward(ctx: Any, d_found: Tensor) -> tuple[Tensor | None, ...]:
        parts, *weights = ctx.saved_tensors
        _, batch, n_heads, length, head = parts.shape
        d_found = d_found.view(batch, length, n_heads, head).transpose(1, 2).contiguous()
        d_parts = torch.empty_like(parts)
        for chunk, p in zip(ctx.chunks, weights, strict=True):
            q, k, v = parts[:, chunk].flatten(1, 2)
            d_q, d_k, d_v = d_parts[:, chunk].flatten(1, 2)
            d_out = d_found[chunk].flatten(0, 1)
            torch.bmm(p.transpose(1, 2), d_out, out=d_v)
            d_scores = torch.bmm(d_out, v.transpose(1, 2))
            d_scores = torch._softmax_backward_data(d_scores, p, -1, p.dtype)
            torch.bmm(d_scores, k, out=d_q)
            torch.bmm(d_scores.transpose(1, 2), q, out=d_k)
        d_parts[0] *= head**-0.5
        return d_parts.permute(1, 3, 0, 2, 4).flatten(2), None, None


def _split(qkv: Tensor, n_heads: int) -> Tensor:
    """(B, L, 3 C) as (3, B, heads, L, C / heads)."""
    parts: Tensor = qkv.unflatten(2, (3, n_heads, -1))
    return parts.permute(2, 0, 3, 1, 4)
