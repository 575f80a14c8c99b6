import shlex

import pytest
import torch

from i2pmae.image_model.names import PACKAGED
from i2pmae.training import recommended
from i2pmae.training.recommended import recommend_extraction, recommend_pretraining

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize(
    ("n_shapes", "device", "recipe", "why"),
    [
        (206, CPU, "pretrain-small", "no GPU and fewer than 3,000 shapes"),
        (206, GPU, "pretrain-small", "fewer than 3,000 shapes"),
        (40_000, CPU, "pretrain-small", "no GPU"),
        (40_000, GPU, None, "40,000 shapes and a GPU"),
    ],
)
def test_few_shapes_or_no_gpu_want_the_small_network(n_shapes, device, recipe, why):
    found = recommend_pretraining("cache/my shapes.zarr", n_shapes, 2048, device)
    words = shlex.split(found.command)
    assert words[:2] == ["i2pmae", "pretrain"]
    assert words[words.index("--cache") + 1] == "cache/my shapes.zarr"
    assert (words[words.index("--recipe") + 1] if "--recipe" in words else None) == recipe
    assert (found.recipe, found.why) == (recipe, why)
    assert found.config.points == (1024 if recipe else 2048)


def test_a_command_fits_fewer_shapes_and_points_than_the_recipe_takes():
    found = recommend_pretraining("a.zarr", 9, 700, CPU)
    assert found.command.endswith("--epochs 256 --batch-size 9 --points 700")
    assert (found.config.batch_size, found.config.points) == (9, 700)


@pytest.mark.parametrize(
    ("n_shapes", "epochs", "is_few"),
    [(0, 256, True), (139, 256, True), (1842, 65, False), (40_000, 16, False)],
)
def test_the_fewer_shapes_the_more_epochs(n_shapes, epochs, is_few):
    found = recommend_pretraining("a.zarr", n_shapes, 2048, CPU)
    assert found.config.epochs == found.config.optim.cosine_epochs == epochs
    assert ("--epochs" in found.command) == (epochs != 16)
    assert ("the shipped encoder" in (found.caution or "")) == is_few
    assert recommend_pretraining("a.zarr", 40_000, 2048, GPU).config.epochs == 300


def test_without_a_gpu_the_packaged_image_model_is_taken_if_it_is_here(monkeypatch):
    for device, here, name in (
        (CPU, True, PACKAGED),
        (CPU, False, "ViT-B-16-quickgelu"),
        (GPU, True, "ViT-B-16-quickgelu"),
    ):
        monkeypatch.setattr(recommended, "weights_present", lambda _name, here=here: here)
        found = recommend_extraction("shapes", "cache/shapes.zarr", device)
        assert found.config.image_model.name == name
        assert (PACKAGED in found.command) == (name == PACKAGED)
        assert found.command.endswith("--batch-size 64") == (device is GPU)
        assert found.config.batch_size == (64 if device is GPU else 8)
        assert found.config.split == "all"
