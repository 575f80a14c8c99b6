"""Networks that go to the Hub and come back, by the names that `ModelHubMixin` gives to this."""

from __future__ import annotations

import json
import re
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar, Literal, NamedTuple, Self

import torch
from torch import nn

from i2pmae.atomic_write import written
from i2pmae.checkpoints import checkpoint
from i2pmae.checkpoints.official import Kind
from i2pmae.errors import CheckpointError
from i2pmae.hub import WEIGHTS, HubName, send_folder

Dtype = Literal["float32", "float16"]

CARD, SETTINGS = "README.md", "config.json"
LIBRARY = "library_name: i2pmae"  # how a card of ours is known

_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")


class Described(NamedTuple):
    """Metadata that is written beside the weights of a network."""

    kind: Kind
    config: dict[str, Any]  # what decides its sizes
    names: dict[str, Any]  # of classes and parts, where it has any


class OnHub(nn.Module):
    """`from_pretrained`, `save_pretrained` and `push_to_hub` for a network.

    Differs: `ModelHubMixin` itself is not inherited, because importing huggingface_hub takes longer
    than all of this package.
    """

    loads: ClassVar[str]  # the function of `i2pmae` that loads it

    @classmethod
    def _load(cls, name: str, **options: Any) -> Self:
        """Load the network of a checkpoint, given by any of its names."""
        raise NotImplementedError

    def described(self) -> Described:
        """What `save_pretrained` writes beside the weights.

        Raises:
            CheckpointError: if it cannot be written on its own.
        """
        raise NotImplementedError

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        revision: str | None = None,
        **options: Any,
    ) -> Self:
        """Load a network from the Hub, or a folder that `save_pretrained` wrote.

        Args:
            pretrained_model_name_or_path: `owner/name`, such a folder, or any name that the
                function of the package takes.
            revision: branch, tag or commit of the repository.
            options: of that function, such as `pooling`.

        Returns:
            A module in evaluation mode on the CPU.

        Raises:
            CheckpointError: if it cannot be read or holds another network.
            HubError: if it cannot be fetched.
        """
        name = str(pretrained_model_name_or_path)
        if Path(name).is_dir():
            name = str(Path(name) / WEIGHTS)
        elif _REPOSITORY.fullmatch(name) and not Path(name).exists():
            name = f"hf://{name}"
        if revision is not None:
            name = str(HubName.of(name)._replace(revision=revision))
        return cls._load(name, **options)

    def save_pretrained(self, save_directory: str | Path) -> None:
        """Write weights, settings and, if there is none yet, a model card into a folder.

        Raises:
            CheckpointError: if the folder cannot be written.
        """
        folder = Path(save_directory)
        save_network(folder / WEIGHTS, self)
        write_settings(folder / SETTINGS, self.described())
        if not (folder / CARD).exists():
            _write(folder / CARD, self._card())

    def push_to_hub(
        self,
        repo_id: str,
        *,
        commit_message: str = "Push network using i2pmae.",
        private: bool = False,
        branch: str | None = None,
    ) -> str:
        """Upload weights, settings and a short model card as one commit.

        `i2pmae export --push` writes a longer card, with the training that a checkpoint records.

        Args:
            repo_id: `owner/name`, made if need be.
            commit_message: of the commit.
            private: whether a repository that is made now is.
            branch: where to commit; None: the default one.

        Returns:
            `hf://owner/name@COMMIT`.

        Raises:
            HubError: if the Hub cannot be reached, or refuses it.
        """
        name = HubName.of(f"hf://{repo_id}")._replace(revision=branch)
        with TemporaryDirectory(prefix="i2pmae-") as folder:
            self.save_pretrained(folder)
            return str(send_folder(name, Path(folder), commit_message, private=private))

    def _card(self) -> str:
        return (
            f"{front_matter()}\nA network of [I2P-MAE](https://arxiv.org/abs/2212.06785):\n\n"
            f"```text\n{self!r}\n```\n\n```python\nimport i2pmae\n\n"
            f'network = i2pmae.{self.loads}("hf://OWNER/NAME")  # where this page is\n```\n'
        )


def front_matter() -> str:
    """The head of a model card, by which the Hub finds it."""
    from huggingface_hub import ModelCardData

    data = ModelCardData(
        library_name="i2pmae", tags=["point-cloud", "3d", "masked-autoencoder", "i2p-mae"]
    )
    return f"---\n{data.to_yaml()}\n---\n"


def save_network(
    path: Path,
    network: OnHub,
    *,
    dtype: Dtype = "float32",
    epoch: int = 0,
    extra: dict[str, Any] | None = None,
) -> None:
    """Write a network as a `.safetensors` file that every command reads.

    Args:
        path: file to write.
        network: in evaluation mode or not.
        dtype: of the weights; statistics stay float32, whose range may be needed.
        epoch: finished epochs.
        extra: what to write besides its names of classes and parts.

    Raises:
        CheckpointError: if the file cannot be written.
    """
    described = network.described()
    buffers = dict(network.named_buffers())
    weights = {
        name: value if name in buffers else value.to(getattr(torch, dtype))
        for name, value in network.state_dict().items()
    }
    checkpoint.save(
        path,
        kind=described.kind,
        config=described.config,
        model=weights,
        epoch=epoch,
        extra={**described.names, **(extra or {})},
    )


def write_settings(path: Path, described: Described) -> None:
    """Write what decides a network, for people and for the Hub; `.safetensors` holds it as well."""
    about = {"kind": described.kind, **described.config, **described.names}
    _write(path, json.dumps(about, indent=2) + "\n")


def _write(path: Path, text: str) -> None:
    with written(path, CheckpointError, "Make room.") as temporary:
        temporary.write_text(text, encoding="utf-8")
