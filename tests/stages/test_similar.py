import json
import re
import shutil
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import trimesh

from i2pmae.cli import main
from i2pmae.config import EmbedConfig, SimilarConfig
from i2pmae.errors import CheckpointError, DataError
from i2pmae.evaluation.vectors import read_vectors, write_vectors
from i2pmae.stages import embed, extract_2d, similar

from ..conftest import TINY_ENCODER, extract_config


@pytest.fixture(autouse=True)
def _few_points_to_draw(monkeypatch):
    monkeypatch.setattr(similar, "_DRAWN_POINTS", 100)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("shapes")
    for number in range(3):
        for kind, shape in {
            "box": trimesh.creation.box((1, 1.2 + 0.1 * number, 2)),
            "ball": trimesh.creation.icosphere(2, radius=1 + number),
        }.items():
            file = root / kind / f"{kind}_{number}.stl"
            file.parent.mkdir(exist_ok=True)
            shape.export(file)
    return root


@pytest.fixture(scope="module")
def vectors(untrained, folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("vectors") / "v.npz"
    embed.run(EmbedConfig(checkpoint=untrained, data=folder, out=out, points=256))
    return out


def find(vectors, query, **changes):
    return similar.run(SimilarConfig(vectors=vectors, query=str(query), **changes))


def test_neighbors_are_the_other_shapes_by_cosine(vectors):
    found = find(vectors, "box/box_1", top=9)
    assert found["query"] == {"id": "box/box_1", "class": "box", "split": None}
    assert sorted(row["id"] for row in found["neighbors"]) == [
        "ball/ball_0",
        "ball/ball_1",
        "ball/ball_2",
        "box/box_0",
        "box/box_2",
    ]
    scores = [row["score"] for row in found["neighbors"]]
    assert scores == sorted(scores, reverse=True)
    values = read_vectors(vectors)
    directions = values.whitened()
    one, other = (directions[values.ids.index(name)] for name in ("box/box_1", "box/box_2"))
    row = next(row for row in found["neighbors"] if row["id"] == "box/box_2")
    assert row["score"] == pytest.approx(one @ other, abs=1e-5)
    pairs = (directions @ directions.T)[np.triu_indices(6, 1)]
    below = 100 * (pairs < row["score"] - 1e-6).mean()
    assert row["percentile"] == pytest.approx(below, abs=1e-3)
    assert {row["class"] for row in found["neighbors"][:2]} == {"box"}
    assert len(find(vectors, "box/box_1", top=2)["neighbors"]) == 2


def test_a_file_is_encoded_as_the_others_were(vectors, folder, tmp_path):
    query = shutil.copy(folder / "ball" / "ball_1.stl", tmp_path / "mine.stl")
    found = find(vectors, query)
    assert found["query"] == {"file": str(query), "class": None, "split": None}
    assert found["duplicates"] == ["ball/ball_1"]  # it is a copy, found by its content
    assert "ball/ball_1" not in [row["id"] for row in found["neighbors"]]
    assert found["neighbors"][0]["class"] == "ball"
    np.save(tmp_path / "mine.npy", np.random.default_rng(0).standard_normal((500, 3)))
    assert len(find(vectors, tmp_path / "mine.npy")["neighbors"]) == 5


def test_a_file_is_pooled_as_the_others_were(untrained, folder, tmp_path):
    values = EmbedConfig(checkpoint=untrained, data=folder, out=tmp_path / "v.npz", points=256)
    embed.run(values.model_copy(update={"pooling": "levels"}))
    assert read_vectors(values.out).vectors.shape == (6, 2 * sum(TINY_ENCODER.widths))
    query = shutil.copy(folder / "ball" / "ball_1.stl", tmp_path / "mine.stl")
    assert find(values.out, query)["neighbors"][0]["class"] == "ball"


def test_the_checkpoint_may_move_but_not_change(vectors, folder, untrained, tmp_path):
    query = folder / "ball" / "ball_1.stl"
    values = read_vectors(vectors)
    gone = tmp_path / "gone.npz"
    write_vectors(gone, values._replace(settings=values.settings | {"checkpoint": "/no/such.pt"}))
    with pytest.raises(CheckpointError, match="pass it with --checkpoint"):
        find(gone, query)
    moved = shutil.copy(untrained, tmp_path / "moved.pt")
    assert find(gone, query, checkpoint=moved)["neighbors"] == find(vectors, query)["neighbors"]
    other = tmp_path / "other.npz"
    settings = values.settings | {"checkpoint_sha256": "0" * 64}
    write_vectors(other, values._replace(settings=settings))
    with pytest.raises(CheckpointError, match="run i2pmae embed again"):
        find(other, query)
    assert find(gone, "box/box_1")["neighbors"]  # ids need no checkpoint


def test_copies_of_a_shape_are_named_apart_and_never_a_find(untrained, folder, tmp_path, capsys):
    shapes = shutil.copytree(folder, tmp_path / "shapes")
    shutil.copy(shapes / "box" / "box_1.stl", shapes / "box" / "again.stl")
    out = tmp_path / "v.npz"
    embed.run(EmbedConfig(checkpoint=untrained, data=shapes, out=out, points=256))
    found = find(out, "box/box_1", top=2)
    assert found["duplicates"] == ["box/again"]
    assert {row["id"] for row in found["neighbors"]} <= {"box/box_0", "box/box_2", "ball/ball_0"}
    assert re.search(r"^ same +box/again ", capsys.readouterr().out, re.MULTILINE)
    assert find(out, shapes / "box" / "box_1.stl")["duplicates"] == ["box/again", "box/box_1"]


def test_the_same_file_is_known_from_another_folder(untrained, folder, tmp_path, monkeypatch):
    out = tmp_path / "v.npz"
    monkeypatch.chdir(folder.parent)
    embed.run(EmbedConfig(checkpoint=untrained, data=Path(folder.name), out=out, points=256))
    assert read_vectors(out).paths[0] == str(folder / "ball" / "ball_0.stl")
    monkeypatch.chdir(folder)
    assert find(out, "box/box_1.stl")["duplicates"] == ["box/box_1"]


def test_the_picture_shows_the_shapes(vectors, folder, tmp_path):
    picture = tmp_path / "new" / "similar.png"
    found = find(vectors, "box/box_1", picture=picture)
    assert found["picture"] == str(picture)
    assert picture.read_bytes().startswith(b"\x89PNG")
    find(vectors, folder / "box" / "box_0.stl", picture=picture, up="z", top=1)


def test_a_file_is_turned_and_chosen_as_those_of_a_store_were(untrained, tmp_path):
    rng = np.random.default_rng(0)
    (tmp_path / "files").mkdir()
    for number in range(10):
        cloud = rng.standard_normal((600, 3)) * rng.uniform(0.1, 1, 3)
        np.save(tmp_path / "files" / f"{number}.npy", cloud[cloud[:, 2].argsort()])  # no sample
    extract_2d.run(
        extract_config(tmp_path / "s.zarr", data=tmp_path / "files", up="z", split="all")
    )
    out = tmp_path / "v.npz"
    embed.run(EmbedConfig(checkpoint=untrained, data=tmp_path / "s.zarr", out=out, points=256))
    for name in "357":
        picture = tmp_path / "p.png" if name == "3" else None
        found = find(out, tmp_path / "files" / f"{name}.npy", top=1, picture=picture)
        assert name in [*found["duplicates"], found["neighbors"][0]["id"]]
    values = read_vectors(out)
    settings = {key: value for key, value in values.settings.items() if key != "stored_layout"}
    write_vectors(tmp_path / "old.npz", values._replace(settings=settings))
    with pytest.raises(DataError, match="does not say what its store was made of"):
        find(tmp_path / "old.npz", tmp_path / "files" / "3.npy")
    assert find(tmp_path / "old.npz", "3")["neighbors"]


def test_a_scan_that_is_read_without_scaling_is_found_by_its_file(untrained, tmp_path, capfd):
    rng = np.random.default_rng(0)
    clouds = (rng.random((10, 600, 3)) * rng.uniform(0.1, 0.6, (10, 1, 3)) + 0.2).astype("f4")
    folder = tmp_path / "main_split"
    folder.mkdir()
    for name, rows in {"training": slice(5), "test": slice(5, 10)}.items():
        with h5py.File(folder / f"{name}_objectdataset.h5", "w") as file:
            file["data"], file["label"] = clouds[rows], np.arange(5) % 2
    out = tmp_path / "v.npz"
    embed.run(EmbedConfig(checkpoint=untrained, data=tmp_path, out=out, points=256))
    np.save(tmp_path / "query.npy", clouds[7])
    found = find(out, tmp_path / "query.npy")
    assert found["duplicates"] == ["test_objectdataset/00002"]
    assert "query.npy: not scaled" in capfd.readouterr().err


def test_shapes_to_draw_may_have_moved(vectors, folder, tmp_path):
    values = read_vectors(vectors)
    gone = tmp_path / "gone.npz"
    write_vectors(gone, values._replace(settings=values.settings | {"data": "/no/such"}))
    picture = tmp_path / "p.png"
    with pytest.raises(DataError, match=r"/no/such does not exist.*pass --data"):
        find(gone, "box/box_1", picture=picture)
    find(gone, "box/box_1", picture=picture, data=folder)
    assert picture.exists()
    np.save(tmp_path / "a.npy", np.random.default_rng(0).random((30, 3)))
    with pytest.raises(DataError, match="--data"):
        find(gone, "box/box_1", picture=picture, data=tmp_path)


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("box_1", "did you mean box/box_1"),
        ("box/box_9", "did you mean box/box_"),
        ("zzz", "ids look like ball/ball_0"),
    ],
)
def test_an_unknown_shape_brings_the_nearest_ids(vectors, query, words):
    with pytest.raises(DataError, match=words):
        find(vectors, query)


