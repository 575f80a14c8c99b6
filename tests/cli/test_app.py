import subprocess
import sys

import pytest

from i2pmae.cli.app import app, whole_command
from i2pmae.cli.completion import complete_image_models
from i2pmae.commands import COMMANDS
from i2pmae.config import SvmConfig
from i2pmae.errors import ConfigError
from i2pmae.image_model.names import PACKAGED


@pytest.fixture
def settings(monkeypatch):
    """Runs a command with its stage taken out, and returns what the stage would get."""

    def parse(*words):
        seen = []

        def run(_command, config, **flags):
            seen.append((config, flags))
            return {"ok": True}

        monkeypatch.setattr("i2pmae.commands.Command.run", run)
        app(list(words), prog_name="i2pmae", standalone_mode=False)
        return seen[0]

    return parse


def help_of(name, capsys):
    app([name, "--help"], prog_name="i2pmae", standalone_mode=False)
    return " ".join(capsys.readouterr().out.replace("│", " ").split())


def test_help_shows_choices_defaults_and_sentences(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    shown = help_of("extract-2d", capsys)
    assert "--pose <axis|upright|oblique> Directions of the views" in shown
    assert "[default: sum]" in shown
    assert "--points <int> Points stored per shape. [default: 8192]" in shown
    assert "Usage: i2pmae extract-2d [OPTIONS] {DATA}" in shown
    assert "--no-card" in help_of("export", capsys)


def test_every_option_of_every_command_is_built():
    for command in COMMANDS.values():
        options = {word for p in whole_command(command).params for word in p.opts}
        for setting in command.options()[len(command.arguments) :]:
            assert f"--{setting.name.replace('_', '-')}" in options


def test_only_what_is_given_overrides_a_recipe(settings):
    config, flags = settings(
        "pretrain", "--recipe", "pretrain-small", "--batch-size", "64", "--resume",
        "--track", "wandb", "--set", "optim.lr=0.1", "--no-synchronize-norms",
    )  # fmt: skip
    small, _ = settings("pretrain", "--recipe", "pretrain-small")
    assert small.batch_size != 64  # which is the default
    assert (config.batch_size, config.epochs) == (64, small.epochs)
    assert (config.track, config.optim.lr, config.synchronize_norms) == (("wandb",), 0.1, False)
    assert flags == {"resume": True}


def test_lists_words_and_random_weights(settings):
    templates = ("--template", "{} x", "--template", "y {}")
    config, _ = settings("zero-shot", "a.zarr", "--classes", "a b,c", *templates)
    assert (config.classes, config.templates) == (("a b", "c"), ("{} x", "y {}"))
    config, _ = settings("svm", "random", "procedural", "--C", "0.5")
    assert config == SvmConfig(checkpoint=None, data="procedural", C=0.5)
    config, _ = settings("show", "a.zarr", "first", "second")
    assert config.ids == ("first", "second")
    config, _ = settings("finetune", "procedural", "--from-scratch", "--seeds", "0,1")
    assert config.seeds == (0, 1)


def test_a_failed_verdict_exits_with_1(monkeypatch):
    monkeypatch.setattr("i2pmae.stages.verify.run", lambda **_: {"ok": False})
    assert app(["verify", "x.zarr"], standalone_mode=False) == 1


def test_torchrun_may_start_only_commands_that_know_several_processes(monkeypatch, settings):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    for name, value in {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    settings("pretrain")
    with pytest.raises(ConfigError, match=r"svm runs as one process; .* pretrain"):
        settings("svm", "random", "procedural")


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("i2pmae ext", {"extract-2d"}),
        ("i2pmae pretrain --ep", {"--epochs"}),
        ("i2pmae pretrain --recipe pre", {"pretrain", "pretrain-small"}),
        ("i2pmae extract-2d --draw n", {"nearest"}),
        ("i2pmae extract-2d --image-model eff", {"efficientnet-lite0-packaged"}),
        ("i2pmae pretrain --set masking.r", {"masking.ratio="}),
        ("i2pmae recipes svm-m", {"svm-modelnet40"}),
    ],
)
def test_the_shell_completes(monkeypatch, capsys, typed, expected):
    monkeypatch.setenv("_I2PMAE_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", typed)
    monkeypatch.setenv("COMP_CWORD", str(len(typed.split()) - 1))
    with pytest.raises(SystemExit):
        app(prog_name="i2pmae")
    assert set(capsys.readouterr().out.split()) == expected


def test_image_models_are_completed_without_importing_their_library():
    code = (
        "import sys\n"
        "from i2pmae.cli.completion import complete_image_models\n"
        "assert 'ViT-B-16-quickgelu' in complete_image_models('ViT-B-16')\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    assert complete_image_models("eff") == [PACKAGED]
    assert "timm:vit_small_patch14_dinov2" in complete_image_models("timm:vit_small_patch14")
