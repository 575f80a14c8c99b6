"""Encoder with a classification head."""

import torch
from torch import Tensor, nn

from i2pmae.config import EncoderConfig, HeadConfig
from i2pmae.geometry.grouping import group
from i2pmae.model.encoder import Encoder


class Classifier(nn.Module):
    """Class of a cloud from the mean and maximum over its coarsest tokens.

    Args:
        encoder: the encoder's settings.
        head: the head's settings.
        n_classes: number of classes.

    Source: Point-M2AE, section 4.2.
    """

    def __init__(self, encoder: EncoderConfig, head: HeadConfig, n_classes: int):
        super().__init__()
        self.config = encoder
        self.pooling = head.pooling
        self.encoder = Encoder(encoder)
        width = encoder.widths[-1]
        self.norm = nn.LayerNorm(width)
        self.head = nn.Sequential(
            nn.Linear(width if head.pooling == "sum" else 2 * width, head.width),
            nn.BatchNorm1d(head.width),
            nn.ReLU(),
            nn.Dropout(head.dropout),
            nn.Linear(head.width, head.width),
            nn.BatchNorm1d(head.width),
            nn.ReLU(),
            nn.Dropout(head.dropout),
            nn.Linear(head.width, n_classes),
        )

    def forward(self, points: Tensor) -> Tensor:
        """(B, N, 3) to logits (B, n_classes)."""
        logits: Tensor = self.head(self.pooled(points))
        return logits

    def pooled(self, points: Tensor) -> Tensor:
        """What the head sees of clouds (B, N, 3): (B, C), or (B, 2C) with pooling `concat`."""
        grouping = group(points.float(), self.config.n_centers, self.config.group_sizes)
        tokens = self.norm(self.encoder(grouping)[-1])
        pooled = tokens.mean(dim=1), tokens.amax(dim=1)
        return pooled[0] + pooled[1] if self.pooling == "sum" else torch.cat(pooled, dim=1)
