"""Recommended settings of both stages for a data set and a machine."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any, NamedTuple

import torch

from i2pmae.config import ExtractConfig, ImageModelConfig, PretrainConfig
from i2pmae.image_model.names import PACKAGED
from i2pmae.image_model.present import weights_present
from i2pmae.recipes import load_config

FEW = 3000  # shapes below which the paper's network has too little to learn from
SMALL = "pretrain-small"
SEEN = 120_000  # shapes of a run with it, over all epochs: docs/choosing.md, as the next two
MOST = 256  # epochs
TOO_FEW = 500  # shapes below which the shipped encoder is probably better
GPU_BATCH = 64  # shapes per call of the 2D model: an H100 encodes 2.4 times as many as by 8


class Recommendation(NamedTuple):
    """Settings of a stage, what to type for them, and why."""

    config: Any
    command: str
    why: str
    recipe: str | None = None
    caution: str | None = None


def recommend_pretraining(
    store: str, n_shapes: int, n_points: int, device: torch.device
) -> Recommendation:
    """The paper's network if there are thousands of shapes and a GPU, else the small one.

    Args:
        store: to train from, as it is typed.
        n_shapes: to train on.
        n_points: of every shape.
        device: to train on.

    Returns:
        `config` is a `PretrainConfig`; `caution` says that there are too few shapes.
    """
    lacking = ["no GPU"] * (device.type == "cpu") + [f"fewer than {FEW:,} shapes"] * (
        n_shapes < FEW
    )
    recipe = SMALL if lacking else None
    given: dict[str, object] = {"cache": Path(store)}
    config = load_config(PretrainConfig, "pretrain", recipe=recipe, options=given)
    epochs = min(round(SEEN / max(n_shapes, 1)), MOST)
    changed = {"epochs": epochs} if recipe and epochs > config.epochs else {}
    few = {"batch_size": n_shapes, "points": n_points}
    changed |= {name: n for name, n in few.items() if getattr(config, name) > n > 0}
    config = load_config(PretrainConfig, "pretrain", recipe=recipe, options=given | changed)
    words = ["i2pmae", "pretrain", *(["--recipe", recipe] if recipe else []), "--cache", store]
    for name, value in changed.items():
        words += [f"--{name.replace('_', '-')}", str(value)]
    why = " and ".join(lacking) or f"{n_shapes:,} shapes and a GPU"
    caution = None
    if n_shapes < TOO_FEW:
        caution = (
            f"fewer than {TOO_FEW} shapes to train on: the shipped encoder is probably better; "
            "see i2pmae evaluate SHAPES"
        )
    return Recommendation(config, shlex.join(words), why, recipe, caution)


def recommend_extraction(data: str, store: str, device: torch.device) -> Recommendation:
    """The default 2D model on a GPU; without one, the packaged one if it is installed.

    Returns:
        `config` is an `ExtractConfig`.
    """
    name, why = ImageModelConfig().name, "the paper's"
    if device.type == "cpu" and weights_present(PACKAGED):
        name, why = PACKAGED, "no GPU: the default one takes several times as long"
    options = {"data": Path(data), "cache": Path(store), "split": "all", "image_model.name": name}
    words = ["i2pmae", "extract-2d", data, "--split", "all", "--cache", store]
    words += ["--image-model", name] if name == PACKAGED else []
    if device.type == "cuda":
        options["batch_size"] = GPU_BATCH
        words += ["--batch-size", str(GPU_BATCH)]
    return Recommendation(
        load_config(ExtractConfig, "extract-2d", options=options), shlex.join(words), why
    )
