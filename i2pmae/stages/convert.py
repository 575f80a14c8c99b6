"""Official checkpoints to ours and back."""

from pathlib import Path
from typing import TypedDict

from i2pmae.checkpoints import checkpoint
from i2pmae.checkpoints.networks import encoder_config_of, head_config_of
from i2pmae.checkpoints.official import Kind
from i2pmae.config import to_plain
from i2pmae.progress import note


class Result(TypedDict):
    """What was written."""

    kind: Kind
    tensors: int
    direction: str
    out: str


def run(source: Path, target: Path) -> Result:
    """Convert a checkpoint; the direction follows from what `source` is.

    Args:
        source: an official `.pth` (with or without `module.`) or one of ours.
        target: file to write; ours also as `.safetensors`.

    Returns:
        See `Result`.

    Raises:
        CheckpointError: if `source` cannot be read, or has no official counterpart.
    """
    read = checkpoint.load(source)
    for message in read.notes:
        note(message)
    if read.official:
        config = {"encoder": to_plain(encoder_config_of(read))}
        if read.kind == "classifier":
            config["head"] = to_plain(head_config_of(read))
        checkpoint.save(target, kind=read.kind, config=config, model=read.model)
        direction, tensors = "official to i2pmae", len(read.model)
    else:
        tensors = checkpoint.save_official(target, read)
        direction = "i2pmae to official"
        if read.config.get("targets", {}).get("remove_shape_mean"):
            note("its 2D head predicts features without their shape's mean; the release's does not")
    note(f"{source} -> {target}: {direction}, {read.kind}, {tensors} tensors")
    return {"kind": read.kind, "tensors": tensors, "direction": direction, "out": str(target)}
