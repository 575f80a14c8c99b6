import shutil
from itertools import count

import pytest

from i2pmae.errors import HubError, StoreError
from i2pmae.stages import copy, extract_2d
from i2pmae.store.location import Location
from i2pmae.store.schema import arrays
from i2pmae.store.verify import check_store
from i2pmae.store.writer import join_writer

from ..conftest import extract_config
from .test_extract_2d import digests


@pytest.fixture
def target(tmp_path):
    return tmp_path / "deep" / "copy.zarr"


def test_a_copy_has_the_same_bytes(store, target, capfd):
    found = copy.run(store.parent, target)
    assert digests(target) == digests(store)
    assert (found["copied"], found["bytes"] > 0) == (found["files"] - 1, True)
    assert "all verified" in capfd.readouterr().err
    assert [file.name for file in target.parent.iterdir()] == [target.name]
    assert copy.run(store, target)["copied"] == 0  # again


@pytest.mark.parametrize("n_before", [0, 1, 20])
def test_an_interrupted_copy_continues(store, target, interrupted, n_before):
    numbers = count()
    with interrupted(Location, "write", lambda _: next(numbers) >= n_before):
        copy.run(store, target)
    assert not (target / "zarr.json").exists()  # nobody takes a part for the whole
    (target / "points").mkdir(parents=True, exist_ok=True)
    (target / "points" / ".zarr.tmp.json").write_text("half")  # of one that was killed
    (target / "points" / "zarr.json").unlink(missing_ok=True)
    found = copy.run(store, target)
    assert found["copied"] >= found["files"] - 1 - n_before
    assert (found["copied"] == found["files"] - 1) == (n_before < 2)
    assert digests(target) == digests(store)


def test_parts_of_two_stores_are_not_mixed(store, target, tmp_path, interrupted):
    other = tmp_path / "other.zarr"  # of the same sizes
    extract_2d.run(extract_config(other, seed=1))
    shutil.copytree(other, target)
    (target / "zarr.json").unlink()
    before = digests(target)
    with pytest.raises(StoreError, match=r"copy\.zarr holds a part of another store"):
        copy.run(store, target)
    assert digests(target) == before
    shutil.rmtree(target)
    with interrupted(Location, "write", lambda key: key == "zarr.json"):
        copy.run(other, target)
    with pytest.raises(StoreError, match="holds a part of another store"):
        copy.run(store, target)
    assert copy.run(other, target)["copied"] == 0
    assert digests(target) == digests(other)


def test_what_is_damaged_at_the_target_is_copied_again(store, target):
    copy.run(store, target)
    spec = join_writer(store).spec
    for name, position in (("points", 9), ("view_axes", 3)):
        file = target / arrays(spec)[name].key(0)
        content = bytearray(file.read_bytes())
        content[position] ^= 16
        file.write_bytes(content)
    copy.run(store, target)
    assert digests(target) == digests(store)


def test_a_damaged_original_is_named(store, tmp_path, target):
    spoiled = shutil.copytree(store, tmp_path / "spoiled.zarr")
    file = spoiled / arrays(check_store(spoiled)[0].spec)["depth"].key(1)
    content = bytearray(file.read_bytes())
    content[5] ^= 16
    file.write_bytes(content)
    with pytest.raises(StoreError, match=r"first depth, shard 1.*whether the original is sound"):
        copy.run(spoiled, target)
    file.unlink()
    with pytest.raises(StoreError, match=r"depth/c/1/0/0/0 is missing"):
        copy.run(spoiled, tmp_path / "other.zarr")


@pytest.mark.filterwarnings("ignore:Use .content=:DeprecationWarning")  # huggingface_hub's own
def test_stores_go_to_the_hub_and_come_back(hub, store, target, tmp_path, capfd):
    sent = copy.run(store, "hf://datasets/me/shapes")
    assert sent["store"].startswith("hf://datasets/me/shapes@")
    hub.repositories["datasets", "me/shapes"].commits[sent["store"].rpartition("@")[2]][
        "loader.py"
    ] = b"code"
    found = copy.run("hf:/datasets/me/shapes", target)
    assert digests(target) == digests(store)
    assert found["source"] == sent["store"]
    assert f"hf://datasets/me/shapes is {sent['store']}" in capfd.readouterr().err
    spoiled = shutil.copytree(store, tmp_path / "spoiled.zarr")
    (spoiled / arrays(check_store(spoiled)[0].spec)["depth"].key(1)).unlink()
    with pytest.raises(StoreError, match=r"is damaged .* Nothing was sent"):
        copy.run(spoiled, "hf://datasets/me/other")
    assert ("datasets", "me/other") not in hub.repositories
    with pytest.raises(HubError, match="has no dataset me/other"):
        copy.run("hf://datasets/me/other", tmp_path / "x.zarr")
    with pytest.raises(StoreError, match="Copy it first: i2pmae copy hf://datasets/me/shapes"):
        check_store("hf://datasets/me/shapes")


def test_places_that_cannot_take_a_copy(store, tmp_path, target, parts_store):
    (tmp_path / "link").symlink_to(store)
    with pytest.raises(StoreError, match="the same place"):
        copy.run(store, tmp_path / "link")
    copy.run(parts_store, target)
    with pytest.raises(StoreError, match="holds another store"):
        copy.run(store, target)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("mine")
    with pytest.raises(StoreError, match=r"holds other files \(letter\.txt\)"):
        copy.run(store, tmp_path / "mine")
    assert [file.name for file in (tmp_path / "mine").iterdir()] == ["letter.txt"]
    unfinished = shutil.copytree(store, tmp_path / "unfinished.zarr")
    join_writer(unfinished).reopen()
    with pytest.raises(StoreError, match="not complete"):
        copy.run(unfinished, tmp_path / "x.zarr")
