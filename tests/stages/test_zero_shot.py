import json
import sys
from types import SimpleNamespace

import numpy as np
import open_clip
import pytest
import torch
from safetensors.torch import save_file

from i2pmae.cli import main
from i2pmae.config import ImageModelConfig, ZeroShotConfig
from i2pmae.errors import ConfigError, StoreError, StoreMismatchError, WeightsError
from i2pmae.image_model.text import load_text_tower
from i2pmae.stages import extract_2d, zero_shot
from i2pmae.store import StoreReader, open_cache
from i2pmae.store.location import Location
from i2pmae.store.metadata import load_info
from i2pmae.store.schema import DONE, SKIPPED, StoreSpec, arrays
from i2pmae.store.writer import open_writer

from ..conftest import extract_config

CONFIG = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 1, "layers": 1},
}
CLASSES = ("airplane", "night_stand", "mug")


@pytest.fixture(scope="module", autouse=True)
def _network():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(open_clip.factory._MODEL_CONFIGS, "Small", CONFIG)
        yield


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    torch.manual_seed(1)
    clip = open_clip.create_model("Small")
    path = tmp_path_factory.mktemp("weights") / "small.safetensors"
    save_file({name: value.contiguous() for name, value in clip.state_dict().items()}, path)
    return path


@pytest.fixture(scope="module")
def clip_store(weights, tmp_path_factory):
    """A store that a CLIP has made of the first procedural shapes."""
    path = tmp_path_factory.mktemp("cache") / "clip.zarr"
    image_model = ImageModelConfig(name="Small", pretrained=str(weights))
    extract_2d.run(extract_config(path, limit=12, image_model=image_model))
    return path


@pytest.fixture
def planted(weights, tmp_path):
    """Write a store whose features are what the classes' prompts give, with noise."""
    tower = load_text_tower("Small", str(weights))
    texts = zero_shot.class_vectors(tower, CLASSES, ZeroShotConfig(cache=".").templates)

    def planted(dtype="float32", class_names=CLASSES, **changes):
        spec = StoreSpec(
            n_shapes=9,
            n_points=4,
            n_views=2,
            image_size=32,
            grid=(4, 4),
            channels=16,
            dtype=dtype,
            shard_size=9,
        )
        generator = np.random.default_rng(0)
        classes = np.arange(9) % 3
        noise = generator.standard_normal((9, 2, 4, 4, 16)) * 0.02
        features = (texts[classes][:, None, None, None] + noise).astype(np.float32)
        features *= generator.uniform(1, 30, (9, 1, 1, 1, 1)).astype(np.float32)
        features[:, :, 2:] = 0  # never read
        values = {
            name: np.zeros((9, *array.shape(spec)[1:]), array.dtype_in(spec))
            for name, array in arrays(spec).items()
            if array.layout != "store" and array.dtype_in(spec) != "string"
        }
        if dtype == "int8":
            scale = np.abs(features).max(axis=(1, 2, 3)) / 127
            features = np.rint(features / scale[:, None, None, None])
            values["feature_scale"] = scale
        values["features"] = features.astype(dtype)
        values["label"] = classes if class_names else np.full(9, -1)
        values["id"] = np.array([f"shape {number}" for number in range(9)])
        values["split"] = np.array(["train"] * 6 + ["test"] * 3)
        values["status"] = np.array([DONE] * 8 + [SKIPPED], np.uint8)
        image_model = {
            "name": "Small",
            "pretrained": weights.name,
            "image_size": 32,
            "weights_sha256": sorted(tower.image_weights)[0],
        }
        path = tmp_path / "planted.zarr"
        writer = open_writer(
            path,
            spec,
            view_axes=np.eye(3, dtype=np.float32)[None].repeat(2, axis=0),
            settings={"image_model": image_model | changes},
            provenance={"weights": str(weights)},
            class_names=class_names,
        )
        with writer:
            writer.write_shard(0, values)
            writer.finish()
        return path

    return planted


def run(cache, **changes):
    recorded = load_info(Location.of(cache)).provenance["weights"]
    return zero_shot.run(ZeroShotConfig(cache=cache, **({"pretrained": recorded} | changes)))


def test_weights_that_a_store_names_are_never_a_file(clip_store):
    with pytest.raises(ConfigError, match=r"name it with --pretrained.*small\.safetensors"):
        zero_shot.run(ZeroShotConfig(cache=clip_store))


