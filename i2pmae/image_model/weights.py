"""Weights of image models: files, hashes, strict loading."""

import hashlib
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from i2pmae.errors import WeightsError, one_line, reason
from i2pmae.untrusted.tensors import read_tensors

SUFFIXES = (".pt", ".pth", ".bin", ".safetensors")
_NESTING = ("state_dict", "model", "model_state_dict", "state_dict_ema", "teacher")
_PREFIXES = ("module.", "_orig_mod.")


def is_file_name(pretrained: str) -> bool:
    """Whether `pretrained` means a file rather than a tag."""
    path = Path(pretrained)
    return path.is_file() or path.suffix in SUFFIXES or "/" in pretrained or os.sep in pretrained


def missing_weights(path: Path) -> WeightsError:
    """The error of a weights file that is not there."""
    return WeightsError(f"no weights file {path}; --pretrained takes a tag, a file or 'random'")


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a weights file; nothing in the file is ever executed.

    Checkpoints that keep the weights under `state_dict`, `model`, ... are unpacked, prefixes of
    distributed or compiled training removed, and TorchScript archives (what OpenAI publishes)
    read as data.

    Args:
        path: a .pt, .pth, .bin or .safetensors file.

    Returns:
        Tensors by name, on the CPU.

    Raises:
        WeightsError: if the file is missing, of another kind, or damaged.
    """
    if not path.is_file():
        raise missing_weights(path)
    if path.suffix not in SUFFIXES:
        raise WeightsError(f"{path} is no weights file: expected one of {', '.join(SUFFIXES)}")
    try:
        found = read_tensors(path).value
    except Exception as error:  # of a damaged file it can be of any kind
        raise WeightsError(f"{path} cannot be read as weights: {reason(error)}") from error
    for name in _NESTING:
        if isinstance(found, Mapping) and isinstance(found.get(name), Mapping):
            found = found[name]
    if not isinstance(found, Mapping):
        raise WeightsError(f"{path} holds a {type(found).__name__}; expected tensors by name")
    weights = {str(name): value for name, value in found.items() if isinstance(value, Tensor)}
    if not weights:
        raise WeightsError(f"{path} holds no tensors; expected the weights of an image model")
    for prefix in _PREFIXES:
        if all(name.startswith(prefix) for name in weights):
            weights = {name.removeprefix(prefix): value for name, value in weights.items()}
    return weights


def load_strictly(module: nn.Module, weights: Mapping[str, Tensor], source: str) -> None:
    """Copy weights into a module; every tensor of either side must have its counterpart.

    Args:
        module: where to.
        weights: tensors by name, of any floating-point type.
        source: what to call the weights in an error.

    Raises:
        WeightsError: naming a few tensors that are missing, unknown or of another shape.
    """
    expected = module.state_dict()
    shared = [name for name in expected if name in weights]
    shapes = [
        f"{name} is {one_line(tuple(weights[name].shape), 40)}, expected "
        f"{tuple(expected[name].shape)}"
        for name in shared
        if weights[name].shape != expected[name].shape
    ]
    kinds = [
        f"{name} is {weights[name].dtype}, expected {expected[name].dtype}"
        for name in shared
        if weights[name].is_floating_point() != expected[name].is_floating_point()
    ]
    problems = [
        f"{len(names)} {what} ({one_line(', '.join(names[:3]), longest)}"
        f"{', ...' if len(names) > 3 else ''})"
        for what, names, longest in (
            ("missing", [name for name in expected if name not in weights], 40),
            ("unknown", [name for name in weights if name not in expected], 40),
            ("of another shape", shapes, 80),
            ("of another type", kinds, 80),
        )
        if names
    ]
    if problems:
        raise WeightsError(
            f"{source} does not fit: of {len(expected)} tensors {'; '.join(problems)}. "
            "Pass the name of the network the weights were made for."
        )
    module.load_state_dict(dict(weights))


def fits(module: nn.Module, weights: Mapping[str, Tensor]) -> bool:
    """Whether names and shapes are exactly the module's."""
    expected = {name: value.shape for name, value in module.state_dict().items()}
    return expected == {name: value.shape for name, value in weights.items()}


class TokenLayout(NamedTuple):
    """How a network keeps its position embeddings."""

    name: str  # of the tensor (..., tokens, C)
    n_patches: int  # the last so many tokens
    patch_size: int  # pixels


def timm_layout(network: Any, prefix: str) -> TokenLayout | None:
    """The layout of a timm network; None unless it has patches of one size throughout."""
    embed: Any = getattr(network, "patch_embed", None)
    if not isinstance(getattr(network, "pos_embed", None), Tensor):
        return None
    if not hasattr(embed, "num_patches"):
        return None
    return TokenLayout(f"{prefix}pos_embed", embed.num_patches, embed.patch_size[0])


def check_positions(
    weights: Mapping[str, Tensor], module: nn.Module, layout: TokenLayout | None, source: str
) -> None:
    """Refuse position embeddings of another image size, naming the size to ask for.

    Args:
        weights: tensors by name, as in the file.
        module: the network they are meant for.
        layout: of the network.
        source: what to call the weights in an error.

    Raises:
        WeightsError: if the number of patches differs.
    """
    if layout is None or layout.name not in weights or weights[layout.name].ndim < 2:
        return  # the strict comparison says what is missing or of another shape
    n_tokens = module.state_dict()[layout.name].shape[-2]
    found = weights[layout.name].shape[-2] - (n_tokens - layout.n_patches)
    side = math.isqrt(max(found, 0))
    if found == layout.n_patches or side == 0 or side * side != found:
        return  # fits, or differs in more than size
    size, expected = side * layout.patch_size, math.isqrt(layout.n_patches) * layout.patch_size
    raise WeightsError(
        f"{source} was made for images of {size} px ({side}x{side} patches), but the network is "
        f"set up for {expected} px: pass --image-size {size}"
    )


def resize_positions(positions: Tensor, n_prefix: int, side: int) -> Tensor:
    """Bicubic resampling of position embeddings (prefix + patches, C), as open_clip does it."""
    prefix, patches = positions[:n_prefix], positions[n_prefix:]
    old = math.isqrt(len(patches))
    image = patches.float().T.unflatten(1, (old, old))[None]
    image = nn.functional.interpolate(image, (side, side), mode="bicubic", antialias=True)
    return torch.cat([prefix.float(), image[0].flatten(1).T])


def file_hash(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def seeded(build: Callable[[], Any]) -> Any:
    """Build a network whose random weights are the same every time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build()


def tensors_hash(weights: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, types, shapes and bytes of tensors, in order of their names."""
    digest = hashlib.sha256()
    for name, value in sorted(weights.items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
