"""The frozen feature of a cloud, as the linear SVM uses it (section 4.2 of the paper)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from i2pmae.config import EncoderConfig, Pooling
from i2pmae.geometry.grouping import group
from i2pmae.model.encoder import Encoder
from i2pmae.model.masking import carry_through
from i2pmae.model.packing import pack


class FrozenEncoder(nn.Module):
    """An encoder on its own: points (B, N, 3) float32 to features (B, C).

    Args:
        config: the encoder's settings.
        pretrained: whether the weights come from pre-training, whose encoder ends in a LayerNorm
            per level and hides finer tokens that belong to no coarser group. A classifier's
            encoder sees all tokens and has one LayerNorm on the coarsest level.
        pooling: see `pool`.
    """

    def __init__(self, config: EncoderConfig, pretrained: bool = True, pooling: Pooling = "max"):
        super().__init__()
        self.config = config
        self.pooling: Pooling = pooling
        self.encoder = Encoder(config, normalized=pretrained)
        self.norm = None if pretrained else nn.LayerNorm(config.widths[-1])

    def forward(self, points: Tensor) -> Tensor:
        """(B, N, 3) to (B, C)."""
        if self.norm is None:
            return frozen_feature(self.encoder, self.config, points, self.pooling)
        grouping = group(points.float(), self.config.n_centers, self.config.group_sizes)
        *finer, coarsest = self.encoder(grouping)
        levels = [*finer, self.norm(coarsest)]
        seen = [tokens.new_ones(tokens.shape[:2], dtype=torch.bool) for tokens in levels]
        return pool(levels, seen, self.pooling)


def frozen_feature(
    encoder: Encoder, config: EncoderConfig, points: Tensor, pooling: Pooling = "max"
) -> Tensor:
    """Pooled tokens of a pre-trained encoder.

    No coarsest token is hidden; finer tokens that belong to no coarser group are.

    Args:
        encoder: in evaluation mode.
        config: its settings.
        points: (B, N, 3) float.
        pooling: see `pool`.

    Returns:
        (B, C) in the precision of the tokens.

    Source: the official release's evaluation during pre-training.
    """
    grouping = group(points.float(), config.n_centers, config.group_sizes)
    shown = torch.zeros(
        points.shape[0], config.n_centers[-1], dtype=torch.bool, device=points.device
    )
    masks = carry_through(shown, grouping.neighbor_indices, config.n_centers)
    packings = pack(masks, config.group_sizes, config.n_centers[-1])
    levels = encoder(grouping, packings)
    return pool(levels, [packing.filled for packing in packings], pooling)


def pool(levels: Sequence[Tensor], filled: Sequence[Tensor], pooling: Pooling) -> Tensor:
    """One vector per cloud from the tokens of all levels.

    Args:
        levels: (B, L, C) per level, fine to coarse.
        filled: (B, L) bool per level, False = padding.
        pooling: `max`: maximum over the coarsest tokens, the paper's. `max-mean`: their maximum
            and their mean. `levels`: maximum and mean of every level.

    Returns:
        (B, C) in the precision of the tokens; C is the width of the coarsest level, twice that,
        or twice the sum of all widths.
    """
    if pooling == "max":
        return levels[-1].amax(dim=1)
    first = 0 if pooling == "levels" else len(levels) - 1
    pooled = []
    for tokens, is_token in zip(levels[first:], filled[first:], strict=True):
        kept = is_token[..., None]
        pooled.append(tokens.masked_fill(~kept, -torch.inf).amax(dim=1))
        pooled.append(tokens.masked_fill(~kept, 0).sum(dim=1) / kept.sum(dim=1))
    return torch.cat(pooled, dim=1)
