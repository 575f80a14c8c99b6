"""A small store of made-up shapes, written shard by shard."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from i2pmae.store.schema import DONE, SKIPPED, StoreSpec, arrays
from i2pmae.store.writer import StoreWriter, open_writer

Values = dict[str, np.ndarray]

SKIPPED_SHAPE = 5


@pytest.fixture(scope="session")
def spec() -> StoreSpec:
    """Three shards, the last half full."""
    return StoreSpec(
        n_shapes=10,
        n_points=16,
        n_views=3,
        image_size=12,
        grid=(2, 3),
        channels=8,
        shard_size=4,
        parts=True,
    )


@pytest.fixture(scope="session")
def values_of() -> Callable[[StoreSpec, int], Values]:
    """Arrays of one shard; shape 5 is skipped, shapes from 8 on are for testing."""

    def values_of(spec: StoreSpec, k: int) -> Values:
        rows = spec.shard(k)
        shapes = np.arange(rows.start, rows.stop)
        rng = np.random.default_rng(k)
        values: Values = {}
        for name, array in arrays(spec).items():
            if array.layout == "store":
                continue
            shape = (len(shapes), *array.shape(spec)[1:])
            dtype = array.dtype_in(spec)
            if dtype == "string":
                continue
            values[name] = (rng.standard_normal(shape) * 20).astype(dtype)
        for name in {"feature_scale", "pixel_size"} & values.keys():
            values[name] = np.abs(values[name])
        values["id"] = np.array([f"chair/train/chair_{i:02}_ü" for i in shapes])
        values["split"] = np.where(shapes < 8, "train", "test")
        values["label"] = shapes % 3 - 1
        values["status"] = np.where(shapes == SKIPPED_SHAPE, SKIPPED, DONE).astype(np.uint8)
        return values

    return values_of


@pytest.fixture(scope="session")
def open_() -> Callable[..., StoreWriter]:
    """`open_writer` with settings that may be replaced."""

    def open_(path: Path | str, spec: StoreSpec, **changes: Any) -> StoreWriter:
        arguments: dict[str, Any] = {
            "view_axes": np.eye(3, dtype=np.float32)[None].repeat(spec.n_views, axis=0),
            "settings": {"image_model": {"name": "tiny", "size": [12, 12]}, "seed": 0},
            "provenance": {"numpy": "2"},
            "class_names": ("chair", "table"),
        }
        return open_writer(path, spec, **{**arguments, **changes})

    return open_


@pytest.fixture(scope="session")
def write_store(
    open_: Callable[..., StoreWriter], values_of: Callable[[StoreSpec, int], Values]
) -> Callable[..., Path]:
    """Write whatever is missing of a store and finish it."""

    def write_store(path: Path, spec: StoreSpec) -> Path:
        with open_(path, spec) as writer:
            for k in writer.pending:
                writer.write_shard(k, values_of(spec, k))
            writer.finish()
        return path

    return write_store


@pytest.fixture(scope="session")
def template(
    tmp_path_factory: pytest.TempPathFactory, spec: StoreSpec, write_store: Callable[..., Path]
) -> Path:
    """A finished store that tests must leave as it is."""
    return write_store(tmp_path_factory.mktemp("template") / "shapes.zarr", spec)


@pytest.fixture
def store(tmp_path: Path, template: Path) -> Path:
    """A finished store that tests may spoil."""
    return Path(shutil.copytree(template, tmp_path / "shapes.zarr"))


@pytest.fixture(scope="session")
def written(spec: StoreSpec, values_of: Callable[[StoreSpec, int], Values]) -> Values:
    """What `store` holds."""
    shards = [values_of(spec, k) for k in range(spec.n_shards)]
    return {name: np.concatenate([shard[name] for shard in shards]) for name in shards[0]}
