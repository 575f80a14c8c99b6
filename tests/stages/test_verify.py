import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

from i2pmae.cli import main
from i2pmae.config import StoreConfig
from i2pmae.errors import ConfigError, DataError, StoreError, WeightsError
from i2pmae.extraction import encoding
from i2pmae.progress import Progress
from i2pmae.stages import extract_2d, verify
from i2pmae.store.location import Location, open_arrays
from i2pmae.store.reader import StoreReader
from i2pmae.store.schema import arrays
from i2pmae.store.verify import check_store
from i2pmae.store.writer import demand_again, join_writer

from ..conftest import TINY_IMAGE_MODEL, USUAL_ARRAYS, extract_config
from .test_extract_2d import digests

PER_SHAPE = [
    array.name for array in USUAL_ARRAYS if array.layout != "store" and array.only != "parts"
]


def opened(store):
    """All arrays, to be written as zarr-python does."""
    return open_arrays(
        Location.of(store), [array.name for array in USUAL_ARRAYS if array.only != "parts"]
    )


@pytest.fixture
def spoiled(store, tmp_path) -> Path:
    """A copy that tests may spoil."""
    return Path(shutil.copytree(store, tmp_path / "tiny.zarr"))


def file_of(store, name, k):
    info, _ = check_store(store)
    return store / arrays(info.spec)[name].key(k)


def flip(file, position=5):
    content = bytearray(file.read_bytes())
    content[position] ^= 16
    file.write_bytes(content)


def where(found):
    return {(finding["array"], finding["shard"]) for finding in found["findings"]}


def test_a_sound_store_has_no_findings(store, capsys):
    found = verify.run(store, recompute=3)
    assert found["ok"]
    assert (found["shards"], found["findings"], len(found["recomputed"])) == (3, [], 3)
    assert check_store(store)[0].provenance["source"] == "procedural"  # no path: there are no files
    assert capsys.readouterr().out == ""


def test_older_stores_of_built_in_shapes_record_a_path_that_is_not_there(spoiled):
    writer = join_writer(spoiled)
    writer.info.provenance["source"] = "/somewhere/procedural"
    writer._record(writer.info)
    assert verify.run(spoiled, recompute=1)["ok"]


@pytest.mark.parametrize("name", PER_SHAPE)
@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_damage_is_found_and_repaired_to_the_same_bytes(store, spoiled, capsys, name, damage):
    file = file_of(spoiled, name, 1)
    if damage == "flip":
        flip(file)
    elif damage == "cut":
        file.write_bytes(file.read_bytes()[:-3])
    else:
        file.unlink()
    found = verify.run(spoiled)
    assert where(found) == {(name, 1)}
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith(f"{name}, shard 1: ")
    untouched = file_of(spoiled, "features", 0).stat().st_mtime_ns
    again = verify.run(spoiled, repair=True)
    assert (again["ok"], again["repaired"]) == (True, [1])
    assert digests(spoiled) == digests(store)
    assert file_of(spoiled, "features", 0).stat().st_mtime_ns == untouched


@pytest.mark.parametrize("name", ["t.zarr", "back\\slash.zarr", "t.__lock", "ü.zarr", "no ending"])
def test_a_store_is_sound_from_wherever_it_is_named(store, tmp_path, monkeypatch, name):
    """TensorStore takes no `..`, no backslash and no name that ends like its locks."""
    (tmp_path / "sub").mkdir()
    shutil.copytree(store, tmp_path / "stores" / name)
    (tmp_path / "link").symlink_to("stores")
    monkeypatch.chdir(tmp_path / "sub")
    for path in (Path("../stores") / name, Path("../link/.") / name):
        assert verify.run(path)["findings"] == []
        assert extract_2d.run(extract_config(path))["shapes_per_s"] == 0  # nothing left to do
    file_of(path, "points", 1).write_bytes(b"")
    assert verify.run(path, repair=True)["repaired"] == [1]
    assert digests(path) == digests(store)


