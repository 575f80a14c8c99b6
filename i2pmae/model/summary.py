"""How a network prints itself: on one line instead of one per layer."""

from torch import nn

from i2pmae.config import EncoderConfig


def summary(model: nn.Module, config: EncoderConfig, gives: str) -> str:
    """What a network is, in a line.

    Args:
        model: a network of clouds.
        config: its encoder's settings.
        gives: shape and meaning of its output.
    """
    n_parameters = sum(parameter.numel() for parameter in model.parameters())
    levels = ", ".join(
        f"{n_centers} tokens x {width}"
        for n_centers, width in zip(config.n_centers, config.widths, strict=True)
    )
    return (
        f"{type(model).__name__}((B, N, 3) -> {gives}; N >= {config.n_centers[0]}; "
        f"levels: {levels}; {sum(config.depths)} blocks; {n_parameters / 1e6:.1f}M parameters)"
    )
