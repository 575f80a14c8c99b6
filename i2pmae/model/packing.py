"""Visible tokens moved to the front of each cloud, so that hidden ones cost nothing."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from i2pmae.device import on_cpu
from i2pmae.geometry.grouping import gather_rows

BUCKET = 16  # packed lengths are multiples of this: kernels need not be rebuilt at every step
ROW_BUCKET = 64  # likewise for the visible tokens of the whole batch


class Packing(NamedTuple):
    """Positions of the tokens of one level once the visible ones are in front.

    G tokens per cloud, L packed positions per cloud, R rows for the visible tokens of all clouds.
    """

    visible: Tensor  # (B, G) bool, by token
    order: Tensor  # (B, G) int64: visible tokens in index order, then the hidden ones
    position: Tensor  # (B, G) int64: packed position of a visible token; of a hidden one, any
    filled: Tensor  # (B, L) bool, by packed position: False = padding
    chosen: Tensor  # (R,) int64 into the B G tokens: the visible ones, then perhaps hidden ones
    counted: Tensor  # (R,) bool: which of the chosen are visible
    row: Tensor  # (B, G) int64: row of a visible token in `chosen`; of a hidden one, any

    @property
    def kept(self) -> Tensor:
        """(B, L) int64: the token at every packed position; padding holds hidden tokens."""
        return self.order[:, : self.filled.shape[1]]

    def unpack(self, packed: Tensor, hidden: Tensor) -> Tensor:
        """Packed tokens (B, L, C) to (B, G, C); hidden ones are taken from `hidden`."""
        return torch.where(self.visible[..., None], gather_rows(packed, self.position), hidden)


def pack(masks: Sequence[Tensor], group_sizes: Sequence[int], n_kept: int) -> list[Packing]:
    """Packing of every level, fine to coarse.

    The packed length of the coarsest level is `n_kept`. The others', on a CPU: the largest number
    of visible tokens, rounded up; elsewhere: an upper bound that needs no answer from the device,
    as every visible token shows at most K finer ones.

    Args:
        masks: (B, G) bool per level, fine to coarse, True = hidden.
        group_sizes: K per level.
        n_kept: largest number of visible tokens of a cloud at the coarsest level.
    """
    packings = []
    length = n_kept
    for level in range(len(masks) - 1, -1, -1):
        masked = masks[level]
        batch, n_tokens = masked.shape
        if level < len(masks) - 1:
            length *= group_sizes[level + 1]
        n_rows = batch * length
        if on_cpu(masked) and level < len(masks) - 1:
            counts = (~masked).sum(dim=1)
            length = _round_up(int(counts.max()), BUCKET)
            n_rows = _round_up(int(counts.sum()), ROW_BUCKET)
        length = min(length, n_tokens)
        packings.append(_pack(masked, length, min(n_rows, batch * n_tokens)))
    return packings[::-1]


def member_rows(neighbors: Tensor, finer: Packing, packing: Packing) -> Tensor:
    """Positions of the members of the chosen groups among the finer level's packed tokens.

    Members of visible groups are visible. Those of the few hidden groups may be padding.

    Args:
        neighbors: (B, G, K) int64 into the finer level's tokens.
        finer: packing of the finer level, into L' positions per cloud.
        packing: of the groups.

    Returns:
        (R, K) int64 into the B L' positions of all clouds.
    """
    batch, length = finer.filled.shape
    first = torch.arange(batch, device=neighbors.device)[:, None] * length
    members = (finer.position + first).gather(1, neighbors.flatten(1))
    return members.view(-1, neighbors.shape[2]).index_select(0, packing.chosen)


def _pack(masked: Tensor, length: int, n_rows: int) -> Packing:
    """Packing of one level into `length` positions per cloud and `n_rows` rows in all."""
    order = masked.to(torch.uint8).argsort(dim=1, stable=True)
    places = torch.arange(masked.shape[1], device=masked.device).expand_as(order)
    position = torch.empty_like(order).scatter_(1, order, places)
    filled = places[:, :length] < (~masked).sum(dim=1, keepdim=True)
    flat = masked.flatten().to(torch.uint8).argsort(stable=True)
    row = torch.empty_like(flat).scatter_(
        0, flat, torch.arange(flat.shape[0], device=masked.device)
    )
    return Packing(
        ~masked,
        order,
        position.clamp_(max=length - 1),
        filled,
        flat[:n_rows],
        ~masked.flatten()[flat[:n_rows]],
        row.clamp_(max=n_rows - 1).view_as(masked),
    )


def _round_up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple
