import numpy as np
import pytest

from i2pmae.store.verify import check_store


def found_in(path):
    return {(finding.array, finding.shard, finding.what) for finding in check_store(path)[1]}


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("parts", 2, "holds part 2, 2 part names"),
        ("status", 7, "holds [1, 7], expected 1 or 2"),
        ("feature_scale", -1, "holds negative values"),
    ],
)
def test_values_that_no_extraction_writes(tmp_path, spec, open_, values_of, name, value, expected):
    path = tmp_path / "shapes.zarr"
    with open_(path, spec, part_names=("lid", "pot")) as writer:
        for k in writer.pending:
            values = values_of(spec, k)
            values["parts"] %= 2
            if k == 2:
                values[name][-1] = value
            writer.write_shard(k, values)
        writer.finish()
    assert found_in(path) == {(name, 2, expected)}


def test_views_must_be_finite(tmp_path, spec, open_, values_of):
    path = tmp_path / "shapes.zarr"
    with open_(path, spec, view_axes=np.full((3, 3, 3), np.nan, np.float32)) as writer:
        for k in writer.pending:
            writer.write_shard(k, values_of(spec, k))
        writer.finish()
    assert found_in(path) == {("view_axes", None, "holds values that are not finite")}


def test_every_shard_counts_once(store):
    advanced = []
    assert check_store(store, advanced.append)[1] == []
    assert advanced == [1, 1, 1]
