import platform
from pathlib import Path

import pytest
import torch

from i2pmae.errors import ConfigError, DataError
from i2pmae.stages import doctor


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    monkeypatch.setattr(doctor, "_TRIED", 2 << 20)


def checks(result):
    return {check["what"]: check for check in result["checks"]}


def test_it_looks_at_the_machine_and_leaves_nothing(tmp_path):
    result = doctor.run(cache=tmp_path / "cache")
    found = checks(result)
    assert result["ready"]
    assert platform.python_version() in found["python"]["found"]
    assert found["torch"]["found"] == torch.__version__
    assert found["device"]["found"].split(":")[0].split(",")[0] in ("cpu", "cuda", "mps")
    assert str(tmp_path) in found["disk"]["found"]
    assert "2D weights" in found
    assert list(tmp_path.iterdir()) == []


def test_an_old_python_is_a_problem_with_a_next_step(monkeypatch, tmp_path):
    monkeypatch.setattr(doctor, "OLDEST_PYTHON", (99, 0))
    result = doctor.run(cache=tmp_path)
    assert not result["ready"]
    assert checks(result)["python"]["hint"].startswith("install Python")


def test_a_folder_that_cannot_be_written_is_a_problem(monkeypatch, tmp_path):
    def refuse(_folder):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(doctor, "_write_speed", refuse)
    result = doctor.run(cache=tmp_path)
    assert not result["ready"]
    assert "--cache" in checks(result)["disk"]["hint"]


def test_an_object_store_is_not_measured():
    assert "object store" in checks(doctor.run(cache=Path("s3://bucket/cache")))["disk"]["found"]


def test_a_recipe_of_other_stages_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="finetune-modelnet40 is for finetune; doctor estimates"):
        doctor.run(recipe="finetune-modelnet40", cache=tmp_path)


def test_what_is_misspelt_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="did you mean 'pretrain-small'"):
        doctor.run(recipe="pretrain-smal", cache=tmp_path)
    with pytest.raises(DataError, match="does not exist"):
        doctor.run(data=tmp_path / "none", cache=tmp_path)
