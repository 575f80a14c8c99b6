import numpy as np
import pytest

from i2pmae.datasets import open_source
from i2pmae.datasets.clouds import read_cloud
from i2pmae.errors import DataError


def scan(file, n, seed=0):
    rows = np.random.default_rng(seed).random((n, 11), np.float32)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(np.float32(n).tobytes() + rows.tobytes())
    return rows


def test_scanobjectnn_before_sampling(tmp_path):
    rows = {
        name: scan(tmp_path / name, 300 + i, i)
        for i, name in enumerate(["chair/a.bin", "bed/b.bin", "bed/c.bin"])
    }
    (tmp_path / "chair" / "a.xml").write_text("<a/>")
    (tmp_path / "chair" / "buffer.bin").write_bytes(bytes(400))  # of a .gltf
    (tmp_path / "split_new.txt").write_text("a.bin\t4\nb.bin\t10\tt\nc.bin\t10\n")
    source = open_source(tmp_path, split="all", points=10_000)
    assert (source.layout, source.class_names) == ("clouds", ("bed", "chair"))
    assert list(zip(source.ids, source.splits, strict=True)) == [
        ("bed/b", "test"),
        ("bed/c", "train"),
        ("chair/a", "train"),
    ]
    assert [source.count(i) for i in range(3)] == [301, 302, 300]
    assert len(source.load(0).points) == 301
    np.testing.assert_array_equal(read_cloud(tmp_path / "chair/a.bin"), rows["chair/a.bin"])


@pytest.mark.parametrize(
    "data", [b"1", bytes(48), np.float32([1, 2, 3]).tobytes(), np.float32([np.nan] * 12).tobytes()]
)
def test_other_files_of_that_name(tmp_path, data):
    (tmp_path / "a.bin").write_bytes(data)
    with pytest.raises(DataError, match=r"a.bin is \d+ bytes long; expected the number of points"):
        read_cloud(tmp_path / "a.bin")
    scan(tmp_path / "b.bin", 20)
    assert open_source(tmp_path).ids == ["b"]
