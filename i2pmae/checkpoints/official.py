"""Names of the released checkpoints and ours.

The released networks hold convolutions of size 1 where ours hold linear layers, so those weights
have one more axis; apart from that the numbers are the same.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Literal

from torch import Tensor

from i2pmae.errors import CheckpointError, one_line

Kind = Literal["pretraining", "point-m2ae", "encoder", "classifier", "segmenter"]

IMAGE_MODEL_PREFIX = "clip_model."  # some released checkpoints also hold the 2D network
_DISTRIBUTED_PREFIX = "module."
_SUFFIXES = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")

# A key that tells the kind of a checkpoint.
_SIGNS: dict[str, Kind] = {
    "rec_head_2d.weight": "pretraining",
    "rec_head_3d.weight": "pretraining",
    "rec_head.weight": "point-m2ae",
    "cls_head_finetune.0.weight": "classifier",
    "propagations.0.mlp_convs.0.weight": "segmenter",
}

# Official module, our module; `#` stands for a number, `*` marks a convolution.
_ENCODER = {
    "h_encoder.token_embed.#.first_conv.0*": "encoder.embeddings.#.point_in",
    "h_encoder.token_embed.#.first_conv.1": "encoder.embeddings.#.point_norm",
    "h_encoder.token_embed.#.first_conv.3*": "encoder.embeddings.#.point_out",
    "h_encoder.token_embed.#.second_conv.0*": "encoder.embeddings.#.group_in",
    "h_encoder.token_embed.#.second_conv.1": "encoder.embeddings.#.group_norm",
    "h_encoder.token_embed.#.second_conv.3*": "encoder.embeddings.#.group_out",
    "h_encoder.encoder_pos_embeds.#.#": "encoder.positions.#.#",
    "h_encoder.encoder_blocks.#.blocks.#.norm1": "encoder.blocks.#.#.attention_norm",
    "h_encoder.encoder_blocks.#.blocks.#.attn.qkv": "encoder.blocks.#.#.attention.qkv",
    "h_encoder.encoder_blocks.#.blocks.#.attn.proj": "encoder.blocks.#.#.attention.projection",
    "h_encoder.encoder_blocks.#.blocks.#.norm2": "encoder.blocks.#.#.mlp_norm",
    "h_encoder.encoder_blocks.#.blocks.#.mlp.fc1": "encoder.blocks.#.#.mlp.0",
    "h_encoder.encoder_blocks.#.blocks.#.mlp.fc2": "encoder.blocks.#.#.mlp.2",
    "h_encoder.encoder_norms.#": "encoder.norms.#",
}
_DECODER = {
    "h_decoder.#.blocks.0.norm1": "decoder.blocks.#.attention_norm",
    "h_decoder.#.blocks.0.attn.qkv": "decoder.blocks.#.attention.qkv",
    "h_decoder.#.blocks.0.attn.proj": "decoder.blocks.#.attention.projection",
    "h_decoder.#.blocks.0.norm2": "decoder.blocks.#.mlp_norm",
    "h_decoder.#.blocks.0.mlp.fc1": "decoder.blocks.#.mlp.0",
    "h_decoder.#.blocks.0.mlp.fc2": "decoder.blocks.#.mlp.2",
    "decoder_pos_embeds.#.#": "decoder.positions.#.#",
    "token_prop.#.fuse.net.0*": "decoder.propagations.#.fuse",
    "token_prop.#.fuse.net.1": "decoder.propagations.#.fuse_norm",
    "token_prop.#.extraction.operation.0.net1.0*": "decoder.propagations.#.first",
    "token_prop.#.extraction.operation.0.net1.1": "decoder.propagations.#.first_norm",
    "token_prop.#.extraction.operation.0.net2.0*": "decoder.propagations.#.second",
    "token_prop.#.extraction.operation.0.net2.1": "decoder.propagations.#.second_norm",
    "decoder_norm": "decoder.norm",
    "rec_head_3d*": "head_3d",
    "rec_head_2d*": "head_2d",
}
_CLASSIFIER = {"norm": "norm", "cls_head_finetune.#": "head.#"}
_SEGMENTER = {
    "label_conv.0*": "category.0",
    "label_conv.1": "category.1",
    "propagations.#.mlp_convs.0*": "levels.#.first",
    "propagations.#.mlp_bns.0": "levels.#.first_norm",
    "propagations.#.mlp_convs.1*": "levels.#.second",
    "propagations.#.mlp_bns.1": "levels.#.second_norm",
    "convs1*": "head.0",
    "bns1": "head.1",
    "convs2*": "head.4",
    "bns2": "head.5",
    "convs3*": "head.7",
    "bns3": "head.8",
    "convs4*": "head.10",
}
_TABLES: dict[Kind, dict[str, str]] = {
    "pretraining": _ENCODER | _DECODER,
    "point-m2ae": _ENCODER | _DECODER,
    "encoder": _ENCODER,
    "classifier": _ENCODER | _CLASSIFIER,
    "segmenter": _ENCODER | _SEGMENTER,
}
_WHOLE_KEYS = {"mask_token": "decoder.mask_token"}
_UNUSED = re.compile(r"rec_head\.(weight|bias)")  # Point-M2AE's head predicts another level


def is_official(state_dict: Mapping[str, Tensor]) -> bool:
    """Whether the keys are those of a released network."""
    return any(key.removeprefix(_DISTRIBUTED_PREFIX).startswith("h_encoder.") for key in state_dict)


def from_official(state_dict: Mapping[str, Tensor]) -> tuple[Kind, dict[str, Tensor]]:
    """Weights of a released network under our names.

    A `module.` prefix is stripped; a 2D network (`clip_model.*`) and Point-M2AE's reconstruction
    head, which fits none of ours, are left out.

    Args:
        state_dict: official names.

    Returns:
        What kind of network it is, and our state dict.

    Raises:
        CheckpointError: if the kind cannot be told or a key is unknown.
    """
    stripped = {key.removeprefix(_DISTRIBUTED_PREFIX): value for key, value in state_dict.items()}
    kind = next((kind for sign, kind in _SIGNS.items() if sign in stripped), None)
    if kind is None:
        raise CheckpointError(
            "not a checkpoint of I2P-MAE or Point-M2AE: found none of "
            f"{', '.join(_SIGNS)} among its {len(stripped)} keys"
        )
    ours: dict[str, Tensor] = {}
    unknown = []
    rules = list(_rules(kind, to_ours=True))
    for key, value in stripped.items():
        if key.startswith(IMAGE_MODEL_PREFIX) or _UNUSED.fullmatch(key):
            continue
        found = _rename(key, rules)
        if found is None:
            unknown.append(key)
            continue
        name, is_convolution = found
        is_kernel = is_convolution and key.endswith(".weight")
        ours[name] = value.squeeze(-1) if is_kernel else value
    if unknown:
        raise CheckpointError(
            f"{len(unknown)} keys of the checkpoint are unknown in a {kind} network, "
            f"the first is {one_line(unknown[0], 60)}"
        )
    return kind, ours


def to_official(kind: Kind, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our weights under the released names and shapes; the inverse of `from_official`.

    A head that predicts standardized features becomes one of raw features, as the release has;
    without their shape's mean (`targets.remove_shape_mean`) they stay.

    Raises:
        CheckpointError: if a key is not of this kind of network, or the release has no such one.
    """
    if kind == "encoder":
        raise CheckpointError(
            "the release has no network that is an encoder alone; convert the checkpoint of "
            "pre-training that it was exported from"
        )
    if "target_mean" in state_dict:
        state_dict = _of_raw_features(dict(state_dict))
    official: dict[str, Tensor] = {}
    rules = list(_rules(kind, to_ours=False))
    for key, value in state_dict.items():
        name, is_convolution = _renamed(kind, key, rules)
        is_kernel = is_convolution and key.endswith(".weight")
        official[name] = value.unsqueeze(-1) if is_kernel else value
    return official


