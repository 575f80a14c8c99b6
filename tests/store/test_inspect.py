import json

import dask.array as da
import numpy as np
import pytest
import torch
import xarray

from i2pmae.errors import StoreError
from i2pmae.geometry.projection import PixelMap, back_project, pixels
from i2pmae.store import StoreReader
from i2pmae.store import open_cache as lazily_imported
from i2pmae.store.inspect import describe, open_cache
from i2pmae.store.schema import arrays

from ..conftest import USUAL_ARRAYS

PER_SHAPE = [array.name for array in USUAL_ARRAYS if array.layout != "store"]


def test_arrays_by_name(store, written):
    cache = open_cache(store)
    assert list(cache) == [array.name for array in USUAL_ARRAYS]
    assert "features" in cache
    assert "surprise" not in cache
    for name, values in written.items():
        np.testing.assert_array_equal(cache.raw(name).compute(), values)
    for name in ("points", "label", "id", "split", "saliency"):
        np.testing.assert_array_equal(cache[name].compute(), written[name])
    assert cache.class_names == ("chair", "table")
    assert cache.attrs["settings"]["seed"] == 0
    with pytest.raises(KeyError):
        cache["surprise"]


def test_a_cache_prints_what_it_holds(store, spec):
    first, *others = repr(open_cache(store)).splitlines()
    assert first == (
        f"Cache({str(store)!r}: {spec.n_shapes} shapes of {spec.n_points} points, 2 classes)"
    )
    assert f"  points: float32 ({spec.n_shapes}, {spec.n_points}, 3)" in others
    assert len(others) == len(USUAL_ARRAYS)


def test_features_are_values(store, written):
    features = open_cache(str(store))["features"]
    assert isinstance(features, da.Array)
    assert features.dtype == np.float32
    scale = written["feature_scale"][:, None, None, None, :]
    expected = written["features"].astype(np.float32) * scale
    np.testing.assert_array_equal(features.compute(), expected)
    np.testing.assert_array_equal(features[3, 1].compute(), expected[3, 1])
    np.testing.assert_array_equal(features[[8, 2]].compute(), expected[[8, 2]])
    np.testing.assert_allclose(features.mean(), expected.mean(), rtol=1e-4)


def test_depth_is_between_0_and_1(store, written):
    depth = open_cache(store)["depth"].compute()
    np.testing.assert_allclose(depth, written["depth"] / 255, rtol=1e-6)


def test_blocks_are_shards(store):
    cache = open_cache(store)
    for name in ("features", "points", "label"):
        assert cache.raw(name).chunks[0] == (4, 4, 2)


@pytest.mark.parametrize("name", PER_SHAPE)
def test_a_missing_file_is_no_shard_of_zeros(store, spec, name):
    (store / arrays(spec)[name].key(1)).unlink()
    lazy = open_cache(store).raw(name)
    assert len(lazy[:4].compute()) == 4
    with pytest.raises(StoreError, match=f"{name} is damaged"):
        lazy[3:5].compute()


def test_a_flipped_bit_is_detected(store, spec):
    file = store / arrays(spec)["features"].key(1)
    content = bytearray(file.read_bytes())
    content[3] ^= 1
    file.write_bytes(content)
    with pytest.raises(StoreError, match="features is damaged"):
        open_cache(store)["features"].compute()


def test_xarray_opens_a_store(store, written):
    with xarray.open_zarr(store) as dataset:
        assert dict(dataset.sizes)["shape"] == 10
        assert dataset["features"].dims == ("shape", "view", "patch_row", "patch_column", "channel")
        assert dataset["pixel_shift"].attrs["units"] == "pixel"
        for name, values in written.items():
            np.testing.assert_array_equal(dataset[name].values, values)


def test_description(store):
    found = describe(store.parent)
    json.dumps(found)
    assert found["path"] == str(store)
    assert found["complete"] is True
    assert found["shapes"] == {"done": 9, "skipped": 1, "pending": 0}
    assert found["classes"] == {
        "train": {"chair": 3, "table": 1, "unknown": 3},
        "test": {"table": 1, "unknown": 1},
    }
    assert found["attrs"]["class_names"] == ["chair", "table"]
    features = found["arrays"]["features"]
    on_disk = [file.stat().st_size for file in (store / "features").rglob("*") if file.is_file()]
    assert features == {
        "dimensions": ["shape", "view", "patch_row", "patch_column", "channel"],
        "shape": [10, 3, 2, 3, 8],
        "dtype": "int8",
        "chunks": [1, 3, 2, 3, 8],
        "shards": [4, 3, 2, 3, 8],
        "stored_bytes": sum(on_disk),
        "dense_bytes": 10 * 3 * 2 * 3 * 8,
    }
    assert found["arrays"]["label"]["shards"] is None
    assert found["stored_bytes"] == sum(array["stored_bytes"] for array in found["arrays"].values())


def test_an_unfinished_store_can_be_described(tmp_path, spec, open_, values_of):
    path = tmp_path / "new.zarr"
    with open_(path, spec) as writer:
        writer.write_shard(1, values_of(spec, 1))
    found = describe(path)
    assert found["complete"] is False
    assert found["shapes"] == {"done": 3, "skipped": 1, "pending": 6}
    assert found["classes"] == {"train": {"chair": 2, "unknown": 1}}
    labels = open_cache(path)["label"].compute()
    np.testing.assert_array_equal(labels[4:8], values_of(spec, 1)["label"])
    (path / arrays(spec)["label"].key(1)).unlink()
    with pytest.raises(StoreError, match="label is damaged"):
        describe(path)


def test_the_package_offers_it_without_importing_it():
    assert lazily_imported is open_cache
    with pytest.raises(ImportError):
        from i2pmae.store import surprise  # noqa: F401


def test_point_features_are_what_pre_training_reads(store):
    reader, cache = StoreReader(store), open_cache(store)
    found = cache.point_features(4)
    assert found.shape == (reader.n_views, reader.n_points, reader.channels)
    batch = {n: torch.from_numpy(a) for n, a in reader.read([4], reader.step_arrays).items()}
    map_ = PixelMap(batch["pixel_origin"], batch["pixel_size"], batch["pixel_shift"].long())
    at = pixels(batch["points"], map_, torch.from_numpy(reader.view_axes), reader.image_size)
    expected = back_project(batch["features"], at, reader.image_size, batch.get("feature_scale"))
    np.testing.assert_array_equal(found, expected[0].numpy())
    for index in (-1, len(reader)):
        with pytest.raises(IndexError, match=f"shape {index} of {len(reader)}"):
            cache.point_features(index)
    with pytest.raises(StoreError, match="shape 5 was skipped"):
        cache.point_features(5)
