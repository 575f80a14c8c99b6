"""Checkpoints to networks that are ready to use."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn

from i2pmae.config import (
    EncoderConfig,
    HeadConfig,
    MaskingConfig,
    Pooling,
    SegmentHeadConfig,
    TargetConfig,
)
from i2pmae.errors import CheckpointError
from i2pmae.model.classifier import Classifier
from i2pmae.model.frozen import FrozenEncoder
from i2pmae.model.pretraining import PretrainingModel
from i2pmae.model.segmenter import Segmenter
from i2pmae.training import checkpoint as checkpoints
from i2pmae.training.checkpoint import Checkpoint

Variant = Literal["obj", "pb-t50-rs"]
ModelT = TypeVar("ModelT", bound=nn.Module)

_MODELNET40 = {"group_sizes": (48, 24, 24), "radii": (0.24, 0.48, 0.96)}
_SCANOBJECTNN = {"group_sizes": (32, 16, 16), "radii": (0.32, 0.64, 1.28)}
_PB_T50_RS = {"group_sizes": (32, 16, 16), "radii": (0.48, 0.96, 1.92)}


def load_encoder(checkpoint: str | Path, pooling: Pooling = "max") -> FrozenEncoder:
    """Load the frozen encoder of a checkpoint.

    Args:
        checkpoint: of any kind; ours, an official one, or a `.safetensors` file of
            `i2pmae export`.
        pooling: `max`: the maximum over the coarsest tokens, as the paper's linear SVM uses it;
            `max-mean`: their maximum and mean; `levels`: those of every level.

    Returns:
        A module in evaluation mode on the CPU: points (B, N, 3) float32 in the unit sphere to
        (B, C) float32; in the paper's network C = 384, or 768, or 1344.

    Raises:
        CheckpointError: if the file cannot be read or lacks encoder weights.
    """
    saved = checkpoints.load(checkpoint)
    with _understood(checkpoint):
        config = encoder_config_of(saved)
        encoder = FrozenEncoder(config, saved.kind != "classifier", pooling)
        checkpoints.load_encoder_weights(encoder, saved)
        if encoder.norm is not None:
            _load_norm(encoder.norm, saved)
    return encoder.eval()


def random_encoder(config: EncoderConfig, seed: int = 0, pooling: Pooling = "max") -> FrozenEncoder:
    """A frozen encoder with random weights, the baseline of every comparison."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return FrozenEncoder(config, pooling=pooling).eval()


def load_pretraining(checkpoint: str | Path) -> PretrainingModel:
    """Load the whole pre-training network, heads included.

    Args:
        checkpoint: of `i2pmae pretrain`, or an official one.

    Returns:
        A module in evaluation mode on the CPU.

    Raises:
        CheckpointError: if the file cannot be read or holds another network.
    """
    saved = checkpoints.load(checkpoint)
    if saved.kind != "pretraining":
        raise CheckpointError(
            f"{checkpoint} holds the {saved.kind} network; the one of pre-training is needed"
        )
    sizes = saved.extra.get("network", {"n_views": 3, "image_channels": 512, "image_size": 224})
    with _understood(checkpoint):
        encoder = encoder_config_of(saved)
        masking = MaskingConfig.model_validate(saved.config.get("masking", {}))
        targets = TargetConfig.model_validate(saved.config.get("targets", {}))
        return _filled(lambda: PretrainingModel(encoder, masking, targets, **sizes), saved)


def load_classifier(checkpoint: str | Path, variant: Variant = "obj") -> Classifier:
    """Load a fine-tuned classifier.

    An official file is recognised by the width of its head's input: 384 is ModelNet40's, 768
    ScanObjectNN's.

    Args:
        checkpoint: ours or an official one.
        variant: radii of an official ScanObjectNN file, which does not say them: `obj` for
            OBJ-BG and OBJ-ONLY, `pb-t50-rs` for PB_T50_RS.

    Returns:
        A module in evaluation mode on the CPU: points (B, N, 3) float32 to logits (B, classes).

    Raises:
        CheckpointError: if the file cannot be read or holds no classifier.
    """
    saved = checkpoints.load(checkpoint)
    if saved.kind != "classifier":
        raise CheckpointError(
            f"{checkpoint} holds the {saved.kind} network, not a classifier; "
            "i2pmae finetune makes one from it"
        )
    with _understood(checkpoint):
        n_classes = int(saved.model[_last_bias(saved)].shape[0])
        encoder, head = encoder_config_of(saved, variant), head_config_of(saved)
        return _filled(lambda: Classifier(encoder, head, n_classes), saved)


