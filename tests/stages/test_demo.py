from pathlib import Path

import numpy as np
import pytest

from i2pmae.evaluation.comparison import CHANCE, PRETRAINED, UNTRAINED
from i2pmae.stages import demo


@pytest.fixture
def quick(monkeypatch, trained, tmp_path):
    """A demo of flat chairs and tall desks, whose stages have been run."""
    monkeypatch.setattr(demo.extract_2d, "run", lambda _: None)
    monkeypatch.setattr(demo.pretrain, "run", lambda *_, **__: {"checkpoint": str(trained)})
    monkeypatch.setattr(demo.show, "run", lambda *_, **__: {"pictures": {"masks": "masks.png"}})
    monkeypatch.setattr(demo, "POINTS", 64)
    monkeypatch.setattr(demo, "PROCEDURAL", tmp_path / "shapes")
    rng = np.random.default_rng(0)
    for place, height in {"chair": 0.2, "desk": 2.0, "sofa": 1.0}.items():
        for split, n_shapes in {"train": 6, "test": 3}.items():
            folder = tmp_path / "shapes" / place / split
            folder.mkdir(parents=True)
            for number in range(n_shapes):
                np.save(folder / f"{number}.npy", rng.random((128, 3)) * (1, height, 1))


@pytest.mark.usefixtures("quick")
def test_it_begins_with_the_encoder_that_ships_and_ends_with_few_labels(shipped, tmp_path, capfd):
    result = demo.run(tmp_path / "demo")
    captured = capfd.readouterr()
    assert result["scores"].keys() == {UNTRAINED, PRETRAINED, shipped, CHANCE}
    assert result["scores"][PRETRAINED].keys() == demo.SHOWN.keys()
    pictures = [Path(name) for name in result["pictures"]]
    assert [picture.stem for picture in pictures] == ["neighbors", "encoder-features", "masks"]
    assert all(picture.read_bytes()[1:4] == b"PNG" for picture in pictures[:2])
    assert "Nearest to chair/test/0" in captured.out
    assert "5 labels per class" in captured.out
    assert captured.err.index("0/4 embed") < captured.err.index("1/4 extract-2d")
    assert f"{shipped}, pre-trained on 30,000 random shapes, minus untrained" in captured.err
    assert "pre-trained here, for 20 epochs on 360 shapes, minus untrained" in captured.err


@pytest.mark.usefixtures("quick")
def test_without_one_it_begins_with_stage_one(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(demo, "shipped", dict)
    result = demo.run(tmp_path / "demo")
    assert result["scores"].keys() == {UNTRAINED, PRETRAINED, CHANCE}
    assert result["pictures"] == ["masks.png"]
    assert "0/4" not in capfd.readouterr().err
