from pathlib import Path

from i2pmae.evaluation.shape_files import file_of_shape


def test_files_of_shapes_stay_in_their_folder():
    assert file_of_shape(Path("a"), "../../etc/./passwd", "ply") == Path("a/etc/passwd.ply")
    assert file_of_shape(Path("a"), "/b.c", "npz") == Path("a/b.c.npz")
    assert file_of_shape(Path("a"), "..", "npz") == Path("a/shape.npz")
