import pytest

from i2pmae.settings import command_of, differences, told


def test_differences_have_dotted_keys_and_both_values():
    there = {"epochs": 3, "optim": {"lr": 0.1, "clip": None}, "old": 1, "encoder": {"a": 1, "b": 1}}
    here = {"epochs": 5, "optim": {"lr": 0.1, "clip": 10}, "encoder": {"a": 2, "b": 2}}
    found = differences(there, here, {"encoder.b"})
    assert told(found, "the run") == (
        "epochs: the run has 3, this command expects 5; "
        "optim.clip: the run has None, this command expects 10; "
        "encoder.a: the run has 1, this command expects 2; "
        "old: the run has 1, this command expects nothing"
    )
    assert not differences(there, here, {"epochs", "optim", "encoder", "old"})


@pytest.mark.parametrize(
    ("values", "command"),
    [
        ({"command": "svm", "task": "x"}, "svm"),
        ({"task": "classification", "loss": 1}, "finetune"),
        ({"C": 1, "accuracy": 2}, "svm"),
        ({"loss": 1}, "pretrain"),
        ({"masking": {}}, "pretrain"),
        ({"out": "x"}, None),
    ],
)
def test_older_files_tell_their_command_by_their_keys(values, command):
    assert command_of(values) == command
