import numpy as np
import pytest

from i2pmae.datasets import Shape, open_source
from i2pmae.errors import DataError
from i2pmae.evaluation.clouds import CloudReader, read_points


@pytest.fixture
def source(tmp_path):
    """Three clouds of 40, 60 and 50 points, and a file that cannot be read."""
    for number, count in enumerate((40, 60, 50)):
        points = np.random.default_rng(number).random((count, 3))
        np.save(tmp_path / f"{number}.npy", points.astype(np.float32))
    (tmp_path / "3.npy").write_bytes(b"nothing")
    return open_source(tmp_path, split="all")


def test_clouds_have_equally_many_points_and_bad_ones_are_counted(source):
    asked = []
    clouds = CloudReader(source, 50, on_error="skip", require=asked.append)
    first, second, third = clouds
    assert first.shape == second.shape == third.shape == (50, 3)
    assert np.array_equal(first[40:], first[:10])
    assert (clouds.kept, clouds.skipped, clouds.repeated) == ([0, 1, 2], ["3"], {0})
    assert set(asked) == {50}
    with pytest.raises(DataError, match="--on-error skip"):
        list(CloudReader(source, 50))


def test_halves_share_no_points_however_few_a_shape_has(source):
    source.entries, source.ids = source.entries[1::-1], source.ids[1::-1]  # 60 and 40 points
    clouds = CloudReader(source, None, halves=True)
    halves = list(clouds)
    assert {half.shape for half in halves} == {(30, 3)}
    for index, (first, second) in enumerate(zip(halves[::2], halves[1::2], strict=True)):
        assert np.array_equal(
            np.unique(np.concatenate([first, second]), axis=0),
            np.unique(source.load(index).points, axis=0),
        )
        assert not {*map(tuple, first)} & {*map(tuple, second)}
    assert (clouds.kept, clouds.repeated, clouds.n_points) == ([0, 1], {1}, 30)
    few = list(CloudReader(source, 20, halves=True))
    assert all(
        np.array_equal(few[k], source.load(k // 2).points[20 * (k % 2) :][:20]) for k in range(4)
    )


def test_points_that_are_not_asked_for_are_not_kept(source, monkeypatch):
    whole = np.random.default_rng(0).random((1000, 3)).astype(np.float32)
    monkeypatch.setattr(type(source), "load", lambda *_: Shape(whole[:500]))
    kept = []
    stack = np.stack
    monkeypatch.setattr(np, "stack", lambda clouds: stack(kept.extend(clouds) or clouds))
    assert read_points(source, 10).shape == (4, 10, 3)
    assert all(cloud.base is None or cloud.base.size == cloud.size for cloud in kept)


def test_a_shape_with_too_few_points_is_named(source):
    source.entries, source.ids = source.entries[:3], source.ids[:3]
    assert read_points(source).shape == (3, 40, 3)
    assert read_points(source, 20, spare=True).shape == (3, 40, 3)
    with pytest.raises(DataError, match="shape 0 has 40 points, 50 are asked"):
        read_points(source, 50)
