import json
import os
import sys

import numpy as np
import pytest
import torch
import trimesh

from i2pmae.checkpoints.networks import load_encoder
from i2pmae.cli import main
from i2pmae.config import EmbedConfig
from i2pmae.datasets import open_source
from i2pmae.errors import CheckpointError, ConfigError, DataError
from i2pmae.evaluation.vectors import read_vectors
from i2pmae.stages import embed
from i2pmae.store import StoreReader


def config(untrained, data, out, **changes):
    values = {"checkpoint": untrained, "data": data, "out": out, "points": 128, "batch_size": 4}
    return EmbedConfig(**(values | changes))


@pytest.fixture
def folder(tmp_path):
    for seed, place in enumerate(("box/train/a", "box/test/b", "ball/train/c", "ball/test/d")):
        file = tmp_path / "shapes" / f"{place}.stl"
        file.parent.mkdir(parents=True, exist_ok=True)
        if place.startswith("box"):
            shape = trimesh.creation.box((1, 1 + seed, 2))
        else:
            shape = trimesh.creation.icosphere(2)
        shape.export(file)
    return tmp_path / "shapes"


def test_vectors_are_the_features_of_the_svm(untrained, folder, tmp_path):
    result = embed.run(config(untrained, folder, tmp_path / "v.npz"))
    found = read_vectors(tmp_path / "v.npz")
    assert result["shapes"] == 4
    assert (result["points"], result["repeated"], result["skipped"]) == (128, 0, [])
    assert found.ids == ["ball/test/d", "ball/train/c", "box/test/b", "box/train/a"]
    assert found.class_names == ("ball", "box")
    assert found.labels.tolist() == [0, 0, 1, 1]
    assert found.splits == ["test", "train", "test", "train"]
    assert found.settings["data"] == str(folder)
    assert found.settings["layout"] == "meshes"
    source = open_source(folder, split="all")
    points = np.stack([source.load(index).points[:128] for index in range(4)])
    with torch.inference_mode():
        expected = load_encoder(untrained)(torch.from_numpy(points)).numpy()
    np.testing.assert_allclose(found.vectors, expected, rtol=1e-4, atol=1e-5)


def test_points_are_those_of_the_layout_by_default(untrained, folder, tmp_path):
    assert embed.run(config(untrained, folder, tmp_path / "v.npz", points=None))["points"] == 1024


def test_batches_and_the_rest_of_the_folder_do_not_matter(untrained, folder, tmp_path):
    embed.run(config(untrained, folder, tmp_path / "a.npz"))
    embed.run(config(untrained, folder, tmp_path / "b.npz", split="test", batch_size=1))
    whole, part = read_vectors(tmp_path / "a.npz"), read_vectors(tmp_path / "b.npz")
    assert part.ids == ["ball/test/d", "box/test/b"]
    np.testing.assert_allclose(part.vectors, whole.vectors[[0, 2]], rtol=1e-4, atol=1e-5)


def test_shapes_with_few_points_have_them_repeated(untrained, tmp_path):
    (tmp_path / "clouds").mkdir()
    for name, n in {"many": 300, "few": 90}.items():
        np.save(tmp_path / "clouds" / f"{name}.npy", np.random.default_rng(n).random((n, 3)))
    result = embed.run(config(untrained, tmp_path / "clouds", tmp_path / "v.npz"))
    assert result["repeated"] == 1
    assert np.isfinite(read_vectors(tmp_path / "v.npz").vectors).all()


def test_a_store_is_embedded_by_its_points(untrained, store, tmp_path):
    result = embed.run(config(untrained, store, tmp_path / "v.npz", limit=5))
    reader, found = StoreReader(store), read_vectors(tmp_path / "v.npz")
    assert (result["shapes"], found.settings["layout"]) == (5, "store")
    assert found.ids == [str(name) for name in reader.read_all("id")[:5]]
    points = torch.from_numpy(reader.read(range(5), ["points"])["points"][:, :128])
    with torch.inference_mode():
        expected = load_encoder(untrained)(points).numpy()
    np.testing.assert_allclose(found.vectors, expected, rtol=1e-4, atol=1e-5)


def test_bad_shapes_stop_or_are_left_out(untrained, folder, tmp_path):
    (folder / "box" / "train" / "broken.stl").write_bytes(b"nothing")
    out = tmp_path / "v.npz"
    with pytest.raises(DataError, match=r"broken.*--on-error skip; i2pmae check-data"):
        embed.run(config(untrained, folder, out))
    assert not out.exists()
    result = embed.run(config(untrained, folder, out, on_error="skip"))
    assert result["skipped"] == ["box/train/broken"]
    assert read_vectors(out).ids == ["ball/test/d", "ball/train/c", "box/test/b", "box/train/a"]


def test_a_stopped_command_resumes_to_the_same_file(untrained, folder, tmp_path, monkeypatch):
    values, calls = config(untrained, folder, tmp_path / "v.npz", batch_size=1), []
    original = embed.extract_features

    def stopped(*arguments, **options):
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return original(*arguments, **options)

    monkeypatch.setattr(embed, "extract_features", stopped)
    with pytest.raises(KeyboardInterrupt):
        embed.run(values)
    assert not values.out.exists()
    assert embed.run(values)["shapes"] == 4
    assert len(calls) == 3 + 2  # two were kept
    whole = config(untrained, folder, tmp_path / "whole.npz", batch_size=1)
    embed.run(whole)
    assert read_vectors(values.out).vectors.tobytes() == read_vectors(whole.out).vectors.tobytes()
    assert sorted(file.name for file in tmp_path.glob("v.*")) == ["v.npz"]


