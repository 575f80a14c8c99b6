"""Transformer block and its parts; what several parts of the networks share."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from i2pmae.geometry.draws import WHOLE, uniform
from i2pmae.model.attention import Attention

FORBIDDEN = -1e5  # added to a score: weight 0 beside any permitted pair, finite without one


class MLP(nn.Sequential):
    """Two linear layers with a GELU between them."""

    def __init__(self, width: int, hidden: int):
        super().__init__(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))


class PositionEmbedding(nn.Sequential):
    """Coordinates (B, G, 3) to (B, G, C)."""

    def __init__(self, width: int):
        super().__init__(nn.Linear(3, width), nn.GELU(), nn.Linear(width, width))

    def forward(self, centers: Tensor) -> Tensor:
        """Coordinates to embeddings."""
        embedded = centers.to(next(self.parameters()).dtype)
        for layer in self:
            embedded = layer(embedded)
        return embedded


class DropPath(nn.Module):
    """Stochastic depth: leave out a residual branch for some clouds, scale it for the others."""

    def __init__(self, rate: float):
        super().__init__()
        self.rate = rate
        self.part = WHOLE  # of a batch that several processes share

    def forward(self, x: Tensor) -> Tensor:
        """(B, L, C) to (B, L, C)."""
        if not self.training or self.rate == 0:
            return x
        kept = uniform((len(x), 1, 1), None, x.device, self.part) >= self.rate
        return x * (kept / (1 - self.rate)).to(x.dtype)


class Dropout(nn.Dropout):
    """Dropout of the rows that a process has of a batch."""

    def __init__(self, p: float):
        super().__init__(p)
        self.part = WHOLE  # of a batch that several processes share

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        """(M, C) to (M, C)."""
        if not self.training or self.part.count == 1:
            return super().forward(input)
        whole = input.new_ones(len(input) * self.part.count, *input.shape[1:])
        return input * self.part.of(F.dropout(whole, self.p))


class Block(nn.Module):
    """Pre-norm transformer block."""

    def __init__(self, width: int, n_heads: int, drop_path: float = 0.0, mlp_ratio: int = 4):
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.attention = Attention(width, n_heads)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp = MLP(width, mlp_ratio * width)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """(B, L, C) to (B, L, C); `bias` as in `Attention`."""
        x = x + self.drop_path(self.attention(self.attention_norm(x), bias))
        added: Tensor = self.drop_path(self.mlp(self.mlp_norm(x)))
        return x + added


class Transformer(nn.ModuleList):
    """Blocks in a row; the position is added before each of them."""

    def __init__(self, width: int, n_heads: int, drop_paths: list[float]):
        super().__init__(Block(width, n_heads, rate) for rate in drop_paths)

    def forward(self, x: Tensor, position: Tensor, attend: Tensor | None = None) -> Tensor:
        """Tokens (B, L, C) to (B, L, C).

        Args:
            x: tokens.
            position: (B, L, C).
            attend: (B, 1 or L, L) bool, True = may attend; None: all pairs may.
        """
        bias = None
        if attend is not None:
            bias = torch.zeros(attend.shape, dtype=x.dtype, device=x.device)
            bias.masked_fill_(~attend, FORBIDDEN)
        for block in self:
            x = block(x + position, bias)
        return x


def drop_path_rates(last: float, depths: Sequence[int]) -> list[list[float]]:
    """Rates that grow linearly from 0 over all blocks, split by level."""
    total = sum(depths)
    rates = [last * i / max(total - 1, 1) for i in range(total)]
    starts = [sum(depths[:level]) for level in range(len(depths))]
    return [rates[start : start + depth] for start, depth in zip(starts, depths, strict=True)]


def product_dtype(weight: Tensor) -> torch.dtype:
    """Dtype of matrix products with the weight: autocast's where it is on."""
    device = weight.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype


def init_truncated(module: nn.Module) -> None:
    """Linear layers: truncated normal of standard deviation 0.02, bias 0."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def init_xavier(module: nn.Module) -> None:
    """Linear layers: Xavier uniform, bias 0."""
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
