"""Neighborhoods to tokens: a mini-PointNet per group (section 3.1 of the paper)."""

import torch
from torch import Tensor, nn

from i2pmae.model.row_norm import RowNorm


class TokenEmbedding(nn.Module):
    """Mini-PointNet: two layers per member, the group's maximum beside each, two more, a maximum.

    This is the definition. The networks call its equals in `token_embedding_fast`, which need a
    fraction of the arithmetic and memory; tests hold values and gradients together.

    Args:
        width_in: channels of a group's member.
        hidden: widths of the first three linear layers.
        width: channels of a token.

    Source: Point-M2AE, section 3.1; PointNet.
    """

    def __init__(self, width_in: int, hidden: tuple[int, int, int], width: int):
        super().__init__()
        first, second, third = hidden
        self.point_in = nn.Linear(width_in, first)
        self.point_norm = RowNorm(first)
        self.point_out = nn.Linear(first, second)
        self.group_in = nn.Linear(2 * second, third)
        self.group_norm = RowNorm(third)
        self.group_out = nn.Linear(third, width)

    def forward(self, groups: Tensor) -> Tensor:
        """Groups (M, K, C_in) of coordinates relative to their center, or of tokens, to (M, C)."""
        n_groups, size, _ = groups.shape
        members = self.point_out(self.point_norm(self.point_in(groups.flatten(0, 1))).relu())
        largest = members.view(n_groups, size, -1).max(dim=1)[0].repeat_interleave(size, dim=0)
        hidden = self.group_in(torch.cat([largest, members], dim=1))
        tokens: Tensor = self.group_out(self.group_norm(hidden).relu())
        return tokens.view(n_groups, size, -1).max(dim=1)[0]
