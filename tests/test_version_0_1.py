"""Files of version 0.1 still load, verify and resume; `tests/data/v0.1/README.md` says which."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import i2pmae
from i2pmae.config import (
    ExtractConfig,
    FinetuneConfig,
    PretrainConfig,
    ReportConfig,
    SimilarConfig,
    ViewConfig,
)
from i2pmae.extraction.recorded import recorded_views
from i2pmae.report import results
from i2pmae.stages import compare, finetune, pretrain, report, similar, verify
from i2pmae.store import StoreReader
from i2pmae.store.location import Location
from i2pmae.store.metadata import load_info, setting_differences
from i2pmae.training.run_folder import RunFolder

FILES = Path(__file__).parent / "data" / "v0.1"
STORE = Path("cache/shapes.zarr")


@pytest.fixture(autouse=True)
def _copy(tmp_path, monkeypatch):
    """Runs are resumed in a copy, by the relative paths they were made with."""
    for name in ("cache", "runs"):
        shutil.copytree(FILES / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)


def config_of(kind, name):
    return kind.model_validate_json(Path("runs", name, "config.json").read_text())


def assert_same_rows(name, expected):
    """To the rounding of another machine; speeds aside."""
    found, rows = (RunFolder(Path("runs", run)).rows() for run in (name, expected))
    assert len(found) == len(rows)
    for ours, theirs in zip(found, rows, strict=True):
        assert ours.keys() >= theirs.keys()
        for key in theirs.keys() - {"shapes_per_s", "wait_share"}:
            expected = theirs[key]
            assert ours[key] == (
                pytest.approx(expected, rel=1e-3) if isinstance(expected, float) else expected
            )


def test_the_store_is_whole():
    assert verify.run(STORE)["ok"]
    reader = StoreReader(STORE)
    assert reader.class_names == ("Knife", "Mug")
    assert [len(reader.indices(split)) for split in ("train", "test")] == [12, 6]


def test_its_settings_are_those_of_today():
    found = load_info(Location.of(STORE))
    views = recorded_views(ExtractConfig(data=Path("x")).views)
    assert found.settings["views"] != views  # `depth` was its name for `draw`
    wanted = replace(found, settings={**found.settings, "views": views})
    assert not setting_differences(found, wanted)
    oblique = {**views, "pose": "oblique"}
    wanted = replace(found, settings={**found.settings, "views": oblique})
    assert list(setting_differences(found, wanted)) == ["views.pose"]
    assert ViewConfig.model_validate(found.provenance["config"]["views"]) == ViewConfig()


def test_networks_give_the_same_outputs():
    batch = StoreReader(STORE).read(np.arange(18), ["points", "label"])
    points, labels = (torch.from_numpy(batch[name]) for name in ("points", "label"))
    points = points[:, :64]
    with torch.inference_mode():
        found = {
            "encoder": i2pmae.load_encoder("runs/pretrain/last.pt")(points),
            "classifier": i2pmae.load_classifier("runs/classify/best.pt")(points),
            "segmenter": i2pmae.load_segmenter("runs/segment/best.pt")(points, labels.long())[:2],
        }
    with np.load(FILES / "outputs.npz") as expected:
        for name, output in found.items():
            torch.testing.assert_close(
                output, torch.from_numpy(expected[name]), rtol=1e-3, atol=1e-4
            )


def test_pretraining_resumes_in_the_middle_of_an_epoch():
    pretrain.run(config_of(PretrainConfig, "pretrain-cut"), resume=True)
    assert_same_rows("pretrain-cut", "pretrain")


@pytest.mark.parametrize("name", ["classify", "few-shot"])
def test_finetuning_resumes(name):
    result = finetune.run(config_of(FinetuneConfig, f"{name}-cut"), resume=True)
    assert_same_rows(f"{name}-cut", name)
    expected = json.loads(Path("runs", name, "results.json").read_text())
    for figure in results.figures_of(expected):
        if figure in expected:
            assert result[figure] == pytest.approx(expected[figure])


@pytest.mark.parametrize("name", ["classify", "segment", "few-shot"])
def test_a_finished_run_is_known_to_be_finished(name):
    expected = json.loads(Path("runs", name, "results.json").read_text())
    assert finetune.run(config_of(FinetuneConfig, name), resume=True) == expected


def test_runs_are_compared_and_reported():
    runs = ("pretrain", "classify", "segment", "few-shot")
    found = compare.run([Path("runs", name) for name in runs])
    assert len(found["runs"]) == len(runs)
    for name in runs:
        page = report.run(ReportConfig(subjects=Path("runs", name), device="cpu"))
        assert not page["notes"]


def test_vectors_are_searched():
    found = similar.run(
        SimilarConfig(vectors=FILES / "vectors.npz", query="bottle/train/bottle_00")
    )
    assert len(found["neighbors"]) == 5
