import os
import shutil
import subprocess
import sys
import time
from bisect import bisect_left
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import zarr

from i2pmae.errors import StoreError, StoreMismatchError
from i2pmae.store import writer
from i2pmae.store.location import Location
from i2pmae.store.metadata import load_info
from i2pmae.store.quantize import encode
from i2pmae.store.schema import DONE, SKIPPED, StoreSpec, arrays
from i2pmae.store.writer import StoreWriter

from ..conftest import USUAL_ARRAYS

NAMES = [array.name for array in USUAL_ARRAYS]
PER_SHAPE = [array.name for array in USUAL_ARRAYS if array.layout != "store"]


class CrashError(Exception):
    """Stands for whatever ends a run."""


def contents(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_what_is_written_is_read_by_zarr(store, written, spec):
    group = zarr.open_group(store, mode="r")
    assert set(group.array_keys()) == set(NAMES)
    for name, values in written.items():
        np.testing.assert_array_equal(group[name][...], values)
        assert group[name].metadata.dimension_names == arrays(spec)[name].dimensions
    assert group["view_axes"].shape == (3, 3, 3)
    assert group.attrs["complete"] is True
    assert not list(store.parent.glob("*.lock*"))


def test_files_are_those_that_zarr_would_write(store, written, spec, tmp_path):
    again = Path(shutil.copytree(store, tmp_path / "again.zarr"))
    for name in PER_SHAPE:
        shutil.rmtree(again / name / "c")
    group = zarr.open_group(again, mode="r+")
    for name in PER_SHAPE:
        array = group[name].with_config({"write_empty_chunks": True})
        for k in range(spec.n_shards):
            array[spec.shard(k)] = written[name][spec.shard(k)]
    assert contents(again) == contents(store)


def test_threads_may_write_different_shards(tmp_path, spec, open_, monkeypatch, values_of):
    def find_slowly(shards, k):
        time.sleep(0.002)
        return bisect_left(shards, k)

    monkeypatch.setattr(StoreWriter, "_write_files", lambda *_: None)
    monkeypatch.setattr(writer, "bisect_left", find_slowly)
    spec = replace(spec, n_shapes=40 * spec.shard_size)
    with open_(tmp_path / "x.zarr", spec) as opened, ThreadPoolExecutor(8) as pool:
        values, expected = values_of(spec, 0), opened.pending[1::2]
        list(pool.map(lambda k: opened.write_shard(k, values), range(0, 40, 2)))
        assert opened.pending == expected


def test_no_foreign_files(store):
    assert {path.name for path in store.iterdir()} == {"zarr.json", *NAMES}


def test_metadata_is_consolidated(store):
    group = zarr.open_group(store, mode="r", use_consolidated=True)
    assert set(group.metadata.consolidated_metadata.metadata) == set(NAMES)


def test_all_zero_shapes_are_stored_too(tmp_path, spec, open_, values_of):
    values = {
        name: np.zeros_like(value) if value.dtype.kind in "iuf" else value
        for name, value in values_of(spec, 2).items()
    }
    values["status"] = np.full(2, DONE, np.uint8)
    with open_(tmp_path / "zeros.zarr", spec) as writer:
        writer.write_shard(2, values)
    for name in PER_SHAPE:
        assert (tmp_path / "zeros.zarr" / arrays(spec)[name].key(2)).exists()


def test_two_runs_give_the_same_bytes(tmp_path, spec, store, write_store):
    again = write_store(tmp_path / "deeper" / "folder" / "again.zarr", spec)
    assert contents(again) == contents(store)


@pytest.mark.parametrize("name", PER_SHAPE)
def test_a_run_cut_between_arrays_continues_to_the_same_bytes(
    tmp_path, spec, store, open_, write_store, monkeypatch, name
):
    cut = tmp_path / "cut.zarr"
    write = StoreWriter._write

    def crash(self, array, rows, values):
        if array == name and rows.start == 4:
            raise CrashError
        write(self, array, rows, values)

    with monkeypatch.context() as patch:
        patch.setattr(StoreWriter, "_write", crash)
        with pytest.raises(CrashError):
            write_store(cut, spec)
    with open_(cut, spec) as writer:
        assert writer.pending == [1, 2]
    assert contents(write_store(cut, spec)) == contents(store)


@pytest.mark.parametrize("n_created", range(len(NAMES) + 1))
def test_a_run_cut_during_creation_continues_to_the_same_bytes(
    tmp_path, spec, store, open_, write_store, monkeypatch, n_created
):
    cut = tmp_path / "cut.zarr"
    create = zarr.create_array
    created = []

    def crash(*args, **kwargs):
        if len(created) == n_created:
            raise CrashError
        created.append(kwargs["name"])
        return create(*args, **kwargs)

    def crash_at_the_end(*_):
        raise CrashError

    with monkeypatch.context() as patch:
        patch.setattr(zarr, "create_array", crash)
        patch.setattr("i2pmae.store.creation._consolidate", crash_at_the_end)
        with pytest.raises(CrashError):
            open_(cut, spec)
    assert contents(write_store(cut, spec)) == contents(store)


def test_leftovers_of_killed_writes_are_replaced_and_removed(
    tmp_path, spec, store, open_, values_of, write_store
):
    cut = tmp_path / "cut.zarr"
    with open_(cut, spec) as writer:
        writer.write_shard(0, values_of(spec, 0))
        writer.write_shard(1, values_of(spec, 1))
    for name in PER_SHAPE:
        file = cut / arrays(spec)[name].key(1)
        file.write_bytes(file.read_bytes()[:-3])  # half a file
        file.with_name("0.0123.partial").write_bytes(b"half")
    (cut / arrays(spec)["status"].key(1)).unlink()
    assert contents(write_store(cut, spec)) == contents(store)


def test_a_killed_process_leaves_a_store_that_continues(tmp_path, spec, store, write_store):
    cut = tmp_path / "cut.zarr"
    code = (
        "import os, sys\n"
        "sys.path.insert(0, sys.argv[3])\n"
        "import conftest, ast\n"
        "from pathlib import Path\n"
        "from i2pmae.store.schema import StoreSpec\n"
        "from i2pmae.store.writer import StoreWriter\n"
        "spec = StoreSpec.from_json(ast.literal_eval(sys.argv[2]))\n"
        "values_of = conftest.values_of.__wrapped__()\n"
        "open_ = conftest.open_.__wrapped__()\n"
        "write = StoreWriter._write\n"
        "def kill(self, name, rows, values):\n"
        "    write(self, name, rows, values)\n"
        "    if name == 'features' and rows.start == 4:\n"
        "        os.kill(os.getpid(), 9)\n"
        "StoreWriter._write = kill\n"
        "writer = open_(Path(sys.argv[1]), spec)\n"
        "for k in writer.pending:\n"
        "    writer.write_shard(k, values_of(spec, k))\n"
    )
    here = str(Path(__file__).parent)
    run = [sys.executable, "-c", code, str(cut), repr(spec.to_json()), here]
    assert subprocess.run(run, check=False).returncode == -9
    assert cut.with_name("cut.zarr.lock").exists()
    assert contents(write_store(cut, spec)) == contents(store)
    assert not cut.with_name("cut.zarr.lock").exists()


def test_finish_refuses_an_unfinished_store(tmp_path, spec, open_):
    with (
        open_(tmp_path / "new.zarr", spec) as writer,
        pytest.raises(StoreError, match="lacks 3 of 3 shards"),
    ):
        writer.finish()
    assert not load_info(Location.of(tmp_path / "new.zarr")).complete


def test_a_finished_store_is_left_alone(store, spec, open_):
    before = {path: path.stat().st_mtime_ns for path in store.rglob("*")}
    with open_(store, spec) as first, open_(store, spec) as second:  # neither needs the lock
        assert first.pending == second.pending == []
        second.finish()
    assert {path: path.stat().st_mtime_ns for path in store.rglob("*")} == before


def test_a_shard_without_status_is_written_anew(store, spec, write_store):
    before = contents(store)
    (store / arrays(spec)["status"].key(1)).unlink()
    (store / arrays(spec)["features"].key(1)).unlink()
    assert contents(write_store(store, spec)) == before


def test_a_store_whose_shard_is_being_replaced_is_not_complete(store, spec, open_, values_of):
    (store / arrays(spec)["status"].key(1)).unlink()
    values = values_of(spec, 1)
    with open_(store, spec) as writer:
        assert load_info(Location.of(store)).counts["train"] == {"done": 7, "skipped": 1}
        writer.write_shard(1, {**values, "status": np.full(4, SKIPPED, np.uint8)})
        assert not load_info(Location.of(store)).complete
        writer.finish()
    info = load_info(Location.of(store))
    assert info.complete
    assert info.counts == {
        "test": {"done": 2, "skipped": 0},
        "train": {"done": 4, "skipped": 4},
    }


def test_a_damaged_status_counts_as_none(store, spec, open_):
    (store / arrays(spec)["status"].key(1)).write_bytes(b"damaged")
    with open_(store, spec) as writer:
        assert writer.pending == [1]


@pytest.mark.parametrize(("step", "goes_on"), [(0.1, True), (0.3, False)])
def test_a_store_that_says_no_rounding_step_has_the_usual_one(store, spec, open_, step, goes_on):
    settings = {"image_model": {"name": "tiny", "size": [12, 12]}, "seed": 0, "int8_step": step}
    if goes_on:
        open_(store, spec, settings=settings).close()
        return
    with pytest.raises(StoreMismatchError, match=r"int8_step: the store has 0\.1, .*expects 0\.3"):
        open_(store, spec, settings=settings)


def test_every_difference_is_named(store, spec, open_):
    other = replace(spec, n_shapes=12, dtype="float16")
    settings = {"image_model": {"name": "large", "size": [12, 12]}, "depth": "sum"}
    before = contents(store)
    with pytest.raises(StoreMismatchError) as raised:
        open_(store, other, settings=settings, class_names=("chair",))
    message = str(raised.value)
    assert "\n" not in message
    for difference in (
        "n_shapes: the store has 10, this command expects 12",
        "dtype: the store has int8, this command expects float16",
        "image_model.name: the store has tiny, this command expects large",
        "seed: the store has 0, this command expects nothing",
        "depth: the store has nothing, this command expects sum",
        "class_names: the store has ['chair', 'table'], this command expects ['chair']",
    ):
        assert difference in message
    assert "size" not in message.replace("sizes", "")
    assert contents(store) == before


def test_an_unfinished_store_of_other_settings_is_refused_too(tmp_path, spec, open_):
    open_(tmp_path / "new.zarr", spec).close()
    with pytest.raises(StoreMismatchError, match="seed"):
        open_(tmp_path / "new.zarr", spec, settings={"image_model": {"name": "tiny"}, "seed": 1})


def test_provenance_is_not_compared(store, spec, open_):
    with open_(store, spec, provenance={"numpy": "3"}) as writer:
        assert writer.info.provenance == {"numpy": "2"}


def test_tuples_equal_the_lists_they_are_stored_as(tmp_path, spec, open_):
    for _ in range(2):
        open_(tmp_path / "new.zarr", spec, settings={"size": (1, 2)}).close()


def test_a_second_writer_is_refused(tmp_path, spec, open_):
    with (
        open_(tmp_path / "new.zarr", spec),
        pytest.raises(StoreError, match=f"process {os.getpid()}"),
    ):
        open_(tmp_path / "new.zarr", spec)
    open_(tmp_path / "new.zarr", spec).close()


def test_a_writer_whose_lock_is_anothers_writes_no_more(tmp_path, spec, open_, values_of):
    path = tmp_path / "shapes.zarr"
    lock = tmp_path / "shapes.zarr.lock"
    with open_(path, spec) as writer:
        writer.write_shard(0, values_of(spec, 0))
        lock.write_text('{"host": "elsewhere", "pid": 1, "started": ""}')
        with pytest.raises(StoreError, match="taken over"):
            writer.write_shard(1, values_of(spec, 1))
        assert writer.pending == [1, 2]
    assert lock.exists()


def test_a_folder_of_other_files_is_refused(tmp_path, spec, open_):
    folder = tmp_path / "thesis"
    folder.mkdir()
    (folder / "chapter.tex").write_text("years of work")
    with pytest.raises(StoreError, match=r"chapter\.tex"):
        open_(folder, spec)
    assert (folder / "chapter.tex").read_text() == "years of work"
    assert not list(tmp_path.glob("*.lock*"))


def test_a_store_that_lost_its_metadata_is_not_made_anew(store, spec, open_):
    (store / "zarr.json").unlink()
    before = contents(store)
    with pytest.raises(StoreError, match=r"restore its zarr\.json from a copy"):
        open_(store, spec)
    assert contents(store) == before


def test_somebody_elses_arrays_of_the_same_names_are_refused(tmp_path, spec, open_):
    path = tmp_path / "mine.zarr"
    zarr.create_array(path, name="points", data=np.arange(6))
    before = contents(path)
    with pytest.raises(StoreError, match="points/c/0"):
        open_(path, spec)
    assert contents(path) == before


@pytest.mark.parametrize("name", ["link", "points", "nowhere", "empty/", "download.partial"])
def test_links_folders_and_downloads_are_somebodys(tmp_path, spec, open_, name):
    path = tmp_path / "mine.zarr"
    (path / "label").mkdir(parents=True)
    (tmp_path / "data").mkdir()
    if name.endswith("/"):
        (path / name).mkdir()
    elif name.endswith(".partial"):
        (path / name).touch()
    else:
        (path / name).symlink_to(tmp_path / ("data" if name != "nowhere" else "gone"))
    with pytest.raises(StoreError, match=name):
        open_(path, spec)
    assert (path / name).is_symlink() or (path / name).exists()


def test_half_written_metadata_of_a_killed_creation_is_replaced(tmp_path, spec, store, write_store):
    path = tmp_path / "cut.zarr"
    (path / "points").mkdir(parents=True)
    (path / "points" / "zarr.0a1b.partial").write_text("half")
    assert contents(write_store(path, spec)) == contents(store)


def test_a_file_where_the_store_should_be_is_refused(tmp_path, spec, open_):
    (tmp_path / "taken").write_text("a file")
    for path in (tmp_path / "taken", tmp_path / "taken" / "deeper.zarr"):
        with pytest.raises(StoreError, match="taken"):
            open_(path, spec)


def test_another_zarr_hierarchy_is_refused(tmp_path, spec, open_):
    zarr.create_group(tmp_path / "other.zarr", attributes={"mine": 1})
    with pytest.raises(StoreError, match="not a store of i2pmae"):
        open_(tmp_path / "other.zarr", spec)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("points", np.zeros((4, 15, 3), np.float32)),
        ("points", np.zeros((4, 16, 3), np.float64)),
        ("features", np.zeros((4, 3, 2, 3, 8), np.float32)),
        ("status", np.zeros(4, np.uint8)),
        ("label", np.full(4, 2)),
        ("label", np.full(4, -2)),
        ("surprise", np.zeros(4)),
    ],
)
def test_values_that_do_not_fit_are_refused(tmp_path, spec, open_, values_of, name, value):
    with open_(tmp_path / "new.zarr", spec) as writer:
        with pytest.raises(ValueError, match=name):
            writer.write_shard(0, {**values_of(spec, 0), name: value})
        assert writer.pending == [0, 1, 2]


