from pathlib import Path

import pytest

from i2pmae.store.schema import ARRAYS, SCHEMA_VERSION, StoreSpec, arrays

README = Path(__file__).parents[2] / "cache" / "README.md"
PRESENCE = {
    "always": "every store",
    "int8": "int8 stores",
    "parts": "stores with parts",
    "depth": "all but `surface-normals`",
    "normals": "`surface-normals`",
    "visible": "`visible_only`",
}


def readme_rows() -> list[list[str]]:
    table = README.read_text().split("| --- | --- | --- | --- | --- | --- | --- |\n")[1]
    lines = table.split("\n\n")[0].splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_readme_and_schema_say_the_same():
    expected = [
        [
            f"`{array.name}`",
            ", ".join(array.dimensions),
            "int8, float16 or float32" if array.dtype == "features" else array.dtype,
            array.layout,
            "none" if array.codec is None else array.codec["name"],
            PRESENCE[array.only],
            array.description,
        ]
        for array in ARRAYS
    ]
    assert readme_rows() == expected
    assert f"## Schema, version {SCHEMA_VERSION}\n" in README.read_text()


def test_readme_names_every_attribute(store):
    import zarr

    text = README.read_text()
    for name in zarr.open_group(store, mode="r").attrs:
        assert f"| `{name}` |" in text


def test_shapes_chunks_and_shards_by_hand(spec):
    found = arrays(spec)
    assert found["features"].shape(spec) == (10, 3, 2, 3, 8)
    assert found["features"].chunks(spec) == (1, 3, 2, 3, 8)
    assert found["features"].shards(spec) == (4, 3, 2, 3, 8)
    assert found["label"].chunks(spec) == (4,)
    assert found["label"].shards(spec) is None
    assert found["view_axes"].chunks(spec) == (3, 3, 3)
    assert found["depth"].key(2) == "depth/c/2/0/0/0"
    assert [spec.shard(k) for k in range(spec.n_shards)] == [
        slice(0, 4),
        slice(4, 8),
        slice(8, 10),
    ]


def test_optional_arrays():
    spec = StoreSpec(
        n_shapes=1, n_points=1, n_views=1, image_size=1, grid=(1, 1), channels=1, dtype="float16"
    )
    assert "feature_scale" not in arrays(spec)
    assert "parts" not in arrays(spec)
    assert arrays(spec)["features"].dtype_in(spec) == "float16"


def test_sizes_survive_json(spec):
    assert StoreSpec.from_json(spec.to_json()) == spec


@pytest.mark.parametrize(
    "change",
    [
        {"n_shapes": 0},
        {"n_points": -1},
        {"channels": 2.0},
        {"n_views": True},
        {"dtype": "int4"},
        {"grid": [1]},
        {"shard_size": "4"},
        {"surprise": 1},
    ],
)
def test_impossible_sizes_are_refused(spec, change):
    with pytest.raises((ValueError, TypeError, KeyError, IndexError)):
        StoreSpec.from_json({**spec.to_json(), **change})
