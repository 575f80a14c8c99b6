from pathlib import Path
from types import SimpleNamespace

import pytest

from i2pmae.arguments import build_config
from i2pmae.commands import COMMANDS
from i2pmae.config import AugmentConfig, FinetuneConfig, PretrainConfig, to_plain
from i2pmae.datasets import Located
from i2pmae.errors import ConfigError
from i2pmae.training import own_data


def test_options_of_tables_reach_their_key():
    given = {"data": "shapes", "image_model": "timm:vit", "views": 6, "workers": 2, "limit": None}
    config = build_config(COMMANDS["extract-2d"], given, overrides=["views.draw=nearest"])
    assert (config.image_model.name, config.views.n_views) == ("timm:vit", 6)
    assert (config.views.draw, config.workers.count, config.limit) == ("nearest", 2, None)


@pytest.mark.parametrize(
    ("given", "checkpoint", "data"),
    [
        ({"checkpoint": "last.pt", "data": "procedural"}, "last.pt", "procedural"),
        ({"checkpoint": "procedural", "from_scratch": True}, None, "procedural"),
        (
            {"checkpoint": "last.pt", "data": "procedural", "from_scratch": True},
            "last.pt",
            "procedural",
        ),
    ],
)
def test_fine_tuning_sorts_out_its_arguments_and_takes_the_recipe_of_its_data(
    given, checkpoint, data
):
    config = build_config(COMMANDS["finetune"], given)
    assert config.checkpoint == (checkpoint and Path(checkpoint))
    assert config.data == Path(data)
    assert config.recipe == "finetune-own-data"


def own_shapes(monkeypatch, counts):
    """Shapes of one's own with so many of each class."""
    labels = [label for label, count in enumerate(counts) for _ in range(count)]
    source = SimpleNamespace(
        labels=labels, class_names=tuple(map(str, range(len(counts)))), recipe="finetune-own-data"
    )
    monkeypatch.setattr(own_data, "locate", lambda path, _: Located("meshes", path))
    monkeypatch.setattr(own_data, "open_source", lambda *_, **__: source)


@pytest.mark.parametrize(
    ("counts", "epochs", "batch_size", "weights"),
    [([10, 9], 50, 4, "none"), ([400, 40], 45, 16, "balanced"), ([9000, 8000], 12, 32, "none")],
)
def test_fine_tuning_of_one_s_own_shapes_follows_their_number(
    monkeypatch, counts, epochs, batch_size, weights
):
    own_shapes(monkeypatch, counts)
    given = {"checkpoint": "last.pt", "data": "shapes"}
    config = build_config(COMMANDS["finetune"], given)
    assert (config.epochs, config.optim.cosine_epochs) == (epochs, epochs)
    assert (config.batch_size, config.class_weights) == (batch_size, weights)
    assert (config.augment.rotation, config.augment.shift) == (0, 0)
    assert (config.head.kind, config.groups) == ("probe", "checkpoint")


@pytest.mark.parametrize(
    ("given", "overrides"),
    [({"labels": 0.02}, []), ({}, ["labels = 0.02"]), ({"labels": 0.02}, ["labels=1"])],
)
def test_only_the_labels_in_use_are_counted(monkeypatch, given, overrides):
    own_shapes(monkeypatch, [1200, 300])
    given |= {"checkpoint": "last.pt", "data": "shapes"}
    config = build_config(COMMANDS["finetune"], given, overrides=overrides)
    assert (config.labels, config.epochs, config.batch_size) == (0.02, 50, 4)  # 24 and 6 shapes


@pytest.mark.parametrize("share", ["none", "0", "2", "nan", ""])
def test_a_share_that_is_none_is_refused_by_the_settings(monkeypatch, share):
    own_shapes(monkeypatch, [10, 9])
    given = {"checkpoint": "last.pt", "data": "shapes"}
    with pytest.raises(ConfigError, match="labels"):
        build_config(COMMANDS["finetune"], given, overrides=[f"labels={share}"])


def test_own_shapes_are_counted_as_they_will_be_read(monkeypatch):
    own_shapes(monkeypatch, [10, 9])
    asked, source = {}, own_data.open_source()

    def opened(_, **options):
        asked.update(options)
        return source

    monkeypatch.setattr(own_data, "open_source", opened)
    reading = {"layout": "meshes", "prefer": "obj", "classes": "2", "up": "z"}
    config = build_config(COMMANDS["finetune"], {"checkpoint": "a.pt", "data": "b"} | reading)
    assert asked.items() >= config.reading.items()


def test_what_is_asked_for_wins_over_what_follows_from_the_shapes(monkeypatch):
    own_shapes(monkeypatch, [400, 40])
    given = {"checkpoint": "last.pt", "data": "shapes", "class_weights": "none"}
    config = build_config(COMMANDS["finetune"], given, overrides=["epochs=7", "optim.lr=1e-3"])
    assert (config.epochs, config.optim.cosine_epochs, config.optim.lr) == (7, 7, 1e-3)
    assert (config.optim.warmup_epochs, config.class_weights) == (0.7, "none")
    assert build_config(COMMANDS["finetune"], given | {"epochs": 2}).optim.cosine_epochs == 2


def test_published_recipes_do_not_follow_the_shapes(monkeypatch):
    own_shapes(monkeypatch, [10, 9])
    given = {"checkpoint": "last.pt", "data": "shapes"}
    config = build_config(COMMANDS["finetune"], given, recipe="finetune-modelnet40")
    assert (config.epochs, config.optim.lr, config.head.kind) == (300, 5e-4, "mlp")


def test_a_run_is_resumed_with_its_own_settings(tmp_path):
    config = PretrainConfig(out=tmp_path, epochs=7, cache="mine.zarr", augment=AugmentConfig())
    (tmp_path / "config.json").write_text(config.model_dump_json())
    command = COMMANDS["pretrain"]
    assert build_config(command, {"out": tmp_path}, resume=True) == config
    changed = build_config(command, {"out": tmp_path, "device": "cpu"}, resume=True)
    assert to_plain(changed) == {**to_plain(config), "device": "cpu"}
    assert build_config(command, {"out": tmp_path}).epochs == 300  # not resumed
    assert build_config(command, {"out": tmp_path}, recipe="pretrain", resume=True).epochs == 300
    moved = tmp_path.rename(tmp_path.with_name("moved"))
    assert build_config(command, {"out": moved}, resume=True).out == moved


def test_fine_tuning_is_resumed_without_its_checkpoint(tmp_path):
    config = FinetuneConfig(out=tmp_path, checkpoint="last.pt", data="procedural", vote=3)
    (tmp_path / "config.json").write_text(config.model_dump_json())
    assert build_config(COMMANDS["finetune"], {"out": tmp_path}, resume=True) == config


@pytest.mark.parametrize("text", ["", "[", "[1]", "[" * 2000, '{"out": 1e'])
def test_settings_that_cannot_be_read_are_left_to_the_run_s_own_check(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    config = build_config(COMMANDS["pretrain"], {"out": tmp_path}, resume=True)
    assert config == PretrainConfig(out=tmp_path)
