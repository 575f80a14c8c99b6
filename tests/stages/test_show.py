import pytest
from matplotlib.image import imread

from i2pmae.checkpoints import checkpoint
from i2pmae.config import PretrainConfig, ShowConfig, TargetConfig
from i2pmae.errors import CheckpointError, StoreError
from i2pmae.model.pretraining import PretrainingModel
from i2pmae.stages import show
from i2pmae.store import StoreReader
from i2pmae.training.pretraining import network_sizes

from ..conftest import TINY_ENCODER

PLAIN = {"depth", "features", "masks"}


@pytest.fixture(autouse=True)
def _few_points(monkeypatch):
    monkeypatch.setattr(show, "_POINTS", 128)


def shown(store, tmp_path, *ids, **changes):
    return show.run(ShowConfig(cache=store, ids=ids, out=tmp_path / "out", **changes))


def test_named_shapes_are_drawn(store, tmp_path):
    ids = [str(name) for name in StoreReader(store).read_all("id")]
    found = shown(store, tmp_path, ids[4], ids[1])
    assert found["shapes"] == [ids[4], ids[1]]
    assert set(found["pictures"]) == PLAIN
    for path in found["pictures"].values():
        assert imread(path).std() > 0.01
    assert {path.name for path in (tmp_path / "out").iterdir()} == {f"{n}.png" for n in PLAIN}


def test_without_ids_one_shape_of_each_class_is_drawn(store):
    reader = StoreReader(store)
    labels = reader.read_all("label")
    found = show.find_shapes(reader, [str(name) for name in reader.read_all("id")], ())
    assert len(found) == 5
    assert len({int(labels[index]) for index in found}) == min(5, len(reader.class_names))


def test_the_end_of_an_id_is_enough_where_only_one_shape_has_it(store):
    reader = StoreReader(store)
    assert show.find_shapes(reader, ["a/x", "b/y", "y"], ["x", "y"]) == [0, 2]
    with pytest.raises(StoreError, match="2 shapes that are called y"):
        show.find_shapes(reader, ["a/y", "b/y"], ["y"])


def test_a_misspelt_id_gets_a_suggestion(store, tmp_path):
    ids = [str(name) for name in StoreReader(store).read_all("id")]
    with pytest.raises(StoreError, match=f"did you mean .*'{ids[0]}'"):
        shown(store, tmp_path, ids[0].upper())
    assert not (tmp_path / "out").exists()


def test_a_checkpoint_adds_what_it_makes_of_the_shapes(store, trained, tmp_path):
    found = shown(store, tmp_path, checkpoint=trained, format="svg")
    assert set(found["pictures"]) == PLAIN | {"reconstruction", "predicted-features"}
    assert (tmp_path / "out" / "reconstruction.svg").read_text().startswith("<?xml")


def test_a_network_without_3d_head_reconstructs_nothing(store, tmp_path):
    config = PretrainConfig(
        cache=store, out=tmp_path, encoder=TINY_ENCODER, targets=TargetConfig(kind="2d")
    )
    sizes = network_sizes(StoreReader(store))
    model = PretrainingModel(TINY_ENCODER, config.masking, config.targets, **sizes)
    checkpoint.save(
        tmp_path / "x.pt",
        kind="pretraining",
        config=config.model_dump(mode="json"),
        model=model.state_dict(),
        extra={"network": sizes},
    )
    found = shown(store, tmp_path, checkpoint=tmp_path / "x.pt")
    assert set(found["pictures"]) == PLAIN | {"predicted-features"}


def test_a_checkpoint_of_another_store_is_refused_before_anything_is_drawn(
    store, untrained, tmp_path
):
    with pytest.raises(CheckpointError, match="another store"):
        shown(store, tmp_path, checkpoint=untrained)
