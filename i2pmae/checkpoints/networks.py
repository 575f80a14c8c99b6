"""Ready-to-use networks from checkpoints."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn

from i2pmae.checkpoints import checkpoint as checkpoints
from i2pmae.checkpoints.checkpoint import Checkpoint
from i2pmae.checkpoints.official import Kind
from i2pmae.checkpoints.on_hub import Described, OnHub
from i2pmae.config import (
    EncoderConfig,
    HeadConfig,
    MaskingConfig,
    Pooling,
    SegmentHeadConfig,
    TargetConfig,
    to_plain,
)
from i2pmae.errors import CheckpointError, one_line, reason
from i2pmae.model.classifier import Classifier
from i2pmae.model.fine_tuned import FineTuned
from i2pmae.model.frozen import FrozenEncoder
from i2pmae.model.pretraining import PretrainingModel
from i2pmae.model.segmenter import Segmenter
from i2pmae.untrusted.tensors import tensors_of
from i2pmae.urls import as_typed

Variant = Literal["obj", "pb-t50-rs"]
ModelT = TypeVar("ModelT", bound=nn.Module)
FineTunedT = TypeVar("FineTunedT", bound=FineTuned)

_MODELNET40 = {"group_sizes": (48, 24, 24), "radii": (0.24, 0.48, 0.96)}
_SCANOBJECTNN = {"group_sizes": (32, 16, 16), "radii": (0.32, 0.64, 1.28)}
_PB_T50_RS = {"group_sizes": (32, 16, 16), "radii": (0.48, 0.96, 1.92)}


class HubEncoder(OnHub, FrozenEncoder):
    """A frozen encoder for `from_pretrained` and `push_to_hub`; see `load_encoder`."""

    loads = "load_encoder"

    @classmethod
    def _load(cls, name: str, **options: Any) -> HubEncoder:
        return load_encoder(name, **options)

    def described(self) -> Described:
        """See `OnHub`."""
        if self.norm is not None:
            raise CheckpointError(
                "this is the encoder of a classifier, which cannot be written without its head: "
                "load_classifier, then save or push that"
            )
        return _described("encoder", self)


class HubClassifier(OnHub, Classifier):
    """A classifier for `from_pretrained` and `push_to_hub`; see `load_classifier`."""

    loads = "load_classifier"

    @classmethod
    def _load(cls, name: str, **options: Any) -> HubClassifier:
        return load_classifier(name, **options)

    def described(self) -> Described:
        """See `OnHub`."""
        return _described("classifier", self, head=self.head_config)


class HubSegmenter(OnHub, Segmenter):
    """A segmenter for `from_pretrained` and `push_to_hub`; see `load_segmenter`."""

    loads = "load_segmenter"

    @classmethod
    def _load(cls, name: str, **options: Any) -> HubSegmenter:
        return load_segmenter(name, **options)

    def described(self) -> Described:
        """See `OnHub`."""
        return _described("segmenter", self, segment_head=self.head_config)


def _described(
    kind: Kind, network: FrozenEncoder | FineTuned, **heads: HeadConfig | SegmentHeadConfig
) -> Described:
    """Settings that decide the sizes of a network, and what else is known of it."""
    config: dict[str, Any] = {"encoder": to_plain(network.config)}
    config |= {name: to_plain(head) for name, head in heads.items()}
    if isinstance(network, FineTuned):
        points = {"points": network.n_points, "sampling": network.sampling}
        config |= {name: value for name, value in points.items() if value is not None}
    known = {"up": network.up} if network.up != "y" else {}
    for name in ("class_names", "part_names", "class_parts"):
        if values := getattr(network, name, ()):
            known[name] = json.loads(json.dumps(values))
    return Described(kind, config, known)


def load_encoder(
    checkpoint: str | Path, pooling: Pooling = "max", dense: bool = False
) -> HubEncoder:
    """Load the frozen encoder of a checkpoint.

    Args:
        checkpoint: of any kind; ours, an official one, or a `.safetensors` file of
            `i2pmae export`. Also the name of an encoder that ships (`i2pmae models` lists them), or
            `hf://owner/name[@revision]`.
        pooling: `max`: the maximum over the coarsest tokens, as the paper's linear SVM uses it;
            `sum`: their maximum plus their mean; `max-mean`: both side by side; `levels`: those of
            every level.
        dense: give features of every point instead: the tokens of every level, interpolated.

    Returns:
        A module in evaluation mode on the CPU: points (B, N, 3) float32 in the unit sphere to
        (B, C) float32; in the paper's network C = 384, or 768, or 1344. If dense, to (B, N, C) with
        C = 672.

    Raises:
        CheckpointError: if the file cannot be read or lacks encoder weights.
        HubError: if it cannot be fetched.
    """
    saved = checkpoints.load(checkpoint)
    with understood(checkpoint):
        config = encoder_config_of(saved)
        encoder = HubEncoder(config, saved.kind != "classifier", pooling, dense)
        checkpoints.load_encoder_weights(encoder, saved)
        if encoder.norm is not None:
            load_norm(encoder.norm, saved)
    encoder.up = saved.up
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
    otherwise = "{} holds the {} network; the one of pre-training is needed"
    saved = _load_kind(checkpoint, "pretraining", otherwise)
    sizes = saved.extra.get("network", {"n_views": 3, "image_channels": 512, "image_size": 224})
    with understood(checkpoint):
        encoder = encoder_config_of(saved)
        masking = MaskingConfig.model_validate(saved.config.get("masking", {}))
        targets = TargetConfig.model_validate(saved.config.get("targets", {}))
        return _filled(lambda: PretrainingModel(encoder, masking, targets, **sizes), saved)


def load_classifier(checkpoint: str | Path, variant: Variant = "obj") -> HubClassifier:
    """Load a fine-tuned classifier.

    An official file is recognized by the width of its head's input: 384 is ModelNet40's, 768
    ScanObjectNN's.

    Args:
        checkpoint: ours or an official one.
        variant: radii of an official ScanObjectNN file, which does not say them: `obj` for
            OBJ-BG and OBJ-ONLY, `pb-t50-rs` for PB_T50_RS.

    Returns:
        A module in evaluation mode on the CPU: points (B, N, 3) float32 to logits (B, classes),
        with the names of the classes as `class_names`; empty where nothing says them. Its
        `predict` takes clouds as they are and names their classes.

    Raises:
        CheckpointError: if the file cannot be read or holds no classifier.
    """
    otherwise = "{} holds the {} network, not a classifier; i2pmae finetune makes one from it"
    saved = _load_kind(checkpoint, "classifier", otherwise)
    with understood(checkpoint):
        n_classes = int(saved.model[_last_bias(saved)].shape[0])
        encoder, head = encoder_config_of(saved, variant), head_config_of(saved)
        names = class_names_of(saved, n_classes)
        return _trained(
            _filled(lambda: HubClassifier(encoder, head, n_classes, names), saved), saved
        )


def load_segmenter(checkpoint: str | Path) -> HubSegmenter:
    """Load a part-segmentation network.

    Args:
        checkpoint: ours, or an official one (`base_model` or `model_state_dict`).

    Returns:
        A module in evaluation mode on the CPU: points (B, N, 3) float32 and category (B,) int64
        of the objects to log-probabilities (B, N, parts) float32.

    Raises:
        CheckpointError: if the file cannot be read or holds no segmenter.
    """
    otherwise = (
        "{} holds the {} network, not a segmenter; i2pmae finetune --recipe segment-shapenetpart "
        "makes one from it"
    )
    saved = _load_kind(checkpoint, "segmenter", otherwise)
    with understood(checkpoint):
        n_categories = _size(saved, "category.0.weight", axis=1)
        n_parts = _size(saved, "head.10.weight", axis=0)
        head = segment_head_config_of(saved)
        encoder = encoder_config_of(saved)
        names = part_names_of(saved, n_categories, n_parts)
        segmenter = _filled(
            lambda: HubSegmenter(encoder, n_parts, n_categories, head, *names), saved
        )
        return _trained(segmenter, saved)


def _load_kind(checkpoint: str | Path, kind: Kind, otherwise: str) -> Checkpoint:
    """A checkpoint of one kind; `otherwise` is the error about another."""
    saved = checkpoints.load(checkpoint)
    if saved.kind != kind:
        raise CheckpointError(otherwise.format(as_typed(checkpoint), saved.kind))
    return saved


def _trained(network: FineTunedT, saved: Checkpoint) -> FineTunedT:
    """The same network, told which points and axis it was trained with."""
    network.n_points, network.sampling = points_of(saved), sampling_of(saved)
    network.up = saved.up
    return network


def points_of(saved: Checkpoint) -> int:
    """Points of a cloud that a network was fine-tuned on, which official files leave out."""
    is_modelnet40 = saved.kind == "classifier" and head_config_of(saved).pooling == "sum"
    n_points = saved.config.get("points", 1024 if is_modelnet40 else 2048)
    if type(n_points) is not int or not 0 < n_points < 2**20:
        raise ValueError(f"points is {n_points!r:.40}")
    return n_points


def sampling_of(saved: Checkpoint) -> str:
    """How evaluation chooses points: setting `sampling`, which official files leave out."""
    found: str = saved.config.get("sampling", "fps" if points_of(saved) == 1024 else "first")
    if found not in ("spread", "fps", "first", "random"):
        raise ValueError(f"sampling is {found!r:.40}")
    return "fps" if found == "spread" else found  # they differ in training only


def class_names_of(saved: Checkpoint, n_classes: int) -> tuple[str, ...]:
    """Names of a classifier's classes; empty where they are not known.

    Files of the release do not say them; their data sets have 40 or 15 classes.
    """
    from i2pmae.datasets import hdf5, scanobjectnn

    if saved.config:
        return _names(saved, "class_names", n_classes)
    known = (hdf5.MODELNET40_NAMES, scanobjectnn.CLASS_NAMES)
    return next((names for names in known if len(names) == n_classes), ())


def part_names_of(
    saved: Checkpoint, n_categories: int, n_parts: int
) -> tuple[tuple[str, ...], tuple[str, ...], tuple[tuple[int, ...], ...]]:
    """Names of a segmenter's categories and parts, and the parts of each category, if known."""
    from i2pmae.datasets.shapenetpart import PART_RANGES, PartLabels

    published = PartLabels.published(tuple(PART_RANGES))
    if not saved.config and n_parts == len(published.names):
        return tuple(PART_RANGES), published.names, published.of_class
    members = saved.extra.get("class_parts", ())
    names = _names(saved, "class_names", n_categories)
    return names, _names(saved, "part_names", n_parts), tuple(map(tuple, members))


