import struct

import h5py
import pytest

from i2pmae.datasets import open_source
from i2pmae.errors import DataError
from i2pmae.untrusted.hdf5 import open_hdf5

from .. import tiny_copies

DRIVERS = 48  # where a file of the oldest kind has the address of its drivers' settings


@pytest.mark.parametrize("options", [{}, {"libver": "latest"}, {"userblock_size": 1024}])
def test_whole_files_are_opened(tmp_path, options):
    with h5py.File(tmp_path / "a.h5", "w", **options) as made:
        made["data"] = [1, 2, 3]
    with open_hdf5(tmp_path / "a.h5") as opened:
        assert list(opened["data"]) == [1, 2, 3]


@pytest.mark.parametrize("user_block", [0, 512, 2048])
def test_settings_of_drivers_of_any_size_are_not_read(tmp_path, user_block):
    file = tmp_path / "a.h5"
    with h5py.File(file, "w", userblock_size=user_block) as made:
        made["data"] = [1, 2, 3]
    data = bytearray(file.read_bytes())
    assert data[user_block + DRIVERS :][:8] == b"\xff" * 8  # none
    data[user_block + DRIVERS : user_block + DRIVERS + 8] = struct.pack("<Q", 256)
    for length in (len(data), user_block + DRIVERS + 8):
        file.write_bytes(data[:length])
        with pytest.raises(DataError, match="is damaged, or one part of an hdf5 file in several"):
            open_hdf5(file)


def test_a_layout_of_hdf5_files_opens_them_so(tmp_path):
    path = tiny_copies.modelnet_hdf5(tmp_path)
    file = next(tmp_path.rglob("*train0.h5"))
    data = bytearray(file.read_bytes())
    data[DRIVERS : DRIVERS + 8] = struct.pack("<Q", 256)
    file.write_bytes(bytes(data))
    with pytest.raises(DataError, match="one part of an hdf5 file in several"):
        open_source(path, split="train")


@pytest.mark.parametrize("content", [b"", b"\x89HDF\r\n\x1a\n", b"\x89HDF\r\n\x1a\n" + bytes(300)])
def test_what_is_no_hdf5_file_is_left_to_the_library(tmp_path, content):
    (tmp_path / "a.h5").write_bytes(content)
    with pytest.raises(OSError, match="Unable to synchronously open file"):
        open_hdf5(tmp_path / "a.h5")