@pytest.mark.parametrize("name", ["points", "status", "id"])
def test_what_the_system_does_not_let_be_read_is_not_called_damage(spoiled, name):
    """And is never extracted again."""
    file = file_of(spoiled, name, 1)
    aside = file.rename(spoiled.parent / "aside")
    file.symlink_to(file)  # too many links
    found = verify.run(spoiled, repair=True)
    assert [(f["array"], f["shard"], f["kind"]) for f in found["findings"]] == [
        (name, 1, "unreadable")
    ]
    assert "no sign of damage" in found["findings"][0]["what"] or "Too many" in str(found)
    assert (found["ok"], found["repaired"]) == (False, [])
    with pytest.raises(StoreError, match="Too many levels"):
        StoreReader(spoiled).read_all(name)
    aside.rename(file)
    assert verify.run(spoiled)["ok"]


def test_damage_is_looked_at_twice_before_anything_is_removed(store, spoiled, monkeypatch):
    """A disk or a memory that errs once."""
    file = file_of(spoiled, "depth", 1)
    content = file.read_bytes()
    flip(file)
    advance = Progress.advance
    monkeypatch.setattr(
        Progress, "advance", lambda self, n=1: (file.write_bytes(content), advance(self, n))
    )
    before = file_of(spoiled, "status", 1).stat().st_mtime_ns
    found = verify.run(spoiled, repair=True)
    assert (found["ok"], found["repaired"]) == (True, [])
    assert file_of(spoiled, "status", 1).stat().st_mtime_ns == before
    assert digests(spoiled) == digests(store)


def test_a_store_that_goes_away_while_it_is_read_is_not_damaged(spoiled, monkeypatch):
    aside = spoiled.with_name("aside")
    monkeypatch.setattr(Progress, "advance", lambda *_: spoiled.exists() and spoiled.rename(aside))
    with pytest.raises(StoreError, match="does not exist"):
        verify.run(spoiled, repair=True)
    monkeypatch.undo()
    assert verify.run(aside)["ok"]


def test_what_a_store_records_is_not_obeyed(spoiled, monkeypatch):
    """Its workers would run a stranger's code; its paths are a stranger's."""
    writer = join_writer(spoiled)
    recorded = writer.info.provenance["config"]
    recorded["workers"] = {"scheduler": "tcp://127.0.0.1:9"}
    recorded["cache"] = recorded["data"] = "/somewhere"
    writer.info.provenance["source"] = "/somewhere"
    writer._record(writer.info)
    flip(file_of(spoiled, "depth", 1))
    seen = []
    run = extract_2d.run
    monkeypatch.setattr(extract_2d, "run", lambda config: (seen.append(config), run(config)))
    assert verify.run(spoiled, repair=True)["ok"]
    assert not seen[0].workers.wanted
    assert (seen[0].cache, seen[0].data) == (spoiled, Path("procedural"))


def test_damaged_views_are_again(store, spoiled):
    flip(file_of(spoiled, "view_axes", 0))
    assert where(verify.run(spoiled)) == {("view_axes", None)}
    assert verify.run(spoiled, repair=True)["ok"]
    assert digests(spoiled) == digests(store)


def test_an_unfinished_store_is_finished(store, spoiled):
    demand_again(spoiled, [2])
    join_writer(spoiled).reopen()
    found = verify.run(spoiled)
    what = "1 of 3 shards are missing"
    assert found["findings"] == [{"array": "", "shard": None, "what": what, "kind": "unfinished"}]
    assert verify.run(spoiled, repair=True)["ok"]
    assert digests(spoiled) == digests(store)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("points", np.nan, "512 values that are not finite"),
        ("saliency", np.inf, "not finite"),
        ("pixel_size", -1, "negative"),
        ("label", 99, "class names"),
        ("split", "trian", "expected some of"),
    ],
)
def test_values_that_cannot_be(spoiled, name, value, expected):
    array = opened(spoiled)[name]
    array[(9, *[slice(None)] * (array.ndim - 2), *[0] * (array.ndim > 1))] = value
    before = digests(spoiled)
    found = verify.run(spoiled, repair=True)
    assert (name, 1) in where(found)
    assert expected in found["findings"][0]["what"]
    assert (found["findings"][0]["kind"], found["repaired"]) == ("values", [])
    assert digests(spoiled) == before  # it reads well


def test_counts_and_names_must_fit(spoiled):
    values = opened(spoiled)
    values["status"][3] = 2
    assert "its metadata say" in verify.run(spoiled)["findings"][0]["what"]
    values["id"][3] = values["id"][12]
    assert "the name of two shapes" in verify.run(spoiled)["findings"][0]["what"]


