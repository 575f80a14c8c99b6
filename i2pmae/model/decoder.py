"""Hierarchical decoder: mask tokens, and propagation back to finer levels (section 3.1)."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from i2pmae.geometry.grouping import Grouping, gather_rows, nearest_neighbors
from i2pmae.model.layers import Block, PositionEmbedding, init_xavier
from i2pmae.model.packing import Packing
from i2pmae.model.row_norm import RowNorm


def interpolate(queries: Tensor, centers: Tensor, values: Tensor) -> Tensor:
    """Values at the queries: those of the 3 nearest centers, weighted by 1 / squared distance.

    Args:
        queries: (B, Q, 3) float.
        centers: (B, G, 3) float, same unit.
        values: (B, G, C), one row per center.

    Returns:
        (B, Q, C).

    Source: PointNet++, section 3.4.
    Differs: distances by differences, so that weights stay in [0, 1] where a query coincides
    with a center.
    """
    nearest = nearest_neighbors(queries, centers, min(3, centers.shape[1]))
    offsets = gather_rows(centers, nearest) - queries[:, :, None]
    weights = 1 / (offsets.square().sum(dim=-1) + 1e-8)
    weights = (weights / weights.sum(dim=-1, keepdim=True)).to(values.dtype)
    return (gather_rows(values, nearest) * weights[..., None]).sum(dim=2)


class Propagation(nn.Module):
    """Tokens of a coarser level brought to a finer one, fused with what the encoder saw there."""

    def __init__(self, coarse: int, width: int):
        super().__init__()
        self.fuse = nn.Linear(width + coarse, width)
        self.fuse_norm = RowNorm(width)
        self.first = nn.Linear(width, width)
        self.first_norm = RowNorm(width)
        self.second = nn.Linear(width, width)
        self.second_norm = RowNorm(width)

    def forward(
        self, seen: Tensor, centers: Tensor, coarse_tokens: Tensor, coarse_centers: Tensor
    ) -> Tensor:
        """Tokens (B, G, C).

        Args:
            seen: (B, G, C) the encoder's tokens at this level, zero where hidden.
            centers: (B, G, 3) of this level.
            coarse_tokens: (B, G', C') of the coarser level.
            coarse_centers: (B, G', 3) in the same order.
        """
        # The layer acts on [seen, interpolated]. Being linear, it may act before interpolation,
        # on the few coarse tokens.
        of_seen, of_coarse = self.fuse.weight.tensor_split([seen.shape[-1]], dim=1)
        carried = interpolate(centers, coarse_centers, F.linear(coarse_tokens, of_coarse))
        fused = F.linear(seen, of_seen, self.fuse.bias) + carried
        rows = F.gelu(self.fuse_norm(fused.flatten(0, 1)))
        inner = F.gelu(self.first_norm(self.first(rows)))
        rows = F.gelu(self.second_norm(self.second(inner)) + rows)
        return rows.view_as(seen)


class Decoder(nn.Module):
    """From visible tokens to all tokens of level 1.

    Args:
        widths: channels per encoder level, fine to coarse; level 0 is not decoded.
        n_heads: attention heads.
        drop_path: stochastic depth of the finest decoded level; 0 at the coarsest.

    Source: Point-M2AE, section 3.2.
    """

    def __init__(self, widths: Sequence[int], n_heads: int, drop_path: float = 0.0):
        super().__init__()
        decoded = list(widths[:0:-1])  # coarse to fine
        rates = [drop_path * step / max(len(decoded) - 1, 1) for step in range(len(decoded))]
        self.mask_token = nn.Parameter(torch.zeros(1, decoded[0]))
        self.positions = nn.ModuleList(PositionEmbedding(width) for width in decoded)
        self.blocks = nn.ModuleList(
            Block(width, n_heads, rate) for width, rate in zip(decoded, rates, strict=True)
        )
        self.propagations = nn.ModuleList(
            Propagation(coarse, width) for coarse, width in pairwise(decoded)
        )
        self.norm = nn.LayerNorm(decoded[-1])
        nn.init.trunc_normal_(self.mask_token, std=0.02)
        self.blocks.apply(init_xavier)

    def forward(
        self, encoded: Sequence[Tensor], grouping: Grouping, packings: Sequence[Packing]
    ) -> Tensor:
        """Decode.

        Args:
            encoded: packed tokens (B, L, C) of every level, layer-normed.
            grouping: groups of the clouds.
            packings: of the visible tokens of every level.

        Returns:
            (B, G_1, C_1), a token for every group of level 1 in index order.
        """
        top = packings[-1]
        visible = F.pad(encoded[-1], (0, 0, 0, top.order.shape[1] - encoded[-1].shape[1]))
        filled = F.pad(top.filled, (0, top.order.shape[1] - top.filled.shape[1]))
        tokens = torch.where(filled[..., None], visible, self.mask_token.to(visible.dtype))
        centers = gather_rows(grouping.centers[-1], top.order)  # visible ones first
        tokens = self.blocks[0](tokens + self.positions[0](centers))
        for step, level in enumerate(range(len(encoded) - 2, 0, -1)):
            finer_centers = grouping.centers[level]
            seen = packings[level].unpack(encoded[level], encoded[level].new_zeros(()))
            tokens = self.propagations[step](seen, finer_centers, tokens, centers)
            tokens = self.blocks[step + 1](tokens + self.positions[step + 1](finer_centers))
            centers = finer_centers
        if len(encoded) == 2:  # level 1 is the coarsest: its tokens still lie visible first
            tokens = gather_rows(tokens, top.order.argsort(dim=1))
        decoded: Tensor = self.norm(tokens)
        return decoded
