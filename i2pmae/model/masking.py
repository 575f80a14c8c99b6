"""2D-guided masking, drawn at the coarsest level and carried to the finer ones (section 3.3)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from i2pmae.geometry.draws import uniform


def n_visible(n_tokens: int, ratio: float) -> int:
    """Tokens that stay visible when `ratio` of them is hidden: 13 of 64 at 0.8."""
    return n_tokens - int(ratio * n_tokens)


def guided_mask(
    saliency: Tensor,
    ratio: float,
    temperature: float = 1.0,
    standardize: bool = False,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Hide tokens at random, salient ones less often.

    The softmax of the saliency gives the probabilities with which tokens are drawn one after the
    other, without replacement; the first ones drawn stay visible.

    Args:
        saliency: (B, G) float, any scale.
        ratio: share of tokens to hide; int(ratio G) are hidden in every cloud.
        temperature: of the softmax; small picks the most salient, large ignores saliency.
        standardize: bring each cloud's saliency to mean 0 and standard deviation 1 first.
        generator: source of randomness, of any device.

    Returns:
        (B, G) bool, True = hidden.

    Source: I2P-MAE, section 3.3. Class attention over 196 patches hardly varies between centers,
    so the paper's settings (temperature 1, not standardized) mask almost uniformly.
    """
    scores = saliency.detach().float()
    if standardize:
        scores = scores - scores.mean(dim=1, keepdim=True)
        scores = scores / scores.std(dim=1, correction=0, keepdim=True).clamp(min=1e-12)
    # Drawing without replacement by weights e^s = sorting s plus Gumbel noise.
    order = scores / temperature + _gumbel(scores, generator)
    return _hide_all_but_largest(order, n_visible(scores.shape[1], ratio))


def random_mask(
    batch: int,
    n_tokens: int,
    ratio: float,
    generator: torch.Generator | None = None,
    device: torch.device | None = None,
) -> Tensor:
    """Hide int(ratio G) tokens of every cloud, all alike: (B, G) bool, True = hidden."""
    order = _gumbel(torch.empty(batch, n_tokens, device=device), generator)
    return _hide_all_but_largest(order, n_visible(n_tokens, ratio))


def carry_to_finer(masked: Tensor, neighbor_indices: Tensor, n_finer: int) -> Tensor:
    """Hide the finer tokens that belong to no visible group.

    Args:
        masked: (B, G) bool, True = hidden.
        neighbor_indices: (B, G, K) int64, the finer tokens of each group.
        n_finer: number of finer tokens.

    Returns:
        (B, n_finer) bool, True = hidden.

    Source: Point-M2AE, section 3.2.
    Differs: the release always shows token 0 of the first cloud in the batch.
    """
    # Members of hidden groups point past the end: a token is shown if any group shows it.
    shown = neighbor_indices.masked_fill(masked[..., None], n_finer).flatten(1)
    finer = masked.new_ones(masked.shape[0], n_finer + 1)
    return finer.scatter_(1, shown, False)[:, :n_finer].contiguous()


def carry_through(
    masked: Tensor, neighbor_indices: Sequence[Tensor], sizes: Sequence[int]
) -> list[Tensor]:
    """Masks of every level, fine to coarse, from the coarsest level's.

    Args:
        masked: (B, G) bool of the coarsest level, True = hidden.
        neighbor_indices: of every level, fine to coarse.
        sizes: number of tokens of every level, fine to coarse.
    """
    masks = [masked]
    for level in range(len(sizes) - 1, 0, -1):
        masks.append(carry_to_finer(masks[-1], neighbor_indices[level], sizes[level - 1]))
    return masks[::-1]


def _gumbel(like: Tensor, generator: torch.Generator | None) -> Tensor:
    """Gumbel noise of the same shape and device."""
    numbers = uniform(tuple(like.shape), generator, like.device).to(like.device)
    return -(-numbers.clamp(min=1e-20).log()).clamp(min=1e-20).log()


def _hide_all_but_largest(order: Tensor, n_kept: int) -> Tensor:
    """True except at the `n_kept` largest entries of each row."""
    kept = order.topk(n_kept, dim=1).indices
    return torch.ones_like(order, dtype=torch.bool).scatter_(1, kept, False)
