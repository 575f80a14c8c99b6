import hashlib
import re
from itertools import count
from pathlib import Path
from threading import Barrier
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from i2pmae.config import StoreConfig, ViewConfig
from i2pmae.datasets import open_source
from i2pmae.errors import DataError, StoreError, StoreMismatchError, WeightsError
from i2pmae.extraction import local
from i2pmae.extraction.encoding import encode_batch
from i2pmae.geometry.projection import view_axes
from i2pmae.geometry.transforms import normalize_to_unit_sphere
from i2pmae.image_model import load_image_model
from i2pmae.stages import extract_2d, verify
from i2pmae.store import StoreReader, lock, open_cache
from i2pmae.store.quantize import round_points
from i2pmae.store.writer import StoreWriter

from ..conftest import TINY_IMAGE_MODEL, extract_config


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


@pytest.mark.parametrize("draw", ["sum", "nearest"])
def test_cached_features_equal_those_encoded_on_the_spot(tmp_path, draw):
    path = tmp_path / "x.zarr"
    views = ViewConfig(draw=draw, sum_points=256)
    extract_2d.run(extract_config(path, views=views, limit=6))
    source = open_source("procedural", limit=6, points=512)
    clouds = torch.from_numpy(np.stack([source.load(index).points for index in range(6)]))
    points = torch.from_numpy(round_points(normalize_to_unit_sphere(clouds).numpy()))
    model = load_image_model(
        TINY_IMAGE_MODEL.name, "random", 64, "own", torch.device("cpu"), torch.float32
    )
    online = encode_batch(points, view_axes(3), model, draw, 256)
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


def test_shards_are_written_while_others_are_kept_on_the_disk(store, tmp_path, monkeypatch):
    path, both = tmp_path / "tiny.zarr", Barrier(2)
    write_shard = StoreWriter.write_shard

    def together(self, k, values):
        if k < 2:
            both.wait(timeout=60)
        write_shard(self, k, values)

    monkeypatch.setattr(StoreWriter, "write_shard", together)
    extract_2d.run(extract_config(path))
    assert digests(path) == digests(store)


@pytest.mark.parametrize("after", [0, 1, 2])
def test_an_interrupted_run_ends_with_the_same_bytes(store, tmp_path, interrupted, after):
    path, written = tmp_path / "tiny.zarr", count()
    with interrupted(StoreWriter, "write_shard", lambda _: next(written) == after):
        extract_2d.run(extract_config(path))
    result = extract_2d.run(extract_config(path))
    assert result["shapes"] == 20
    assert digests(path) == digests(store)


def test_the_share_of_time_in_which_shapes_are_waited_for_is_told(tmp_path, monkeypatch, capsys):
    clock = SimpleNamespace(seconds=0.0)  # moves only here

    def taking(seconds, generator):
        def slow(*arguments, **more):
            for item in generator(*arguments, **more):
                clock.seconds += seconds
                yield item

        return slow

    monkeypatch.setattr(local, "time", SimpleNamespace(monotonic=lambda: clock.seconds))
    monkeypatch.setattr(local, "read_pieces", taking(3, local.read_pieces))
    monkeypatch.setattr(local, "several_at_once", taking(1, local.several_at_once))
    result = extract_2d.run(extract_config(tmp_path / "x.zarr", limit=6))
    assert result["wait_share"] == 0.75
    assert "waiting 75.0%" in capsys.readouterr().err


