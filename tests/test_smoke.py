"""All commands, one after another, on synthetic shapes, as a user types them."""

import json
import sys

import pytest

from i2pmae.cli import main

TINY = [
    "--set=encoder.n_centers=[64, 32, 16]",
    "--set=encoder.group_sizes=[8, 4, 4]",
    "--set=encoder.widths=[12, 24, 48]",
    "--set=encoder.depths=[1, 1, 1]",
    "--set=encoder.embedding_width=8",
]


@pytest.fixture
def i2pmae(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)

    def run(command: str, *more: str):
        monkeypatch.setattr(sys, "argv", ["i2pmae", *command.split(), *more, "--json"])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        assert ended.value.code == 0, err
        return json.loads(out)

    return run


def test_the_whole_chain(i2pmae, tmp_path):
    extracted = i2pmae(
        "extract-2d procedural --limit 24 --points 256 --cache cache/ "
        "--image-model timm:test_vit --pretrained random --image-size 64"
    )
    assert extracted["store"] == "cache/procedural.zarr"
    inspected = i2pmae("inspect cache")
    assert inspected["complete"]
    assert inspected["shapes"] == {"done": 24, "skipped": 0, "pending": 0}

    trained = i2pmae(
        "pretrain --cache cache --out runs/a --epochs 2 --batch-size 8 --points 128", *TINY
    )
    assert trained["epoch"] == 2
    again = i2pmae(
        "pretrain --cache cache --out runs/a --epochs 2 --batch-size 8 --points 128 --resume", *TINY
    )
    assert again["loss"] == trained["loss"]

    scored = i2pmae("svm runs/a/last.pt procedural --points 128 --limit 48")
    assert 0 <= scored["accuracy"] <= 100
    tuned = i2pmae(
        "finetune runs/a/last.pt procedural --out runs/b --epochs 1 --batch-size 8 --points 128 "
        "--limit 48"
    )
    assert 0 <= tuned["accuracy"] <= 100
    converted = i2pmae("convert runs/a/last.pt official.pth")
    assert converted["tensors"] == i2pmae("convert official.pth back.safetensors")["tensors"]
    assert (tmp_path / "back.safetensors").exists()
