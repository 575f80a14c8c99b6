import json
import sys

import numpy as np
import pytest

from i2pmae.errors import DataError
from i2pmae.evaluation.vectors import (
    Vectors,
    cosine_texts,
    nearest,
    read_vectors,
    write_vectors,
)


def made(n=5, channels=3, **changes):
    values = {
        "ids": [f"chair/train/{number}_ü" for number in range(n)],
        "labels": np.arange(n, dtype=np.int64) % 3 - 1,
        "splits": ["train", ""] * (n // 2) + ["test"] * (n % 2),
        "vectors": np.random.default_rng(0).standard_normal((n, channels)).astype(np.float32),
        "class_names": ("chair", "night_stand"),
        "settings": {"points": 1024, "seed": 0, "data": "shapes"},
        "paths": [f"shapes/chair/train/{number}.off" for number in range(n)],
    }
    return Vectors(**values | changes)


def arrays(**changes):
    values = made()
    found = {
        "ids": np.array(values.ids),
        "labels": values.labels,
        "splits": np.array(values.splits),
        "vectors": values.vectors,
        "class_names": np.array(values.class_names),
        "settings": np.array(json.dumps(values.settings)),
        "paths": np.array(values.paths),
        "mean": values.vectors.mean(axis=0),
        "whitening": np.eye(3, 2, dtype=np.float32),
    }
    return {name: value for name, value in (found | changes).items() if value is not None}


def assert_equal(found, expected):
    assert found.ids == expected.ids
    assert found.splits == expected.splits
    assert found.class_names == expected.class_names
    assert found.settings == expected.settings
    assert found.paths == expected.paths
    np.testing.assert_array_equal(found.whitened(), expected.whitened())
    np.testing.assert_array_equal(found.labels, expected.labels)
    np.testing.assert_array_equal(found.vectors, expected.vectors)
    assert (found.vectors.dtype, found.labels.dtype) == (np.float32, np.int64)


@pytest.mark.parametrize("ending", [".npz", ".parquet"])
@pytest.mark.parametrize("classes", [("chair", "night_stand"), ()])
def test_what_is_written_is_read(tmp_path, ending, classes):
    if ending == ".parquet":
        pytest.importorskip("pyarrow")
    labels = made().labels if classes else np.full(5, -1)
    values = made(class_names=classes, labels=labels)
    path = tmp_path / "new" / f"vectors{ending}"
    write_vectors(path, values)
    assert_equal(read_vectors(path), values)
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_npz_needs_no_pickle(tmp_path):
    write_vectors(tmp_path / "v.npz", made())
    with np.load(tmp_path / "v.npz", allow_pickle=False) as found:
        assert set(found) == set(arrays())
        assert found["ids"].tolist() == made().ids


@pytest.mark.parametrize("ending", [".npz", ".parquet"])
def test_files_without_paths_and_statistics_are_read(tmp_path, ending):
    if ending == ".parquet":
        pytest.importorskip("pyarrow")
        write_vectors(tmp_path / "v.parquet", made(paths=()))
    else:
        np.savez(tmp_path / "v.npz", **arrays(paths=None, mean=None, whitening=None))
    found = read_vectors(tmp_path / f"v{ending}")
    assert found.paths == []
    np.testing.assert_array_equal(found.whitened(), made().whitened())


@pytest.mark.parametrize(
    "changes",
    [{"mean": np.zeros(2, np.float32)}, {"whitening": np.full((3, 2), np.nan, np.float32)}],
)
def test_statistics_that_do_not_fit_are_refused(tmp_path, changes):
    np.savez(tmp_path / "v.npz", **arrays(**changes))
    with pytest.raises(DataError, match="statistics do not fit"):
        read_vectors(tmp_path / "v.npz")


def test_parquet_is_a_row_per_shape(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    write_vectors(tmp_path / "v.parquet", made())
    rows = parquet.read_table(tmp_path / "v.parquet").to_pylist()
    assert [row["class"] for row in rows] == [None, "chair", "night_stand", None, "chair"]
    assert rows[2]["id"] == made().ids[2]
    assert rows[2]["path"] == "shapes/chair/train/2.off"
    assert rows[2]["vector"] == made().vectors[2].tolist()


def test_an_older_file_stays_if_writing_fails(tmp_path, monkeypatch):
    path = tmp_path / "v.npz"
    write_vectors(path, made())

    def full(stream, **_arrays):
        stream.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(DataError, match=r"cannot write .*v\.npz: No space left"):
        write_vectors(path, made(7))
    assert_equal(read_vectors(path), made())
    assert [file.name for file in tmp_path.iterdir()] == ["v.npz"]


def test_an_interrupt_leaves_nothing(tmp_path, monkeypatch):
    def interrupted(stream, **_arrays):
        stream.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(np, "savez", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_vectors(tmp_path / "v.npz", made())
    assert list(tmp_path.iterdir()) == []


def test_parquet_without_its_package_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(DataError, match=r"pip install 'i2pmae\[parquet\]'"):
        write_vectors(tmp_path / "v.parquet", made())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["v.csv", "v", "folder.npz"])
def test_files_that_cannot_be_written_are_refused(tmp_path, name):
    (tmp_path / "folder.npz").mkdir()
    with pytest.raises(DataError, match=name):
        write_vectors(tmp_path / name, made())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"ids": None}, "lacks ids"),
        ({"settings": None, "labels": None}, "lacks labels, settings"),
        ({"settings": np.array("[1]")}, "cannot be read"),
        ({"settings": np.array("{")}, "cannot be read"),
        ({"vectors": np.zeros((5, 3))}, "float64"),
        ({"vectors": np.zeros(5, np.float32)}, "expected float32"),
        ({"vectors": np.zeros((4, 3), np.float32)}, "4 vectors, 5 ids"),
        ({"vectors": np.full((5, 3), np.nan, np.float32)}, "not finite"),
        ({"labels": np.arange(5)}, "from 0 to 4"),
        ({"labels": np.zeros(5)}, "float64"),
        ({"labels": np.zeros(4, np.int64)}, "4 labels"),
        ({"splits": np.array(["train"])}, "1 splits"),
        ({"ids": np.array(["a", None], dtype=object)}, "cannot be read"),
    ],
)
def test_malformed_files_are_one_line(tmp_path, changes, words):
    np.savez(tmp_path / "v.npz", **arrays(**changes))
    assert_one_line(tmp_path / "v.npz", words)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("v.npz", b"", "cannot be read"),
        ("v.npz", b"PK\x03\x04 cut short", "cannot be read"),
        ("v.npz", b"\x80\x04\x8c\x02os\x94.", "cannot be read"),
        ("v.npz", None, "does not exist"),
        ("v.txt", b"hello", "no file of vectors"),
    ],
)
def test_other_files_are_one_line(tmp_path, name, content, words):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    assert_one_line(tmp_path / name, words)


