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
from i2pmae.stages import extract_2d, verify
from i2pmae.store.schema import ARRAYS, arrays
from i2pmae.store.verify import check_store
from i2pmae.store.writer import demand_again, join_writer

from .conftest import TINY_IMAGE_MODEL, extract_config
from .test_extract_2d import digests

PER_SHAPE = [array.name for array in ARRAYS if array.layout != "store" and array.only != "parts"]


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
def test_damage_is_found_and_mended_to_the_same_bytes(store, spoiled, capsys, name, damage):
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
    mended = verify.run(spoiled, repair=True)
    assert (mended["ok"], mended["repaired"]) == (True, [1])
    assert digests(spoiled) == digests(store)
    assert file_of(spoiled, "features", 0).stat().st_mtime_ns == untouched


def test_damaged_views_are_mended(store, spoiled):
    flip(file_of(spoiled, "view_axes", 0))
    assert where(verify.run(spoiled)) == {("view_axes", None)}
    assert verify.run(spoiled, repair=True)["ok"]
    assert digests(spoiled) == digests(store)


def test_an_unfinished_store_is_finished(store, spoiled):
    demand_again(spoiled, [2])
    join_writer(spoiled).reopen()
    found = verify.run(spoiled)
    assert found["findings"] == [{"array": "", "shard": None, "what": "1 of 3 shards are missing"}]
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
    array = join_writer(spoiled)._arrays[name]
    array[(9, *[slice(None)] * (array.ndim - 2), *[0] * (array.ndim > 1))] = value
    found = verify.run(spoiled)
    assert (name, 1) in where(found)
    assert expected in found["findings"][0]["what"]


def test_counts_and_names_must_fit(spoiled):
    writer = join_writer(spoiled)
    writer._arrays["status"][3] = 2
    assert "its metadata say" in verify.run(spoiled)["findings"][0]["what"]
    writer._arrays["id"][3] = writer._arrays["id"][12]
    assert "the name of two shapes" in verify.run(spoiled)["findings"][0]["what"]


@pytest.mark.parametrize("name", ["points", "features", "depth"])
def test_shapes_that_are_not_what_the_source_gives(spoiled, name):
    array = join_writer(spoiled)._arrays[name]
    array[:] = np.roll(array[...], 1, axis=0)
    assert verify.run(spoiled)["ok"]
    found = verify.run(spoiled, recompute=2)
    assert {finding["array"] for finding in found["findings"]} == {name}


@pytest.mark.parametrize(("noise", "is_sound"), [(0.01, True), (0.5, False)])
def test_coarse_steps_are_not_damage(tmp_path, monkeypatch, noise, is_sound):
    path = tmp_path / "x.zarr"
    extract_2d.run(extract_config(path, limit=4, store=StoreConfig(int8_step=1)))
    encode_batch = extract_2d.encode_batch

    def on_another_machine(*arguments):
        found = encode_batch(*arguments)
        generator = torch.Generator().manual_seed(0)
        spread = noise * torch.randn(found["features"].shape, generator=generator)
        return found | {"features": found["features"] * (1 + spread)}

    monkeypatch.setattr(extract_2d, "encode_batch", on_another_machine)
    assert verify.run(path, recompute=4)["ok"] == is_sound


def test_a_source_that_has_changed_is_named(tmp_path):
    folder = tmp_path / "clouds"
    folder.mkdir()
    for index in range(3):
        np.save(folder / f"{index}.npy", np.random.default_rng(index).random((64, 3)))
    path = tmp_path / "x.zarr"
    extract_2d.run(extract_config(path, data=folder, points=64, limit=None))
    moved = folder.rename(tmp_path / "moved")
    with pytest.raises(DataError, match="clouds"):
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
    with pytest.raises(WeightsError, match=str(weights)):  # its whole path, from any folder
        verify.run(path, repair=True)
    assert {file: file.read_bytes() for file in path.rglob("*") if file.is_file()} == before
    assert verify.run(path, repair=True, pretrained=str(moved))["repaired"] == [0]


def test_a_store_whose_making_is_not_recorded_is_not_mended(spoiled):
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
