import pytest
import torch

from i2pmae.geometry.draws import Part, PartGenerator, integers, uniform
from i2pmae.geometry.transforms import augment, random_subset
from i2pmae.model.layers import DropPath
from i2pmae.model.masking import guided_mask, random_mask

SHAPES = 6


def points():
    return torch.rand(SHAPES, 20, 3, generator=torch.Generator().manual_seed(1))


def drop(rows, generator):
    path = DropPath(0.5)
    path.part = getattr(generator, "part", path.part)
    torch.manual_seed(5)
    return path(torch.ones(len(rows), 2, 3))


@pytest.mark.parametrize(
    "draw",
    [
        lambda rows, generator: uniform((len(rows), 4), generator),
        lambda rows, generator: integers(100, (len(rows), 4), generator),
        lambda rows, generator: random_subset(rows, 7, generator),
        lambda rows, generator: augment(
            rows, (0.5, 2), shift=0.2, rotation=90, generator=generator
        ),
        lambda rows, generator: guided_mask(rows[:, :, 0], 0.8, generator=generator),
        lambda rows, generator: random_mask(len(rows), 10, 0.8, generator),
        drop,
    ],
    ids=["uniform", "integers", "subset", "augment", "guided mask", "random mask", "drop path"],
)
@pytest.mark.parametrize("n_parts", [2, 3])
def test_parts_draw_what_the_whole_batch_draws(draw, n_parts):
    whole = draw(points(), torch.Generator().manual_seed(3))
    found = []
    for index in range(n_parts):
        generator = PartGenerator()
        generator.part = Part(index, n_parts)
        found.append(draw(points().chunk(n_parts)[index], generator.manual_seed(3)))
    assert torch.equal(torch.cat(found), whole)
    assert not torch.equal(found[0], found[1])
