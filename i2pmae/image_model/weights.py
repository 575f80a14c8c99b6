"""Weights of image models: files, hashes, strict loading, downloads that fail at once."""

import hashlib
import io
import math
import os
import pickle
import re
import socket
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from i2pmae.archives import check_dense, check_stored
from i2pmae.errors import WeightsError

SUFFIXES = (".pt", ".pth", ".bin", ".safetensors")
_NESTING = ("state_dict", "model", "model_state_dict", "state_dict_ema", "teacher")
_PREFIXES = ("module.", "_orig_mod.")
_PROBE_SECONDS = 5.0
_STORAGES = {
    "BoolStorage": torch.bool,
    "ByteStorage": torch.uint8,
    "IntStorage": torch.int32,
    "LongStorage": torch.int64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
}


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
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            found: Any = load_file(path)
        elif _is_torchscript(path):
            found = _TorchScriptReader.read(path)
        else:
            check_stored(path)
            found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the readers raise a dozen kinds, all mean the same here
        raise WeightsError(f"{path} cannot be read as weights: {one_line(error)}") from error
    for name in _NESTING:
        if isinstance(found, Mapping) and isinstance(found.get(name), Mapping):
            found = found[name]
    if not isinstance(found, Mapping):
        raise WeightsError(f"{path} holds a {type(found).__name__}; expected tensors by name")
    weights = {str(name): value for name, value in found.items() if isinstance(value, Tensor)}
    try:
        check_dense(weights)
    except ValueError as error:
        raise WeightsError(f"{path} cannot be read as weights: {error}") from error
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
    shapes = [
        f"{name} is {tuple(weights[name].shape)}, expected {tuple(expected[name].shape)}"
        for name in expected
        if name in weights and weights[name].shape != expected[name].shape
    ]
    problems = [
        f"{len(names)} {what} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
        for what, names in (
            ("missing", [name for name in expected if name not in weights]),
            ("unknown", [name for name in weights if name not in expected]),
            ("of another shape", shapes),
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
    if layout is None or layout.name not in weights:
        return  # the strict comparison says what is missing
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


def one_line(error: BaseException) -> str:
    """The start of an error's message, on one line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:200]}"


@contextmanager
def failing_at_once() -> Iterator[None]:
    """Downloads inside fail within seconds where there is no network, instead of retrying.

    Files in the hub's local cache are found as before.
    """
    from huggingface_hub import constants

    offline, timeout = constants.HF_HUB_OFFLINE, socket.getdefaulttimeout()
    constants.HF_HUB_OFFLINE = offline or not _hub_answers()
    socket.setdefaulttimeout(4 * _PROBE_SECONDS)
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = offline
        socket.setdefaulttimeout(timeout)


def _hub_answers() -> bool:
    """Whether the hub can be reached, whatever it answers."""
    from huggingface_hub import constants, get_session

    try:
        get_session().head(constants.ENDPOINT, timeout=_PROBE_SECONDS)
    except Exception:  # the kinds changed with the library's versions; all mean no
        return False
    return True


def _is_torchscript(path: Path) -> bool:
    """Whether a file is a TorchScript archive."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(re.fullmatch(r"[^/]+/constants\.pkl", name) for name in archive.namelist())


class _Stub:
    """Stands for an object of a TorchScript archive; keeps its attributes."""

    def __setstate__(self, state: Any) -> None:
        self.attributes = state if isinstance(state, dict) else {}


class _TorchScriptReader(pickle.Unpickler):
    """Reads the tensors of a TorchScript archive without its code."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self.archive = archive
        self.root = next(name for name in archive.namelist() if name.endswith("/data.pkl"))[:-8]
        super().__init__(io.BytesIO(archive.read(f"{self.root}data.pkl")))

    @classmethod
    def read(cls, path: Path) -> dict[str, Tensor]:
        """Tensors by name, as `state_dict` would give them."""
        with zipfile.ZipFile(path) as archive:
            return dict(cls._named(cls(archive).load(), ""))

    @classmethod
    def _named(cls, value: Any, name: str) -> Iterator[tuple[str, Tensor]]:
        if isinstance(value, Tensor):
            yield name, value
        elif isinstance(value, _Stub):
            for key, inner in value.attributes.items():
                yield from cls._named(inner, f"{name}.{key}" if name else key)

    def find_class(self, module: str, name: str) -> Any:
        """Only what tensors are made of; every other class becomes an inert stand-in."""
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _rebuild
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if module == "torch":
            return _STORAGES[name]
        if module == "torch.jit._pickle":
            return lambda value, *_: value
        return type(name, (_Stub,), {})

    def persistent_load(self, pid: Any) -> Tensor:
        """A tensor's memory, from the archive's own file."""
        _, dtype, key, _, _ = pid
        memory = self.archive.read(f"{self.root}data/{key}")
        return torch.frombuffer(bytearray(memory), dtype=dtype) if memory else torch.empty(0)


def _rebuild(memory: Tensor, offset: int, size: Any, stride: Any, *_: Any) -> Tensor:
    return memory.as_strided(size, stride, offset)
