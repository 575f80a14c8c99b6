import numpy as np
import pytest

from i2pmae.store import open_cache
from i2pmae.store.histogram import SHOWN, Histogram, histograms


def counted(*parts):
    histogram = Histogram()
    for part in parts:
        histogram.add(np.asarray(part))
    return histogram.result()


def test_parts_give_what_the_whole_gives():
    values = np.random.default_rng(0).normal(3, 2, 20_000)
    found = counted(*np.array_split(values, 7))
    assert found["count"] == 20_000
    for name, expected in (
        ("min", values.min()),
        ("max", values.max()),
        ("mean", values.mean()),
        ("std", values.std()),
    ):
        assert found[name] == pytest.approx(expected, rel=1e-6)
    expected, _ = np.histogram(values, SHOWN, (values.min(), values.max()))
    assert sum(found["counts"]) == 20_000
    # Bins of the count and of the result do not share their borders.
    assert np.abs(np.array(found["counts"]) - expected).sum() < 0.12 * 20_000


def test_the_range_grows_both_ways_and_loses_nothing():
    found = counted([1.0, 2.0], [1e6], [-1e6], [0.0, 0.0])
    assert found["count"] == sum(found["counts"]) == 6
    assert (found["min"], found["max"], found["zeros"]) == (-1e6, 1e6, 2)
    assert found["counts"][0] == found["counts"][-1] == 1


@pytest.mark.parametrize("values", [[5, 5, 5], [0], [-3.0]])
def test_equal_values_are_one_bar(values):
    found = counted(values)
    assert sum(found["counts"]) == len(values)
    assert sorted(found["counts"])[:-1] == [0] * (SHOWN - 1)
    assert found["std"] == 0


def test_what_is_not_finite_is_counted_apart():
    found = counted([1.0, np.nan, np.inf, 2.0])
    assert (found["count"], found["not_finite"]) == (2, 2)
    assert counted([np.nan]) == {"count": 0, "not_finite": 1}
    assert counted([]) == {"count": 0, "not_finite": 0}


def test_memory_does_not_grow_with_the_store(store, monkeypatch, written):
    seen = []
    monkeypatch.setattr("i2pmae.store.histogram._VALUES_AT_ONCE", 1)
    add = Histogram.add
    monkeypatch.setattr(
        Histogram, "add", lambda self, values: seen.append(len(values)) or add(self, values)
    )
    found = histograms(open_cache(store))
    assert set(seen) == {1}
    done = written["status"] == 1
    assert found["points"]["count"] == written["points"][done].size
    assert found["points"]["mean"] == pytest.approx(written["points"][done].mean(), abs=1e-5)
    features = written["features"][done] * written["feature_scale"][done][:, None, None, None]
    assert found["features"]["std"] == pytest.approx(features.std(), rel=1e-4)
    assert "label" not in found
    assert "id" not in found
