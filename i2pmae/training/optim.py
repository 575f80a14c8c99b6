"""AdamW: which parameters decay, and the learning rate of each epoch."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, Literal

from torch import nn
from torch.optim import AdamW, Optimizer

from i2pmae.config import OptimConfig

DecayRule = Literal["norms-and-tokens", "official"]

_WARMUP_START = 1e-6
_FUSED_DEVICES = ("cpu", "cuda", "mps")


def parameter_groups(
    named_parameters: Iterable[tuple[str, nn.Parameter]],
    weight_decay: float,
    rule: DecayRule = "norms-and-tokens",
    official_name: Callable[[str], str] | None = None,
) -> list[dict[str, Any]]:
    """Split parameters into those with weight decay and those without.

    Biases, one-dimensional parameters (norms) and learned tokens never decay. Rule `official`
    also spares every parameter with "token" anywhere in its official name.

    Differs: the official rule thereby spares the convolutions of token embedding and of token
        propagation (1 M parameters), which their names alone suggest; ours lets them decay.

    Args:
        named_parameters: as `Module.named_parameters` gives them; frozen ones are left out.
        weight_decay: of the first group.
        rule: see above.
        official_name: from our name to the official one; needed by rule `official`.

    Returns:
        Two groups for an optimizer, decaying and not, each in the given order.

    Raises:
        ValueError: if rule `official` comes without names.

    Source: Point-M2AE's optimizer settings.
    """
    if rule == "official" and official_name is None:
        raise ValueError("rule 'official' needs the official names of the parameters")
    decaying: list[nn.Parameter] = []
    spared: list[nn.Parameter] = []
    for name, parameter in named_parameters:
        if not parameter.requires_grad:
            continue
        if rule == "official" and official_name is not None:
            is_token = "token" in official_name(name)
        else:
            is_token = "token" in name.rpartition(".")[2]
        is_spared = parameter.ndim <= 1 or name.endswith("bias") or is_token
        (spared if is_spared else decaying).append(parameter)
    return [
        {"params": decaying, "weight_decay": weight_decay},
        {"params": spared, "weight_decay": 0.0},
    ]


def make_optimizer(
    model: nn.Module, config: OptimConfig, official_name: Callable[[str], str] | None = None
) -> AdamW:
    """AdamW over the model's trainable parameters, fused where the device offers it.

    Args:
        model: already on its device.
        config: learning rate, weight decay and the rule for it.
        official_name: see `parameter_groups`.
    """
    groups = parameter_groups(
        model.named_parameters(), config.weight_decay, config.decay_rule, official_name
    )
    devices = {parameter.device.type for group in groups for parameter in group["params"]}
    return AdamW(groups, lr=config.lr, fused=devices <= set(_FUSED_DEVICES))


def learning_rate(epoch: float, config: OptimConfig) -> float:
    """Learning rate of an epoch: linear warm-up, then a cosine down to `min_lr`.

    The warm-up starts at 1e-6 in epoch 0 and would reach `lr` in epoch `warmup_epochs`. The
    cosine counts from epoch 0 as well, so it takes over a little below `lr`; from
    `cosine_epochs` on the rate stays at `min_lr`.

    Differs: the official loop sets the rate of epoch e-1 in epoch e and so stays at 1e-6 for two
        epochs; ours sets that of e.

    Args:
        epoch: number of finished epochs; may be fractional.
        config: `lr`, `warmup_epochs`, `cosine_epochs`, `min_lr`.

    Source: timm's CosineLRScheduler with `warmup_prefix=False`, as the official code uses it.
    """
    if epoch < config.warmup_epochs:
        start = min(_WARMUP_START, config.lr)
        return start + (config.lr - start) * epoch / config.warmup_epochs
    if epoch >= config.cosine_epochs:
        return config.min_lr
    cosine = 0.5 * (1 + math.cos(math.pi * epoch / config.cosine_epochs))
    return config.min_lr + (config.lr - config.min_lr) * cosine


def set_learning_rate(optimizer: Optimizer, config: OptimConfig, epoch: int, share: float) -> float:
    """Set the rate of the next step, for all parameters, and return it.

    Args:
        optimizer: whose rate it is.
        config: of the schedule.
        epoch: number of finished epochs.
        share: finished share of the next one; schedule `epoch` does not look at it: a warm-up of
            one epoch then spends that epoch at 1e-6.
    """
    rate = learning_rate(epoch + (share if config.schedule == "step" else 0), config)
    for group in optimizer.param_groups:
        group["lr"] = rate
    return rate
