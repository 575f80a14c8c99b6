import pickle

import numpy as np
import pytest
import trimesh

from i2pmae.datasets import detect_layout, open_source
from i2pmae.datasets.source import SplitError
from i2pmae.errors import ConfigError, StoreError
from i2pmae.stages import extract_2d
from i2pmae.store import StoreReader

from ..conftest import extract_config


def test_a_store_is_a_data_set_of_its_points(store):
    reader = StoreReader(store)
    source = open_source(store, split="all", points=200)
    assert (source.layout, source.svm_points) == ("store", reader.n_points)
    assert source.ids == [str(name) for name in reader.read_all("id")]
    assert source.labels == reader.read_all("label").tolist()
    assert source.class_names == reader.class_names
    stored = reader.read([7], ["points"])["points"][0]
    np.testing.assert_array_equal(source.load(7).points, stored[:200])
    assert source.load(7).points.flags.owndata
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(source)).load(7).points, stored[:200])


def test_the_folder_of_one_store_will_do(store, tmp_path):
    assert detect_layout(store.parent) == "store"
    assert open_source(store.parent, split="all").ids == open_source(store, split="all").ids
    with pytest.raises(SplitError, match="Extract with --split all"):
        open_source(store, split="test")
    with pytest.raises(StoreError, match="no store"):
        open_source(tmp_path, layout="store")


def test_parts_are_read_with_the_points(parts_store, parts_folder):
    source, original = (open_source(path, split="all") for path in (parts_store, parts_folder))
    assert source.part_names == original.part_names
    assert source.class_parts == original.class_parts
    assert source.recipe == original.recipe
    place = source.ids.index(original.ids[3])
    np.testing.assert_array_equal(source.load(place).parts, original.load(3).parts)


def test_the_axis_of_the_files_is_remembered_and_skipped_shapes_are_left_out(tmp_path):
    for name in "abc":
        trimesh.creation.box((1, 2, 3)).export(tmp_path / f"{name}.stl")
    (tmp_path / "b.stl").write_bytes(b"nothing")
    store = tmp_path / "cache" / "z.zarr"
    changes = {"data": tmp_path, "up": "z", "on_error": "skip", "split": "all", "limit": None}
    extract_2d.run(extract_config(store, **changes, points=64))
    source = open_source(store)
    assert (source.up, source.ids) == ("z", ["a", "c"])
    assert "1 skipped shapes of the store are left out" in source.notes
    np.testing.assert_array_equal(
        source.load(1).points, StoreReader(store).read([2], ["points"])["points"][0]
    )
    with pytest.raises(ConfigError, match=r"--up x .* are stored with y up"):
        open_source(store, up="x")