class TestParts:
    @pytest.fixture(autouse=True)
    def one_shard_at_a_time(self, monkeypatch):
        monkeypatch.setattr(local, "WRITTEN_AT_ONCE", 1)

    @staticmethod
    def config(path, part, **changes):
        return extract_config(path, part=part, **changes)

    def test_whichever_is_last_completes_the_store(self, store, tmp_path):
        path = tmp_path / "tiny.zarr"
        found = [extract_2d.run(self.config(path, f"{n}/4")) for n in (2, 4, 1, 3)]
        assert [result["complete"] for result in found] == [False, False, False, True]
        assert [result["shapes_per_s"] > 0 for result in found] == [True, False, True, True]
        assert digests(path) == digests(store)
        assert [file.name for file in tmp_path.iterdir()] == [path.name]

    def test_a_part_counts_its_own_shapes(self, tmp_path, monkeypatch, capsys):
        path, said = tmp_path / "tiny.zarr", []
        monkeypatch.setattr(extract_2d, "remember_saved", said.append)
        extract_2d.run(self.config(path, "2/2"))  # 8 of 20 shapes: one shard of three
        assert said[0]() == f"part 2/2 of {path} holds 8 of 8 shapes"
        monkeypatch.setattr(StoreWriter, "write_shard", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            extract_2d.run(self.config(path, "1/2"))
        assert said[1]() == f"part 1/2 of {path} holds 0 of 12 shapes"
        assert "continuing" not in capsys.readouterr().err

    def test_parts_write_at_the_same_time(self, store, tmp_path, monkeypatch):
        path = tmp_path / "tiny.zarr"
        write_shard = StoreWriter.write_shard
        written = []

        def meanwhile(self, k, values):
            written.append(k)
            if written == [0]:
                assert not extract_2d.run(TestParts.config(path, "2/2"))["complete"]
            write_shard(self, k, values)

        monkeypatch.setattr(StoreWriter, "write_shard", meanwhile)
        assert extract_2d.run(self.config(path, "1/2"))["complete"]
        assert written == [0, 1, 2]
        assert digests(path) == digests(store)

    def test_a_killed_part_continues_and_a_last_call_completes(self, store, tmp_path, monkeypatch):
        path = tmp_path / "tiny.zarr"
        with monkeypatch.context() as patch:
            patch.setattr(StoreWriter, "_write_files", lambda *_: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                extract_2d.run(self.config(path, "1/2"))
        (path / "features" / "0123.partial").write_bytes(b"of a killed process")
        assert not extract_2d.run(self.config(path, "1/2"))["complete"]
        assert extract_2d.run(self.config(path, None))["complete"]
        assert digests(path) == digests(store)
        assert extract_2d.run(self.config(path, "2/2"))["complete"]

    @pytest.mark.parametrize("second", [None, "1/2", "3/3"])
    def test_only_other_parts_of_the_same_division_may_write(self, tmp_path, second, monkeypatch):
        path = tmp_path / "tiny.zarr"
        write_shard = StoreWriter.write_shard

        def meanwhile(self, k, values):
            with pytest.raises(StoreError, match="is being written by process"):
                extract_2d.run(TestParts.config(path, second))
            write_shard(self, k, values)

        monkeypatch.setattr(StoreWriter, "write_shard", meanwhile)
        monkeypatch.setattr(lock, "PATIENCE", 0.2)
        extract_2d.run(self.config(path, "1/2"))

    def test_a_part_waits_for_no_whole_run(self, tmp_path, monkeypatch):
        path = tmp_path / "tiny.zarr"
        write_shard = StoreWriter.write_shard

        def meanwhile(self, k, values):
            with pytest.raises(StoreError, match="is being written by process"):
                extract_2d.run(TestParts.config(path, "1/2"))
            write_shard(self, k, values)

        monkeypatch.setattr(StoreWriter, "write_shard", meanwhile)
        monkeypatch.setattr(lock, "PATIENCE", 0.2)
        extract_2d.run(self.config(path, None))

    @pytest.mark.parametrize("part", ["0/2", "3/2", "1", "1/0", "a/b", "-1/2", "1/2/3"])
    def test_other_words_are_refused(self, tmp_path, part):
        with pytest.raises(ValidationError, match="1/16"):
            self.config(tmp_path, part)


def test_a_finished_store_is_left_alone(store, capsys):
    before = digests(store)
    assert extract_2d.run(extract_config(store))["shapes_per_s"] == 0
    assert digests(store) == before
    *_, caution, last = capsys.readouterr().err.splitlines()
    assert "fewer than 500 shapes to train on: the shipped encoder is probably better" in caution
    assert "fewer than 3,000 shapes): i2pmae pretrain --recipe pretrain-small --cache " in last
    assert last.endswith("--points 512")


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"points": 500}, "points"),
        ({"seed": 1}, "seed"),
        ({"views": ViewConfig(draw="nearest")}, "draw"),
        ({"views": ViewConfig(n_views=6)}, "n_views"),
        ({"store": StoreConfig(shard_size=8, dtype="float16")}, "dtype"),
        ({"store": StoreConfig(shard_size=8, int8_step=0.2)}, r"int8_step: .* has 0\.1, .*0\.2"),
        ({"limit": 19}, "limit: the store has 20, this command expects 19"),
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
    monkeypatch.setattr(local, "WRITTEN_AT_ONCE", 1)
    write_shard = StoreWriter.write_shard

    def interrupted(self, k, values):
        write_shard(self, k, values)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(StoreWriter, "write_shard", interrupted)
        with pytest.raises(KeyboardInterrupt):
            extract_2d.run(config)
    extracted = (folder / "0.npy").read_bytes()
    np.save(folder / "0.npy", np.random.default_rng(9).random((65, 3)))
    with pytest.raises(DataError, match=r"1 shapes in .* are not those .*\(0\)"):
        extract_2d.run(config)
    (folder / "0.npy").write_bytes(extracted)
    np.save(folder / "2.npy", np.random.default_rng(9).random((65, 3)))  # not extracted yet
    assert extract_2d.run(config)["shapes"] == 3
    assert verify.run(path, recompute=3, data=folder)["ok"]


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

    def test_what_headers_tell_stops_before_writing(self, clouds, tmp_path):
        (clouds / "5.npy").write_bytes(b"")
        with pytest.raises(DataError, match="2 of 6 shapes cannot be used") as error:
            extract_2d.run(extract_config(tmp_path / "x.zarr", data=clouds))
        assert "4.npy" in str(error.value)
        assert "5.npy is empty" in str(error.value)
        assert not (tmp_path / "x.zarr").exists()

    def test_what_reading_tells_stops_before_its_shard(self, clouds, tmp_path):
        (clouds / "4.npy").unlink()
        path, one_each = tmp_path / "x.zarr", StoreConfig(shard_size=1)
        with pytest.raises(DataError, match=r"2\.npy.* shapes written so far are kept"):
            extract_2d.run(extract_config(path, data=clouds, store=one_each))
        assert sorted(file.name for file in path.glob("status/c/*")) == ["0", "1"]

    def test_skip_records_them(self, clouds, tmp_path, capsys):
        path = tmp_path / "x.zarr"
        result = extract_2d.run(extract_config(path, data=clouds, on_error="skip"))
        assert re.search(r"x\.zarr: 4 shapes of \d+ points, 2 skipped, ", capsys.readouterr().err)
        assert result["skipped"] == 2
        assert list(open_cache(path)["status"].compute()) == [1, 1, 2, 1, 2, 1]
        assert list(StoreReader(path).indices("all")) == [0, 1, 3, 5]


