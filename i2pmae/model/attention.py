"""Multi-head self-attention."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


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
    dtype = qkv.dtype
    if qkv.device.type == "cpu":  # torch's fused kernel is slow in bfloat16, backward most of all
        dtype = torch.promote_types(dtype, torch.float32)
    q, k, v = _split(qkv.to(dtype), n_heads)
    mask = None if bias is None else bias[:, None].to(dtype)
    with torch.autocast(qkv.device.type, enabled=False):
        fused = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    return fused.transpose(1, 2).flatten(2).to(qkv.dtype)


def _split(qkv: Tensor, n_heads: int) -> Tensor:
    """(B, L, 3 C) as (3, B, heads, L, C / heads)."""
    parts: Tensor = qkv.unflatten(2, (3, n_heads, -1))
    return parts.permute(2, 0, 3, 1, 4)