def _names(saved: Checkpoint, key: str, n: int) -> tuple[str, ...]:
    """Names that a checkpoint keeps, if it does."""
    names = saved.extra.get(key, ())
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"{key} are {names!r:.40}, not names")
    if names and len(names) != n:
        raise ValueError(f"{len(names)} {key}, {n} are expected")
    return tuple(names)


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
                f"the checkpoint's encoder settings cannot be used: {reason(error)}"
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
def understood(path: str | Path) -> Iterator[None]:
    """Raise a one-line error if a checkpoint does not hold what its kind should.

    Raises:
        CheckpointError: instead of what wrong values of settings and weights raise.
    """
    try:
        yield
    except (LookupError, TypeError, ValueError, RuntimeError, AttributeError, ArithmeticError) as e:
        raise CheckpointError(
            f"{as_typed(path)} is damaged, its weights and settings do not fit together "
            f"({reason(e)}); copy or download it again"
        ) from e


def _filled(make: Callable[[], ModelT], saved: Checkpoint) -> ModelT:
    """A network with the weights of a checkpoint, built only if they fit."""
    with torch.device("meta"):  # settings may ask for sizes that no memory holds
        checkpoints.check_weights(make(), saved)
    model = make()
    checkpoints.load_weights(model, saved)
    return model.eval()


def _check_sizes(config: EncoderConfig, saved: Checkpoint) -> None:
    """Refuse encoder settings that do not fit the weights."""
    widths = {
        f"encoder.positions.{level}.0.weight": width for level, width in enumerate(config.widths)
    }
    widths["encoder.embeddings.0.point_in.weight"] = config.embedding_width
    for name, width in widths.items():
        weight = saved.model.get(name)
        if weight is not None and (weight.ndim != 2 or len(weight) != width):
            raise CheckpointError(
                f"the checkpoint is damaged: {name} has shape "
                f"{one_line(tuple(weight.shape), 40)}, its settings "
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


def load_norm(norm: nn.Module, saved: Checkpoint) -> None:
    """Copy the norm of the coarsest level; only classifiers keep it outside of the encoder."""
    coarsest = len(encoder_config_of(saved).n_centers) - 1
    part = "norm" if saved.kind == "classifier" else f"encoder.norms.{coarsest}"
    norm.load_state_dict(tensors_of(part, saved.model))
