"""The comparison of encoders: what is kept, what is paired, what stands in the table."""

import json
import sys

import numpy as np
import pytest


@pytest.fixture
def encoders(module):
    return module("encoders")


@pytest.fixture
def shapes(tmp_path):
    """Flat chairs and tall desks, with points for two draws."""
    rng = np.random.default_rng(0)
    for place, height in {"chair": 0.2, "desk": 2.0}.items():
        for split, n_shapes in {"train": 6, "test": 4}.items():
            folder = tmp_path / "shapes" / place / split
            folder.mkdir(parents=True)
            for number in range(n_shapes):
                np.save(folder / f"{number}.npy", rng.random((128, 3)) * (1, height, 1))
    return tmp_path / "shapes"


def test_names_of_encoders(encoders):
    assert encoders.named("i2pmae-small") == ("i2pmae-small", "i2pmae-small")
    assert encoders.named("own=runs/last.pt") == ("own", "runs/last.pt")


def test_every_draw_of_every_encoder_is_encoded_once(
    encoders, shapes, trained, tmp_path, monkeypatch, capsys
):
    words = [shapes, f"own={trained}", "untrained", "--points", 64, "--draws", 2]
    words += ["--work", tmp_path / "work", "--results", tmp_path / "results"]
    monkeypatch.setattr(sys, "argv", ["encoders.py", *map(str, words)])
    encoders.main()
    first = (tmp_path / "results" / "shapes.json").read_text()
    found = json.loads(first)
    assert (found["n_train"], found["n_test"], found["classes"]) == (12, 8, 2)
    assert found["scores"]["own"]["svm"]["n"] == 2
    assert "| own minus untrained |" in capsys.readouterr().out
    kept = sorted(path.name for path in (tmp_path / "work").glob("*/features/*"))
    assert [name.split("-")[-1] for name in kept] == ["0.npz", "1.npz"] * 2
    monkeypatch.setattr("i2pmae.evaluation.features.extract_features", None)  # not needed again
    encoders.main()
    assert (tmp_path / "results" / "shapes.json").read_text() == first


def test_draws_differ_and_the_first_is_that_of_evaluate(
    encoders, shapes, trained, tmp_path, monkeypatch
):
    from i2pmae.config import EvaluateConfig
    from i2pmae.stages import evaluate

    words = [shapes, f"own={trained}", "--points", 64, "--draws", 2, "--work", tmp_path / "work"]
    monkeypatch.setattr(
        sys, "argv", ["encoders.py", *map(str, words), "--results", str(tmp_path / "results")]
    )
    encoders.main()
    one, two = (
        dict(np.load(path)) for path in sorted((tmp_path / "work").glob("*/features/*.npz"))
    )
    assert not np.allclose(one["test"], two["test"])
    scores = np.load(next((tmp_path / "work").glob("*/scores/*-0.npz")))
    expected = evaluate.run(EvaluateConfig(checkpoint=trained, data=shapes, points=64))
    for key in encoders.MEASURES:
        assert scores[key].mean() == pytest.approx(
            expected["scores"]["pretrained"][key]["value"], abs=1e-4
        )


def test_differences_are_paired_over_shapes_and_draws(encoders):
    rng = np.random.default_rng(0)
    hard = rng.random((2, 3, 30)) * 80
    measured = {
        name: [dict.fromkeys(encoders.MEASURES, draw) for draw in values]
        for name, values in {"a": hard[0] + 5, "b": hard[0], "c": hard[1]}.items()
    }
    found = encoders.compare(measured)
    assert found["first"] == "a"
    assert found["first_minus"]["b"]["map"] == pytest.approx([5, 5, 5])
    low, value, high = np.array(found["first_minus"]["c"]["svm"])[[1, 0, 2]]
    assert low < value < high
    of_draws = (hard[0] + 5).mean(axis=1)
    assert found["scores"]["a"]["svm"]["mean"] == pytest.approx(of_draws.mean(), abs=0.01)
    assert found["scores"]["a"]["svm"]["std"] == pytest.approx(of_draws.std(ddof=1), abs=0.01)