def test_cosines_agree_with_the_slow_version(clip_store, weights):
    names, templates = ("chair", "airplane", "mug"), ("a depth map of a {}", "a {}")
    found = run(clip_store, classes=names, templates=templates)
    clip = open_clip.create_model("Small", pretrained=str(weights)).eval()
    tokenizer = open_clip.get_tokenizer("Small")
    texts = []
    for name in names:
        article = "an" if name == "airplane" else "a"
        prompts = [f"a depth map of {article} {name}", f"{article} {name}"]
        with torch.no_grad():
            vectors = clip.encode_text(tokenizer(prompts), normalize=True).mean(dim=0)
        texts.append(vectors / vectors.norm())
    features = open_cache(clip_store)["features"].compute()
    for shape, prediction in zip(features, found["predictions"], strict=True):
        cosines = np.zeros(3)
        for view in shape:
            read = [patch for row in view for patch in row if patch.any()]
            mean = np.mean(read, axis=0)
            cosines += [float(mean @ text.numpy()) / np.linalg.norm(mean) / 3 for text in texts]
        assert prediction["class"] == names[cosines.argmax()]
        assert prediction["cosine"] == pytest.approx(cosines.max(), abs=1e-5)
    assert [row["id"] for row in found["predictions"]] == (
        StoreReader(clip_store).read_all("id").tolist()
    )


@pytest.mark.parametrize("dtype", ["int8", "float16", "float32"])
def test_features_like_the_words_are_all_recognized(planted, dtype):
    found = run(planted(dtype), batch_size=3)
    assert found["accuracy"] == 100
    assert found["per_class"] == dict.fromkeys(CLASSES, 100)
    assert (found["shapes"], found["scored"]) == (8, 8)  # one was skipped
    assert found["chance"] == pytest.approx(100 / 3)


def test_classes_and_splits_can_be_chosen(planted):
    path = planted()
    found = run(path, classes=("mug", "Night Stand"), split="test")
    assert found["shapes"] == 2
    assert found["scored"] == 1  # the airplane is not among the classes
    assert found["predictions"][1] == {
        "id": "shape 7",
        "class": "Night Stand",
        "cosine": found["predictions"][1]["cosine"],
    }
    assert found["accuracy"] == 100
    assert run(path, classes=("sofa", "lamp"))["accuracy"] is None


def test_without_labels_there_are_predictions_only(planted):
    path = planted(class_names=())
    found = run(path, classes=CLASSES)
    assert found["accuracy"] is None
    assert [row["class"] for row in found["predictions"]] == [CLASSES[i % 3] for i in range(8)]
    with pytest.raises(ConfigError, match="0 classes to choose from"):
        run(path)


def test_numbers_are_no_names(planted):
    path = planted(class_names=("02691156", "02828884", "03001627"))
    with pytest.raises(ConfigError, match="02691156"):
        run(path)
    assert run(path, classes=CLASSES)["accuracy"] is None


@pytest.mark.parametrize("classes", [("chair",), ("chair", " chair", "")])
def test_one_class_is_no_choice(planted, classes):
    with pytest.raises(ConfigError, match="1 classes"):
        run(planted(), classes=classes)


def test_features_of_other_networks_are_refused(store):
    with pytest.raises(WeightsError, match=r"timm:test_vit is not a CLIP network"):
        run(store)


def test_features_of_other_weights_are_refused(planted, tmp_path):
    path = planted(weights_sha256="0" * 64)
    with pytest.raises(StoreMismatchError, match=r"come from other weights than .*small"):
        run(path)
    with pytest.raises(WeightsError, match="elsewhere"):
        run(path, pretrained=str(tmp_path / "elsewhere.pt"))


def test_features_of_earlier_blocks_are_refused(planted):
    with pytest.raises(StoreMismatchError, match=r"are of block 3 of Small"):
        run(planted(block=3))


def test_random_weights_are_refused(planted):
    with pytest.raises(WeightsError, match="random"):
        run(planted(), pretrained="random")


@pytest.mark.parametrize("template", ["no place", "two {} {}"])
def test_templates_need_one_place(template):
    with pytest.raises(ValueError, match="needs one"):
        ZeroShotConfig(cache=".", templates=(template,))


def test_articles_and_underscores():
    seen = []

    def tower(texts):
        seen.extend(texts)
        return torch.ones(len(texts), 2)

    fake = SimpleNamespace(__call__=tower)
    zero_shot.class_vectors(
        fake.__call__, ["Night_Stand", "airplane"], ["a {}", "data {}", "the {a} {}"]
    )
    assert seen == [
        "a night stand",
        "data night stand",
        "the {a} night stand",
        "an airplane",
        "data airplane",
        "the {a} airplane",
    ]


def test_the_command(planted, weights, monkeypatch, capsys):
    path = planted()
    arguments = [
        "zero-shot",
        path,
        "--pretrained",
        weights,
        "--classes",
        "mug, night_stand,airplane",
        "--json",
    ]
    monkeypatch.setattr(sys, "argv", ["i2pmae", *map(str, arguments), "--template", "a {}"])
    with pytest.raises(SystemExit) as exit_:
        main()
    assert exit_.value.code == 0
    found = json.loads(capsys.readouterr().out)
    assert found["classes"] == ["mug", "night_stand", "airplane"]


def test_a_store_that_is_not_there(tmp_path):
    with pytest.raises(StoreError):
        run(tmp_path / "none.zarr")
