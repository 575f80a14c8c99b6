import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from i2pmae.errors import StoreError
from i2pmae.store.location import Location
from i2pmae.store.metadata import DIGEST, digest, load_documents, load_info
from i2pmae.store.schema import arrays

from ..conftest import USUAL_ARRAYS


def load(store):
    return load_info(Location.of(store))


def rewrite(store, change, *, sign=True):
    """Change the group's attributes, as someone would who also knows the checksum."""
    file = store / "zarr.json"
    document = json.loads(file.read_text())
    change(document["attributes"])
    if sign:
        location = Location.of(store)
        documents = load_documents(location, arrays(load(store).spec))
        document["attributes"][DIGEST] = digest(document["attributes"], documents)
    file.write_text(json.dumps(document))


def test_what_was_recorded_comes_back(store, spec):
    info = load(store)
    assert info.spec == spec
    assert info.settings == {"image_model": {"name": "tiny", "size": [12, 12]}, "seed": 0}
    assert info.provenance == {"numpy": "2"}
    assert info.class_names == ("chair", "table")
    assert info.part_names is None
    assert info.complete


def test_part_names_come_back(tmp_path, spec, open_):
    open_(tmp_path / "new.zarr", spec, part_names=("leg", "seat")).close()
    info = load(tmp_path / "new.zarr")
    assert info.part_names == ("leg", "seat")
    assert not info.complete


@pytest.mark.parametrize("name", [array.name for array in USUAL_ARRAYS])
def test_missing_array_metadata(store, name):
    (store / name / "zarr.json").unlink()
    with pytest.raises(StoreError, match=rf"no zarr\.json for {name}"):
        load(store)


@pytest.mark.parametrize("content", ["", "{", "[]", "null", "\xff", "[" * 100_000])
@pytest.mark.parametrize("key", ["zarr.json", "points/zarr.json"])
def test_metadata_that_is_not_a_json_object(store, key, content):
    (store / key).write_text(content, encoding="latin-1")
    with pytest.raises(StoreError, match=rf"{key} is damaged") as raised:
        load(store)
    assert "\n" not in str(raised.value)


def test_another_schema_version(store):
    rewrite(store, lambda attributes: attributes.update(schema_version=2))
    with pytest.raises(StoreError, match="schema version 2; this i2pmae reads version 1"):
        load(store)


@pytest.mark.parametrize(
    "change",
    [
        {"sizes": None},
        {"sizes": {}},
        {"sizes": {"n_shapes": 1e300, "grid": [1, 1]}},
        {"sizes": {"grid": []}},
        {"counts": [1]},
        {"settings": 3},
        {"class_names": None},
        {"part_names": 3},
        {"complete": "yes"},
    ],
)
def test_attributes_that_make_no_sense(store, change):
    rewrite(store, lambda attributes: attributes.update(change), sign=False)
    with pytest.raises(StoreError, match="the metadata is damaged"):
        load(store)


def test_absurd_sizes(store):
    rewrite(store, lambda attributes: attributes["sizes"].update(n_shapes=10**15), sign=False)
    with pytest.raises(StoreError, match="a store holds at most"):
        load(store)


@pytest.mark.parametrize("key", ["fill_value", "codecs", "attributes"])
def test_array_metadata_that_was_changed(store, key):
    file = store / "points" / "zarr.json"
    document = json.loads(file.read_text())
    document[key] = 7
    file.write_text(json.dumps(document))
    with pytest.raises(StoreError, match="the metadata is damaged"):
        load(store)


@given(
    name=st.sampled_from(["", *(f"{array.name}/" for array in USUAL_ARRAYS)]),
    position=st.floats(0, 1, exclude_max=True),
    bit=st.integers(0, 7),
)
@settings(max_examples=150)
def test_a_flipped_bit_is_detected_or_changes_nothing(store, name, position, bit):
    file = store / f"{name}zarr.json"
    before, expected = file.read_bytes(), load(store)
    content = bytearray(before)
    content[int(position * len(content))] ^= 1 << bit
    file.write_bytes(content)
    try:
        found = load(store)
    except StoreError:
        found = expected
    finally:
        file.write_bytes(before)
    assert found == expected
