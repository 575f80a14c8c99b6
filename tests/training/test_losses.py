import math

import pytest
import torch
from torch.nn import functional as F

from i2pmae.training.losses import smoothed_cross_entropy


def test_worked_by_hand():
    # Probabilities 1/2, 1/4, 1/4; targets .8, .1, .1.
    logits = torch.log(torch.tensor([[0.5, 0.25, 0.25]]))
    expected = 0.8 * math.log(2) + 0.1 * math.log(4) + 0.1 * math.log(4)
    loss = smoothed_cross_entropy(logits, torch.tensor([0]), 0.2)
    assert loss.item() == pytest.approx(expected, rel=1e-6)


def test_agrees_with_dense_targets_and_differs_from_torch():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(6, 5, generator=generator)
    labels = torch.tensor([0, 1, 2, 3, 4, 0])
    targets = torch.full((6, 5), 0.2 / 4).scatter(1, labels[:, None], 0.8)
    loss = smoothed_cross_entropy(logits, labels, 0.2)
    assert torch.allclose(loss, F.cross_entropy(logits, targets))
    assert not torch.allclose(loss, F.cross_entropy(logits, labels, label_smoothing=0.2))


def test_no_smoothing_is_cross_entropy():
    logits, labels = torch.tensor([[1.0, 2.0]]), torch.tensor([1])
    assert torch.equal(smoothed_cross_entropy(logits, labels, 0), F.cross_entropy(logits, labels))


def test_one_class_cannot_be_smoothed():
    with pytest.raises(ValueError, match="two classes"):
        smoothed_cross_entropy(torch.zeros(2, 1), torch.zeros(2, dtype=torch.int64), 0.1)


def test_weights_count_the_shapes_of_a_class():
    logits, labels = (
        torch.randn(4, 3, generator=torch.Generator().manual_seed(0)),
        torch.arange(4) % 3,
    )
    single = torch.stack(
        [smoothed_cross_entropy(logits[i : i + 1], labels[i : i + 1], 0.1) for i in range(4)]
    )
    weights = torch.tensor([2.0, 0.5, 1.0])
    found = smoothed_cross_entropy(logits, labels, 0.1, weights)
    assert torch.allclose(found, (single * weights[labels]).mean())
    plain = smoothed_cross_entropy(logits, labels, 0, torch.ones(3))
    assert torch.allclose(plain, F.cross_entropy(logits, labels))
