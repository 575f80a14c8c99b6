import numpy as np
import pytest

from i2pmae.datasets import open_source
from i2pmae.datasets.shapenetpart import PART_RANGES
from i2pmae.errors import DataError
from i2pmae.geometry.coordinates import to_unit_sphere


def parsed(file):
    """Slow reading: one number at a time."""
    return np.array(
        [[float(word) for word in line.split()] for line in file.read_text().splitlines()]
    )


def test_categories_keep_the_order_of_their_file(write, tmp_path):
    source = open_source(write.shapenetpart(tmp_path))
    assert source.class_names == ("Airplane", "Chair", "Mug")
    assert source.class_parts == ((0, 1, 2, 3), (12, 13, 14, 15), (36, 37))
    assert len(source.part_names) == 50
    assert source.part_names[36] == "Mug 0"
    assert source.ids[0] == "03797390/a2mug"
    assert source.class_names[source.labels[0]] == "Mug"


def test_fifty_parts_in_sixteen_categories():
    labels = [label for first, last in PART_RANGES.values() for label in range(first, last + 1)]
    assert labels == list(range(50))
    assert len(PART_RANGES) == 16


def test_training_includes_validation(write, tmp_path):
    write.shapenetpart(tmp_path)
    assert set(open_source(tmp_path).splits) == {"train", "val"}
    assert set(open_source(tmp_path, split="val").splits) == {"val"}
    assert set(open_source(tmp_path, split="test").splits) == {"test"}
    (tmp_path / "train_test_split" / "shuffled_test_file_list.json").unlink()
    assert set(open_source(tmp_path, split="all").splits) == {"train", "val"}


def test_points_are_normalized_whole_and_keep_their_parts(write, tmp_path):
    source = open_source(write.shapenetpart(tmp_path), points=20)
    for index, shape_id in enumerate(source.ids):
        table = parsed(tmp_path / f"{shape_id}.txt")
        whole = to_unit_sphere(table[:, :3]).astype(np.float32)
        points, parts = source.load(index)
        assert points.shape == (20, 3)
        distances = np.abs(points[:, None] - whole[None]).max(axis=2)
        rows = distances.argmin(axis=1)
        assert distances.min(axis=1).max() < 1e-6
        assert len(set(rows)) == 20
        np.testing.assert_array_equal(parts, table[rows, 6])


def older(root):
    """The version before the one with normals."""
    for file in root.glob("0*/*.txt"):
        table = parsed(file)
        first = PART_RANGES[{"0269": "Airplane", "0300": "Chair"}.get(file.parent.name[:4], "Mug")]
        for folder, ending, columns in (
            ("points", ".pts", table[:, :3]),
            ("points_label", ".seg", table[:, 6:] - first[0] + 1),
        ):
            target = file.parent / folder / f"{file.stem}{ending}"
            target.parent.mkdir(exist_ok=True)
            np.savetxt(target, columns, "%.6f" if folder == "points" else "%d")
        file.unlink()


def test_the_older_version_has_the_same_parts(write, tmp_path):
    newer = open_source(write.shapenetpart(tmp_path / "new"))
    older(write.shapenetpart(tmp_path / "old"))
    source = open_source(tmp_path / "old")
    assert source.layout == "shapenetpart"
    assert (source.ids, source.part_names, source.class_parts) == (
        newer.ids,
        newer.part_names,
        newer.class_parts,
    )
    for index in range(len(source)):
        for mine, theirs in zip(source.load(index), newer.load(index), strict=True):
            np.testing.assert_array_equal(mine, theirs)
    labels = next((tmp_path / "old").glob("0*/points_label/*.seg"))
    labels.write_text(labels.read_text() + "1\n")
    source = open_source(tmp_path / "old", split="all")
    with pytest.raises(DataError, match=r"points, its points_label 3\d parts"):
        [source.load(index) for index in range(len(source))]


@pytest.mark.parametrize("names", ["own", "published"])
def test_parts_of_ones_own(write, tmp_path, names):
    write.shapenetpart(tmp_path)
    if names == "own":
        lines = "Drone\t02691156\nSeat\t03001627\nCup\t03797390\n"
        (tmp_path / "synsetoffset2category.txt").write_text(lines)
    for file in tmp_path.glob("0*/*.txt"):
        lines = [line.split() for line in file.read_text().splitlines()]
        text = "".join(
            f"{' '.join(words[:-1])} {100 * (row % 3) if file.parent.name[:4] == '0269' else 7}\n"
            for row, words in enumerate(lines)
        )
        file.write_text(text)
    (tmp_path / "train_test_split/shuffled_val_file_list.json").unlink()
    sources = [open_source(tmp_path, split=split) for split in ("train", "test")]
    first = "Drone" if names == "own" else "Airplane"
    for source in sources:
        assert source.part_names[:3] == (f"{first} 0", f"{first} 100", f"{first} 200")
        assert source.class_parts == ((0, 1, 2), (3,), (4,))
        for index, label in enumerate(source.labels):
            assert set(source.load(index).parts) == set(source.class_parts[label])
    assert "5 parts are those found in the shapes" in sources[0].notes
