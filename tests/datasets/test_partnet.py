import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest

from i2pmae.datasets import open_source
from i2pmae.errors import DataError
from i2pmae.geometry.coordinates import to_unit_sphere


def test_objects_are_their_samples_not_their_parts(write, tmp_path):
    root = write.partnet(tmp_path)
    (root / "data_v0" / "44" / "point_sample").mkdir(parents=True)
    (root / "data_v0" / "44" / "meta.json").write_text('{"model_cat": "Vase"}')
    for place in (root, root / "data_v0"):
        source = open_source(place)
        assert source.layout == "partnet"
        assert source.ids == ["41", "42", "43"]
        assert source.class_names == ("Chair", "Lamp")
        assert source.labels == [0, 0, 1]
        assert "1 folders of objects hold no sample of points" in source.notes
        points = source.load(0).points
        whole = to_unit_sphere(np.loadtxt(source.entries[0].file))
        assert np.abs(points[:, None] - whole[None]).max(axis=2).min(axis=1).max() < 1e-5


def test_objects_without_a_category(write, tmp_path):
    root = write.partnet(tmp_path)
    (root / "data_v0" / "41" / "meta.json").write_text("[]")
    with pytest.raises(DataError, match="names no 'model_cat'"):
        open_source(root)


def test_the_coarsest_level_of_each_category(write, tmp_path, monkeypatch):
    root = write.partnet_hdf5(tmp_path)
    for category in ("Bed-1", "Clock-1"):
        folder = root / "sem_seg_h5" / category
        shutil.copy(folder / "test-00.h5", folder / "val-00.h5")
    for place in (root, root / "sem_seg_h5"):
        source = open_source(place, split="all")
        assert source.layout == "partnet-hdf5"
        assert source.class_names == ("Bed", "Clock")
        assert source.part_names == ("Bed 0", "Bed 1", "Bed 2", "Clock 0", "Clock 1", "Clock 2")
        assert source.class_parts == ((0, 1, 2), (3, 4, 5))
        assert source.splits.count("val") == 4
        assert source.ids[0] == "Bed-1/test-00/00000"
        assert "parts are those of Bed-1, Clock-1" in source.notes
    monkeypatch.chdir(root / "sem_seg_h5" / "Bed-1")
    assert open_source(Path(), split="all").ids[0] == "Bed-1/test-00/00000"
    one = open_source(root / "sem_seg_h5" / "Bed-3")
    assert (one.class_names, len(one.part_names), len(one)) == (("Bed",), 5, 4)
    assert set(one.load(0).parts) == {0, 1, 2, 3, 4}


@pytest.mark.parametrize(
    ("above", "folders"),
    [("ins_seg_h5", ("Bed", "Clock")), ("ins_seg_h5_for_sgpn", ("Bed-1", "Bed-3", "Clock-1"))],
)
def test_clouds_to_tell_instances_apart(tmp_path, above, folders):
    clouds = np.random.default_rng(0).random((3, 50, 3)).astype(np.float32)
    for name in folders:
        for split in ("train", "test", "val"):
            file = tmp_path / above / name / f"{split}-00.h5"
            file.parent.mkdir(parents=True, exist_ok=True)
            with h5py.File(file, "w") as opened:
                opened["pts"], opened["label"] = clouds, np.zeros((3, 50), np.int32)
    for place in (tmp_path, tmp_path / above):
        source = open_source(place, split="all")
        assert source.layout == "partnet-instances"
        assert source.class_names == ("Bed", "Clock")
        assert (len(source), source.splits.count("val")) == (18, 6)
        np.testing.assert_allclose(source.load(0).points, to_unit_sphere(clouds[0]), atol=1e-6)
    one = open_source(tmp_path / above / folders[-1])
    assert (one.class_names, len(one)) == (("Clock",), 3)
    with h5py.File(tmp_path / above / folders[0] / "test-00.h5", "w") as opened:
        opened["pts"] = clouds.transpose(0, 2, 1)
    with pytest.raises(DataError, match=r"test-00\.h5: 'pts' has shape \(3, 3, 50\)"):
        open_source(tmp_path)


@pytest.mark.parametrize("layout", ["partnet-hdf5", "partnet-instances"])
def test_a_folder_without_such_files(tmp_path, layout):
    np.save(tmp_path / "a.npy", np.random.default_rng(0).random((50, 3)))
    (tmp_path / "ins_seg_h5.zip").write_bytes(b"PK")
    with pytest.raises(DataError, match=f"holds no files of the layout {layout}"):
        open_source(tmp_path, layout=layout)
    assert open_source(tmp_path).layout == "clouds"