@pytest.fixture
def small_disk(tmp_path):
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(folder)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("cannot mount a small file system here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_is_one_line_and_leaves_a_store_that_continues(
    small_disk, spec, store, open_, values_of, write_store
):
    path = small_disk / "shapes.zarr"
    filler = small_disk / "filler"
    with open_(path, spec) as writer:
        writer.write_shard(0, values_of(spec, 0))
        free = os.statvfs(small_disk)
        filler.write_bytes(bytes((free.f_bavail - 2) * free.f_frsize))
        with pytest.raises(StoreError, match=r"cannot write shard 1 .* the disk is full"):
            writer.write_shard(1, values_of(spec, 1))
    filler.unlink()
    assert contents(write_store(path, spec)) == contents(store)


def test_a_read_only_disk_is_one_line(small_disk, spec, open_, store):
    subprocess.run(["cp", "-r", str(store), str(small_disk)], check=True)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(StoreError, match="the file system is read-only"):
        open_(small_disk / "new.zarr", spec)
    with open_(small_disk / store.name, spec) as writer:  # finished: nothing to write
        assert writer.pending == []


def test_a_file_url_is_a_folder(tmp_path, spec, store, write_store):
    write_store(f"file://{tmp_path}/by%20url.zarr", spec)
    assert contents(tmp_path / "by url.zarr") == contents(store)


def test_stored_features_are_a_sixth_of_dense_float32(tmp_path, open_):
    spec = StoreSpec(
        n_shapes=2, n_points=4, n_views=3, image_size=8, grid=(14, 14), channels=512, shard_size=2
    )
    rng = np.random.default_rng(0)
    features = rng.standard_normal((2, 3, 14, 14, 512)).astype(np.float32)
    features[rng.random((2, 3, 14, 14)) > 0.8] = 0
    values = {
        name: np.zeros((2, *array.shape(spec)[1:]), array.dtype_in(spec))
        for name, array in arrays(spec).items()
        if array.layout != "store" and array.dtype != "string"
    }
    values |= encode(features, "int8") | {"status": np.ones(2, np.uint8)}
    values |= {name: np.array(["a", "b"]) for name in ("id", "split")}
    with open_(tmp_path / "new.zarr", spec) as writer:
        writer.write_shard(0, values)
    stored = (tmp_path / "new.zarr" / arrays(spec)["features"].key(0)).stat().st_size
    assert stored <= features.nbytes / 6
