"""Frozen features: of clouds, as the linear SVM uses them (section 4.2), and of their points."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from i2pmae.config import EncoderConfig, Pooling
from i2pmae.geometry.clouds import normalized_clouds
from i2pmae.geometry.grouping import gather_rows, group
from i2pmae.model.decoder import interpolate
from i2pmae.model.encoder import Encoder
from i2pmae.model.masking import carry_through
from i2pmae.model.packing import pack
from i2pmae.model.summary import summary

_FAR = 1e3  # where centers of padding go: their weight is nothing


class Tokens(NamedTuple):
    """What an encoder sees of clouds, per level, fine to coarse."""

    levels: list[Tensor]  # (B, L, C)
    filled: list[Tensor]  # (B, L) bool, False = padding
    centers: list[Tensor]  # (B, L, 3)


class FrozenEncoder(nn.Module):
    """An encoder on its own: points (B, N, 3) float32 to features (B, C), or (B, N, C) if dense.

    Args:
        config: the encoder's settings.
        pretrained: whether the weights come from pre-training, whose encoder ends in a LayerNorm
            per level and hides finer tokens that belong to no coarser group. A classifier's
            encoder sees all tokens and has one LayerNorm on the coarsest level.
        pooling: see `pool`.
        dense: give features of every point instead, see `point_features`.
    """

    def __init__(
        self,
        config: EncoderConfig,
        pretrained: bool = True,
        pooling: Pooling = "max",
        dense: bool = False,
    ):
        super().__init__()
        self.dense = dense
        self.config = config
        self.pooling: Pooling = pooling
        self.up = "y"  # axis that pointed up in the files of the shapes it was trained on
        self.encoder = Encoder(config, normalized=pretrained)
        self.norm = None if pretrained else nn.LayerNorm(config.widths[-1])

    def __repr__(self) -> str:
        widths = self.config.widths
        if self.dense:
            return summary(self, self.config, f"features (B, N, {sum(widths)})")
        joined = {"max-mean": 2 * widths[-1], "levels": 2 * sum(widths)}
        width = joined.get(self.pooling, widths[-1])
        return summary(self, self.config, f"features (B, {width})")

    def forward(self, points: Tensor) -> Tensor:
        """(B, N, 3) in the unit sphere to (B, C), or (B, N, C)."""
        if self.dense:
            return self.point_features(points)
        tokens = self._tokens(points)
        return pool(tokens.levels, tokens.filled, self.pooling)

    @torch.inference_mode()
    def embed(self, points: Any) -> Tensor:
        """Features of clouds, as files hold them.

        Clouds are moved and scaled to the unit sphere first, which `forward` leaves to its caller.
        All of their points are used; `i2pmae embed` takes 1024. A point that is not finite is
        replaced by a copy of another.

        Args:
            points: (B, N, 3), or (N, 3) of one cloud, tensor or array, any unit, y up.

        Returns:
            (B, C), or (B, N, C) if dense, in the precision of the tokens.

        Raises:
            DataError: if a cloud has too few finite points.
        """
        device = next(self.parameters()).device
        features: Tensor = self(normalized_clouds(points, self.config.least_points, device)[0])
        return features

    def point_features(self, points: Tensor) -> Tensor:
        """Features of every point: the tokens of every level, from the 3 nearest centers.

        Args:
            points: (B, N, 3) float.

        Returns:
            (B, N, C) in the precision of the tokens; C is the sum of all widths, fine to coarse,
            whatever the pooling.

        Source: Point-M2AE's segmentation head, section 4.2; PointNet++, section 3.4.
        """
        carried = [
            interpolate(points.float(), centers.masked_fill(~filled[..., None], _FAR), level)
            for level, filled, centers in zip(*self._tokens(points), strict=True)
        ]
        return torch.cat(carried, dim=2)

    def _tokens(self, points: Tensor) -> Tokens:
        if self.norm is None:
            return frozen_tokens(self.encoder, self.config, points)
        grouping = group(points.float(), self.config.n_centers, self.config.group_sizes)
        *finer, coarsest = self.encoder(grouping)
        levels = [*finer, self.norm(coarsest)]
        seen = [tokens.new_ones(tokens.shape[:2], dtype=torch.bool) for tokens in levels]
        return Tokens(levels, seen, grouping.centers)


def frozen_feature(
    encoder: Encoder, config: EncoderConfig, points: Tensor, pooling: Pooling = "max"
) -> Tensor:
    """Pooled tokens of a pre-trained encoder; see `frozen_tokens` and `pool`.

    Returns:
        (B, C) in the precision of the tokens.
    """
    tokens = frozen_tokens(encoder, config, points)
    return pool(tokens.levels, tokens.filled, pooling)


def frozen_tokens(encoder: Encoder, config: EncoderConfig, points: Tensor) -> Tokens:
    """Tokens of a pre-trained encoder.

    No coarsest token is hidden; finer tokens that belong to no coarser group are.

    Args:
        encoder: in evaluation mode.
        config: its settings.
        points: (B, N, 3) float.

    Source: the official release's evaluation during pre-training.
    """
    grouping = group(points.float(), config.n_centers, config.group_sizes)
    shown = torch.zeros(
        points.shape[0], config.n_centers[-1], dtype=torch.bool, device=points.device
    )
    masks = carry_through(shown, grouping.neighbor_indices, config.n_centers)
    packings = pack(masks, config.group_sizes, config.n_centers[-1])
    levels = encoder(grouping, packings)
    centers = [
        gather_rows(of_level, packing.kept)
        for of_level, packing in zip(grouping.centers, packings, strict=True)
    ]
    return Tokens(levels, [packing.filled for packing in packings], centers)


def pool(levels: Sequence[Tensor], filled: Sequence[Tensor], pooling: Pooling) -> Tensor:
    """One vector per cloud from the tokens of all levels.

    Args:
        levels: (B, L, C) per level, fine to coarse.
        filled: (B, L) bool per level, False = padding.
        pooling: `max`: maximum over the coarsest tokens, the paper's. `sum`: their maximum plus
            their mean, Point-M2AE's. `max-mean`: both side by side. `levels`: those of every level.

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
    return pooled[0] + pooled[1] if pooling == "sum" else torch.cat(pooled, dim=1)
