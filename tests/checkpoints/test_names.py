import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import i2pmae
from i2pmae.checkpoints import names
from i2pmae.checkpoints.networks import load_encoder
from i2pmae.cli import main
from i2pmae.errors import CheckpointError, I2PMAEError
from i2pmae.evaluation.vectors import read_vectors


def test_every_encoder_that_ships_is_whole_and_small():
    for name, encoder in names.shipped().items():
        assert names.file_of(name) == encoder.path
        assert encoder.path.stat().st_size <= 8e6
        assert encoder.scores
        load_encoder(name)


def test_a_shipped_encoder_loads_by_its_name(shipped, untrained):
    points = torch.rand(2, 100, 3) - 0.5
    found, expected = (load_encoder(each)(points) for each in (shipped, untrained))
    torch.testing.assert_close(found, expected, rtol=1e-2, atol=1e-2)  # float16 in the file
    assert found.dtype == torch.float32


def test_a_file_of_that_name_wins(shipped, untrained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / shipped).write_bytes(untrained.read_bytes())
    assert names.file_of(shipped) == Path(shipped)
    assert names.recorded(shipped) == str(tmp_path / shipped)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("i2pmae-smal", r"i2pmae-smal is no file, .* \(did you mean .i2pmae-small.\?\)\. "),
        ("owner/name", "give hf://owner/name"),
        ("runs/first/last.pt", r"^no checkpoint at runs/first/last\.pt$"),
        ("last.pt", r"^no checkpoint at last\.pt$"),
        ("hf://name", r"hf://name: expected hf://owner/name"),
        ("hf://datasets/owner/name", "expected hf://owner/name"),
    ],
)
@pytest.mark.usefixtures("shipped")
def test_what_names_nothing_is_one_line(name, message):
    with pytest.raises(I2PMAEError, match=message):
        load_encoder(name)


def test_where_none_ships_this_is_said(shipped, monkeypatch, tmp_path):
    (tmp_path / names.TABLE).write_text("# none\n")
    monkeypatch.setattr(names, "FOLDER", tmp_path)
    with pytest.raises(CheckpointError, match="no encoder ships with this version yet"):
        load_encoder(shipped)
    assert i2pmae.models(quiet=True) == {"models": {}}


def test_damage_is_found(shipped):
    file = names.file_of(shipped)
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match="its SHA-256 does not match; install i2pmae again"):
        load_encoder(shipped)
    file.unlink()
    with pytest.raises(CheckpointError, match="is missing; install i2pmae again"):
        load_encoder(shipped)
    (names.FOLDER / names.TABLE).write_text("[i2pmae-small]\nfile = '../../x.safetensors'\n")
    with pytest.raises(CheckpointError, match=r"models\.toml is damaged"):
        load_encoder(shipped)


def command(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["i2pmae", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    return ended.value.code


def test_models_lists_them(shipped, monkeypatch, capsys):
    assert command(monkeypatch, "models") == 0
    assert shipped in capsys.readouterr().out
    assert command(monkeypatch, "models", shipped) == 0
    assert "linear SVM, modelnet10_vox24 12.5 %" in " ".join(capsys.readouterr().out.split())
    assert command(monkeypatch, "models", "--json") == 0
    (about,) = json.loads(capsys.readouterr().out)["models"].values()
    assert about["bytes"] == names.file_of(shipped).stat().st_size
    assert about["scores"] == {"linear SVM, modelnet10_vox24": 12.5}
    assert command(monkeypatch, "models", "i2pmae-big") == 1
    assert "did you mean 'i2pmae-small'" in capsys.readouterr().err


def test_shapes_alone_are_embedded_with_the_shipped_encoder(shipped, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "clouds").mkdir()
    for seed in range(3):
        np.save(tmp_path / "clouds" / f"{seed}.npy", np.random.default_rng(seed).random((99, 3)))
    assert command(monkeypatch, "embed", "clouds", "--points", "99") == 0
    assert read_vectors(Path("vectors.npz")).settings["checkpoint"] == shipped
    # A file is encoded by the encoder that is recorded, wherever the command is given.
    assert command(monkeypatch, "similar", "vectors.npz", "clouds/1.npy", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["duplicates"] == ["1"]
    assert i2pmae.embed("clouds", points=99, out="b.npz", quiet=True)["shapes"] == 3
    assert command(monkeypatch, "embed") == 1
    assert "'data' is required" in capsys.readouterr().err