@pytest.mark.parametrize("name", ["points", "features", "depth"])
def test_shapes_that_are_not_what_the_source_gives(spoiled, name):
    array = opened(spoiled)[name]
    array[:] = np.roll(array[...], 1, axis=0)
    assert verify.run(spoiled)["ok"]
    found = verify.run(spoiled, recompute=2)
    assert {finding["array"] for finding in found["findings"]} == {name}


@pytest.mark.parametrize(("noise", "is_sound"), [(0.01, True), (0.5, False)])
def test_coarse_steps_are_not_damage(tmp_path, monkeypatch, noise, is_sound):
    path = tmp_path / "x.zarr"
    extract_2d.run(extract_config(path, limit=4, store=StoreConfig(int8_step=1)))
    encode_batch = encoding.encode_batch

    def on_another_machine(*arguments):
        found = encode_batch(*arguments)
        generator = torch.Generator().manual_seed(0)
        spread = noise * torch.randn(found["features"].shape, generator=generator)
        return found | {"features": found["features"] * (1 + spread)}

    monkeypatch.setattr(encoding, "encode_batch", on_another_machine)
    assert verify.run(path, recompute=4)["ok"] == is_sound


def test_a_source_that_has_changed_is_named(tmp_path):
    folder = tmp_path / "clouds"
    folder.mkdir()
    for index in range(3):
        np.save(folder / f"{index}.npy", np.random.default_rng(index).random((64, 3)))
    path = tmp_path / "x.zarr"
    extract_2d.run(extract_config(path, data=folder, points=64, limit=None))
    moved = folder.rename(tmp_path / "moved")
    with pytest.raises(ConfigError, match=r"name them with --data.*clouds"):
        verify.run(path, recompute=1)
    assert verify.run(path, recompute=1, data=moved)["ok"]
    np.save(moved / "0.npy", np.zeros((65, 3)))
    with pytest.raises(DataError, match="files have changed"):
        verify.run(path, recompute=1, data=moved)


def test_other_weights_are_not_compared_with(spoiled):
    writer = join_writer(spoiled)
    writer.info.settings["image_model"]["weights_sha256"] = "other"
    writer._record(writer.info)
    with pytest.raises(ConfigError, match="made with other weights than"):
        verify.run(spoiled, recompute=1)


def test_nothing_is_removed_where_it_could_not_be_extracted_again(tmp_path, monkeypatch):
    weights = tmp_path / "w.safetensors"
    save_file(timm.create_model("test_vit", img_size=64).state_dict(), weights)
    monkeypatch.chdir(tmp_path)
    image_model = TINY_IMAGE_MODEL.model_copy(update={"pretrained": weights.name})
    path = tmp_path / "x.zarr"
    extract_2d.run(extract_config(path, image_model=image_model))
    flip(file_of(path, "depth", 0))
    before = {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}
    moved = weights.rename(tmp_path / "renamed.safetensors")
    with pytest.raises(ConfigError, match=f"--pretrained.*{weights}"):  # its whole path
        verify.run(path, repair=True)
    with pytest.raises(WeightsError, match=str(weights)):
        verify.run(path, repair=True, pretrained=str(weights))
    assert {file: file.read_bytes() for file in path.rglob("*") if file.is_file()} == before
    assert verify.run(path, repair=True, pretrained=str(moved))["repaired"] == [0]


def test_a_store_whose_making_is_not_recorded_is_not_again(spoiled):
    writer = join_writer(spoiled)
    writer.info.provenance["config"] = {"surprise": 1}
    writer._record(writer.info)
    demand_again(spoiled, [0])
    with pytest.raises(StoreError, match="run the extract-2d command"):
        verify.run(spoiled, repair=True)


def test_the_exit_code_tells(spoiled, monkeypatch, capsys):
    def run():
        monkeypatch.setattr(sys, "argv", ["i2pmae", "verify", str(spoiled), "--json"])
        with pytest.raises(SystemExit) as exit_:
            main()
        return exit_.value.code, json.loads(capsys.readouterr().out)

    code, found = run()
    assert (code, found["ok"]) == (0, True)
    file_of(spoiled, "label", 0).unlink()
    code, found = run()
    assert code == 1
    assert [(f["array"], f["shard"]) for f in found["findings"]] == [("label", 0)]
