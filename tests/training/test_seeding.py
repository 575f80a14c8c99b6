import itertools

import pytest
import torch

from i2pmae.training.seeding import step_generator, step_seed


def test_the_same_arguments_give_the_same_numbers():
    first, second = (torch.rand(5, generator=step_generator(3, 1, 2)) for _ in range(2))
    assert torch.equal(first, second)


def test_every_counter_counts():
    arguments = [
        counters for length in (1, 2, 3) for counters in itertools.product(range(12), repeat=length)
    ]
    seeds = {step_seed(*counters) for counters in arguments}
    assert len(seeds) == len(arguments)
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_a_step_does_not_depend_on_earlier_draws():
    torch.manual_seed(1)
    first = torch.rand(3, generator=step_generator(0, 7))
    torch.rand(100)
    assert torch.equal(first, torch.rand(3, generator=step_generator(0, 7)))


def test_neighboring_steps_are_unrelated():
    draws = torch.stack([torch.rand(1000, generator=step_generator(0, 0, s)) for s in range(20)])
    correlation = torch.corrcoef(draws) - torch.eye(20)
    assert correlation.abs().max() < 0.15


def test_negative_numbers_are_refused():
    with pytest.raises(ValueError, match="non-negative"):
        step_seed(0, -1)
