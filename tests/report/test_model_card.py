import json
import shlex
from pathlib import Path

import pytest
import torch
import yaml

import i2pmae
from i2pmae.checkpoints import checkpoint
from i2pmae.cli import app
from i2pmae.config import FinetuneConfig, HeadConfig, OptimConfig, to_plain
from i2pmae.errors import CheckpointError
from i2pmae.model.classifier import Classifier
from i2pmae.report import model_card
from i2pmae.stages import export
from i2pmae.stages import finetune as finetune_stage
from i2pmae.stages import pretrain as pretrain_stage

from ..conftest import TINY_ENCODER


def _card(source: Path, out: Path) -> str:
    export.run(source, out)
    return (out.parent / "README.md").read_text()


@pytest.fixture(scope="module")
def pretrained_card(trained, tmp_path_factory) -> str:
    return _card(trained, tmp_path_factory.mktemp("export") / "tiny-encoder.safetensors")


def test_front_matter_is_what_the_hub_reads(pretrained_card):
    _, front, body = pretrained_card.split("---\n", 2)
    data = yaml.safe_load(front)
    assert data["library_name"] == "i2pmae"
    assert "point-cloud" in data["tags"]
    assert "license" not in data  # none is recorded for weights
    assert body.startswith("\n# tiny-encoder\n")


def test_the_card_of_a_pre_trained_encoder_says_what_is_recorded(trained, pretrained_card):
    last = model_card.RunFolder(trained.parent).rows()[-1]
    for said in (
        'i2pmae.load_encoder("tiny-encoder.safetensors")',
        "features (B, 48)",
        "| 0 | 64 | 8 | 12 | 1 |",
        "data: procedural\n",
        "shapes: 20 train (0 skipped)",
        "image model: timm:test_vit",
        "epochs: 3 of 3",
        f"loss 2d, epoch 3: {last['loss_2d']:.4f}",
        f"torch {torch.__version__}",
        f"SHA-256 `{model_card.file_hash(trained)}`",
        "None were measured",
    ):
        assert said in pretrained_card


def _settings_of(command: str, monkeypatch, stage) -> dict:
    """What a command would run with."""
    seen = []
    monkeypatch.setattr(stage, "run", lambda config, **_: seen.append(config) or {})
    app(shlex.split(command)[1:], standalone_mode=False)
    return to_plain(seen[0])


def test_the_command_gives_the_run_s_settings(trained, monkeypatch):
    saved = checkpoint.load(trained)
    command = model_card.reproduce(saved)
    assert _settings_of(command, monkeypatch, pretrain_stage) == saved.config
    assert "--set seed" not in command  # the default


@pytest.mark.parametrize("recipe", ["finetune-modelnet40", None, "gone"])
def test_the_command_of_a_fine_tuned_classifier(tmp_path, monkeypatch, recipe):
    config = FinetuneConfig(
        checkpoint=tmp_path / "a b.pt",
        data=tmp_path / "shapes",
        out=tmp_path / "out",
        recipe=recipe,
        epochs=2,
        optim=OptimConfig(lr=1e-4, clip_norm=None),
    )
    saved = checkpoint.Checkpoint("classifier", to_plain(config), {})
    command = model_card.reproduce(saved)
    assert ("--recipe" in command) == (recipe is not None)
    if recipe == "finetune-modelnet40":
        assert _settings_of(command, monkeypatch, finetune_stage) == to_plain(config)


@pytest.mark.parametrize("is_best", [True, False])
def test_results_come_from_the_folder_around_the_checkpoint(tmp_path, is_best):
    run = model_card.RunFolder(tmp_path / "run")
    config = FinetuneConfig(
        data=tmp_path / "shapes", out=run.path, encoder=TINY_ENCODER, head=HeadConfig(width=16)
    )
    run.start(config, resume=False)
    there = json.loads((run.path / "config.json").read_text())
    del there["optim"]["schedule"]  # as one written before there was the setting
    (run.path / "config.json").write_text(json.dumps(there))
    names = ["bed", "chair"]
    figures = {"accuracy": 87.5, "accuracy_last": 75.25, "best_epoch": 4, "epochs": 300}
    counts = {"n_train": 30, "n_validation": 4, "n_test": 8}
    made = {"data": "d", "recipe": None, "from_scratch": True, "pretrained": None}
    made |= {"seed": 0, "seconds": 1.0, "published": {}, "per_class": {}}
    run.write_results({"task": "classification", **figures, **counts, **made}, "")
    model = Classifier(TINY_ENCODER, HeadConfig(width=16), n_classes=2)
    for folder, known in ((run.path, True), (tmp_path, False)):
        source = folder / "best.pt"
        checkpoint.save(
            source,
            kind="classifier",
            config=to_plain(config),
            model=model.state_dict(),
            epoch=4,
            metrics={"best_epoch": 4 if is_best else 3},
            extra={"class_names": names},
        )
        text = _card(source, tmp_path / "export" / "model.safetensors")
        assert ("| best on validation | 87.50 |" in text) == known
        assert ("no losses or figures" in text) != known
        assert "classes: bed, chair" in text
        assert "logits (B, 2)" in text
        assert ("Training was not finished: 4 of 300 epochs" in text) != is_best
        assert ("Whether its training was finished is not known" in text) == (is_best and not known)
        assert ("epochs: 4 of 300, the best on validation" in text) == is_best


def test_a_folder_of_another_run_is_not_taken_for_its_own(trained, tmp_path):
    (tmp_path / "last.pt").write_bytes(trained.read_bytes())
    config = (trained.parent / "config.json").read_text()
    (tmp_path / "config.json").write_text(config.replace('"seed": 0', '"seed": 1'))
    (tmp_path / "metrics.jsonl").write_bytes((trained.parent / "metrics.jsonl").read_bytes())
    assert "no losses or figures" in _card(tmp_path / "last.pt", tmp_path / "x" / "a.safetensors")


def test_what_is_not_recorded_is_not_said(untrained, tmp_path):
    text = _card(untrained, tmp_path / "model.safetensors")
    assert "does not say how it was trained" in text
    assert "Reproduce" not in text


def test_pages_of_others_are_left_alone(untrained, tmp_path):
    page = tmp_path / "README.md"
    page.write_text("# My project\n")
    with pytest.raises(CheckpointError, match="no model card of i2pmae"):
        export.run(untrained, tmp_path / "model.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["README.md"]
    assert export.run(untrained, tmp_path / "model.safetensors", card=False)["card"] is None
    assert page.read_text() == "# My project\n"
    page.unlink()
    for _ in range(2):  # our own page is replaced
        export.run(untrained, tmp_path / "model.safetensors")
    assert i2pmae.load_encoder(tmp_path / "model.safetensors")
