import open_clip
import pytest
import torch
from safetensors.torch import load_file, save_file

from i2pmae.errors import I2PMAEError, WeightsError
from i2pmae.image_model import from_open_clip
from i2pmae.image_model.text import load_text_tower

CONFIG = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 8},
    "text_cfg": {
        "context_length": 12,
        "vocab_size": 49408,
        "width": 16,
        "heads": 1,
        "layers": 2,
    },
}
TEXTS = ["a depth map of a chair", "a depth map of an airplane", "lamp"]


@pytest.fixture(autouse=True)
def _networks(monkeypatch):
    """Small networks, as open_clip lists its own."""
    configs = open_clip.factory._MODEL_CONFIGS
    monkeypatch.setitem(configs, "Small", CONFIG)
    monkeypatch.setitem(configs, "Small-quickgelu", CONFIG | {"quick_gelu": True})
    monkeypatch.setitem(configs, "Small-custom", CONFIG | {"custom_text": True})
    trunk = {"timm_model_name": "test_vit", "timm_model_pretrained": False, "image_size": 32}
    monkeypatch.setitem(configs, "Small-trunk", CONFIG | {"vision_cfg": trunk})
    foreign = CONFIG["text_cfg"] | {"hf_model_name": "no/such", "hf_tokenizer_name": "no/such"}
    monkeypatch.setitem(configs, "Small-foreign", CONFIG | {"text_cfg": foreign})
    tag = {"mean": (0.5,) * 3, "std": (0.5,) * 3, "url": "https://host/clip.pt"}
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "Small", {"tag": tag})


@pytest.fixture
def saved(tmp_path):
    """Make a network with random weights and write them; returns both."""

    def saved(name):
        torch.manual_seed(1)
        clip = open_clip.create_model(name)
        path = tmp_path / f"{name}.safetensors"
        save_file({key: value.contiguous() for key, value in clip.state_dict().items()}, path)
        return clip.eval(), path

    return saved


@pytest.mark.parametrize("name", ["Small", "Small-quickgelu", "Small-custom"])
def test_vectors_are_open_clips(saved, name):
    clip, path = saved(name)
    tower = load_text_tower(name, str(path))
    with torch.no_grad():
        expected = clip.encode_text(open_clip.get_tokenizer(name)(TEXTS), normalize=True)
    torch.testing.assert_close(tower(TEXTS), expected)
    assert tower.channels == 16
    assert not torch.equal(tower(TEXTS)[0], tower(TEXTS)[1])


def test_the_image_towers_weights_are_recognized_from_a_file_or_a_tag(saved, monkeypatch):
    _, path = saved("Small")
    from_file = from_open_clip.load("Small", str(path), None).weights_hash
    monkeypatch.setattr(from_open_clip, "download_pretrained", lambda _: path)
    from_tag = from_open_clip.load("Small", "tag", None).weights_hash
    assert from_file != from_tag
    assert load_text_tower("Small", str(path)).image_weights == {from_file, from_tag}


@pytest.mark.parametrize(
    ("name", "pretrained", "words"),
    [
        ("timm:test_vit", "random", "not a CLIP network"),
        ("efficientnet-lite0-packaged", "openai", "not a CLIP network"),
        ("Small", "random", "random"),
        ("Small", "/no/such/file.pt", "no weights file /no/such/file.pt"),
        ("Small", "nothing", "has no weights 'nothing'"),
    ],
)
def test_networks_without_words_are_one_line(name, pretrained, words):
    with pytest.raises(I2PMAEError) as caught:
        load_text_tower(name, pretrained)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_weights_that_cannot_be_had_say_where_they_are(monkeypatch):
    def unreachable(_tag):
        raise ConnectionError("no route to host")

    monkeypatch.setattr(from_open_clip, "download_pretrained", unreachable)
    with pytest.raises(WeightsError, match=r"https://host/clip\.pt.*--pretrained FILE"):
        load_text_tower("Small", "tag")


def test_a_file_of_the_image_tower_alone_is_refused(saved, tmp_path):
    _, path = saved("Small")
    weights = load_file(path)
    alone = {
        key.removeprefix("visual."): value
        for key, value in weights.items()
        if key.startswith("visual.")
    }
    save_file(alone, tmp_path / "visual.safetensors")
    with pytest.raises(WeightsError, match="image tower of Small only"):
        load_text_tower("Small", str(tmp_path / "visual.safetensors"))
    del weights["ln_final.weight"]
    save_file(weights, tmp_path / "cut.safetensors")
    with pytest.raises(WeightsError, match=r"text tower.* ln_final\.weight|ln_final\.weight"):
        load_text_tower("Small", str(tmp_path / "cut.safetensors"))


def test_features_in_another_space_are_refused(saved):
    _, path = saved("Small-trunk")
    with pytest.raises(WeightsError, match="not in the space"):
        load_text_tower("Small-trunk", str(path))


def test_text_towers_of_other_libraries_need_their_files(saved):
    _, path = saved("Small")
    with pytest.raises(WeightsError, match="cannot be built here"):
        load_text_tower("Small-foreign", str(path))
