from pathlib import Path

import pytest

from i2pmae.config import (
    EncoderConfig,
    ExtractConfig,
    FinetuneConfig,
    PretrainConfig,
    SvmConfig,
    load_config,
    read_recipe,
    recipe_about,
    recipe_names,
    to_plain,
)
from i2pmae.errors import ConfigError

KINDS = {
    "extract-2d": (ExtractConfig, {"data": "shapes"}),
    "pretrain": (PretrainConfig, {"out": "runs/x"}),
    "svm": (SvmConfig, {"data": "shapes"}),
    "finetune": (FinetuneConfig, {"data": "shapes", "out": "runs/x"}),
}


def pretrain(**arguments) -> PretrainConfig:
    return load_config(PretrainConfig, "pretrain", defaults={"out": "runs/x"}, **arguments)


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_loads_for_every_command_it_names(name):
    about = recipe_about(name)
    assert {"title", "commands", "data", "command", "published", "cost"} <= set(about)
    for command in about["commands"]:
        kind, defaults = KINDS[command]
        assert load_config(kind, command, recipe=name, defaults=defaults)


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("extract-2d", "extract-2d"),
        ("pretrain", "pretrain"),
        ("finetune-modelnet40", "finetune"),
    ],
)
def test_recipes_of_the_paper_say_what_the_defaults_are(name, command):
    kind, defaults = KINDS[command]
    assert load_config(kind, command, recipe=name, defaults=defaults) == kind.model_validate(
        defaults
    )


def test_the_official_recipe_holds_its_choices():
    extract = load_config(
        ExtractConfig, "extract-2d", recipe="official", options={"data": Path("d")}
    )
    assert (extract.views.depth, extract.image_model.normalization) == ("sum", "imagenet")
    config = pretrain(recipe="official")
    assert (config.optim.decay_rule, config.masking.standardize) == ("official", False)


def test_later_sources_win(tmp_path):
    recipe = tmp_path / "r.toml"
    recipe.write_text("epochs = 7\nbatch_size = 8\noptim.lr = 0.1\n")
    config = pretrain(
        recipe=recipe, overrides=["epochs=8", "optim.lr=0.2"], options={"epochs": 9, "seed": None}
    )
    assert (config.epochs, config.batch_size, config.optim.lr, config.seed) == (9, 8, 0.2, 0)


@pytest.mark.parametrize("recipe", [None, "pretrain-small"])
def test_one_key_of_a_table_leaves_the_others_as_they_were(tmp_path, recipe):
    options = {"out": tmp_path}
    default = load_config(PretrainConfig, "pretrain", recipe=recipe, options=options)
    keys = ["augment.rotation=10", "optim.weight_decay=0.1"]
    changed = load_config(
        PretrainConfig, "pretrain", recipe=recipe, overrides=keys, options=options
    )
    assert changed.augment == default.augment.model_copy(update={"rotation": 10})
    assert changed.optim == default.optim.model_copy(update={"weight_decay": 0.1})
    assert default.augment.shift == 0.2


def test_few_shot_takes_no_share_of_labels(tmp_path):
    options = {"out": tmp_path, "data": "procedural"}
    recipe = "fewshot-modelnet40"
    with pytest.raises(ConfigError, match=r"use few_shot\.shots, not labels"):
        load_config(
            FinetuneConfig, "finetune", recipe=recipe, overrides=["labels=0.1"], options=options
        )


def test_one_key_leaves_what_fine_tuning_has_its_own_defaults_for(tmp_path):
    options = {"out": tmp_path, "data": "procedural"}
    changed = load_config(
        FinetuneConfig,
        "finetune",
        overrides=["optim.weight_decay=0.1", "encoder.n_heads=3"],
        options=options,
    )
    assert (changed.optim.lr, changed.optim.clip_norm) == (5e-4, 10)
    assert changed.encoder.radii == (0.24, 0.48, 0.96)


@pytest.mark.parametrize(
    ("text", "every"),
    [
        ("[svm]\nevery = 3\n", 3),
        ("[pretrain.svm]\nevery = 4\n[svm]\npoints = 512\n", 4),  # of the command svm
    ],
)
def test_a_table_that_is_also_a_command_is_not_dropped(tmp_path, text, every):
    recipe = tmp_path / "mine.toml"
    recipe.write_text(text)
    assert pretrain(recipe=recipe).svm.every == every
    recipe.write_text("[svm]\nbogus = 1\n")
    with pytest.raises(ConfigError, match="bogus"):
        pretrain(recipe=recipe)


def test_set_takes_toml_values_and_bare_words():
    config = pretrain(
        overrides=[
            "masking.strategy=random",
            "encoder.depths=[1, 1, 1]",
            "optim.clip_norm=none",
            "masking.standardize=true",
        ]
    )
    assert config.masking.strategy == "random"
    assert config.encoder.depths == (1, 1, 1)
    assert config.optim.clip_norm is None
    assert config.masking.standardize


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["masking.rato=0.5"], "did you mean 'ratio'"),
        (["optmi.lr=1"], "did you mean 'optim'"),
        (["masking.ratio=1.5"], "masking.ratio"),
        (["epochs"], "expected key.sub=value"),
        (["epochs.x=1"], "epochs"),
        (["epochs=1", "epochs.x=1"], "epochs is a value"),
        (["encoder.widths=[96, 192]"], "widths has 2 entries"),
        (["encoder.widths=[95, 192, 384]"], "multiples of n_heads"),
        (["encoder.n_centers=[64, 256, 512]"], "must not grow"),
        (["encoder.group_sizes=[8, 600, 4]"], "600 neighbors are more than the 512 centers"),
        (["seed=-1"], "seed"),
    ],
)
def test_wrong_settings_are_one_clear_line(overrides, expected):
    with pytest.raises(ConfigError, match=r"pretrain|--set|epochs") as error:
        pretrain(overrides=overrides)
    assert expected in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["epochs = ", "epochs = 1\nepochs = 2\n", "\x00"])
def test_broken_recipes_name_the_file(tmp_path, text):
    recipe = tmp_path / "broken.toml"
    recipe.write_text(text)
    with pytest.raises(ConfigError, match=r"broken\.toml: not valid TOML"):
        pretrain(recipe=recipe)


def test_unknown_recipes_suggest_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 'pretrain'"):
        pretrain(recipe="pretrian")


def test_a_recipe_for_another_command_says_so():
    with pytest.raises(ConfigError, match="is for finetune, not for pretrain"):
        read_recipe("finetune-modelnet40", "pretrain")


def test_settings_survive_the_way_through_plain_values():
    config = pretrain()
    assert PretrainConfig.model_validate(to_plain(config)) == config
    assert config.encoder == EncoderConfig()
