import pickle

import numpy as np
import pytest

from i2pmae.datasets import few_shot_episode, few_shot_folds, open_source
from i2pmae.datasets.few_shot import setting_folders, setting_of
from i2pmae.errors import DataError
from i2pmae.geometry.coordinates import to_unit_sphere


def test_an_episode_has_both_splits(write, tmp_path):
    file = write.few_shot(tmp_path)
    episode = few_shot_episode(file, points=16)
    assert (episode.splits.count("train"), episode.splits.count("test")) == (50, 10)
    assert episode.labels[:50] == [way for way in range(5) for _ in range(10)]
    assert episode.class_names == ("bench", "guitar", "airplane", "xbox", "chair")
    value = pickle.loads(file.read_bytes())
    for index in (0, 49, 50, 59):
        rows = [*value["train"], *value["test"]]
        expected = to_unit_sphere(rows[index][0][:, :3])[:16]
        np.testing.assert_allclose(episode.load(index).points, expected, atol=1e-6)


def test_sources_read_one_split(write, tmp_path):
    file = write.few_shot(tmp_path)
    test = open_source(file, split="test")
    assert test.ids[0] == "test/0000"
    both = few_shot_episode(file)
    np.testing.assert_array_equal(test.load(0).points, both.load(50).points)


def test_labels_and_classes_may_be_arrays(write, tmp_path):
    file = write.few_shot(tmp_path)
    value = pickle.loads(file.read_bytes())
    wrapped = {
        name: [[cloud, np.array([label]), np.int64(original)] for cloud, label, original in rows]
        for name, rows in value.items()
    }
    plain = few_shot_episode(file)
    file.write_bytes(pickle.dumps(wrapped))
    found = few_shot_episode(file)
    assert (found.labels, found.class_names) == (plain.labels, plain.class_names)


def test_folds_are_in_order_of_their_number(tmp_path):
    for number in range(12):
        (tmp_path / f"{number}.pkl").touch()
    assert [file.stem for file in few_shot_folds(tmp_path)] == [str(n) for n in range(12)]
    with pytest.raises(DataError, match="nowhere holds no episodes"):
        few_shot_folds(tmp_path / "nowhere")


def test_one_episode_is_read_at_a_time(write, tmp_path):
    write.few_shot(tmp_path)
    for path, example in ((tmp_path, "5way_10shot/0.pkl"), (tmp_path / "5way_10shot", "0.pkl")):
        with pytest.raises(DataError, match=f"2 few-shot episodes.*such as {example}"):
            open_source(path)
    (tmp_path / "5way_10shot" / "0.pkl").unlink()
    assert len(open_source(tmp_path)) == 50
    with pytest.raises(DataError, match="does not exist"):
        few_shot_episode(tmp_path / "3.pkl")


@pytest.mark.parametrize(
    "name",
    [
        *("5way_10shot", "5-way-10-shot", "5_way_10_shots", "5w10s", "way5_shot10"),
        *("Ways 5, Shots 10", "modelnet40_5way_10shot", "ModelNet40-5-Way 10-Shot"),
    ],
)
def test_settings_by_other_names(tmp_path, write, name):
    assert setting_of(tmp_path / name) == (5, 10)
    write.few_shot(tmp_path / "published")
    (tmp_path / "published" / "5way_10shot").rename(tmp_path / name)
    (tmp_path / name / "1.pkl").unlink()
    assert setting_folders(tmp_path) == {(5, 10): tmp_path / name}
    assert open_source(tmp_path / name).layout == "few-shot"
    assert len(open_source(tmp_path).class_names) == 5


@pytest.mark.parametrize("name", ["highway_5", "5", "chairs", "5shot_10way", "ways", "always 5"])
def test_other_folders_are_no_settings(tmp_path, name):
    assert setting_of(tmp_path / name) is None