def test_queries_that_cannot_be_read(vectors, tmp_path):
    (tmp_path / "note.txt").write_text("hello")
    with pytest.raises(DataError, match=r"note\.txt"):
        find(vectors, tmp_path / "note.txt")
    (tmp_path / "broken.stl").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"broken\.stl"):
        find(vectors, tmp_path / "broken.stl")


def test_vectors_from_elsewhere_are_refused(vectors, tmp_path):
    write_vectors(tmp_path / "v.npz", read_vectors(vectors)._replace(settings={}))
    with pytest.raises(DataError, match="does not say how it was made"):
        find(tmp_path / "v.npz", "box/box_1")
    values = read_vectors(vectors)
    alone = values._replace(
        ids=values.ids[:1],
        labels=values.labels[:1],
        splits=values.splits[:1],
        vectors=values.vectors[:1],
        paths=values.paths[:1],
    )
    write_vectors(tmp_path / "one.npz", alone)
    with pytest.raises(DataError, match="no other shape"):
        find(tmp_path / "one.npz", "ball/ball_0")


def command(monkeypatch, capsys, *arguments):
    monkeypatch.setattr(sys, "argv", ["i2pmae", "similar", *map(str, arguments)])
    with pytest.raises(SystemExit) as exit_:
        main()
    captured = capsys.readouterr()
    return exit_.value.code, captured.out, captured.err


