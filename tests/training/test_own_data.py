from types import SimpleNamespace

import pytest

from i2pmae.arguments import build_config
from i2pmae.commands import COMMANDS
from i2pmae.datasets.own import OwnFolder
from i2pmae.errors import StoreError
from i2pmae.store import StoreReader
from i2pmae.training.own_data import default_recipe, find_shapes


def recipe_of(**options):
    return default_recipe(find_shapes(options))


def saying(store, monkeypatch, **provenance):
    """A reader of a store that says this of how it was made."""
    reader = StoreReader(store)
    monkeypatch.setattr(reader, "info", SimpleNamespace(provenance=provenance))
    return reader


def test_an_older_store_names_its_recipe_otherwise(monkeypatch, parts_store):
    assert default_recipe(saying(parts_store, monkeypatch, recipe="segment-small")) == (
        "segment-small"
    )


@pytest.mark.parametrize("key", ["finetune_recipe", "recipe"])
def test_a_recipe_that_a_store_names_is_never_a_file(monkeypatch, tmp_path, parts_store, key):
    """A stranger's file would decide where a run is written."""
    (tmp_path / "evil.toml").write_text('out = "/somewhere"\n')
    for name in (str(tmp_path / "evil.toml"), "../pipeline/segment-small", "unheard-of", None):
        with pytest.raises(StoreError, match="Give --recipe"):
            default_recipe(saying(parts_store, monkeypatch, **{key: name}))


def test_the_default_recipe_follows_the_layout(parts_folder, parts_store, tmp_path):
    assert recipe_of(data=parts_folder) == "segment-shapenetpart"
    assert recipe_of(cache=parts_store) == "segment-shapenetpart"
    assert recipe_of(data="procedural") == "finetune-own-data"
    (tmp_path / "5way_10shot").mkdir()
    assert recipe_of(data=tmp_path) == "fewshot-modelnet40"


def test_the_folder_is_looked_into_once_for_recipe_and_settings(tmp_path, write, monkeypatch):
    for place in ("box/train/a.off", "box/test/b.off", "ball/train/c.off", "ball/test/d.off"):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).write_bytes(write.off_bytes())
    looks, look_into = [], OwnFolder.look_into
    monkeypatch.setattr(OwnFolder, "look_into", lambda root: looks.append(root) or look_into(root))
    given = {"data": tmp_path, "from_scratch": True}
    config = build_config(COMMANDS["finetune"], given)
    assert (config.recipe, config.batch_size) == ("finetune-own-data", 4)
    assert looks == [tmp_path]