def test_a_file_replaced_by_one_of_its_size_starts_over(untrained, tmp_path, monkeypatch, capsys):
    random = np.random.default_rng(0)
    (tmp_path / "clouds").mkdir()
    for name in "ab":
        np.save(tmp_path / "clouds" / f"{name}.npy", random.random((300, 3)))
    values = config(untrained, tmp_path / "clouds", tmp_path / "v.npz")
    with monkeypatch.context() as patch:
        patch.setattr(embed, "write_vectors", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            embed.run(values)
    file = tmp_path / "clouds" / "a.npy"
    time = file.stat().st_mtime_ns
    np.save(file, random.random((300, 3)))
    os.utime(file, ns=(time, time + 1_000_000_000))
    embed.run(values)
    shown = capsys.readouterr().err
    assert "v.npz.unfinished was begun before files of the shapes changed: starting over" in shown
    whole = config(untrained, tmp_path / "clouds", tmp_path / "whole.npz")
    embed.run(whole)
    assert read_vectors(values.out).vectors.tobytes() == read_vectors(whole.out).vectors.tobytes()


def test_dense_features_are_a_file_per_shape_and_a_picture(untrained, folder, tmp_path):
    result = embed.run(config(untrained, folder, tmp_path / "v.npz", dense=True))
    assert (result["dense"], result["picture"]) == (str(tmp_path / "v"), str(tmp_path / "v.png"))
    assert (tmp_path / "v.png").read_bytes().startswith(b"\x89PNG")
    saved = np.load(tmp_path / "v" / "box" / "test" / "b.npz")
    assert saved["points"].shape == (128, 3)
    with torch.inference_mode():
        expected = load_encoder(untrained, dense=True)(torch.from_numpy(saved["points"])[None])[0]
    np.testing.assert_allclose(saved["features"], expected, rtol=2e-2, atol=2e-2)
    found = read_vectors(tmp_path / "v.npz")
    assert found.vectors.shape[1] == load_encoder(untrained).config.widths[-1]


def test_shapes_and_other_files_of_the_user_are_never_overwritten(untrained, tmp_path):
    cloud = np.random.default_rng(0).random((300, 3))
    for folder in ("data", "other"):
        (tmp_path / folder).mkdir()
        np.savez(tmp_path / folder / "a.npz", points=cloud)
    (tmp_path / "link").symlink_to(tmp_path / "data")
    files = {file: file.read_bytes() for file in tmp_path.glob("[do]*/a.npz")}
    data, out = tmp_path / "data", tmp_path / "v.npz"
    for dense_out in ("data.npz", "link.npz", "data/inside.npz"):
        with pytest.raises(DataError, match=r"among the shapes of .*data\. Choose"):
            embed.run(config(untrained, data, tmp_path / dense_out, dense=True))
    with pytest.raises(DataError, match=r"other/a\.npz would .* not written by i2pmae embed --de"):
        embed.run(config(untrained, data, tmp_path / "other.npz", dense=True))
    with pytest.raises(DataError, match=r"data/a\.npz is one of the shapes and would be"):
        embed.run(config(untrained, data, data / "a.npz"))
    embed.run(config(untrained, data, out, dense=True))
    embed.run(config(untrained, data, out, dense=True))
    with pytest.raises(DataError, match=r"v/a\.npz is one of the shapes and would be"):
        embed.run(config(untrained, tmp_path / "v" / "a.npz", out, dense=True))
    (tmp_path / "v.png").write_bytes(b"the user's")
    with pytest.raises(DataError, match=r"v\.png would be overwritten"):
        embed.run(config(untrained, data, out, dense=True))
    assert files == {file: file.read_bytes() for file in files}
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *("data", "link", "other", "v", "v.npz", "v.png"),
    ]


def test_parquet(untrained, folder, tmp_path):
    pytest.importorskip("pyarrow")
    embed.run(config(untrained, folder, tmp_path / "v.parquet"))
    embed.run(config(untrained, folder, tmp_path / "v.npz"))
    rows, arrays = read_vectors(tmp_path / "v.parquet"), read_vectors(tmp_path / "v.npz")
    assert rows.ids == arrays.ids
    np.testing.assert_array_equal(rows.vectors, arrays.vectors)


def test_mistakes_are_found_before_any_shape_is_read(untrained, folder, tmp_path, monkeypatch):
    monkeypatch.setattr("i2pmae.datasets.meshes.Meshes.load", None)
    with pytest.raises(DataError, match=r"v\.csv"):
        embed.run(config(untrained, folder, tmp_path / "v.csv"))
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(DataError, match="parquet"):
        embed.run(config(untrained, folder, tmp_path / "v.parquet"))
    with pytest.raises(CheckpointError, match="no-such"):
        embed.run(config(tmp_path / "no-such.pt", folder, tmp_path / "v.npz"))


def test_fewer_points_than_the_encoder_needs(untrained, folder, tmp_path):
    with pytest.raises(ConfigError, match="--points 20: the encoder needs 64 points"):
        embed.run(config(untrained, folder, tmp_path / "v.npz", points=20))


def test_the_command(untrained, folder, tmp_path, monkeypatch, capsys):
    out = tmp_path / "my v.npz"
    arguments = ["embed", untrained, folder, "--out", out, "--points", 128, "--json"]
    monkeypatch.setattr(sys, "argv", ["i2pmae", *map(str, arguments)])
    with pytest.raises(SystemExit) as exit_:
        main()
    assert exit_.value.code == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["out"] == str(out)
    assert printed.err.endswith(f"; next: i2pmae similar '{out}' ball/test/d\n")
    assert len(read_vectors(out).ids) == 4
