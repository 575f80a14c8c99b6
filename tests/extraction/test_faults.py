"""What can go wrong while stage one writes, done for real: the store ends the same."""

import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest

from i2pmae.config import StoreConfig
from i2pmae.errors import StoreError
from i2pmae.stages import extract_2d

from ..conftest import extract_config
from ..stages.test_extract_2d import digests
from ..training.test_faults import remount, tmpfs

pytestmark = pytest.mark.timeout(600)

TWO_WORKERS = ("--workers", "2", "--set", "workers.threads=1")


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """What the command of `start` makes when nothing goes wrong: a file per shape and array."""
    path = tmp_path_factory.mktemp("reference") / "tiny.zarr"
    extract_2d.run(extract_config(path, limit=40, store=StoreConfig(shard_size=1)))
    return path


def words(path, *options):
    command = "i2pmae extract-2d procedural --limit 40 --points 512 --batch-size 3 --precision fp32"
    command += " --image-model timm:test_vit --pretrained random --image-size 64"
    return [*command.split(), "--set", "store.shard_size=1", "--cache", str(path), *options]


def start(path, *options):
    return subprocess.Popen(
        [sys.executable, "-m", *words(path, *options)],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def until_it_writes(pid, has_ended, path):
    """Wait until a process holds the lock, or has come to its end."""
    lock = path.with_name(f"{path.name}.lock")
    while not has_ended():
        try:
            if json.loads(lock.read_text())["pid"] == pid:
                return
        except (FileNotFoundError, ValueError):
            pass
        time.sleep(0.002)


def kill_and_continue(start_soon, reference, path, n_kills):
    rng, n_killed = random.Random(0), 0
    while n_killed < n_kills:
        process = start_soon(words(path, "--quiet"))
        until_it_writes(process.pid, lambda started=process: started.exitcode is not None, path)
        time.sleep(rng.uniform(0, 0.5))
        process.kill()
        process.join()
        n_killed += process.exitcode == -signal.SIGKILL
        if process.exitcode != -signal.SIGKILL:  # it was too late
            assert process.exitcode == 0
            assert digests(path) == digests(reference)
            for file in path.glob("status/c/*"):
                file.unlink()
    process = start(path)
    process.communicate()
    assert process.returncode == 0
    assert digests(path) == digests(reference)
    assert [file.name for file in path.parent.iterdir()] == [path.name]


@pytest.mark.slow
def test_a_run_killed_at_any_instant_ends_the_same(start_soon, reference, tmp_path):
    kill_and_continue(start_soon, reference, tmp_path / "tiny.zarr", 2)


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_a_run_killed_many_times_ends_the_same(start_soon, reference, tmp_path):
    kill_and_continue(start_soon, reference, tmp_path / "tiny.zarr", 200)


@pytest.mark.parametrize(
    ("number", "code", "options"),
    [
        pytest.param(signal.SIGINT, 130, (), marks=pytest.mark.slow),
        (signal.SIGTERM, 143, ()),
        *(
            pytest.param(number, code, TWO_WORKERS, marks=pytest.mark.slow)
            for number, code in ((signal.SIGINT, 130), (signal.SIGTERM, 143))
        ),
    ],
)
def test_a_signal_stops_in_order(reference, tmp_path, number, code, options):
    path = tmp_path / "tiny.zarr"
    process = start(path, *options)
    until_it_writes(process.pid, lambda: process.poll() is not None, path)
    while not list(path.glob("status/c/*")):
        time.sleep(0.002)
    os.killpg(process.pid, number)  # terminals and job queues send it to all processes
    _, said = process.communicate()
    assert process.returncode == code, said
    assert "Traceback" not in said
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    extract_2d.run(extract_config(path, limit=40, store=StoreConfig(shard_size=1)))
    assert digests(path).keys() == digests(reference).keys()
    if not options:  # workers have other numbers of threads
        assert digests(path) == digests(reference)


def test_a_full_disk_stops_the_run_and_loses_nothing(store, tmp_path):
    disk = tmp_path / "disk"
    n_bytes = sum(file.stat().st_size for file in store.rglob("*") if file.is_file())
    with tmpfs(disk, n_bytes // 2):
        path = disk / "tiny.zarr"
        with pytest.raises(StoreError, match=r"cannot write shard \d .* the disk is full"):
            extract_2d.run(extract_config(path))
        assert not path.with_name("tiny.zarr.lock").exists()
        remount(disk, "size=50m")
        extract_2d.run(extract_config(path))
        assert digests(path) == digests(store)


def test_a_read_only_folder_is_one_line(store, tmp_path):
    disk = tmp_path / "disk"
    with tmpfs(disk, "1m"):
        remount(disk, "ro")
        with pytest.raises(StoreError, match="the file system is read-only"):
            extract_2d.run(extract_config(disk / "tiny.zarr"))
    with tmpfs(tmp_path / "other", "50m"):
        path = tmp_path / "other" / "tiny.zarr"
        subprocess.run(["cp", "-r", store, path], check=True)
        (path / "status" / "c" / "1").unlink()
        remount(path.parent, "ro")
        with pytest.raises(StoreError, match="the file system is read-only"):
            extract_2d.run(extract_config(path))
        remount(path.parent, "rw")
        extract_2d.run(extract_config(path))
        assert digests(path) == digests(store)
