import hashlib
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from i2pmae.config import StoreConfig, ViewConfig
from i2pmae.datasets import open_source
from i2pmae.errors import DataError, StoreMismatchError, WeightsError
from i2pmae.geometry.projection import view_axes
from i2pmae.geometry.transforms import normalize_to_unit_sphere
from i2pmae.image_model import load_image_model
from i2pmae.stages import extract_2d, verify
from i2pmae.store import StoreReader, open_cache
from i2pmae.store.quantize import round_points
from i2pmae.store.writer import StoreWriter

from .conftest import TINY_IMAGE_MODEL, extract_config


def digests(store: Path) -> dict[str, str]:
    return {
        str(file.relative_to(store)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(store.rglob("*"))
        if file.is_file()
    }


def test_the_store_holds_the_points_of_the_source(store):
    source = open_source("procedural", limit=20, points=512)
    cache = open_cache(store)
    assert list(cache["id"].compute()) == source.ids
    assert list(cache["label"].compute()) == source.labels
    assert cache.class_names == source.class_names
    clouds = torch.from_numpy(np.stack([source.load(index).points for index in range(20)]))
    expected = normalize_to_unit_sphere(clouds).numpy()
    assert np.abs(cache["points"].compute() - expected).max() < 2**-16


@pytest.mark.parametrize("depth", ["sum", "nearest"])
def test_cached_features_equal_those_encoded_on_the_spot(tmp_path, depth):
    path = tmp_path / "x.zarr"
    views = ViewConfig(depth=depth, sum_points=256)
    extract_2d.run(extract_config(path, views=views, limit=6))
    source = open_source("procedural", limit=6, points=512)
    clouds = torch.from_numpy(np.stack([source.load(index).points for index in range(6)]))
    points = torch.from_numpy(round_points(normalize_to_unit_sphere(clouds).numpy()))
    model = load_image_model(
        TINY_IMAGE_MODEL.name, "random", 64, "own", torch.device("cpu"), torch.float32
    )
    online = extract_2d.encode_batch(points, view_axes(3), model, depth, 256)
    cache = open_cache(path)
    assert np.array_equal(cache["points"].compute(), points.numpy())
    np.testing.assert_allclose(cache["saliency"].compute(), online["saliency"], atol=1e-6)
    scale = cache["feature_scale"].compute()[:, None, None, None, :]
    error = np.abs(cache["features"].compute() - online["features"].numpy())
    assert (error <= 0.51 * scale + 1e-5).all()
    assert np.abs(cache["depth"].compute() - online["depth"].numpy()).max() <= 0.51 / 255


def test_float32_features_are_stored_unchanged(tmp_path):
    exact, rounded = tmp_path / "exact.zarr", tmp_path / "rounded.zarr"
    extract_2d.run(extract_config(exact, limit=5, store=StoreConfig(dtype="float32")))
    extract_2d.run(extract_config(rounded, limit=5, store=StoreConfig(dtype="float16")))
    features = open_cache(exact)["features"].compute()
    assert "feature_scale" not in open_cache(exact)
    np.testing.assert_allclose(
        open_cache(rounded)["features"].compute(), features, rtol=1e-3, atol=1e-6
    )


def test_a_larger_step_makes_a_smaller_store_that_verifies(store, tmp_path):
    path = tmp_path / "coarse.zarr"
    extract_2d.run(extract_config(path, store=StoreConfig(shard_size=8, int8_step=0.4)))
    fine, coarse = open_cache(store), open_cache(path)
    scales = [cache["feature_scale"].compute() for cache in (fine, coarse)]
    np.testing.assert_allclose(scales[1], 4 * scales[0], rtol=1e-5)
    values = [cache["features"].compute() for cache in (fine, coarse)]
    half_steps = scales[0][:, None, None, None] * (0.5 + 2)
    assert (np.abs(values[1] - values[0]) <= half_steps * 1.001).all()
    sizes = [
        sum(file.stat().st_size for file in (p / "features").rglob("*") if file.is_file())
        for p in (store, path)
    ]
    assert sizes[1] < 0.75 * sizes[0]
    assert verify.run(path, recompute=2)["ok"]


def test_features_of_an_earlier_block_are_told_from_the_last_ones(store, tmp_path):
    path, config = tmp_path / "early.zarr", extract_config(store)
    image_model = config.image_model.model_copy(update={"block": 1})
    extract_2d.run(extract_config(path, limit=4, image_model=image_model))
    assert StoreReader(path).info.settings["image_model"]["block"] == 1
    assert "block" not in StoreReader(store).info.settings["image_model"]  # nor of older stores
    early, last = (open_cache(at)["features"][:4].compute() for at in (path, store))
    assert not np.array_equal(early, last)
    assert verify.run(path, recompute=2)["ok"]
    with pytest.raises(StoreMismatchError, match=r"image_model\.block: .* expects 1"):
        extract_2d.run(extract_config(store, image_model=image_model))
    sixth = image_model.model_copy(update={"block": 6})  # the last
    assert extract_2d.run(extract_config(store, image_model=sixth))["shapes_per_s"] == 0


@pytest.mark.parametrize("after", [0, 1, 2])
def test_an_interrupted_run_ends_with_the_same_bytes(store, tmp_path, monkeypatch, after):
    path = tmp_path / "tiny.zarr"
    write_shard = StoreWriter.write_shard
    written = []

    def interrupted(self, k, values):
        if len(written) == after:
            raise KeyboardInterrupt
        written.append(k)
        write_shard(self, k, values)

    with monkeypatch.context() as patch:
        patch.setattr(StoreWriter, "write_shard", interrupted)
        with pytest.raises(KeyboardInterrupt):
            extract_2d.run(extract_config(path))
    result = extract_2d.run(extract_config(path))
    assert result["shapes"] == 20
    assert digests(path) == digests(store)


def test_the_share_of_time_in_which_shapes_are_read_is_told(tmp_path, monkeypatch, capsys):
    clocks = threading.local()  # those of the threads that encode move only here

    def now():
        if threading.current_thread() is threading.main_thread():
            return time.monotonic()
        return getattr(clocks, "seconds", 0.0)

    def taking(seconds, function):
        def slow(*arguments):
            clocks.seconds = now() + seconds
            return function(*arguments)

        return slow

    monkeypatch.setattr(extract_2d, "time", SimpleNamespace(monotonic=now))
    monkeypatch.setattr(extract_2d, "_load", taking(3, extract_2d._load))
    monkeypatch.setattr(extract_2d, "encode_batch", taking(1, extract_2d.encode_batch))
    result = extract_2d.run(extract_config(tmp_path / "x.zarr", limit=6))
    assert result["wait_share"] == 0.75
    assert "waiting 75.0%" in capsys.readouterr().err


def test_a_finished_store_is_left_alone(store):
    before = digests(store)
    assert extract_2d.run(extract_config(store))["shapes_per_s"] == 0
    assert digests(store) == before


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"points": 500}, "points"),
        ({"seed": 1}, "seed"),
        ({"views": ViewConfig(depth="nearest")}, "depth"),
        ({"views": ViewConfig(n_views=6)}, "n_views"),
        ({"store": StoreConfig(shard_size=8, dtype="float16")}, "dtype"),
        ({"store": StoreConfig(shard_size=8, int8_step=0.2)}, r"int8_step: .* has 0\.1, .*0\.2"),
        ({"limit": 19}, "n_shapes"),
    ],
)
def test_other_settings_are_refused_by_name(store, changes, named):
    with pytest.raises(StoreMismatchError, match=named):
        extract_2d.run(extract_config(store, **changes))


