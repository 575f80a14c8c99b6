import numpy as np

from i2pmae.datasets import open_source
from i2pmae.datasets.shapenetpart import PART_RANGES
from i2pmae.datasets.source import to_unit_sphere


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


def test_points_are_normalised_whole_and_keep_their_parts(write, tmp_path):
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
