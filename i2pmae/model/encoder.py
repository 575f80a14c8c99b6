"""Hierarchical encoder: visible tokens only, level by level (section 3.1 of the paper)."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from i2pmae.config import EncoderConfig
from i2pmae.geometry.grouping import Grouping, gather_rows
from i2pmae.geometry.grouping_torch import squared_distances
from i2pmae.model.layers import PositionEmbedding, Transformer, drop_path_rates, init_truncated
from i2pmae.model.packing import Packing, member_rows
from i2pmae.model.token_embedding_fast import PointEmbedding, TokenMerging


class Encoder(nn.Module):
    """Embeds groups and lets visible tokens attend to each other, from fine to coarse.

    Args:
        config: its settings; `init` is the paper's (truncated normal, std 0.02) or torch's.
            The paper's lets the first BatchNorm see values far below its epsilon, and takes
            thousands of steps to grow out of it; a short run wants torch's.
        normalized: whether returned tokens (not those passed on) get a LayerNorm per level.

    Source: Point-M2AE, section 3.2.
    """

    def __init__(self, config: EncoderConfig, normalized: bool = False):
        super().__init__()
        self.radii = config.radii
        widths, narrow = config.widths, config.embedding_width
        inner = (narrow, 2 * narrow, 4 * narrow)
        self.embeddings = nn.ModuleList([PointEmbedding(3, inner, widths[0])])
        for finer, width in pairwise(widths):
            self.embeddings.append(TokenMerging(finer, (finer, finer, width), width))
        self.positions = nn.ModuleList(PositionEmbedding(width) for width in widths)
        rates = drop_path_rates(config.drop_path, config.depths)
        self.blocks = nn.ModuleList(
            Transformer(width, config.n_heads, rate)
            for width, rate in zip(widths, rates, strict=True)
        )
        norms = [nn.LayerNorm(width) for width in widths] if normalized else []
        self.norms = nn.ModuleList(norms)
        if config.init == "paper":
            self.apply(init_truncated)

    def forward(
        self,
        grouping: Grouping,
        packings: Sequence[Packing] | None = None,
        embed: Literal["all", "visible"] = "all",
    ) -> list[Tensor]:
        """Encode every level.

        Args:
            grouping: groups of the clouds.
            packings: of the visible tokens of every level; None: all tokens are visible.
            embed: groups to embed. `all` embeds hidden ones too, so BatchNorm's statistics cover
                them as in the paper; `visible` saves their cost.

        Returns:
            Tokens of every level, fine to coarse: (B, L, C) packed, or (B, G, C) where all are
            visible.
        """
        if not self.training:
            embed = "visible"  # the same numbers without batch statistics
        outputs: list[Tensor] = []
        finer = grouping.centers[0]  # what the level's groups are made of; level 0: not read
        for level, centers in enumerate(grouping.centers):
            packing = None if packings is None else packings[level]
            if packings is None or embed == "all":
                embedded = self._embed_all(level, grouping, finer)
                tokens = embedded if packing is None else gather_rows(embedded, packing.kept)
            else:
                tokens = embedded = self._embed_visible(level, grouping, packings, finer)
            if packing is not None:
                centers = gather_rows(centers, packing.kept)
            attend = self._permissions(level, centers, packing)
            tokens = self.blocks[level](tokens, self.positions[level](centers), attend)
            outputs.append(tokens)
            finer = tokens
            if packing is not None and embed == "all":
                finer = packing.unpack(tokens, embedded)  # hidden tokens stay as embedded
        if self.norms:
            outputs = [norm(tokens) for norm, tokens in zip(self.norms, outputs, strict=True)]
        return outputs

    def _embed_all(self, level: int, grouping: Grouping, finer: Tensor) -> Tensor:
        """Tokens of all groups (B, G, C) from the finer tokens (B, G', C')."""
        batch, n_groups, size = grouping.neighbor_indices[level].shape
        layers: Any = self.embeddings[level]
        if level == 0:
            tokens: Tensor = layers.embed(grouping.neighborhoods[0].flatten(0, 1))
        else:
            first = torch.arange(batch, device=finer.device)[:, None, None] * finer.shape[1]
            neighbors = (grouping.neighbor_indices[level] + first).view(-1, size)
            tokens = layers.merge(finer.flatten(0, 1), neighbors)
        return tokens.view(batch, n_groups, -1)

    def _embed_visible(
        self, level: int, grouping: Grouping, packings: Sequence[Packing], finer: Tensor
    ) -> Tensor:
        """Packed tokens (B, L, C) of the visible groups from the packed finer ones (B, L', C')."""
        packing, layers = packings[level], cast(Any, self.embeddings[level])
        if level == 0:
            groups = grouping.neighborhoods[0].flatten(0, 1).index_select(0, packing.chosen)
            tokens: Tensor = layers.embed(groups, packing.counted)
        else:
            neighbors = grouping.neighbor_indices[level]
            members = member_rows(neighbors, packings[level - 1], packing)
            tokens = layers.merge(finer.flatten(0, 1), members, packing.counted)
        rows = packing.row.gather(1, packing.kept)
        return tokens.index_select(0, rows.flatten()).view(*rows.shape, -1)

    def _permissions(self, level: int, centers: Tensor, packing: Packing | None) -> Tensor | None:
        """(B, 1 or L, L) bool: which tokens may attend to which; None: all pairs may."""
        attend = None if packing is None else packing.filled[:, None]
        if self.radii is not None:
            near = squared_distances(centers, centers).sqrt() < self.radii[level]
            attend = near if attend is None else near & attend
        return attend
