import time
from dataclasses import replace

import numpy as np
import pytest
import zarr

from i2pmae.errors import StoreError
from i2pmae.store.reader import StoreReader, epoch_order
from i2pmae.store.schema import arrays

from ..conftest import USUAL_ARRAYS

PER_SHAPE = [array.name for array in USUAL_ARRAYS if array.layout != "store"]
STRINGS = ("id", "split")
NUMBERS = [name for name in PER_SHAPE if name not in STRINGS]
DONE_SHAPES = [0, 1, 2, 3, 4, 6, 7, 8, 9]  # 5 is skipped
GOLDEN = [3, 2, 1, 6, 0, 7, 4, 5]


def read_everything(path):
    reader = StoreReader(path)
    for name in ("view_axes", *STRINGS):
        reader.read_all(name)
    return reader.read(reader.indices(), NUMBERS)


def flip(file, position, bit=0):
    content = bytearray(file.read_bytes())
    content[position] ^= 1 << bit
    file.write_bytes(content)


def test_shapes_come_in_the_order_asked_for(store, written):
    chosen = [9, 0, 4, 4, 3]
    batch = StoreReader(store).read(chosen, NUMBERS)
    for name in NUMBERS:
        np.testing.assert_array_equal(batch[name], written[name][chosen])
        assert batch[name].dtype == written[name].dtype


@pytest.mark.parametrize("resident_bytes", [0, 300, 1 << 20])
def test_memory_for_small_arrays_changes_no_values(store, written, resident_bytes):
    reader = StoreReader(store, resident_bytes=resident_bytes)
    for _ in range(2):  # the second time from memory
        for chosen in ([9], [2, 8, 1], list(range(10))):
            for name, values in reader.read(chosen, NUMBERS).items():
                np.testing.assert_array_equal(values, written[name][chosen])


def test_memory_for_small_arrays_spares_the_disk(store, spec, written):
    reader = StoreReader(store)
    reader.read([0], ["label"])
    (store / arrays(spec)["label"].key(0)).unlink()
    np.testing.assert_array_equal(reader.read([1], ["label"])["label"], written["label"][1:2])


def test_a_step_reads_what_it_consumes(store, tmp_path, spec, write_store):
    expected = [
        "points",
        "saliency",
        "features",
        "feature_scale",
        "pixel_origin",
        "pixel_size",
        "pixel_shift",
    ]
    assert list(StoreReader(store).read([0])) == expected
    floats = write_store(tmp_path / "floats.zarr", replace(spec, dtype="float16", parts=False))
    assert list(StoreReader(floats).read([0])) == [
        name for name in expected if name != "feature_scale"
    ]


def test_given_arrays_are_filled(store, written):
    out = {"points": np.empty((2, 16, 3), np.float32), "label": np.empty(2, np.int64)}
    batch = StoreReader(store).read([3, 7], ["points", "label"], out)
    for name, array in out.items():
        assert batch[name] is array
        np.testing.assert_array_equal(array, written[name][[3, 7]])


@pytest.mark.parametrize("wrong", [np.empty((3, 16, 3), np.float32), np.empty((2, 16, 3))])
def test_given_arrays_must_fit(store, wrong):
    with pytest.raises(ValueError, match="points must be float32"):
        StoreReader(store).read([3, 7], ["points"], {"points": wrong})


def test_zarr_reads_the_same(store):
    group = zarr.open_group(store, mode="r")
    batch = StoreReader(store).read(range(10), NUMBERS)
    for name in NUMBERS:
        np.testing.assert_array_equal(batch[name], group[name][...])


def test_whole_arrays(store, written):
    reader = StoreReader(store)
    for name in ("id", "split", "label", "status"):
        np.testing.assert_array_equal(reader.read_all(name), written[name])
    assert reader.view_axes.shape == (3, 3, 3)


def test_facts(store):
    reader = StoreReader(store)
    facts = (reader.n_points, reader.n_views, reader.image_size, reader.channels, len(reader))
    assert facts == (16, 3, 12, 8, 10)
    assert reader.class_names == ("chair", "table")
    assert reader.provenance["seed"] == 0
    assert reader.provenance["numpy"] == "2"


def test_splits_leave_out_skipped_shapes(store):
    reader = StoreReader(store)
    assert reader.indices("train").tolist() == [0, 1, 2, 3, 4, 6, 7]
    assert reader.indices("test").tolist() == [8, 9]
    assert reader.indices("all").tolist() == DONE_SHAPES
    with pytest.raises(StoreError, match="no shapes of split 'validation'"):
        reader.indices("validation")


