import h5py
import numpy as np
import pytest

from i2pmae.datasets import detect_layout, open_source
from i2pmae.errors import DataError

FILES = {
    "scanobjectnn-obj-bg": "main_split/{}_objectdataset.h5",
    "scanobjectnn-obj-only": "main_split_nobg/{}_objectdataset.h5",
    "scanobjectnn-pb-t50-rs": "main_split/{}_objectdataset_augmentedrot_scale75.h5",
}


@pytest.mark.parametrize("layout", FILES)
@pytest.mark.parametrize("folder", ["", "h5_files"])
def test_each_variant_reads_its_own_files(write, tmp_path, layout, folder):
    write.scanobjectnn(tmp_path)
    for split, prefix in (("train", "training"), ("test", "test")):
        source = open_source(tmp_path / folder, layout, split)
        with h5py.File(tmp_path / "h5_files" / FILES[layout].format(prefix)) as file:
            expected, labels = file["data"][:], file["label"][:]
        found = np.stack([source.load(i).points for i in range(len(source))])
        np.testing.assert_array_equal(found, expected)
        assert source.labels == labels.tolist()
        assert source.recipe == layout.replace("scanobjectnn", "finetune-scanobjectnn")
        assert (source.svm_points, source.svm_c) == (None, 0.018)


def test_the_fifteen_classes(write, tmp_path):
    names = open_source(write.scanobjectnn(tmp_path), "scanobjectnn-obj-bg").class_names
    assert len(names) == 15
    assert (names[0], names[4], names[9], names[14]) == ("bag", "chair", "table", "toilet")


def test_folders_of_one_split_tell_the_variant(write, tmp_path):
    files = write.scanobjectnn(tmp_path) / "h5_files"
    assert detect_layout(files / "main_split_nobg") == "scanobjectnn-obj-only"
    for file in (files / "main_split").glob("*_objectdataset.h5"):
        file.unlink()
    assert detect_layout(files / "main_split") == "scanobjectnn-pb-t50-rs"
    assert len(open_source(files / "main_split", "scanobjectnn")) == 6


def test_several_variants_are_named(write, tmp_path):
    files = write.scanobjectnn(tmp_path) / "h5_files"
    both = r"several variants of ScanObjectNN: scanobjectnn-obj-bg, scanobjectnn-pb-t50-rs\. "
    with pytest.raises(DataError, match=both):
        open_source(files / "main_split")
    with pytest.raises(DataError, match=r"obj-bg, scanobjectnn-obj-only, scanobjectnn-pb"):
        open_source(tmp_path)
    (files / "main_split").rename(tmp_path / "scans")
    with pytest.raises(DataError, match="several variants"):
        open_source(tmp_path / "scans")
    assert len(open_source(tmp_path / "scans", "scanobjectnn-obj-bg")) == 6


def test_absent_variants_are_named(write, tmp_path):
    files = write.scanobjectnn(tmp_path) / "h5_files"
    with pytest.raises(DataError, match=r"holds no main_split/training_objectdataset\.h5"):
        open_source(files / "main_split_nobg", "scanobjectnn-obj-bg")
    (tmp_path / "empty" / "main_split").mkdir(parents=True)
    with pytest.raises(DataError, match="holds none of ScanObjectNN's files"):
        open_source(tmp_path / "empty")


def test_one_of_the_other_splits_where_there_is_no_main_one(write, tmp_path):
    root = write.scanobjectnn(tmp_path) / "h5_files"
    for ending in ("", "_nobg"):
        (root / f"main_split{ending}").rename(root / f"split2{ending}")
    for layout in ("scanobjectnn-obj-bg", "scanobjectnn-obj-only", "scanobjectnn-pb-t50-rs"):
        source = open_source(tmp_path, layout)
        nobg = "_nobg" * (layout == "scanobjectnn-obj-only")
        assert source.entries[0].file.parent.name == f"split2{nobg}"
    assert open_source(root / "split2_nobg").layout == "scanobjectnn-obj-only"


def test_labels_stored_as_floats(write, tmp_path):
    file = write.scanobjectnn(tmp_path) / "h5_files/main_split_nobg/training_objectdataset.h5"
    with h5py.File(file) as opened:
        data, label = opened["data"][:], opened["label"][:]
    write.h5(file, data, label.astype(np.float32))
    assert open_source(file.parent).labels == label.tolist()
    write.h5(file, data, label + 0.5)
    with pytest.raises(DataError, match="expected integers"):
        open_source(file.parent)
