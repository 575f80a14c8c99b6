import ast
import re
from pathlib import Path

import pytest

import i2pmae
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


def test_hints_quote_what_they_put_into_a_command():
    hint = re.compile(rf"i2pmae ({'|'.join(COMMANDS)}) [^.;]*$")
    found = 0
    for file in Path(i2pmae.__file__).parent.rglob("*.py"):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        assigned = [node for node in ast.walk(tree) if isinstance(node, ast.Assign)]
        quoted = {ast.unparse(n.targets[0]) for n in assigned if "shlex" in ast.unparse(n.value)}
        for node in ast.walk(tree):
            text = ""
            for part in node.values if isinstance(node, ast.JoinedStr) else ():
                if isinstance(part, ast.Constant):
                    text += part.value
                elif hint.search(text):
                    value = ast.unparse(part.value)
                    assert "shlex" in value or value in quoted, f"{file}: {text}{{{value}}}"
                    found += 1
    assert found > 10
