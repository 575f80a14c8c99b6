"""The text tower that belongs to a CLIP image tower, for zero-shot classification."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip.model import _build_text_tower
from torch import Tensor, nn

from i2pmae.errors import WeightsError, reason
from i2pmae.image_model.from_open_clip import download, load
from i2pmae.image_model.network import ClipResNet, ClipTransformer
from i2pmae.image_model.weights import (
    is_file_name,
    load_strictly,
    read_weights,
    tensors_hash,
)
from i2pmae.untrusted.tensors import tensors_of

_NOT_TEXT = (  # tensors of CLIP checkpoints that belong to neither tower
    "attn_mask",
    "context_length",
    "input_resolution",
    "logit_bias",
    "logit_scale",
    "vocab_size",
)


class TextTower:
    """Texts to vectors in the space of the image features.

    Attributes:
        name: of the network, as open_clip has it.
        channels: C of the vectors.
        image_weights: hashes by which the image tower's weights of the same checkpoint may be
            known, see `ImageModelInfo.weights_hash`.
    """

    def __init__(
        self, name: str, tower: nn.Module, tokenizer: Any, channels: int, image_weights: set[str]
    ) -> None:
        self.name, self.channels, self.image_weights = name, channels, image_weights
        self._tower = tower.eval().requires_grad_(False)
        self._tokenizer = tokenizer

    @torch.no_grad()
    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Encode texts.

        Args:
            texts: T of them; what exceeds the network's context is cut off.

        Returns:
            (T, C) float32 of length 1, on the CPU.
        """
        vectors: Tensor = self._tower(self._tokenizer(list(texts)))
        return nn.functional.normalize(vectors.float(), dim=1)


def load_text_tower(name: str, pretrained: str, image_size: int | None = None) -> TextTower:
    """Build the text tower of a CLIP network and load its weights.

    Args:
        name: an open_clip name.
        pretrained: a tag or a local file that holds both towers.
        image_size: that the image tower was used with.

    Returns:
        The tower on the CPU, where a few prompts take a moment.

    Raises:
        ConfigError: if there is no such network.
        WeightsError: if the weights cannot be had, or hold no text tower whose space is that of
            the patch features.
    """
    if name.startswith("timm:") or name not in open_clip.list_models():
        raise WeightsError(
            f"{name} is not a CLIP network, so it has no text tower; zero-shot needs a store that "
            "was extracted with one, such as --image-model ViT-B-16-quickgelu --pretrained openai"
        )
    if pretrained == "random":
        raise WeightsError(
            f"the weights of {name} are random, so its features have nothing to do with words; "
            "extract with trained ones, such as --pretrained openai"
        )
    images = load(name, pretrained, image_size)
    if not isinstance(images.tower, ClipTransformer | ClipResNet):
        raise WeightsError(
            f"the patch features of {name} are not in the space of its text tower; zero-shot "
            "needs a plain CLIP, such as ViT-B-16-quickgelu or RN50-quickgelu"
        )
    path = Path(pretrained) if is_file_name(pretrained) else download(name, pretrained)
    weights = _text_part(read_weights(path))
    if not weights:
        raise WeightsError(
            f"{path} holds the image tower of {name} only; pass a file with both towers with "
            "--pretrained FILE"
        )
    config = open_clip.get_model_config(name)
    text = {**config["text_cfg"], "hf_model_pretrained": False, "output_tokens": False}
    try:
        tower = _build_text_tower(config["embed_dim"], text, config.get("quick_gelu", False))
        tokenizer = open_clip.get_tokenizer(name)
    except Exception as error:  # networks from other libraries need files of theirs
        raise WeightsError(
            f"the text tower of {name} cannot be built here ({reason(error, 200)}); choose a store "
            "of another CLIP network"
        ) from error
    load_strictly(tower, weights, f"{path} (text tower)")
    hashes = {images.weights_hash, tensors_hash(images.tower.visual.state_dict())}
    return TextTower(name, tower, tokenizer, config["embed_dim"], hashes)


def _text_part(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The text tower of a CLIP checkpoint, under `text.` or at the top level."""
    if nested := tensors_of("text", weights):
        return nested
    if not any(name.startswith("visual.") for name in weights):
        return {}  # a file of the image tower alone has a transformer at the top, too
    return {
        name: value
        for name, value in weights.items()
        if not name.startswith("visual.") and name not in _NOT_TEXT
    }