def test_a_store_of_one_split_lists_its_shapes_without_reading(tmp_path, spec, open_, values_of):
    path = tmp_path / "new.zarr"
    with open_(path, spec) as writer:
        for k in writer.pending:
            done = np.ones(spec.shard(k).stop - spec.shard(k).start, np.uint8)
            values = {**values_of(spec, k), "status": done, "split": np.full(len(done), "test")}
            writer.write_shard(k, values)
        writer.finish()
    for name in ("status", "split"):
        for k in range(3):
            (path / arrays(spec)[name].key(k)).unlink()
    reader = StoreReader(path)
    for split in ("test", "all"):
        assert reader.indices(split).tolist() == list(range(10))
    with pytest.raises(StoreError, match="status is damaged"):
        reader.indices("train")


def test_a_source_without_splits_is_for_training(tmp_path, spec, open_, values_of):
    with open_(tmp_path / "new.zarr", spec) as writer:
        for k in writer.pending:
            values = values_of(spec, k)
            writer.write_shard(k, {**values, "split": np.full(len(values["id"]), "")})
        writer.finish()
    reader = StoreReader(tmp_path / "new.zarr")
    assert reader.indices("train").tolist() == DONE_SHAPES
    with pytest.raises(StoreError, match="'test'"):
        reader.indices("test")


def test_an_epoch_has_every_shape_once(store, written):
    reader = StoreReader(store)
    batches = list(reader.batches(4, seed=0, epoch=0, drop_last=False))
    assert [len(batch["index"]) for batch in batches] == [4, 4, 1]
    assert sorted(np.concatenate([batch["index"] for batch in batches])) == DONE_SHAPES
    for batch in batches:
        np.testing.assert_array_equal(batch["points"], written["points"][batch["index"]])
        np.testing.assert_array_equal(batch["features"], written["features"][batch["index"]])
    assert len(list(reader.batches(4, seed=0, epoch=0))) == 2


@pytest.mark.parametrize("n_parts", [1, 2, 4])
@pytest.mark.parametrize("mixed_shards", [None, 1])
def test_parts_make_up_the_same_batches(store, n_parts, mixed_shards):
    given = {"seed": 0, "epoch": 3, "mixed_shards": mixed_shards}
    parts = [
        StoreReader(store).batches(4, part=(index, n_parts), **given) for index in range(n_parts)
    ]
    for whole, *shares in zip(StoreReader(store).batches(4, **given), *parts, strict=True):
        for name, values in whole.items():
            np.testing.assert_array_equal(np.concatenate([one[name] for one in shares]), values)


def test_a_batch_that_has_no_equal_parts_is_refused(store):
    with pytest.raises(ValueError, match="no 3 equal parts"):
        next(StoreReader(store).batches(4, seed=0, epoch=0, part=(0, 3)))


@pytest.mark.parametrize("prefetch", [0, 1, 5])
def test_an_epoch_can_be_resumed_at_any_batch(store, prefetch):
    reader = StoreReader(store)
    given = {"seed": 3, "epoch": 7, "indices": np.arange(10), "prefetch": prefetch}
    whole = [batch["index"].tolist() for batch in reader.batches(3, **given)]
    for start in range(4):
        rest = reader.batches(3, start=start, **given)
        assert [batch["index"].tolist() for batch in rest] == whole[start:]


def test_an_epoch_can_be_left(store):
    reader = StoreReader(store)
    for _ in reader.batches(2, seed=0, epoch=0):
        break
    assert len(reader.read([0])["points"]) == 1


def test_waiting_is_counted(store):
    reader = StoreReader(store)
    assert reader.wait_seconds == 0
    begin = time.perf_counter()
    list(reader.batches(2, seed=0, epoch=0))
    assert 0 < reader.wait_seconds < time.perf_counter() - begin


def test_a_slow_consumer_does_not_wait(tmp_path, spec, write_store):
    large = replace(spec, n_shapes=64, n_points=20000, shard_size=16, parts=False)
    reader = StoreReader(write_store(tmp_path / "large.zarr", large))

    def waited(seconds):
        reader.wait_seconds = 0.0
        for _ in reader.batches(4, seed=0, epoch=0, names=["points"]):
            time.sleep(seconds)
        return reader.wait_seconds

    assert any(waited(0.02) < max(waited(0), 0.01) for _ in range(5))  # other programs run, too


def test_threads_and_cache_change_no_values(store, written):
    reader = StoreReader(store, threads=1, cache_bytes=1 << 20)
    for _ in range(2):
        batch = reader.read([1, 9])
        np.testing.assert_array_equal(batch["features"], written["features"][[1, 9]])


def test_a_url_is_read_like_a_folder(store, written):
    reader = StoreReader(f"file://{store}")
    np.testing.assert_array_equal(reader.read([2])["points"], written["points"][[2]])
    np.testing.assert_array_equal(reader.read_all("id"), written["id"])


def test_a_path_with_special_characters(tmp_path, spec, write_store, written):
    path = write_store(tmp_path / "my shapes #1 100%?.zarr", spec)
    np.testing.assert_array_equal(StoreReader(path).read([2])["points"], written["points"][[2]])


