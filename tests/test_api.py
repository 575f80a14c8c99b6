import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import i2pmae
from i2pmae import progress
from i2pmae.commands import COMMANDS
from i2pmae.config import AugmentConfig, PretrainConfig
from i2pmae.errors import ConfigError


@pytest.fixture
def called(monkeypatch):
    """What a stage would get, in place of running it."""
    seen = []

    def run(command, config, **flags):
        seen.append((command.name, config, flags, progress._mode.quiet))
        return {"done": True}

    monkeypatch.setattr("i2pmae.commands.Command.run", run)
    return seen


def test_every_command_is_a_function_that_says_what_it_takes():
    names = [command.python_name for command in COMMANDS.values()]
    assert sorted(names) == sorted(i2pmae._COMMANDS)
    assert set(names) <= {*dir(i2pmae)}
    for command in COMMANDS.values():
        function = getattr(i2pmae, command.python_name)
        parameters = inspect.signature(function).parameters
        assert {str(setting.name) for setting in command.options()} <= {*parameters}
        assert function.__name__ == command.python_name
        assert function.__doc__.startswith(command.about)
        for name in parameters:
            assert f"\n    {name}: " in function.__doc__


def test_functions_are_found_after_packages_of_the_same_name_are_imported():
    import i2pmae.report

    assert callable(i2pmae.write_report)
    assert inspect.ismodule(i2pmae.report)


def test_keywords_tables_recipes_and_flags_reach_the_stage(called):
    result = i2pmae.pretrain(
        cache="a.zarr",
        out="runs/new",
        recipe="pretrain-small",
        optim={"lr": 0.25},
        masking={"ratio": 0.7},
        augment=AugmentConfig(shift=0.5),
        track=["wandb"],
        targets="3d",
        resume=True,
        quiet=True,
    )
    assert result == {"done": True}
    ((name, config, flags, is_quiet),) = called
    assert (name, flags, is_quiet) == ("pretrain", {"resume": True}, True)
    assert not progress._mode.quiet
    assert (config.optim.lr, config.masking.ratio, config.track) == (0.25, 0.7, ("wandb",))
    assert config.augment == AugmentConfig(shift=0.5)
    assert config.targets.kind == "3d"
    assert config.epochs != PretrainConfig().epochs  # the recipe's
    assert config.out == Path("runs/new")


def test_the_same_name_takes_an_option_or_a_table(called):
    i2pmae.extract_2d("shapes", views=6)
    i2pmae.extract_2d("shapes", views={"n_views": 6, "depth": "nearest"}, dry_run=True)
    (_, first, _, _), (_, second, flags, _) = called
    assert (first.views.n_views, first.views.draw) == (6, "sum")
    assert (second.views.n_views, second.views.draw) == (6, "nearest")
    assert flags == {"dry_run": True}


def test_wrong_names_and_values_are_told(called):
    with pytest.raises(
        TypeError, match=r"pretrain\(\) has no setting 'epoch'; did you mean 'epochs'"
    ):
        i2pmae.pretrain(epoch=3)
    with pytest.raises(TypeError, match="missing a required argument: 'data'"):
        i2pmae.svm("random")
    with pytest.raises(ConfigError, match="did you mean 'ratio'"):
        i2pmae.pretrain(masking={"rato": 0.5})
    with pytest.raises(ConfigError, match="epochs"):
        i2pmae.pretrain(epochs=0)
    assert called == []


def test_a_stage_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = i2pmae.check_data("procedural", quiet=True)
    assert found["usable"] == found["shapes"] > 0


def test_functions_come_without_torch():
    code = "import sys, i2pmae; i2pmae.pretrain; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