def _of_raw_features(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """The 2D head takes over the targets' mean and standard deviation."""
    weight, bias = state_dict["head_2d.weight"], state_dict["head_2d.bias"]
    mean, std = state_dict.pop("target_mean"), state_dict.pop("target_deviation")
    times = len(bias) // len(mean)
    state_dict["head_2d.weight"] = weight * std.repeat(times)[:, None]
    state_dict["head_2d.bias"] = bias * std.repeat(times) + mean.repeat(times)
    return state_dict


def official_name(kind: Kind, name: str) -> str:
    """Released name of one of our parameters.

    Raises:
        CheckpointError: if the name is not of this kind of network.
    """
    return _renamed(kind, name, list(_rules(kind, to_ours=False)))[0]


def _renamed(kind: Kind, key: str, rules: list["Rule"]) -> tuple[str, bool]:
    """As `_rename`; an unknown key is an error."""
    found = _rename(key, rules)
    if found is None:
        raise CheckpointError(f"{key} is no weight of a {kind} network of the release")
    return found


Rule = tuple[re.Pattern[str], str, bool]


def _rules(kind: Kind, to_ours: bool) -> Iterator[Rule]:
    """Pattern of a key, its replacement, whether the weight is a convolution's."""
    suffix = "|".join(_SUFFIXES)
    for theirs, ours in _TABLES[kind].items():
        source, target = theirs.removesuffix("*"), ours
        if not to_ours:
            source, target = target, source
        pattern = re.escape(source).replace(r"\#", r"(\d+)") + rf"\.({suffix})"
        numbers = iter(range(1, source.count("#") + 2))
        parts = target.split("#")
        template = parts[0] + "".join(rf"\{next(numbers)}{part}" for part in parts[1:])
        template += rf".\{source.count('#') + 1}"
        yield re.compile(pattern), template, theirs.endswith("*")
    for theirs, ours in _WHOLE_KEYS.items():
        source, target = (theirs, ours) if to_ours else (ours, theirs)
        yield re.compile(re.escape(source)), target, False


def _rename(key: str, rules: list[Rule]) -> tuple[str, bool] | None:
    """New name of a key and whether it belongs to a convolution; None: no rule fits."""
    for pattern, template, is_convolution in rules:
        match = pattern.fullmatch(key)
        if match:
            return match.expand(template), is_convolution
    return None
