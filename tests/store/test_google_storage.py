"""Stores on an emulator of Google Cloud Storage, and one that throttles and drops connections."""

import asyncio
import io
import json
import re
import time
from unittest.mock import Mock
from urllib.parse import urlsplit

import pytest
from gcp_storage_emulator.server import create_server

from i2pmae.errors import StoreError
from i2pmae.store.location import Location
from i2pmae.store.lock import ObjectLock, Owner
from i2pmae.store.reader import StoreReader
from i2pmae.store.verify import check_store

from .test_object_stores import Passer, assert_equals_folder, in_front_of, objects
from .test_writer import contents

pytestmark = pytest.mark.timeout(300)


class Completing(Passer):
    """Adds what Google's servers do and the emulator does not.

    Generations of objects, objects that are created only where there is none, and requests of a
    file's end.
    """

    def handle_request(self):
        url, connection = urlsplit(self.path), self.rfile
        body = connection.read(int(self.headers["Content-Length"]))
        if "ifGenerationMatch=0" in url.query:
            name = json.loads(re.search(rb"\{.*?\}", body)[0])["name"]
            if files().exists(f"gs://{url.path.split('/')[5]}/{name}"):
                self.answer(412, [], b'{"error": {"code": 412, "message": "exists already"}}')
                return
        self.rfile = io.BytesIO(body)
        super().handle_request()
        self.rfile = connection

    do_POST = handle_request  # noqa: N815

    def answer(self, status, headers, body):
        asked = re.fullmatch(r"bytes=-(\d+)", self.headers.get("Range") or "")
        if asked and status == 200:
            start = max(len(body) - int(asked[1]), 0)
            headers = [*headers, ("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")]
            status, body = 206, body[start:]
        super().answer(status, [*headers, ("X-Goog-Generation", "1")], body)


@pytest.fixture(scope="module")
def server():
    with (
        create_server("127.0.0.1", 0, in_memory=True) as emulator,
        in_front_of(emulator._api._httpd.server_address, Completing) as proxy,
    ):
        yield proxy


@pytest.fixture
def bucket(server, monkeypatch):
    """A bucket of this test's own; `server.every` says what goes wrong."""
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", server.url)
    monkeypatch.setenv("TENSORSTORE_GCS_HTTP_URL", server.url)
    monkeypatch.setenv("GOOGLE_AUTH_DISABLE", "1")
    name = f"gs://bucket-{time.monotonic_ns()}"
    files().mkdir(name, create_parents=True)
    server.seen.clear()
    yield name
    server.every = {}
    kind = type(files())
    for session in {opened.session for opened in kind._cache.values()} - {None}:
        asyncio.run_coroutine_threadsafe(session.close(), session._loop).result(10)
    kind.clear_instance_cache()


def files():
    return Location.of("gs://any").files()


def test_a_store_in_a_bucket_equals_one_in_a_folder(bucket, store, spec, write_store, written):
    assert_equals_folder(write_store(f"{bucket}/folder/shapes.zarr", spec), store, written)


@pytest.mark.slow
def test_nothing_is_lost_to_throttling_delays_and_dropped_connections(
    bucket, server, store, spec, write_store, capfd, monkeypatch
):
    monkeypatch.setattr("i2pmae.store.location._SECONDS_PER_LINE", 0.0)
    server.every = {"drop": 150, "throttle": 110, "delay": 9}
    url = f"{bucket}/shapes.zarr"
    write_store(url, spec)
    assert check_store(url)[1] == []
    for fault in server.every:
        assert server.seen[fault]
    assert "requests; they are retried (1 so far)" in capfd.readouterr().err
    server.every = {}
    assert objects(url) == contents(store)


def test_damage_in_a_bucket_is_found(bucket, spec, write_store):
    url = write_store(f"{bucket}/shapes.zarr", spec)
    found = files()
    features = f"{url}/features/c/1/0/0/0/0"
    content = bytearray(found.cat_file(features))
    content[3] ^= 1
    found.pipe_file(features, bytes(content))
    assert {(finding.array, finding.shard) for finding in check_store(url)[1]} == {("features", 1)}
    with pytest.raises(StoreError, match=r"features is damaged \(shape 4, shard 1"):
        StoreReader(url).read([0, 4])


def test_no_store_and_no_bucket_are_one_line(bucket, capfd):
    with pytest.raises(StoreError, match=r"does not exist.*extract-2d"):
        StoreReader(f"{bucket}/none.zarr")
    with pytest.raises(StoreError, match=r"no-such-bucket"):
        StoreReader("gs://no-such-bucket/x.zarr")
    assert "Traceback" not in capfd.readouterr().err


def test_what_the_packages_raise_is_one_line(bucket, monkeypatch):
    opened = files()  # before the packages are imported: it sets how
    from gcsfs.retry import HttpError
    from google.auth.exceptions import DefaultCredentialsError

    for error in HttpError({"code": 400, "message": "no"}), DefaultCredentialsError("no"):
        monkeypatch.setattr(opened, "cat_file", Mock(side_effect=error))
        with pytest.raises(StoreError, match=r"cannot read zarr\.json in gs://.*: no"):
            StoreReader(f"{bucket}/x.zarr")


def test_a_second_writer_is_refused_and_told_who_writes(bucket):
    place = Location.of(f"{bucket}/shapes.zarr")
    refused = pytest.raises(StoreError, match=str(Owner.this_process().pid))
    with ObjectLock(place), refused:
        ObjectLock(place).acquire()
    with ObjectLock(place):
        pass
