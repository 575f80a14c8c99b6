import numpy as np
import pytest
import torch
from torch import Tensor

from i2pmae.model.masking import (
    carry_through,
    carry_to_finer,
    guided_mask,
    n_visible,
    random_mask,
)

DRAWS = 20_000
SALIENCY = torch.tensor([0.0, 1.0, 2.0, -1.0, 0.5])


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def shown(saliency: Tensor = SALIENCY, ratio: float = 0.8, **settings) -> Tensor:
    """How often each token stays visible, as one draw per row of a batch."""
    rows = saliency.expand(DRAWS, -1)
    return (~guided_mask(rows, ratio, generator=generator(), **settings)).sum(dim=0).double()


def chi_square(found: Tensor, probabilities: Tensor) -> float:
    expected = probabilities * DRAWS
    return ((found - expected) ** 2 / expected).sum().item()


CHI_SQUARE_4 = 18.47  # exceeded once in a thousand, with 4 degrees of freedom


def test_number_of_visible_tokens():
    assert n_visible(64, 0.8) == 13
    assert [n_visible(10, ratio) for ratio in (0.05, 0.5, 0.99)] == [10, 5, 1]
    for mask in (guided_mask(torch.rand(7, 64), 0.8), random_mask(7, 64, 0.8)):
        assert mask.dtype == torch.bool
        assert mask.shape == (7, 64)
        assert mask.sum(dim=1).eq(51).all()


@pytest.mark.parametrize("temperature", [1.0, 0.5, 4.0])
def test_first_token_is_drawn_by_the_softmax(temperature):
    probabilities = (SALIENCY.double() / temperature).softmax(dim=0)
    assert chi_square(shown(temperature=temperature), probabilities) < CHI_SQUARE_4
    uniform = torch.full((5,), 0.2, dtype=torch.float64)
    assert chi_square(shown(temperature=temperature), uniform) > 10 * CHI_SQUARE_4


def test_second_token_is_drawn_from_the_others():
    p = SALIENCY.double().softmax(dim=0)
    second = torch.stack(
        [sum(p[j] * p[i] / (1 - p[j]) for j in range(5) if j != i) for i in range(5)]
    )
    found = shown(ratio=0.6) / DRAWS
    deviation = ((p + second) * (1 - p - second) / DRAWS).sqrt()
    assert ((found - p - second).abs() < 4 * deviation).all()


def test_standardized_saliency_has_deviation_one():
    standard = (SALIENCY - SALIENCY.mean()) / SALIENCY.std(correction=0)
    flat = 0.7 + SALIENCY / 1000
    found = shown(flat, standardize=True)
    assert chi_square(found, standard.double().softmax(dim=0)) < CHI_SQUARE_4
    assert chi_square(shown(flat), torch.full((5,), 0.2).double()) < CHI_SQUARE_4


def test_standardizing_is_per_cloud_and_survives_a_constant():
    rows = torch.stack([SALIENCY, SALIENCY * 50 + 3, torch.full((5,), 0.1)])
    found = guided_mask(rows, 0.8, standardize=True, temperature=0.01, generator=generator())
    assert found[:2].tolist() == [[True, True, False, True, True]] * 2
    assert found[2].sum() == 4


def test_a_low_temperature_keeps_the_most_salient():
    saliency = torch.rand(9, 64, generator=generator())
    found = guided_mask(saliency, 0.8, temperature=1e-6, generator=generator())
    kept = saliency.topk(13, dim=1).indices
    assert not found.gather(1, kept).any()


def test_clouds_and_draws_differ_and_a_generator_repeats_them():
    rows = SALIENCY.expand(64, -1)
    first, again = (guided_mask(rows, 0.5, generator=generator()) for _ in range(2))
    assert torch.equal(first, again)
    assert len(first.unique(dim=0)) > 1
    assert not torch.equal(first, guided_mask(rows, 0.5, generator=generator(1)))
    first, again = (random_mask(64, 5, 0.5, generator()) for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, random_mask(64, 5, 0.5, generator(1)))
    torch.manual_seed(3)
    default = random_mask(64, 5, 0.5)
    torch.manual_seed(3)
    assert torch.equal(default, random_mask(64, 5, 0.5))


def test_random_masks_are_uniform_over_tokens_and_pairs():
    visible = (~random_mask(DRAWS, 5, 0.8, generator())).sum(dim=0).double()
    assert chi_square(visible, torch.full((5,), 0.2).double()) < CHI_SQUARE_4
    pairs = (~random_mask(DRAWS, 5, 0.6, generator())).double()
    together = (pairs.T @ pairs)[tuple(torch.triu_indices(5, 5, 1))]
    assert chi_square(together, torch.full((10,), 0.1).double()) < 27.88  # 9 degrees of freedom


def test_saliency_gets_no_gradient():
    saliency = SALIENCY[None].clone().requires_grad_()
    assert not guided_mask(saliency, 0.8).requires_grad


def test_carried_to_the_finer_level_by_hand():
    # Groups of two clouds with 6 finer tokens each. Token 0 of the first cloud is in no visible
    # group: the release would show it all the same.
    neighbors = torch.tensor([[[0, 1], [2, 3], [3, 5]], [[0, 4], [4, 1], [1, 2]]])
    masked = torch.tensor([[True, True, False], [False, True, False]])
    found = carry_to_finer(masked, neighbors, 6)
    hidden = [[0, 1, 2, 4], [3, 5]]
    assert [row.nonzero().flatten().tolist() for row in found] == hidden


def test_carried_agrees_with_the_slow_version():
    neighbors = torch.randint(20, (4, 8, 3), generator=generator())
    masked = torch.rand(4, 8, generator=generator(1)) < 0.7
    found = carry_to_finer(masked, neighbors, 20)
    for b in range(4):
        seen = {int(i) for g in range(8) if not masked[b, g] for i in neighbors[b, g]}
        assert {i for i in range(20) if not found[b, i]} == seen


def test_carried_through_all_levels():
    sizes = (30, 12, 5)
    neighbors = [
        torch.randint(n, (2, g, 3), generator=generator()) for n, g in ((99, 30), (30, 12), (12, 5))
    ]
    masked = torch.tensor([[True, False, True, True, True], [False, True, True, False, True]])
    found = carry_through(masked, neighbors, sizes)
    middle = carry_to_finer(masked, neighbors[2], 12)
    expected = [carry_to_finer(middle, neighbors[1], 30), middle, masked]
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(found, expected, strict=True))


def test_masks_equal_the_release_but_for_its_defect(parity):
    golden = np.load(parity / "mask.npz")
    neighbors = [torch.from_numpy(golden[f"knn_idx_{level}"]).long() for level in range(3)]
    differ = 0
    for name in "AB":
        found = carry_through(torch.from_numpy(golden[f"top{name}"]), neighbors, (512, 256, 64))
        for level, mask in enumerate(found):
            np.testing.assert_array_equal(mask, golden[f"mask{name}_fixed_level{level}"])
            differ += (mask.numpy() != golden[f"mask{name}_ref_level{level}"]).sum()
    assert differ > 0