def test_a_single_array_is_no_file_of_vectors(tmp_path):
    with (tmp_path / "v.npz").open("wb") as file:
        np.save(file, np.zeros(3))
    assert_one_line(tmp_path / "v.npz", "not a zip file")


def test_other_parquet_files_are_one_line(tmp_path):
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "v.parquet"
    parquet.write_table(arrow.table({"id": ["a"]}), path)
    assert_one_line(path, "lacks label, split, vector")
    path.write_bytes(path.read_bytes()[:40])
    assert_one_line(path, "cannot be read")
    columns = {"id": ["a"], "label": [0], "split": [""], "vector": [[1.0]]}
    parquet.write_table(arrow.table(columns), path)
    assert_one_line(path, "lacks its metadata")


def assert_one_line(path, words):
    with pytest.raises(DataError) as caught:
        read_vectors(path)
    message = str(caught.value)
    assert words in message
    assert path.name in message
    assert "\n" not in message


def test_nearest_by_hand():
    vectors = np.array([[1, 0], [0, 2], [3, 3], [-1, 0], [0, 0]], dtype=np.float32)
    found, cosines = nearest(vectors, np.array([2, 0], dtype=np.float32), 5)
    assert found.tolist() == [0, 2, 1, 4, 3]  # ties to the lowest
    np.testing.assert_allclose(cosines, [1, 0.5**0.5, 0, 0, -1], rtol=1e-6)


def test_nearest_agrees_with_the_slow_version():
    generator = np.random.default_rng(1)
    vectors = generator.standard_normal((40, 7)).astype(np.float32)
    query = generator.standard_normal(7).astype(np.float32)
    slow = sorted(
        range(40),
        key=lambda i: -(vectors[i] @ query) / np.linalg.norm(vectors[i]) / np.linalg.norm(query),
    )
    found, _ = nearest(vectors, query, 6)
    assert found.tolist() == slow[:6]
    scaled, _ = nearest(vectors * generator.uniform(1, 9, (40, 1)).astype(np.float32), 5 * query, 6)
    assert scaled.tolist() == slow[:6]


def test_nearest_tells_vectors_apart_that_almost_agree():
    query = np.ones(64, np.float32)
    vectors = np.ones((20, 64), np.float32)
    vectors[np.arange(20), np.arange(20)] += np.arange(20, 0, -1, dtype=np.float32) * 2e-4
    assert nearest(vectors, query, 20)[0].tolist() == list(range(19, -1, -1))


def test_cosines_are_written_as_far_as_they_differ():
    assert cosine_texts(np.array([0.9, 0.5])) == ["0.900", "0.500"]
    assert cosine_texts(np.array([0.99999, 0.99998, 0.5])) == ["0.99999", "0.99998", "0.50000"]
    assert cosine_texts(np.array([1.0, 1.0])) == ["1.00000000", "1.00000000"]
