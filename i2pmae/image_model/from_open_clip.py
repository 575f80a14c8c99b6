"""CLIP image towers of open_clip."""

import math
from pathlib import Path
from typing import Any

import open_clip
import timm
from open_clip.constants import HF_SAFE_WEIGHTS_NAME
from open_clip.model import _build_vision_tower
from open_clip.modified_resnet import ModifiedResNet
from open_clip.pretrained import download_pretrained
from open_clip.timm_model import TimmModel
from open_clip.transformer import ResidualAttentionBlock
from torch import Tensor

from i2pmae.errors import ConfigError, DownloadError, WeightsError, reason
from i2pmae.hub import failing_at_once
from i2pmae.image_model.names import PACKAGED, unknown_network, unknown_tag
from i2pmae.image_model.network import ClipResNet, ClipTransformer, Loaded, TimmNetwork, Tower
from i2pmae.image_model.weights import (
    TokenLayout,
    check_positions,
    file_hash,
    is_file_name,
    load_strictly,
    read_weights,
    resize_positions,
    seeded,
    tensors_hash,
    timm_layout,
)
from i2pmae.untrusted.tensors import tensors_of

QUICK = "-quickgelu"  # ending of the names of networks that are built with QuickGELU


def load(name: str, pretrained: str, image_size: int | None) -> Loaded:
    """An image tower with its weights; arguments and errors as in `load_image_model`."""
    if name not in open_clip.list_models():
        known = [*open_clip.list_models(), PACKAGED, *(f"timm:{key}" for key in timm.list_models())]
        raise unknown_network(name, known)
    from_tag = pretrained != "random" and not is_file_name(pretrained)
    if from_tag:
        check_tag(name, pretrained)
    config = open_clip.get_model_config(name)
    vision = {**config["vision_cfg"], "timm_model_pretrained": False}
    if image_size is not None:
        vision["image_size"] = image_size
    quick_gelu = config.get("quick_gelu", False)
    visual = seeded(lambda: _build_vision_tower(config["embed_dim"], vision, quick_gelu))
    if image_size is not None and hasattr(getattr(visual, "trunk", None), "set_input_size"):
        visual.set_input_size(image_size)
    layout = _layout(visual)

    if pretrained == "random":
        weights_hash = tensors_hash(visual.state_dict())
    elif from_tag:
        weights = _visual_part(read_weights(download(name, pretrained)))
        if layout is not None and not isinstance(visual, TimmModel) and layout.name in weights:
            side = math.isqrt(layout.n_patches)
            weights[layout.name] = resize_positions(weights[layout.name], 1, side)
        load_strictly(visual, weights, f"{name} {pretrained}")
        weights_hash = tensors_hash(visual.state_dict())
    else:
        weights_hash = _check_published_by_openai(name, Path(pretrained), quick_gelu)
        weights = _visual_part(read_weights(Path(pretrained)))
        check_positions(weights, visual, layout, pretrained)
        load_strictly(visual, weights, pretrained)

    mean, std = _normalization(name, pretrained)
    size = visual.image_size
    return Loaded(
        tower=_tower(name, visual),
        pretrained=pretrained,
        weights_hash=weights_hash,
        image_size=size if isinstance(size, int) else size[0],
        patch_size=None if layout is None else layout.patch_size,
        mean=mean,
        std=std,
    )


def usual_tag(name: str) -> str:
    """OpenAI's weights where a network has them, else the first it has."""
    tags = open_clip.list_pretrained_tags_by_model(name)
    return "openai" if "openai" in tags else next(iter(tags), "openai")


def check_tag(name: str, pretrained: str) -> None:
    """Refuse unknown tags, and weights that were trained with another activation.

    Raises:
        WeightsError: naming what to pass instead.
    """
    tag = open_clip.get_pretrained_cfg(name, pretrained)
    twin = name.removesuffix(QUICK) if name.endswith(QUICK) else name + QUICK
    twin_tag = open_clip.get_pretrained_cfg(twin, pretrained)
    if not tag and not twin_tag:
        raise unknown_tag(name, pretrained, open_clip.list_pretrained_tags_by_model(name))
    needs_quick = bool((tag or twin_tag).get("quick_gelu", False))
    if not tag or needs_quick != _is_quick(name):
        raise _wrong_activation(f"weights {pretrained!r}", needs_quick, twin)


