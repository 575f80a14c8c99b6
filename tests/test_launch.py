import pytest

from i2pmae.launch import Launch, is_first, launched

PLACE = {"RANK": "3", "LOCAL_RANK": "1", "WORLD_SIZE": "4"}


def test_a_process_that_torchrun_did_not_start_is_alone(monkeypatch):
    for name, value in PLACE.items():  # other launchers set these as well
        monkeypatch.setenv(name, value)
    assert launched() is None
    assert is_first()


@pytest.mark.parametrize(("rank", "first"), [("0", True), ("3", False)])
def test_a_process_of_torchrun_knows_its_place(monkeypatch, rank, first):
    for name, value in {**PLACE, "RANK": rank, "TORCHELASTIC_RUN_ID": "none"}.items():
        monkeypatch.setenv(name, value)
    assert launched() == Launch(rank=int(rank), local_rank=1, n_processes=4)
    assert is_first() == first