def test_a_source_that_has_changed_is_not_mixed_in(tmp_path, monkeypatch):
    folder, path = tmp_path / "clouds", tmp_path / "x.zarr"
    folder.mkdir()
    for index in range(3):
        np.save(folder / f"{index}.npy", np.random.default_rng(index).random((64, 3)))
    config = extract_config(path, data=folder, points=64, limit=None, split="all")
    config = config.model_copy(update={"store": StoreConfig(shard_size=1)})
    write_shard = StoreWriter.write_shard

    def interrupted(self, k, values):
        write_shard(self, k, values)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(StoreWriter, "write_shard", interrupted)
        with pytest.raises(KeyboardInterrupt):
            extract_2d.run(config)
    np.save(folder / "2.npy", np.random.default_rng(9).random((65, 3)))
    with pytest.raises(StoreMismatchError, match="source_fingerprint"):
        extract_2d.run(config)


def test_weights_that_cannot_be_had_stop_before_anything_is_written(tmp_path):
    model = TINY_IMAGE_MODEL.model_copy(update={"pretrained": str(tmp_path / "absent.pt")})
    with pytest.raises(WeightsError, match=r"absent\.pt"):
        extract_2d.run(extract_config(tmp_path / "x.zarr", image_model=model))
    assert list(tmp_path.iterdir()) == []


class TestUnusableShapes:
    @pytest.fixture
    def clouds(self, tmp_path):
        folder = tmp_path / "clouds"
        folder.mkdir()
        generator = np.random.default_rng(0)
        for index in range(6):
            np.save(folder / f"{index}.npy", generator.random((600, 3)))
        np.save(folder / "2.npy", np.full((600, 3), np.nan))
        (folder / "4.npy").write_bytes(b"no array")
        return folder

    def test_stop_before_writing_with_a_list(self, clouds, tmp_path):
        with pytest.raises(DataError, match="2 of 6 shapes cannot be used") as error:
            extract_2d.run(extract_config(tmp_path / "x.zarr", data=clouds))
        assert "2.npy" in str(error.value)
        assert "4.npy" in str(error.value)
        assert not (tmp_path / "x.zarr").exists()

    def test_skip_records_them(self, clouds, tmp_path):
        path = tmp_path / "x.zarr"
        result = extract_2d.run(extract_config(path, data=clouds, on_error="skip"))
        assert result["skipped"] == 2
        assert list(open_cache(path)["status"].compute()) == [1, 1, 2, 1, 2, 1]
        assert list(StoreReader(path).indices("all")) == [0, 1, 3, 5]


def test_stores_land_in_a_folder_under_the_name_of_the_data(tmp_path):
    assert extract_2d.store_path(tmp_path, Path("a/shapes")) == tmp_path / "shapes.zarr"
    assert extract_2d.store_path(tmp_path / "x.zarr", Path("y")) == tmp_path / "x.zarr"
