import threading
import time
from functools import partial

import numpy as np
import pytest

from i2pmae.datasets import open_source, reading
from i2pmae.datasets.reading import n_useful, read_ahead, read_each
from i2pmae.errors import DataError


def test_results_come_in_order_whatever_takes_longest():
    def read(index):
        time.sleep(0.02 if index % 3 == 0 else 0)
        return index**2

    found = [(index, result.result()) for index, result in read_ahead(read, range(5, 30), 4)]
    assert found == [(index, index**2) for index in range(5, 30)]


def test_only_a_few_are_read_before_they_are_needed():
    seen = []
    results = read_ahead(lambda i: seen.append(i) or i, range(100), 2, n_ahead=3)
    for taken, (_, result) in enumerate(results):
        result.result()
        assert len(seen) <= taken + 3 + 1


def test_an_error_belongs_to_its_shape():
    def read(index):
        return 1 / index

    results = dict(read_ahead(read, range(3), 2))
    assert results[2].result() == 0.5
    with pytest.raises(ZeroDivisionError):
        results[0].result()


def test_nobody_reads_on_for_who_has_gone():
    seen, gone = [], threading.Event()

    def read(index):
        if index:
            gone.wait(10)
        seen.append(index)

    results = read_ahead(read, range(1000), 1)
    next(results)
    results.close()
    gone.set()
    time.sleep(0.05)
    assert len(seen) <= 2


@pytest.fixture
def folder(tmp_path):
    """Forty clouds, one of them with points that are not finite, and one that cannot be read."""
    for index in range(40):
        cloud = np.random.default_rng(index).random((64, 3))
        cloud[: 3 * (index == 38)] = np.nan
        np.save(tmp_path / f"{index:02}.npy", cloud)
    (tmp_path / "37.npy").write_bytes(b"nothing")
    return tmp_path


def first_points(n_points, source, index):
    return source.load(index).points[:n_points]


@pytest.mark.parametrize("repays", [False, True])
def test_threads_and_processes_read_the_same(folder, monkeypatch, repays):
    """The first shapes say which of both read the others; each shape is read once."""
    monkeypatch.setattr(reading, "_PAYS_OFF", -1 if repays else 1e9)
    monkeypatch.setattr(reading, "n_available", lambda: 2)
    source, loaded = open_source(folder), []
    load = type(source).load
    monkeypatch.setattr(type(source), "load", lambda *call: loaded.append(call[1]) or load(*call))
    found = dict(read_each(source, partial(first_points, 5)))
    assert list(found) == list(range(40))
    assert sorted(loaded) == list(range(32 if repays else 40))  # the others elsewhere
    for index, outcome in found.items():
        if index == 37:
            with pytest.raises(DataError, match=r"37\.npy"):
                outcome.result()
        else:
            assert np.array_equal(outcome.result(), load(source, index).points[:5])
    assert source.not_finite == {38: 3}


def test_bugs_are_not_taken_for_bad_shapes(folder):
    def broken(_source, index):
        return 1 / index

    with pytest.raises(ZeroDivisionError):
        list(read_each(open_source(folder), broken))


def test_how_many_processes_are_of_use(folder, monkeypatch):
    source = open_source(folder)
    monkeypatch.setattr(reading, "n_available", lambda: 12)
    assert n_useful(source) == 12
    assert n_useful(source, n_cores=6) == 6
    assert n_useful(source, n_cores=1) == 0  # which is this one's
    assert n_useful(open_source("procedural", limit=9)) == 12
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")  # torchrun's processes read as well
    assert n_useful(source) == 3
    monkeypatch.delenv("LOCAL_WORLD_SIZE")
    monkeypatch.setattr(reading, "n_available", lambda: 96)
    assert n_useful(source) == 16
    source.entries = [entry._replace(file=folder / "00.npy") for entry in source.entries]
    assert n_useful(source) == 0  # one file, read once
