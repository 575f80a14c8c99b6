import pytest

from i2pmae.commands import COMMANDS, settings_of
from i2pmae.config import FinetuneConfig


@pytest.mark.parametrize("command", COMMANDS.values(), ids=list(COMMANDS))
def test_every_setting_has_one_sentence_and_a_name_of_its_own(command):
    settings = list(settings_of(command.kind))
    for setting in settings:
        assert setting.field.description, setting.key
        assert not setting.field.description[0].islower(), setting.key
        assert "  " not in setting.field.description, setting.key
    names = [setting.name for setting in settings if setting.name]
    assert len(set(names)) == len(names)
    assert {*command.arguments} <= {*names}
    assert not {*command.flags, "quiet", "log_json", "as_json", "overrides"} & {*names}


def test_defaults_are_those_of_the_command_not_of_the_table():
    defaults = {setting.key: setting.default for setting in settings_of(FinetuneConfig)}
    assert defaults["optim.lr"] == 5e-4
    assert defaults["encoder.radii"] == (0.24, 0.48, 0.96)
    assert defaults["augment.shift"] == 0.2
    assert defaults["checkpoint"] is None
