import pytest

from i2pmae.urls import absolute_path


@pytest.mark.parametrize(
    ("given", "expected"),
    [(".", ""), ("a/./b", "a/b"), ("missing/..", ""), ("link", "link"), ("link/../c", "a/c")],
)
def test_a_path_from_the_root_means_what_the_system_means(tmp_path, monkeypatch, given, expected):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "a" / "b")
    monkeypatch.chdir(tmp_path)
    assert absolute_path(given) == tmp_path.resolve() / expected
