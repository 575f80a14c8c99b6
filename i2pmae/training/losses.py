"""Losses of fine-tuning; those of pre-training belong to its model."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def smoothed_cross_entropy(
    logits: Tensor, labels: Tensor, smoothing: float, weights: Tensor | None = None
) -> Tensor:
    """Cross-entropy against `1 - smoothing` on the true class, the rest spread over the others.

    Differs from torch's `label_smoothing`, which spreads the rest over all classes, the true one
    included.

    Args:
        logits: (B, classes) float.
        labels: (B,) int64.
        smoothing: in [0, 1); 0 is plain cross-entropy.
        weights: (classes,) by which a shape of each class counts; None: 1.

    Returns:
        Scalar mean over the batch, of weighted losses.

    Raises:
        ValueError: if there is only one class to spread over.

    Source: Point-M2AE's ModelNet40 recipe, which takes 0.2.
    """
    n_classes = logits.shape[1]
    if smoothing == 0 and weights is None:
        return F.cross_entropy(logits, labels)
    if n_classes < 2:
        raise ValueError("label smoothing needs at least two classes")
    log_probabilities = logits.log_softmax(dim=1)
    true = log_probabilities.gather(1, labels[:, None]).squeeze(1)
    others = log_probabilities.sum(dim=1) - true
    losses = -((1 - smoothing) * true + smoothing / (n_classes - 1) * others)
    if weights is not None:
        losses = losses * weights[labels]
    return losses.mean()
