"""Encoder with a head per point: which part of the object a point belongs to."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from i2pmae.config import EncoderConfig, SegmentHeadConfig
from i2pmae.geometry.grouping import group
from i2pmae.model.decoder import interpolate
from i2pmae.model.encoder import Encoder
from i2pmae.model.tokenizer import RowNorm


class LevelToPoints(nn.Module):
    """Tokens of one level brought to the points."""

    def __init__(self, width: int, hidden: int, width_out: int):
        super().__init__()
        self.first = nn.Linear(3 + width, hidden)
        self.first_norm = RowNorm(hidden)
        self.second = nn.Linear(hidden, width_out)
        self.second_norm = RowNorm(width_out)

    def forward(self, points: Tensor, centers: Tensor, tokens: Tensor) -> Tensor:
        """(B, N, 3), (B, G, 3), (B, G, C) to rows (B N, C')."""
        carried = interpolate(points, centers, tokens)
        rows = torch.cat([points.to(carried.dtype), carried], dim=-1).flatten(0, 1)
        rows = self.first_norm(self.first(rows)).relu()
        spread: Tensor = self.second_norm(self.second(rows)).relu()
        return spread


class Segmenter(nn.Module):
    """Part of every point.

    Args:
        encoder: the encoder's settings.
        n_parts: number of parts over all categories.
        n_categories: number of object categories.
        head: the head's settings; None: the paper's.

    Source: Point-M2AE, section 4.2.
    """

    def __init__(
        self,
        encoder: EncoderConfig,
        n_parts: int,
        n_categories: int,
        head: SegmentHeadConfig | None = None,
    ):
        super().__init__()
        head = SegmentHeadConfig() if head is None else head
        self.config = encoder
        self.n_categories = n_categories
        self.encoder = Encoder(encoder, normalized=True)
        self.category = nn.Sequential(
            nn.Linear(n_categories, 64, bias=False), RowNorm(64), nn.LeakyReLU(0.2)
        )
        hidden, level_width = head.level_widths
        self.levels = nn.ModuleList(
            LevelToPoints(width, hidden, level_width) for width in encoder.widths
        )
        self.width = level_width * len(encoder.widths)
        first, second, third = head.widths
        self.head = nn.Sequential(
            nn.Linear(2 * self.width + 64, first),
            RowNorm(first),
            nn.ReLU(),
            nn.Dropout(head.dropout),
            nn.Linear(first, second),
            RowNorm(second),
            nn.ReLU(),
            nn.Linear(second, third),
            RowNorm(third),
            nn.ReLU(),
            nn.Linear(third, n_parts),
        )

    def forward(self, points: Tensor, category: Tensor) -> Tensor:
        """Log-probabilities.

        Args:
            points: (B, N, 3) float.
            category: (B,) int64, of the object.

        Returns:
            (B, N, n_parts).
        """
        batch, n_points, _ = points.shape
        points = points.float()
        grouping = group(points, self.config.n_centers, self.config.group_sizes)
        encoded = self.encoder(grouping)
        rows = torch.cat(
            [
                level(points, centers, tokens)
                for level, centers, tokens in zip(
                    self.levels, grouping.centers, encoded, strict=True
                )
            ],
            dim=-1,
        )
        per_point = rows.view(batch, n_points, self.width)
        whole = per_point.amax(dim=1) + per_point.mean(dim=1)
        kind = self.category(F.one_hot(category, self.n_categories).to(whole.dtype))
        # The first layer acts on [whole, category, point]: the first two once per cloud.
        first: nn.Linear = self.head[0]  # type: ignore[assignment]
        per_cloud = F.linear(
            torch.cat([whole, kind], dim=1), first.weight[:, : -self.width], first.bias
        )
        rows = F.linear(rows, first.weight[:, -self.width :]).view(batch, n_points, -1)
        rows = self.head[1:]((rows + per_cloud[:, None]).flatten(0, 1))
        scores: Tensor = rows.view(batch, n_points, -1).float()
        return scores.log_softmax(dim=-1)
