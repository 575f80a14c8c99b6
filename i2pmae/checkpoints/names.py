"""What a user may give as a checkpoint: a file, the name of a shipped encoder, `hf://owner/name`."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from pydantic import Field, ValidationError

from i2pmae.config import Config
from i2pmae.errors import CheckpointError, one_line, reason
from i2pmae.hub import HubName, fetch_weights
from i2pmae.image_model.weights import file_hash
from i2pmae.suggest import suggestion
from i2pmae.urls import absolute_path, as_typed, is_hub_name

FOLDER = Path(__file__).parent / "shipped"
TABLE = "models.toml"

_LIKE_A_NAME = re.compile(r"[\w-]+(\.[\w-]+)*")
_LIKE_A_REPOSITORY = re.compile(r"[\w-]+/[\w.-]+")
_ENDINGS = (".pt", ".pth", ".safetensors")


class ShippedEncoder(Config):
    """An encoder that comes with the package, as its table describes it."""

    file: str = Field(pattern=r"^[\w.-]+\.safetensors$")  # in the table's folder
    license: str
    training_data: str
    command: str  # that made it
    scores: dict[str, float]  # percent, measured by this project
    note: str = ""
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")

    @property
    def path(self) -> Path:
        """Its file."""
        return FOLDER / self.file


def shipped() -> dict[str, ShippedEncoder]:
    """Encoders that come with this version, by name.

    Raises:
        CheckpointError: if their table is damaged.
    """
    table = FOLDER / TABLE
    try:
        entries = tomllib.loads(table.read_text(encoding="utf-8"))
        return {name: ShippedEncoder.model_validate(entry) for name, entry in entries.items()}
    except (OSError, ValueError, ValidationError) as error:
        raise CheckpointError(
            f"{table} is damaged ({reason(error)}); install i2pmae again"
        ) from error


def pinned(checkpoint: str | Path) -> str | Path:
    """The checkpoint by a permanent name: for a repository of the Hub, with its commit.

    Raises:
        HubError: if it is of the Hub and cannot be fetched.
    """
    if not is_hub_name(checkpoint):
        return checkpoint
    return str(fetch_weights(HubName.of(checkpoint))[1])


def recorded(checkpoint: str | Path) -> str:
    """How a checkpoint is recorded: a file by its absolute path, others by name."""
    path = Path(checkpoint)
    is_name = is_hub_name(checkpoint) or (not path.exists() and as_typed(checkpoint) in shipped())
    return as_typed(checkpoint) if is_name else str(absolute_path(path))


def file_of(checkpoint: str | Path) -> Path:
    """The file of a checkpoint, downloaded if necessary.

    Args:
        checkpoint: a file, which need not exist; the name of a shipped encoder, unless a file is
            called the same; or `hf://owner/name[@revision]`.

    Raises:
        CheckpointError: if there is no encoder of that name, or its file is damaged.
        HubError: if it is of the Hub and cannot be fetched.
    """
    if is_hub_name(checkpoint):
        return fetch_weights(HubName.of(checkpoint))[0]
    path, name = Path(checkpoint), str(checkpoint)
    if path.is_file() or path.suffix in _ENDINGS or not _LIKE_A_NAME.fullmatch(name):
        if _LIKE_A_REPOSITORY.fullmatch(name) and not path.suffix and not path.exists():
            raise CheckpointError(
                f"no checkpoint at {name}; if a repository of the Hub is meant, give hf://{name}"
            )
        return path
    known = shipped()
    if name in known:
        return _sound(name, known[name])
    if path.exists():
        return path
    if not known:
        what = "no encoder ships with this version yet"
    else:
        what = f"no encoder of that name ships ({suggestion(name, list(known), n=3)})"
    raise CheckpointError(
        f"{one_line(name, 60)} is no file, and {what}. Give a file, a name that i2pmae models "
        "lists, or hf://owner/name"
    )


def _sound(name: str, encoder: ShippedEncoder) -> Path:
    """The file of a shipped encoder, compared with its table."""
    if not encoder.path.is_file():
        raise CheckpointError(f"{encoder.path} ({name}) is missing; install i2pmae again")
    if file_hash(encoder.path) != encoder.sha256:
        raise CheckpointError(
            f"{encoder.path} ({name}) is damaged: its SHA-256 does not match; install i2pmae again"
        )
    return encoder.path
