"""A tiny store and a tiny network, made once."""

import json
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from i2pmae.config import (
    EncoderConfig,
    ExtractConfig,
    ImageModelConfig,
    MaskingConfig,
    OptimConfig,
    PretrainConfig,
    StoreConfig,
    TargetConfig,
    to_plain,
)
from i2pmae.model.pretraining import PretrainingModel
from i2pmae.stages import extract_2d, pretrain
from i2pmae.stages.run_folder import RunFolder
from i2pmae.training import checkpoint

TINY_IMAGE_MODEL = ImageModelConfig(name="timm:test_vit", pretrained="random", image_size=64)
TINY_ENCODER = EncoderConfig(
    n_centers=(64, 32, 16),
    group_sizes=(8, 4, 4),
    widths=(12, 24, 48),
    depths=(1, 1, 1),
    embedding_width=8,
)


def extract_config(cache: Path, **changes) -> ExtractConfig:
    values = {
        "data": Path("procedural"),
        "cache": cache,
        "limit": 20,
        "points": 512,
        "batch_size": 3,
        "precision": "fp32",
        "image_model": TINY_IMAGE_MODEL,
        "store": StoreConfig(shard_size=8),
    }
    return ExtractConfig(**(values | changes))


def pretrain_config(cache: Path, out: Path, **changes) -> PretrainConfig:
    values = {
        "cache": cache,
        "out": out,
        "epochs": 3,
        "batch_size": 4,
        "points": 256,
        "precision": "fp32",
        "encoder": TINY_ENCODER,
        "optim": OptimConfig(warmup_epochs=1, cosine_epochs=3),
    }
    return PretrainConfig(**(values | changes))


def pretrain_command(config: PretrainConfig) -> list[str]:
    """The command line of a run, from the package's name on."""
    command = ["i2pmae", "pretrain", "--cache", str(config.cache), "--out", str(config.out)]
    settings = {
        f"{table}.{key}" if table else key: value
        for table, values in (
            ("", to_plain(config)),
            ("encoder", to_plain(config.encoder)),
            ("optim", to_plain(config.optim)),
        )
        for key, value in values.items()
        if not isinstance(value, dict) and key not in ("cache", "out")
    }
    for key, value in settings.items():
        command += ["--set", f"{key}={'none' if value is None else json.dumps(value)}"]
    return command


def after_first_epoch(config: PretrainConfig) -> None:
    """Wait until a run has written a row of metrics."""
    until = time.monotonic() + 300  # a loaded machine must not fail a test
    while not RunFolder(config.out).rows():
        assert time.monotonic() < until
        time.sleep(0.02)


@pytest.fixture(scope="session")
def store(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("cache") / "tiny.zarr"
    extract_2d.run(extract_config(path))
    return path


@pytest.fixture(scope="session")
def trained(store, tmp_path_factory) -> Path:
    """Checkpoint of an uninterrupted run."""
    out = tmp_path_factory.mktemp("runs") / "tiny"
    pretrain.run(pretrain_config(store, out))
    return out / "last.pt"


@pytest.fixture(scope="session")
def untrained(tmp_path_factory) -> Path:
    """Checkpoint of a tiny network with random weights."""
    torch.manual_seed(0)
    model = PretrainingModel(TINY_ENCODER, MaskingConfig(), TargetConfig())
    path = tmp_path_factory.mktemp("runs") / "untrained.pt"
    config = {"encoder": to_plain(TINY_ENCODER)}
    checkpoint.save(path, kind="pretraining", config=config, model=model.state_dict())
    return path


@pytest.fixture(scope="session")
def parts_folder(tmp_path_factory) -> Path:
    """Knives and mugs of 128 points in ShapeNetPart's layout: 12 train, 4 val, 6 test.

    A point's part is told by its height, so it can be learned.
    """
    root = tmp_path_factory.mktemp("data") / "parts"
    (root / "train_test_split").mkdir(parents=True)
    categories = {"Knife": ("03624134", 22), "Mug": ("03797390", 36)}
    (root / "synsetoffset2category.txt").write_text(
        "".join(f"{name}\t{synset}\n" for name, (synset, _) in categories.items())
    )
    generator = np.random.default_rng(0)
    number = 0
    for split, per_category in (("train", 6), ("val", 2), ("test", 3)):
        listed = []
        for name, (synset, first) in categories.items():
            (root / synset).mkdir(exist_ok=True)
            for _ in range(per_category):
                points = generator.normal(size=(128, 3)) * ((0.2, 1, 0.2) if name == "Knife" else 1)
                table = np.zeros((128, 7))
                table[:, :3], table[:, 6] = points, first + (points[:, 1] > 0)
                np.savetxt(root / synset / f"{number:04d}.txt", table, fmt="%.6f")
                listed.append(f"shape_data/{synset}/{number:04d}")
                number += 1
        (root / "train_test_split" / f"shuffled_{split}_file_list.json").write_text(
            json.dumps(listed)
        )
    return root


@pytest.fixture(scope="session")
def parts_store(parts_folder, tmp_path_factory) -> Path:
    """The same shapes in a store."""
    path = tmp_path_factory.mktemp("cache") / "parts.zarr"
    extract_2d.run(extract_config(path, data=parts_folder, split="all", limit=None, points=128))
    return path
