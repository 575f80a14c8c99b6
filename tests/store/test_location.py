import logging
from pathlib import Path

import pytest

from i2pmae.errors import StoreError
from i2pmae.store import location
from i2pmae.store.location import Location, plain_errors, resolve_store


def test_a_store_is_itself(store):
    assert resolve_store(store) == store
    assert resolve_store(str(store)) == str(store)


def test_the_only_store_of_a_folder(store):
    (store.parent / "README.md").write_text("a page")
    (store.parent / "empty").mkdir()
    assert resolve_store(store.parent) == store


def test_more_than_one_store(store, write_store, spec):
    other = write_store(store.parent / "other.zarr", spec)
    with pytest.raises(StoreError) as raised:
        resolve_store(store.parent)
    assert str(store) in str(raised.value)
    assert str(other) in str(raised.value)


@pytest.mark.parametrize("name", [".", "none", "file"])
def test_no_store(tmp_path, name):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="extract-2d DATA --cache"):
        resolve_store(tmp_path / name)


def test_a_store_that_lost_its_metadata_is_not_a_folder_of_stores(store):
    (store / "zarr.json").unlink()
    with pytest.raises(StoreError, match=r"is a store without its zarr\.json"):
        resolve_store(store)


def test_urls_are_taken_as_they_are():
    assert resolve_store("s3://bucket/shapes.zarr") == "s3://bucket/shapes.zarr"


def test_places():
    assert Location.of("s3://bucket/a.zarr/").folder is None
    for text in ("s3://bucket/a.zarr/", Path("s3://bucket/a.zarr")):
        store = Location.of(text).key_value_store("points")
        assert (store["driver"], store["bucket"], store["path"]) == (
            "s3",
            "bucket",
            "a.zarr/points/",
        )
    assert Location.of("gs://bucket/a.zarr").key_value_store()["driver"] == "gcs"
    with pytest.raises(
        StoreError, match=r"ftp://server/a\.zarr: stores lie in folders, or at s3://"
    ):
        Location.of("ftp://server/a.zarr")
    for text in ("file:///data/my%20shapes.zarr", Path("file:///data/my%20shapes.zarr")):
        assert str(Location.of(text).folder) == "/data/my shapes.zarr"
    assert str(Location.of("file://localhost/data/a.zarr").folder) == "/data/a.zarr"
    with pytest.raises(StoreError, match="a path from the root"):
        Location.of("file://data/shapes.zarr")


def test_files_of_a_place(tmp_path):
    location = Location.of(tmp_path)
    assert location.read("a/0") is None
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "0").write_bytes(b"content")
    (tmp_path / "b").write_bytes(b"")
    assert location.read("a/0") == b"content"
    assert location.keys("a/") == ["a/0"]
    assert location.has("a/0")
    location.delete("a/0")
    location.delete("a/0")
    assert not location.has("a/0")


def test_requests_that_are_tried_again_are_reported_now_and_then(monkeypatch, capsys):
    clock = [0.0]
    monkeypatch.setattr(location.time, "monotonic", lambda: clock[0])
    logger = logging.Logger("any", logging.DEBUG)
    logger.addHandler(location._Retries("Retry needed"))
    for _ in range(3):
        logger.debug("Not retrying request.")
        logger.debug("Retry needed, retrying request after delay of: %s", 1)
    assert capsys.readouterr().err.count("(1 so far)") == 1
    clock[0] = 11.0
    logger.debug("Retry needed, retrying request after delay of: %s", 1)
    assert "they are retried (4 so far)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (OSError(28, "No space left on device"), "the disk is full"),
        (OSError(30, "Read-only file system"), "read-only"),
        (PermissionError(13, "Permission denied"), "permission denied"),
        (OSError(5, "Input/output error"), "Input/output error"),
        (OSError("no number"), "no number"),
    ],
)
def test_errors_of_the_system_are_one_line(tmp_path, error, expected):
    with (
        pytest.raises(StoreError, match=expected) as raised,
        plain_errors(Location.of(tmp_path), "write shard 1"),
    ):
        raise error
    assert str(raised.value).startswith(f"cannot write shard 1 in {tmp_path}: ")
    assert "\n" not in str(raised.value)