def test_stores_land_in_a_folder_under_the_name_of_the_data(tmp_path):
    assert extract_2d.store_path(tmp_path, Path("a/shapes")) == tmp_path / "shapes.zarr"
    assert extract_2d.store_path(tmp_path, Path("b/c/..")) == tmp_path / "b.zarr"
    assert extract_2d.store_path(tmp_path / "x.zarr", Path("y")) == tmp_path / "x.zarr"
    named = tmp_path / "procedural-random-9.zarr"
    assert extract_2d.store_path(tmp_path, Path("procedural-random:9")) == named


def test_the_axis_that_points_up_is_recorded_and_turned(tmp_path):
    points = np.random.default_rng(0).random((300, 3)) * (1, 2, 3)
    (tmp_path / "data").mkdir()
    np.save(tmp_path / "data" / "a.npy", points)
    stores = {}
    for up in ("y", "z"):
        config = extract_config(tmp_path / f"{up}.zarr", data=tmp_path / "data", limit=None, up=up)
        extract_2d.run(config)
        stores[up] = StoreReader(tmp_path / f"{up}.zarr")
    lies, stands = (stores[up].read([0], ["points"])["points"][0] for up in ("y", "z"))
    np.testing.assert_allclose(stands, lies[:, [0, 2, 1]] * (1, 1, -1), atol=1e-3)
    assert stores["z"].info.settings["up"] == "z"
    assert "up" not in stores["y"].info.settings  # as in stores made before there was a choice
    assert verify.run(tmp_path / "z.zarr", recompute=1, data=tmp_path / "data")["ok"]
    with pytest.raises(StoreMismatchError, match="up"):
        extract_2d.run(config.model_copy(update={"up": "y"}))