def test_relative_paths(store, written, monkeypatch):
    monkeypatch.chdir(store.parent)
    reader = StoreReader(store.name)
    monkeypatch.chdir("/")
    np.testing.assert_array_equal(reader.read([2])["points"], written["points"][[2]])


# Order


def test_the_order_is_fixed_for_good():
    assert epoch_order(np.arange(8), 0, 0).tolist() == GOLDEN
    assert epoch_order(np.arange(8) + 100, 0, 0).tolist() == [100 + i for i in GOLDEN]


def test_the_order_depends_on_seed_and_epoch():
    orders = {
        tuple(epoch_order(np.arange(50), seed, epoch)) for seed in range(4) for epoch in range(4)
    }
    assert len(orders) == 16


@pytest.mark.parametrize("mixed_shards", [None, 2, 5])
def test_every_shape_is_as_likely_at_every_place(mixed_shards):
    n, n_epochs = 20, 4000
    counts = np.zeros((n, n))
    for epoch in range(n_epochs):
        order = epoch_order(np.arange(n), 1, epoch, shard_size=2, mixed_shards=mixed_shards)
        counts[np.arange(n), order] += 1
    expected = n_epochs / n
    chi_square = ((counts - expected) ** 2 / expected).sum()
    degrees = (n - 1) ** 2
    assert abs(chi_square - degrees) < 5 * np.sqrt(2 * degrees)


@pytest.mark.parametrize("mixed_shards", [1, 3, 100])
def test_mixed_shards_are_read_together(mixed_shards):
    indices = np.setdiff1d(np.arange(95), [3, 50, 51])  # uneven shards of up to 10
    order = epoch_order(indices, 0, 0, shard_size=10, mixed_shards=mixed_shards)
    assert sorted(order) == indices.tolist()
    shards = order // 10
    first = {shard: np.flatnonzero(shards == shard).min() for shard in range(10)}
    last = {shard: np.flatnonzero(shards == shard).max() for shard in range(10)}
    under_way = [
        sum(first[shard] <= place <= last[shard] for shard in range(10))
        for place in range(len(order))
    ]
    assert max(under_way) == min(mixed_shards, 10)


def test_mixed_shards_are_mixed():
    order = epoch_order(np.arange(100), 0, 0, shard_size=10, mixed_shards=5)
    assert len(set(order[:20] // 10)) > 2


# Damage


@pytest.mark.parametrize("name", [*PER_SHAPE, "view_axes"])
def test_a_flipped_bit_anywhere_is_detected(store, spec, name):
    file = store / arrays(spec)[name].key(0)
    size = file.stat().st_size
    positions = np.unique(np.linspace(0, size - 1, 12).astype(int))  # data, index and checksums
    for position in positions.tolist():
        flip(file, position, bit=position % 8)
        with pytest.raises(StoreError, match=rf"{name} is damaged"):
            read_everything(store)
        flip(file, position, bit=position % 8)
    read_everything(store)


@pytest.mark.parametrize("name", ["points", "features", "feature_scale", "saliency"])
def test_a_damaged_chunk_is_named_with_its_shape(store, spec, name):
    flip(store / arrays(spec)[name].key(1), 3)  # chunks lie in order: the shard's first shape
    reader = StoreReader(store)
    with pytest.raises(StoreError, match=rf"{name} is damaged \(shape 4, shard 1") as raised:
        reader.read([0, 9, 4, 6])
    assert "\n" not in str(raised.value)
    assert len(reader.read([0, 9, 6])["points"]) == 3


@pytest.mark.parametrize("name", PER_SHAPE)
def test_a_missing_file_is_no_shard_of_zeros(store, spec, name):
    (store / arrays(spec)[name].key(2)).unlink()
    with pytest.raises(StoreError, match=rf"{name} is damaged"):
        read_everything(store)


@pytest.mark.parametrize("name", PER_SHAPE)
@pytest.mark.parametrize("length", [0, 5, -1])
def test_a_truncated_file_is_detected(store, spec, name, length):
    file = store / arrays(spec)[name].key(1)
    file.write_bytes(file.read_bytes()[:length])
    with pytest.raises(StoreError, match=rf"{name} is damaged"):
        read_everything(store)


def test_damage_ends_the_batches(store, spec):
    (store / arrays(spec)["features"].key(2)).unlink()
    with pytest.raises(StoreError, match="features is damaged"):
        list(StoreReader(store).batches(2, seed=0, epoch=0))


def test_an_unfinished_store_is_not_trained_on(tmp_path, spec, open_, values_of):
    with open_(tmp_path / "new.zarr", spec) as writer:
        writer.write_shard(0, values_of(spec, 0))
    with pytest.raises(StoreError, match="not complete"):
        StoreReader(tmp_path / "new.zarr")


def test_no_store(tmp_path):
    with pytest.raises(StoreError, match=r"does not exist.*extract-2d"):
        StoreReader(tmp_path / "none.zarr")
    with pytest.raises(StoreError, match=r"no zarr\.json"):
        StoreReader(tmp_path)