def test_the_command_prints_a_table_or_one_object(vectors, monkeypatch, capsys):
    code, out, _ = command(monkeypatch, capsys, vectors, "box/box_1", "--top", 2)
    assert code == 0
    assert "Nearest to box/box_1 (box)" in out
    code, out, _ = command(monkeypatch, capsys, vectors, "box/box_1", "--top", 2, "--json")
    assert len(json.loads(out)["neighbors"]) == 2
    code, out, err = command(monkeypatch, capsys, "/no/such.npz", "x", "--json")
    assert (code, out, err.count("\n")) == (1, "", 1)


def test_a_stored_cloud_in_another_unit_is_found_by_its_file(untrained, tmp_path):
    rng = np.random.default_rng(0)
    clouds = rng.standard_normal((20, 600, 3)) * rng.uniform(0.2, 1, (20, 1, 3)) * 1000 + 70
    for split, rows in {"train": slice(10), "test": slice(10, 20)}.items():
        with h5py.File(tmp_path / f"{split}.h5", "w") as file:
            file["data"], file["label"] = clouds[rows], np.arange(10) % 2
        (tmp_path / f"{split}_files.txt").write_text(f"{split}.h5\n")
    (tmp_path / "shape_names.txt").write_text("a\nb\n")
    out = tmp_path / "v.npz"
    embed.run(EmbedConfig(checkpoint=untrained, data=tmp_path, out=out, points=256))
    np.save(tmp_path / "query.npy", clouds[13])
    found = find(out, tmp_path / "query.npy")
    assert found["duplicates"] == ["test/00003"]
    assert len(found["neighbors"]) == 5
