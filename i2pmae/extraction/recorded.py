"""What a store records of how it was made, and the settings to make it again from that."""

from __future__ import annotations

import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from i2pmae.config import ExtractConfig, ViewConfig, to_plain
from i2pmae.datasets import ShapeSource
from i2pmae.datasets.procedural import ProceduralShapes
from i2pmae.errors import ConfigError, StoreError
from i2pmae.image_model import ImageModelInfo
from i2pmae.image_model.weights import is_file_name
from i2pmae.store.metadata import StoreInfo
from i2pmae.store.quantize import RELATIVE_STEP
from i2pmae.urls import absolute_if_there, absolute_path
from i2pmae.version import __version__

# Settings that a store may bring to its own repair: they decide what is computed, and nothing else.
_KEPT = (
    "layout",
    "split",
    "limit",
    "points",
    "on_error",
    "batch_size",
    "seed",
    "device",
    "image_model",
    "views",
    "store",
)
_KEPT_SINCE = ("prefer", "classes", "up")  # settings that older stores do not record
_PRECISIONS = {"float32": "fp32", "bfloat16": "bf16"}
_USUAL = (("pose", "axis"), ("visible_only", False))  # settings of views
_NO_INFLUENCE = ("cache", "loaders", "part", "workers")  # settings that change nothing in a store


def recorded_settings(
    config: ExtractConfig, source: ShapeSource, model: ImageModelInfo
) -> dict[str, Any]:
    """What decides the store's contents; a continued run must bring the same."""
    # Stores made before there was a choice do not name the usual step and the last block; neither
    # do new ones.
    is_told = config.store.dtype == "int8" and config.store.int8_step != RELATIVE_STEP
    image_settings = to_plain(config.image_model)
    del image_settings["compile"]  # as the device, it changes last digits; see `provenance`
    if model.block is None:
        del image_settings["block"]
    return {
        "layout": source.layout,
        "split": config.split,
        "limit": config.limit,
        "points": config.points,
        "seed": config.seed,
        "source_fingerprint": source.fingerprint(),
        "image_model": {
            **image_settings,
            "image_size": model.image_size,
            "pretrained": Path(model.pretrained).name,
            "weights_sha256": model.weights_hash,
            "mean": list(model.mean),
            "std": list(model.std),
            "saliency": model.saliency_kind,
            "precision": model.precision,
        },
        "views": recorded_views(config.views),
        **({"up": config.up} if config.up != "y" else {}),
        **({"int8_step": config.store.int8_step} if is_told else {}),
    }


def recorded_views(views: ViewConfig) -> dict[str, Any]:
    """Settings of views, less those that stores made before there was a choice do not name."""
    return {key: value for key, value in to_plain(views).items() if (key, value) not in _USUAL}


def provenance(config: ExtractConfig, source: ShapeSource, model: ImageModelInfo) -> dict[str, Any]:
    """What is good to know about a store and does not decide its contents."""
    packages = ("torch", "timm", "open_clip_torch", "zarr", "numpy")
    settings = {key: value for key, value in to_plain(config).items() if key not in _NO_INFLUENCE}
    settings["image_model"]["pretrained"] = _from_anywhere(config.image_model.pretrained)
    return {
        "source": absolute_if_there(config.data),
        "source_times": source.times(),
        "finetune_recipe": source.recipe,
        "class_parts": source.class_parts,
        "weights": _from_anywhere(model.pretrained),
        "device": model.device,
        "compiled": model.compiled,
        "config": settings,
        "python": platform.python_version(),
        "versions": {"i2pmae": __version__, **{name: version(name) for name in packages}},
        "quantization": "code = round(value / feature_scale), one scale per shape and channel"
        if config.store.dtype == "int8"
        else "none",
    }


def _from_anywhere(pretrained: str | None) -> str | None:
    """A file of weights with its whole path, tags as they are."""
    if pretrained is None or not Path(pretrained).is_file():
        return pretrained
    return str(absolute_path(pretrained))


def recorded_config(
    path: str | Path, info: StoreInfo, data: Path | None, pretrained: str | None
) -> ExtractConfig:
    """The settings that made a store, for a run that computes the same again.

    Settings that reach beyond the store, such as paths and workers, are never taken from it: it may
    be untrusted.

    Args:
        path: the store.
        info: what it records.
        data: the shapes; the built-in ones need not be named.
        pretrained: the image model's weights, where they are a file.

    Raises:
        ConfigError: if the shapes or a file of weights must be named.
        StoreError: if it does not record its settings.
    """
    if data is None and info.settings.get("layout") == ProceduralShapes.layout:
        data = Path(ProceduralShapes.layout)
    if data is None:
        raise ConfigError(
            f"{path} is to be compared with its shapes: name them with --data. It says that it "
            f"was made of {info.provenance.get('source')}."
        )
    try:
        recorded = info.provenance["config"]
        kept = {key: recorded[key] for key in _KEPT}
        kept |= {key: recorded[key] for key in _KEPT_SINCE if key in recorded}
        precision = _PRECISIONS.get(info.recorded("image_model.precision"))
        weights = pretrained or kept["image_model"].get("pretrained")
        if weights is not None and pretrained is None:
            tag_of_weights(path, weights)
        return ExtractConfig.model_validate(
            {
                **kept,
                "image_model": {**kept["image_model"], "pretrained": weights},
                "cache": Path(path),
                "precision": precision,
                "data": data,
            }
        )
    except (LookupError, TypeError, AttributeError, ValidationError) as error:
        raise StoreError(
            f"{path} does not record the settings that made it, or holds unknown ones: run the "
            "extract-2d command that made it again."
        ) from error


def tag_of_weights(path: str | Path, recorded: str) -> str:
    """The recorded weights of a store's image model, if they are a library's and no file.

    Args:
        path: the store.
        recorded: a tag or a file.

    Raises:
        ConfigError: if they are a file; the store may be untrusted.
    """
    if is_file_name(recorded):
        raise ConfigError(
            f"{path} was made with weights from a file: name it with --pretrained. The store says "
            f"that it was {recorded}."
        )
    return recorded
