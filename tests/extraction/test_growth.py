import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from i2pmae.config import StoreConfig, WorkersConfig
from i2pmae.errors import ConfigError, DataError, StoreError
from i2pmae.stages import extract_2d, pretrain, verify
from i2pmae.store import growth
from i2pmae.store.location import Location
from i2pmae.store.metadata import load_info
from i2pmae.store.reader import StoreReader
from i2pmae.store.schema import arrays
from i2pmae.store.verify import check_store
from i2pmae.store.writer import StoreWriter

from ..conftest import extract_config, pretrain_config

SIZE = 4  # shapes per shard


def cloud(folder, name, seed):
    file = folder / f"{name}.npy"
    file.parent.mkdir(parents=True, exist_ok=True)
    np.save(file, np.random.default_rng(seed).random((64, 3)).astype(np.float32))
    return file


@pytest.fixture
def data(tmp_path) -> Path:
    """Six clouds of two classes: a shard and a half."""
    for index in range(3):
        cloud(tmp_path / "data", f"chair/c{index}", index)
        cloud(tmp_path / "data", f"table/t{index}", 10 + index)
    return tmp_path / "data"


@pytest.fixture
def extract(data, tmp_path):
    path = tmp_path / "x.zarr"

    def extract(**changes):
        given = {"data": data, "limit": None, "points": 64, "split": "all"} | changes
        return extract_2d.run(extract_config(path, store=StoreConfig(shard_size=SIZE), **given))

    extract.path = path
    return extract


def values(path):
    reader = StoreReader(path)
    n = len(reader)
    found = {name: reader.read_all(name).tolist() for name in ("id", "split", "label", "status")}
    batch = reader.read(np.arange(n), [*{*arrays(reader.info.spec)} - {*found, "view_axes"}])
    return found | {name: array.tobytes() for name, array in batch.items()} | {"n": n}


def files_of(path, k):
    spec = load_info(Location.of(path)).spec
    return {
        name: (path / array.key(k)).read_bytes()
        for name, array in arrays(spec).items()
        if array.layout != "store"
    }


def grow(data):
    cloud(data, "bed/b0", 20)  # a class that comes first
    for index in range(4):
        cloud(data, f"chair/a{index}", 30 + index)  # and shapes that come before others
    return {"bed/b0", *(f"chair/a{index}" for index in range(4))}


def test_new_shapes_of_a_folder_are_added_and_what_is_there_stays(data, extract, capfd):
    extract()
    before, first = values(extract.path), files_of(extract.path, 0)
    reader = StoreReader(extract.path)
    old = {name: reader.read_shard(1, name).tobytes() for name in ("points", "features", "depth")}
    new = grow(data)
    assert extract()["shapes"] == 11
    assert "grows: 5 new shapes are added to 6" in capfd.readouterr().err
    after = values(extract.path)
    assert after["id"][:6] == before["id"]
    assert set(after["id"][6:]) == new
    assert files_of(extract.path, 0) == first
    reader = StoreReader(extract.path)
    assert {name: reader.read_shard(1, name)[:2].tobytes() for name in old} == old
    info = reader.info
    assert info.class_names == ("chair", "table", "bed")
    classes = [info.class_names[label] for label in after["label"]]
    assert classes == [name.partition("/")[0] for name in after["id"]]
    assert [grown["shapes"] for grown in info.provenance["grown"]] == [6]
    assert extract()["shapes_per_s"] == 0  # nothing left to do
    assert verify.run(extract.path, recompute=11, data=data)["ok"]
    cloud(data, "bed/a0", 50)
    assert extract()["shapes"] == 12
    assert values(extract.path)["id"][:11] == after["id"]