def load_segmenter(checkpoint: str | Path) -> Segmenter:
    """Load a part-segmentation network.

    Args:
        checkpoint: ours, or an official one (`base_model` or `model_state_dict`).

    Returns:
        A module in evaluation mode on the CPU: points (B, N, 3) float32 and category (B,) int64
        of the objects to log-probabilities (B, N, parts) float32.

    Raises:
        CheckpointError: if the file cannot be read or holds no segmenter.
    """
    saved = checkpoints.load(checkpoint)
    if saved.kind != "segmenter":
        raise CheckpointError(
            f"{checkpoint} holds the {saved.kind} network, not a segmenter; "
            "i2pmae finetune --recipe segment-shapenetpart makes one from it"
        )
    with _understood(checkpoint):
        n_categories = _size(saved, "category.0.weight", axis=1)
        n_parts = _size(saved, "head.10.weight", axis=0)
        head = segment_head_config_of(saved)
        encoder = encoder_config_of(saved)
        return _filled(lambda: Segmenter(encoder, n_parts, n_categories, head), saved)


def encoder_config_of(saved: Checkpoint, variant: Variant = "obj") -> EncoderConfig:
    """Encoder settings that a checkpoint was trained with; official files do not say them.

    Raises:
        CheckpointError: if the checkpoint's settings cannot be understood.
    """
    from pydantic import ValidationError

    if saved.config:
        try:
            found = EncoderConfig.model_validate(saved.config.get("encoder", {}))
        except ValidationError as error:
            raise CheckpointError(
                f"the checkpoint's encoder settings cannot be used: {error.errors()[0]['msg']}"
            ) from None
        _check_sizes(found, saved)
        return found
    if saved.kind in ("pretraining", "point-m2ae", "encoder"):
        return EncoderConfig()
    settings: dict[str, Any] = _MODELNET40
    if saved.kind == "segmenter":
        settings = {"radii": _SCANOBJECTNN["radii"]}
    elif head_config_of(saved).pooling == "concat":
        settings = _PB_T50_RS if variant == "pb-t50-rs" else _SCANOBJECTNN
    return EncoderConfig(**settings)


@contextmanager
def _understood(path: str | Path) -> Iterator[None]:
    """Say in one line that a checkpoint holds something else than its kind should."""
    try:
        yield
    except (LookupError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise CheckpointError(
            f"{path} is damaged, its weights and settings do not fit together ({reason}); copy or "
            "download it again"
        ) from error


def _filled(make: Callable[[], ModelT], saved: Checkpoint) -> ModelT:
    """A network with the weights of a checkpoint, built only if they fit."""
    with torch.device("meta"):  # settings may ask for sizes that no memory holds
        checkpoints.check_weights(make(), saved)
    model = make()
    checkpoints.load_weights(model, saved)
    return model.eval()


def _check_sizes(config: EncoderConfig, saved: Checkpoint) -> None:
    """Refuse settings of an encoder that the weights are not of."""
    widths = {
        f"encoder.positions.{level}.0.weight": width for level, width in enumerate(config.widths)
    }
    widths["encoder.embeddings.0.point_in.weight"] = config.embedding_width
    for name, width in widths.items():
        weight = saved.model.get(name)
        if weight is not None and (weight.ndim != 2 or len(weight) != width):
            raise CheckpointError(
                f"the checkpoint is damaged: {name} has shape {tuple(weight.shape)}, its settings "
                f"say {width} rows; copy or download it again"
            )
    if sum(config.depths) > len(saved.model):
        raise CheckpointError(
            f"the checkpoint is damaged: its settings say {sum(config.depths)} blocks, it holds "
            f"{len(saved.model)} tensors; copy or download it again"
        )


def head_config_of(saved: Checkpoint) -> HeadConfig:
    """Head settings of a classifier's checkpoint."""
    if saved.config:
        return HeadConfig.model_validate(saved.config.get("head", {}))
    first = next(tensor for name, tensor in saved.model.items() if _is_first_of_head(name, tensor))
    return HeadConfig(pooling="sum" if first.shape[1] == EncoderConfig().widths[-1] else "concat")


def segment_head_config_of(saved: Checkpoint) -> SegmentHeadConfig:
    """Head settings of a segmenter's checkpoint, by the sizes of its weights."""
    return SegmentHeadConfig(
        level_widths=(
            _size(saved, "levels.0.first.weight", axis=0),
            _size(saved, "levels.0.second.weight", axis=0),
        ),
        widths=(
            _size(saved, "head.0.weight", axis=0),
            _size(saved, "head.4.weight", axis=0),
            _size(saved, "head.7.weight", axis=0),
        ),
    )


def _is_first_of_head(name: str, tensor: Tensor) -> bool:
    return name.startswith("head.") and name.endswith("weight") and tensor.ndim == 2


def _last_bias(saved: Checkpoint) -> str:
    return [name for name in saved.model if name.startswith("head.") and name.endswith("bias")][-1]


def _size(saved: Checkpoint, name: str, axis: int) -> int:
    """Length of an axis of a weight matrix."""
    weight = saved.model.get(name)
    if weight is None or weight.ndim != 2:
        raise CheckpointError(
            f"the checkpoint ({saved.kind}) is damaged: it holds no matrix {name}; "
            "copy or download it again"
        )
    return int(weight.shape[axis])


def _load_norm(norm: nn.Module, saved: Checkpoint) -> None:
    prefix = "norm."
    norm.load_state_dict(
        {
            name.removeprefix(prefix): tensor
            for name, tensor in saved.model.items()
            if name.startswith(prefix)
        }
    )
