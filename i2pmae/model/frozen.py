"""The frozen feature of a cloud, as the linear SVM uses it (section 4.2 of the paper)."""

import torch
from torch import Tensor, nn

from i2pmae.config import EncoderConfig
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
    """

    def __init__(self, config: EncoderConfig, pretrained: bool = True):
        super().__init__()
        self.config = config
        self.encoder = Encoder(
            config.widths,
            config.depths,
            config.embedding_width,
            config.n_heads,
            config.drop_path,
            config.radii,
            normalized=pretrained,
        )
        self.norm = None if pretrained else nn.LayerNorm(config.widths[-1])

    def forward(self, points: Tensor) -> Tensor:
        """(B, N, 3) to (B, C)."""
        if self.norm is None:
            return frozen_feature(self.encoder, self.config, points)
        grouping = group(points.float(), self.config.n_centers, self.config.group_sizes)
        tokens: Tensor = self.norm(self.encoder(grouping)[-1])
        return tokens.amax(dim=1)


def frozen_feature(encoder: Encoder, config: EncoderConfig, points: Tensor) -> Tensor:
    """Maximum over the coarsest tokens of a pre-trained encoder.

    No coarsest token is hidden; finer tokens that belong to no coarser group are.

    Args:
        encoder: in evaluation mode.
        config: its settings.
        points: (B, N, 3) float.

    Returns:
        (B, C) in the precision of the tokens.

    Source: the official release's evaluation during pre-training.
    """
    grouping = group(points.float(), config.n_centers, config.group_sizes)
    shown = torch.zeros(len(points), config.n_centers[-1], dtype=torch.bool, device=points.device)
    masks = carry_through(shown, grouping.neighbor_indices, config.n_centers)
    packings = pack(masks, config.group_sizes, config.n_centers[-1])
    tokens: Tensor = encoder(grouping, packings)[-1]
    return tokens.amax(dim=1)
