"""What can go wrong while stage one writes, done for real: the store ends the same."""

import subprocess

import pytest

from i2pmae.errors import StoreError
from i2pmae.stages import extract_2d

from .conftest import extract_config
from .test_extract_2d import digests
from .test_faults import remount, tmpfs

pytestmark = pytest.mark.timeout(600)


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