@pytest.mark.parametrize("instant", ["journal", "metadata", 1, 2])
def test_a_growth_that_is_killed_is_finished(data, extract, tmp_path, monkeypatch, instant):
    extract()
    fresh = shutil.copytree(extract.path, tmp_path / "whole.zarr")
    grow(data)
    whole = extract_config(
        fresh, store=StoreConfig(shard_size=SIZE), data=data, limit=None, points=64, split="all"
    )
    extract_2d.run(whole)
    write, write_files = Location.write, StoreWriter._write_files

    def killed_at_metadata(self, key, content):
        if key == {"journal": "points/zarr.json", "metadata": "zarr.json"}[instant]:
            raise KeyboardInterrupt
        write(self, key, content)

    def killed_at_shard(self, k, *arguments):
        if k == instant:
            arguments[2]["status"][:] = arguments[2]["status"]
            self._write("points", arguments[0], arguments[2]["points"])
            raise KeyboardInterrupt
        write_files(self, k, *arguments)

    with monkeypatch.context() as patch:
        if isinstance(instant, str):
            patch.setattr(Location, "write", killed_at_metadata)
        else:
            patch.setattr(StoreWriter, "_write_files", killed_at_shard)
        with pytest.raises(KeyboardInterrupt):
            extract()
    if instant == "metadata":
        with pytest.raises(StoreError, match="is growing, or was interrupted"):
            StoreReader(extract.path)
    elif instant != "journal":
        assert {finding.kind for finding in check_store(extract.path)[1]} == {"unfinished"}
    cloud(data, "table/later", 60)  # a folder that lives on
    extract()
    found = values(extract.path)
    assert found["n"] == 12
    (data / "table" / "later.npy").unlink()
    expected = values(fresh)
    assert found["id"][:6] == expected["id"][:6]
    assert set(found["id"]) == {*expected["id"], "table/later"}
    assert verify.run(extract.path)["ok"]


@pytest.mark.slow
def test_workers_grow_a_store_too(data, extract):
    extract()
    grow(data)
    assert extract(workers=WorkersConfig(count=1, threads=1))["shapes"] == 11
    assert verify.run(extract.path, recompute=11, data=data)["ok"]


def test_damage_of_a_store_that_has_grown_is_repaired(data, extract):
    extract()
    grow(data)
    extract()
    expected = values(extract.path)
    spec = load_info(Location.of(extract.path)).spec
    for k in (0, 1, 2):
        (extract.path / arrays(spec)["features"].key(k)).write_bytes(b"")
    assert verify.run(extract.path, repair=True, data=data)["repaired"] == [0, 1, 2]
    assert values(extract.path) == expected


def test_removed_shapes_are_named_and_stay(data, extract, capfd):
    extract()
    before = {file: file.read_bytes() for file in extract.path.rglob("*") if file.is_file()}
    (data / "chair" / "c1.npy").unlink()
    extract()
    assert "holds 1 shapes that are no longer in" in (said := capfd.readouterr().err)
    assert "(chair/c1); they are kept" in said
    assert {file: file.read_bytes() for file in extract.path.rglob("*") if file.is_file()} == before
    grow(data)
    assert extract()["shapes"] == 11
    assert "chair/c1" in values(extract.path)["id"]


def test_shapes_of_other_data_are_never_added(data, extract):
    extract()
    before = {file: file.read_bytes() for file in extract.path.rglob("*") if file.is_file()}
    for file in data.rglob("*.npy"):
        file.rename(file.with_name(f"other-{file.name}"))
    with pytest.raises(StoreError, match=r"none of the . shapes of .* is in .*: it is a store of"):
        extract()
    assert {file: file.read_bytes() for file in extract.path.rglob("*") if file.is_file()} == before


def changed(file):
    """Another cloud of the same size."""
    np.save(file, np.load(file)[:, ::-1].copy())


@pytest.mark.parametrize("finished", [True, False])
def test_a_file_of_the_same_size_and_other_contents_is_seen(data, extract, interrupted, finished):
    if finished:
        extract()
    else:
        with interrupted(StoreWriter, "write_shard", lambda k: k == 1):
            extract()
    changed(data / "chair" / "c1.npy")
    with pytest.raises(DataError, match=r"1 shapes in .* are not those .*\(chair/c1\)"):
        extract()
    grow(data)
    with pytest.raises(DataError, match=r"\(chair/c1\)"):
        extract()


def test_a_data_set_that_was_copied_or_touched_is_the_same(data, extract, tmp_path, capfd):
    extract()
    before = values(extract.path)
    for file in data.rglob("*.npy"):
        os.utime(file, (1, 1))
    assert extract()["shapes_per_s"] == 0
    assert "compare with the data 6/6" in capfd.readouterr().err
    moved = shutil.copytree(data, tmp_path / "moved", copy_function=shutil.copyfile)
    assert extract(data=moved)["shapes_per_s"] == 0
    assert values(extract.path) == before


def test_unchanged_files_are_not_read_again(extract, capfd):
    extract()
    capfd.readouterr()
    extract()
    assert "compare" not in capfd.readouterr().err


def test_other_settings_are_still_refused(data, extract):
    extract()
    grow(data)
    with pytest.raises(StoreError, match="seed"):
        extract(seed=3)
    with pytest.raises(StoreError, match="limit"):
        extract(limit=5)