def _check_published_by_openai(name: str, path: Path, quick_gelu: bool) -> str:
    """Hash of a weights file; refuses OpenAI's own files where QuickGELU is missing."""
    if not path.is_file():
        return ""  # reading it says what is wrong
    found = file_hash(path)
    addresses = [
        open_clip.get_pretrained_cfg(model, tag).get("url", "")
        for model, tag in open_clip.list_pretrained()
        if tag == "openai"
    ]
    if not quick_gelu and any(f"/{found}/" in address for address in addresses):
        raise _wrong_activation(f"the weights {path} of OpenAI", True, name + QUICK)
    return found


def _wrong_activation(weights: str, needs_quick: bool, right_name: str) -> WeightsError:
    return WeightsError(
        f"{weights} were trained {'with' if needs_quick else 'without'} QuickGELU; pass "
        f"--image-model {right_name}"
    )


def _is_quick(name: str) -> bool:
    config = open_clip.get_model_config(name) or {}
    return bool(config.get("quick_gelu", False))


def download(name: str, pretrained: str) -> Path:
    """The file of a tag, from the local cache or the network."""
    tag = open_clip.get_pretrained_cfg(name, pretrained)
    try:
        with failing_at_once():
            return Path(download_pretrained(tag))
    except Exception as error:  # each library raises its own kinds
        places = []
        if tag.get("hf_hub"):
            repository, _, file = tag["hf_hub"].rpartition("/")
            places.append(f"https://huggingface.co/{repository} ({file or HF_SAFE_WEIGHTS_NAME})")
        if tag.get("url"):
            places.append(tag["url"])
        raise DownloadError(
            f"the weights {pretrained!r} of {name} could not be downloaded "
            f"({reason(error, 200)}): fetch them from {' or '.join(places)} on a machine with "
            "network access and pass the file with --pretrained FILE"
        ) from error


def _visual_part(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The image tower of a CLIP checkpoint; a file of the tower alone is taken whole."""
    return tensors_of("visual", weights) or weights


def _layout(visual: Any) -> TokenLayout | None:
    """Where a tower keeps its position embeddings, if it has any."""
    if isinstance(visual, TimmModel):
        return timm_layout(visual.trunk, "trunk.")
    if isinstance(visual, ModifiedResNet):
        side = visual.image_size // 32
        return TokenLayout("attnpool.positional_embedding", side**2, 32)
    height, width = visual.grid_size
    return TokenLayout("positional_embedding", height * width, visual.patch_size[0])


def _tower(name: str, visual: Any) -> Tower:
    """The reader of features and saliency for a tower."""
    if isinstance(visual, TimmModel):
        return TimmNetwork(visual.trunk)
    if isinstance(visual, ModifiedResNet):
        return ClipResNet(visual)
    last = visual.transformer.resblocks[-1]
    if visual.attn_pool is not None or not isinstance(last, ResidualAttentionBlock):
        raise ConfigError(
            f"image model {name} pools its patches by attention (CoCa), which leaves no patch "
            "features to read; choose a CLIP network, such as ViT-B-16-quickgelu"
        )
    return ClipTransformer(visual)


def _normalization(name: str, pretrained: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of a tag; for files and random weights, of the network's tags."""
    tags = open_clip.list_pretrained_tags_by_model(name)
    chosen = [pretrained] if open_clip.get_pretrained_cfg(name, pretrained) else tags
    pairs = {
        (tuple(tag["mean"]), tuple(tag["std"]))
        for tag in (open_clip.get_pretrained_cfg(name, key) for key in chosen)
    }
    if len(pairs) == 1:
        return pairs.pop()
    return open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD
