"""Chamfer distance."""

import torch
from torch import Tensor


def chamfer_l2(a: Tensor, b: Tensor, counted: Tensor | None = None) -> Tensor:
    """Mean squared distance to the nearest point of the other set, both directions added.

    Args:
        a: (M, K, 3) float, M sets of K points.
        b: (M, L, 3) float, the sets they are compared with.
        counted: (M,) bool, sets that count in the mean; None: all.

    Returns:
        Scalar, at least float32, in squared units of the points; 0 where no set counts.

    Source: Point-M2AE, section 3.3.
    """
    a, b = (x.to(torch.promote_types(x.dtype, torch.float32)) for x in (a, b))
    distances = (a[:, :, None] - b[:, None]).square().sum(dim=-1)
    per_set = distances.min(dim=2).values.mean(dim=1) + distances.min(dim=1).values.mean(dim=1)
    if counted is None:
        return per_set.mean()
    return (per_set * counted).sum() / counted.sum().clamp(min=1)
