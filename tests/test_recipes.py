from pathlib import Path

import pytest
from pydantic import ValidationError

from i2pmae.checkpoints import checkpoint
from i2pmae.checkpoints.names import shipped
from i2pmae.checkpoints.networks import encoder_config_of
from i2pmae.config import (
    EncoderConfig,
    ExtractConfig,
    FinetuneConfig,
    PretrainConfig,
    SvmConfig,
    ViewConfig,
    to_plain,
)
from i2pmae.errors import ConfigError
from i2pmae.recipes import (
    load_config,
    published_figures,
    read_recipe,
    recipe_about,
    recipe_names,
)

KINDS = {
    "extract-2d": (ExtractConfig, {"data": "shapes"}),
    "pretrain": (PretrainConfig, {"out": "runs/x"}),
    "svm": (SvmConfig, {"data": "shapes"}),
    "finetune": (FinetuneConfig, {"data": "shapes", "out": "runs/x"}),
}


def pretrain(**arguments) -> PretrainConfig:
    return load_config(PretrainConfig, "pretrain", **arguments)


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_loads_for_every_command_it_names(name):
    about = recipe_about(name)
    assert {"title", "commands", "data", "command", "published", "cost"} <= set(about)
    for command in about["commands"]:
        kind, options = KINDS[command]
        assert load_config(kind, command, recipe=name, options=options)


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("extract-2d", "extract-2d"),
        ("pretrain", "pretrain"),
        ("finetune-modelnet40", "finetune"),
    ],
)
def test_recipes_of_the_paper_say_what_the_defaults_are(name, command):
    kind, options = KINDS[command]
    assert load_config(kind, command, recipe=name, options=options) == kind.model_validate(options)


def test_the_official_recipe_holds_its_choices():
    extract = load_config(
        ExtractConfig, "extract-2d", recipe="official", options={"data": Path("d")}
    )
    assert (extract.views.draw, extract.image_model.normalization) == ("sum", "imagenet")
    config = pretrain(recipe="official")
    assert (config.optim.decay_rule, config.masking.standardize) == ("official", False)
    assert config.precision == "fp32"


def test_the_recipe_of_the_shipped_encoder_holds_what_made_it():
    assert shipped()["i2pmae-small"].command == recipe_about("i2pmae-small")["command"]
    made_by = [  # as config.json of the run and the attributes of its store have it
        *("split=all", "epochs=4", "batch_size=32", "precision=bf16"),
        *("optim.cosine_epochs=4", "optim.warmup_epochs=0.3"),
        *("augment.scale=[1.0,1.0]", "augment.shift=0"),
    ]
    options = {"out": "runs/x"}
    config = pretrain(recipe="i2pmae-small", options=options)
    assert config == pretrain(recipe="pretrain-small", overrides=made_by, options=options)
    saved = checkpoint.load("i2pmae-small")
    assert encoder_config_of(saved) == config.encoder
    extract = load_config(
        ExtractConfig, "extract-2d", recipe="i2pmae-small", options={"data": "shapes"}
    )
    image_model = extract.image_model
    assert (image_model.name, image_model.block) == ("timm:vit_small_patch14_dinov2", 6)
    assert (extract.split, extract.points, extract.precision) == ("all", 2048, "bf16")


def test_settings_of_earlier_versions_have_their_present_names(tmp_path):
    recipe = tmp_path / "r.toml"
    recipe.write_text('views.depth = "nearest"\n')

    def draw(**arguments) -> str:
        options = {"data": Path("d"), **arguments.pop("options", {})}
        return load_config(ExtractConfig, "extract-2d", options=options, **arguments).views.draw

    assert draw(recipe=recipe) == draw(overrides=["views.depth=nearest"]) == "nearest"
    assert draw(base={"views": {"depth": "nearest", "n_views": 3}}) == "nearest"
    assert draw(options={"views": {"depth": "nearest"}}) == "nearest"
    assert draw(recipe=recipe, overrides=["views.draw=sum"]) == "sum"
    assert ViewConfig.model_validate({"depth": "nearest"}) == ViewConfig(draw="nearest")
    with pytest.raises(ValidationError, match="depth"):
        ViewConfig.model_validate({"depth": "nearest", "draw": "sum"})


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


@pytest.mark.parametrize(
    ("recipe", "expected"),
    [
        ("finetune-modelnet40", {"accuracy": 93.67, "accuracy_vote": 94.06}),
        ("segment-shapenetpart", {"instance_miou": 86.76, "category_miou": 85.15}),
        (
            "fewshot-modelnet40",
            {
                "5way_10shot": 97.0,
                "5way_20shot": 98.3,
                "10way_10shot": 92.6,
                "10way_20shot": 95.5,
            },
        ),
        ("finetune-own-data", {}),
        ("a-recipe-that-is-gone", {}),
        (None, {}),
    ],
)
def test_published_figures_are_those_of_the_recipe(recipe, expected):
    assert published_figures(recipe, recipe) == expected


def test_published_figures_are_stated_only_of_the_data_set_they_belong_to(tmp_path):
    assert published_figures("finetune-modelnet40", "finetune-own-data") == {}
    assert published_figures("finetune-modelnet40", None) == {}
    own = tmp_path / "own.toml"
    own.write_text("epochs = 3\n[about.figures]\naccuracy = 90\n")
    assert published_figures(str(own), "finetune-own-data") == {"accuracy": 90}