def test_a_training_run_sees_another_store(data, extract, tmp_path):
    extract()
    run = pretrain_config(extract.path, tmp_path / "run", epochs=1, points=64, batch_size=2)
    pretrain.run(run)
    grow(data)
    extract()
    with pytest.raises((ConfigError, StoreError)):
        pretrain.run(run.model_copy(update={"epochs": 2}), resume=True)


def test_a_growth_file_that_is_damaged_is_one_line(extract):
    extract()
    for content in ("{", "[]", '{"attributes": {}}', json.dumps({"attributes": 1, "documents": 2})):
        (extract.path / growth.GROWTH).write_text(content)
        with pytest.raises(StoreError, match="is damaged"):
            extract()


@pytest.fixture
def listed(data):
    """A table of the classes and splits of `data`, and what writes another one."""
    names = sorted(file.name for file in data.rglob("*.npy"))
    for file in data.rglob("*.npy"):
        file.rename(data / file.name)

    def write(classes, n_train=4):
        rows = [
            f"{name},{classes[name[0] == 't']},{'train' if place < n_train else 'test'}"
            for place, name in enumerate(names)
        ]
        (data / "labels.csv").write_text("\n".join(["file,label,split", *rows]))

    write(["chair", "table"])
    return write


def classes(path):
    found = values(path)
    names = StoreReader(path).info.class_names
    return {
        name: (names[label], split)
        for name, label, split in zip(found["id"], found["label"], found["split"], strict=True)
    }


@pytest.mark.parametrize("split", ["all", "train"])
def test_classes_and_splits_that_have_changed_are_taken_over(data, extract, listed, capfd, split):
    extract(split=split)
    before = values(extract.path)
    listed(["table", "chair"], n_train=3)
    n_changed = 6 if split == "all" else 4
    assert extract(split=split)["shapes_per_s"] == 0
    said = capfd.readouterr().err
    assert f"{extract.path}: updated the class or split of {n_changed} shapes" in said
    assert "no longer in" not in said
    after = values(extract.path)
    assert classes(extract.path)["c0"] == ("table", "train")
    assert classes(extract.path)["t0"] == ("chair", "test")
    assert {name for name in after if after[name] != before[name]} == {"label", "split"}
    counts = load_info(Location.of(extract.path)).counts
    assert {key: found["done"] for key, found in counts.items()} == {
        "train": 3,
        "test": n_changed - 3,
    }
    assert verify.run(extract.path, recompute=6 * (split == "all"), data=data)["ok"]
    extract(split=split)
    assert "updated the class" not in capfd.readouterr().err
    for names in (["stool", "table"], ["chair", "table"]):  # numbered as the old ones
        listed(names)
        cloud(data, "c9", 9)  # of no class
        extract(split=split)
        assert classes(extract.path)["c1"] == (names[0], "train")
        assert classes(extract.path)["c9"][1] == ""
    assert verify.run(extract.path)["ok"]


def test_classes_of_the_first_shapes_are_taken_over_and_others_refused(data, extract, listed):
    extract(limit=5)
    listed(["table", "chair"])
    extract(limit=5)
    assert classes(extract.path)["c0"] == ("table", "train")
    cloud(data, "a0", 9)  # now among the first five
    with pytest.raises(StoreError, match="made with other settings"):
        extract(limit=5)


@pytest.mark.parametrize("instant", ["label/c/1", "points/zarr.json"])
def test_a_store_that_is_killed_while_it_takes_classes_over_is_finished(
    extract, listed, interrupted, instant
):
    extract()
    listed(["table", "chair"])
    with interrupted(Location, "write", lambda key: key == instant):
        extract()
    with pytest.raises(StoreError):
        StoreReader(extract.path)
    extract()
    assert classes(extract.path)["c2"] == ("table", "train")
    assert verify.run(extract.path)["ok"]


def test_parts_take_classes_over_once_and_not_beside_one_that_was_told_otherwise(
    extract, listed, monkeypatch
):
    write_shard = StoreWriter.write_shard

    def meanwhile(self, k, values):
        write_shard(self, k, values)
        listed(["table", "chair"])
        with pytest.raises(StoreError, match="is being written by process"):
            extract(part="2/2")

    monkeypatch.setattr(StoreWriter, "write_shard", meanwhile)
    assert not extract(part="1/2")["complete"]
    monkeypatch.setattr(StoreWriter, "write_shard", write_shard)
    assert extract(part="2/2")["complete"]
    assert classes(extract.path)["c0"] == ("table", "train")
    listed(["chair", "table"])
    assert [extract(part=part)["complete"] for part in ("1/2", "2/2")] == [True, True]
    assert classes(extract.path)["c0"] == ("chair", "train")
    assert len(load_info(Location.of(extract.path)).provenance["grown"]) == 2
