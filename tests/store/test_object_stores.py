"""Stores on a real S3 server on this machine, and one that throttles and drops connections."""

import json
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import contextmanager
from dataclasses import asdict, replace
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from moto.server import ThreadedMotoServer

from i2pmae.errors import StoreError
from i2pmae.stages import copy
from i2pmae.store import lock as locks
from i2pmae.store.inspect import describe
from i2pmae.store.location import Location
from i2pmae.store.lock import ObjectLock, Owner
from i2pmae.store.reader import StoreReader
from i2pmae.store.verify import check_store

from .test_writer import contents

pytestmark = pytest.mark.timeout(300)

SLOW_DOWN = (
    b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
)


class Proxy(ThreadingHTTPServer):
    """Passes requests on to a server, some late, some refused, some cut off."""

    daemon_threads = True

    def __init__(self, target, passer):
        super().__init__(("127.0.0.1", 0), passer)
        self.target = target
        self.every = {}  # fault: every how many requests
        self.seen = Counter()
        self.guard = threading.Lock()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"

    def next_fault(self):
        with self.guard:
            self.seen["requests"] += 1
            for fault, period in self.every.items():
                if self.seen["requests"] % period == 0:
                    self.seen[fault] += 1
                    return fault
        return None


class Passer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def handle_request(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        fault = self.server.next_fault()
        if fault == "drop":
            self.close_connection = True
            return
        if fault == "throttle":
            self.answer(503, [("Content-Type", "application/xml")], SLOW_DOWN)
            return
        if fault == "delay":
            time.sleep(0.05)
        host, port = self.server.target
        passed = HTTPConnection(host, port, timeout=20)
        passed.request(self.command, self.path, body, dict(self.headers))
        response = passed.getresponse()
        self.answer(response.status, response.getheaders(), response.read())
        passed.close()

    do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = handle_request  # noqa: N815

    def answer(self, status, headers, body):
        self.send_response_only(status)
        length = [value for name, value in headers if name.lower() == "content-length"]
        for name, value in headers:
            if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                self.send_header(name, value)
        is_head = self.command == "HEAD"
        self.send_header("Content-Length", length[0] if is_head and length else str(len(body)))
        self.end_headers()
        if not is_head:
            self.wfile.write(body)

    def log_message(self, *_):
        pass


@contextmanager
def in_front_of(target, passer=Passer):
    """A proxy of a server at work."""
    proxy = Proxy(target, passer)
    threading.Thread(target=proxy.serve_forever, daemon=True).start()
    yield proxy
    proxy.shutdown()
    proxy.server_close()


@pytest.fixture(scope="module")
def server():
    moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    moto.start()
    with in_front_of(moto.get_host_and_port()) as proxy:
        yield proxy
    moto.stop()


@pytest.fixture
def bucket(server, monkeypatch):
    """A bucket of this test's own; `server.every` says what goes wrong."""
    for name, value in {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": server.url,
    }.items():
        monkeypatch.setenv(name, value)
    name = f"s3://bucket-{time.monotonic_ns()}"
    files().mkdir(name)
    server.seen.clear()
    yield name
    server.every = {}


def files():
    return Location.of("s3://any").files()


def objects(url):
    """Content of all objects of a store, as `contents` gives it of a folder."""
    place = Location.of(url)
    return {key: place.read(key) for key in sorted(place.keys(""))}


def test_a_bucket_that_is_not_there_is_named(bucket, spec, open_):  # noqa: ARG001
    with pytest.raises(StoreError, match=r"there is no bucket for s3://no-such-bucket/x\.zarr"):
        open_("s3://no-such-bucket/x.zarr", spec)


def test_a_public_bucket_is_read_without_credentials(store, bucket, tmp_path, monkeypatch):
    copy.run(store, f"{bucket}/public.zarr")
    files().chmod(bucket, acl="public-read", recursive=True)
    files().chmod(bucket, acl="public-read")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_NO_SIGN_REQUEST", "yes")
    copy.run(f"{bucket}/public.zarr", tmp_path / "mine.zarr")
    assert contents(tmp_path / "mine.zarr") == contents(store)
    assert StoreReader(f"{bucket}/public.zarr").read([3])["points"].shape == (1, 16, 3)


@pytest.mark.slow
def test_nothing_is_logged_where_there_are_no_credential_files(store, bucket, tmp_path):
    """TensorStore would say at each opening that it found none."""
    copy.run(store, f"{bucket}/quiet.zarr")
    code = "import sys; from i2pmae.store import StoreReader; StoreReader(sys.argv[1]).read([0])"
    done = subprocess.run(
        [sys.executable, "-c", code, f"{bucket}/quiet.zarr"],
        env={**os.environ, "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""


@pytest.mark.slow
def test_a_store_is_copied_to_a_bucket_and_back(store, bucket, tmp_path):
    copy.run(store, f"{bucket}/copy.zarr")
    assert objects(f"{bucket}/copy.zarr") == contents(store)
    assert copy.run(store, f"{bucket}/copy.zarr")["copied"] == 0
    copy.run(f"{bucket}/copy.zarr", f"{bucket}/deep/er.zarr")
    copy.run(f"{bucket}/deep/er.zarr", tmp_path / "back.zarr")
    assert contents(tmp_path / "back.zarr") == contents(store)


def assert_equals_folder(url, store, written):
    """A store of `written` in a bucket, read in every way, equals one in a folder."""
    assert objects(url) == contents(store)
    assert not Location.of(f"{url}.lock").files().exists(f"{url}.lock")
    batch = StoreReader(url).read([9, 0, 4])
    for name, values in batch.items():
        np.testing.assert_array_equal(values, written[name][[9, 0, 4]])
    assert StoreReader(url).read_all("id").tolist() == written["id"].tolist()
    found = describe(Path(url))  # as the command line gives it
    assert found["path"] == url
    assert found["shapes"] == {"done": 9, "skipped": 1, "pending": 0}
    assert found["stored_bytes"] == describe(store)["stored_bytes"]
    assert check_store(url)[1] == []


def test_a_store_in_a_bucket_equals_one_in_a_folder(bucket, store, spec, write_store, written):
    assert_equals_folder(write_store(f"{bucket}/folder/shapes.zarr", spec), store, written)


@pytest.mark.slow
def test_a_place_that_holds_other_objects_is_refused(bucket, spec, open_, write_store):
    url = f"{bucket}/shapes.zarr"
    files().pipe_file(f"{url}/", b"")  # a folder, as consoles make it
    files().pipe_file(f"{url}/points/c/0", b"somebody's")
    with pytest.raises(StoreError, match="holds other files \\(points/c/0\\)"):
        open_(url, spec)
    assert files().cat_file(f"{url}/points/c/0") == b"somebody's"
    files().rm_file(f"{url}/points/c/0")
    write_store(url, spec)
    assert check_store(url)[1] == []


@pytest.mark.slow
def test_nothing_is_lost_to_throttling_delays_and_dropped_connections(
    bucket, server, store, spec, write_store, written, capfd, monkeypatch
):
    monkeypatch.setattr("i2pmae.store.location._SECONDS_PER_LINE", 0.0)
    server.every = {"drop": 41, "throttle": 29, "delay": 5}
    url = f"{bucket}/shapes.zarr"
    write_store(url, spec)
    batch = StoreReader(url).read(range(10))
    assert check_store(url)[1] == []
    for fault in server.every:
        assert server.seen[fault] > 2
    assert "requests; they are retried (3 so far)" in capfd.readouterr().err
    server.every = {}
    assert objects(url) == contents(store)
    for name, values in batch.items():
        np.testing.assert_array_equal(values, written[name])


@pytest.mark.slow
def test_a_server_that_fails_for_long_is_asked_again_and_reported(
    bucket, store, spec, open_, values_of, write_store, monkeypatch, capfd
):
    monkeypatch.setattr("i2pmae.store.writer._WAITS", (0.01, 0.01))
    url = f"{bucket}/shapes.zarr"
    with open_(url, spec) as writer:
        writer.write_shard(0, values_of(spec, 0))
        calls = []

        def fail(*arguments):
            calls.append(arguments)
            raise OSError(16, "Please reduce your request rate.")

        with monkeypatch.context() as patch:
            patch.setattr(writer, "_write", fail)
            with pytest.raises(
                StoreError, match=r"cannot write shard 1 .*reduce your request rate"
            ):
                writer.write_shard(1, values_of(spec, 1))
        assert writer.pending == [1, 2]
    assert capfd.readouterr().err.count("Trying again") == 2
    assert objects(write_store(url, spec)) == contents(store)


def test_damage_in_a_bucket_is_found(bucket, spec, write_store):
    url = write_store(f"{bucket}/shapes.zarr", spec)
    found = files()
    features = f"{url}/features/c/1/0/0/0/0"
    content = bytearray(found.cat_file(features))
    content[3] ^= 1
    found.pipe_file(features, bytes(content))
    found.rm_file(f"{url}/depth/c/2/0/0/0")
    assert {(finding.array, finding.shard) for finding in check_store(url)[1]} == {
        ("features", 1),
        ("depth", 2),
    }
    with pytest.raises(StoreError, match=r"features is damaged \(shape 4, shard 1"):
        StoreReader(url).read([0, 4])


def test_no_store_and_no_bucket_are_one_line(bucket):
    with pytest.raises(StoreError, match=r"does not exist.*extract-2d"):
        StoreReader(f"{bucket}/none.zarr")
    with pytest.raises(StoreError, match=r"no-such-bucket"):
        StoreReader("s3://no-such-bucket/x.zarr")


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setattr("i2pmae.store.location.find_spec", lambda _: None)
    with pytest.raises(StoreError, match=r"pip install 'i2pmae\[s3\]'"):
        StoreReader("s3://bucket/x.zarr")


class TestLock:
    @pytest.fixture
    def place(self, bucket):
        return Location.of(f"{bucket}/shapes.zarr")

    def leave(self, place, owner):
        files().pipe_file(f"{place.text}.lock", json.dumps({**asdict(owner), "beat": 0}).encode())

    def test_the_second_is_refused_and_told_who_holds_it(self, place):
        refused = pytest.raises(StoreError, match=str(Owner.this_process().pid))
        with ObjectLock(place), refused:
            ObjectLock(place).acquire()
        with ObjectLock(place):
            pass

    def test_that_of_an_ended_process_is_taken_over(self, place):
        self.leave(place, replace(Owner.this_process(), started="earlier boot/1"))
        with ObjectLock(place) as lock:
            assert lock._owner() == Owner.this_process()

    def test_that_of_another_machine_when_it_is_silent(self, place, monkeypatch):
        monkeypatch.setattr(locks, "SILENCE", 0.4)
        self.leave(place, Owner("elsewhere", 1, ""))
        with ObjectLock(place):
            pass

    def test_not_while_it_shows_life(self, place, monkeypatch):
        monkeypatch.setattr(locks, "SILENCE", 3.0)
        monkeypatch.setattr(locks, "BEAT", 0.05)
        with monkeypatch.context() as patch:
            patch.setattr(Owner, "this_process", lambda: Owner("elsewhere", 1, ""))
            held = ObjectLock(place)
        with held, pytest.raises(StoreError, match="process 1 on elsewhere"):
            ObjectLock(place).acquire()
