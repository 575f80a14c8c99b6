import math
from functools import partial

import pytest
import torch
from torch import nn

from i2pmae.checkpoints.official import official_name
from i2pmae.config import (
    EncoderConfig,
    MaskingConfig,
    OptimConfig,
    PretrainConfig,
    TargetConfig,
)
from i2pmae.model.pretraining import PretrainingModel
from i2pmae.training.optim import (
    learning_rate,
    make_optimizer,
    parameter_groups,
    set_learning_rate,
)


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Conv1d(3, 4, 1)
        self.norm = nn.LayerNorm(4)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, 4))
        self.frozen = nn.Linear(2, 2).requires_grad_(False)


OFFICIAL = {
    "embedding.weight": "h_encoder.token_embed.0.weight",
    "embedding.bias": "h_encoder.token_embed.0.bias",
    "norm.weight": "h_encoder.encoder_norms.0.weight",
    "norm.bias": "h_encoder.encoder_norms.0.bias",
    "mask_token": "mask_token",
}


def names_in(group, model):
    return [name for name, p in model.named_parameters() if any(p is q for q in group["params"])]


@pytest.mark.parametrize(
    ("rule", "decaying"), [("norms-and-tokens", ["embedding.weight"]), ("official", [])]
)
def test_biases_norms_and_tokens_do_not_decay(rule, decaying):
    model = Small()
    groups = parameter_groups(model.named_parameters(), 0.05, rule, OFFICIAL.__getitem__)
    assert [group["weight_decay"] for group in groups] == [0.05, 0.0]
    assert names_in(groups[0], model) == decaying
    assert sorted(names_in(groups[0], model) + names_in(groups[1], model)) == sorted(OFFICIAL)


def test_a_module_called_token_decays_by_our_rule():
    model = nn.ModuleDict({"token_propagation": nn.Linear(2, 2)})
    groups = parameter_groups(model.named_parameters(), 0.05)
    assert names_in(groups[0], model) == ["token_propagation.weight"]


def test_the_official_rule_needs_official_names():
    with pytest.raises(ValueError, match="official names"):
        parameter_groups(Small().named_parameters(), 0.05, "official")


def test_one_step_decays_only_the_first_group():
    model = Small()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = make_optimizer(model, OptimConfig(lr=0.1, weight_decay=0.5))
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    # AdamW without gradient multiplies by 1 - lr * weight_decay.
    for name, parameter in model.named_parameters():
        factor = 0.95 if name == "embedding.weight" else 1.0
        assert torch.allclose(parameter, factor * before[name]), name


def test_learning_rate_worked_by_hand():
    config = OptimConfig(lr=1e-3, warmup_epochs=10, cosine_epochs=400, min_lr=1e-6)
    assert learning_rate(0, config) == pytest.approx(1e-6)
    assert learning_rate(5, config) == pytest.approx((1e-6 + 1e-3) / 2)
    assert learning_rate(9, config) == pytest.approx(1e-6 + 0.9 * (1e-3 - 1e-6))
    # The cosine has been counting since epoch 0: slightly below lr where the warm-up ends.
    assert learning_rate(10, config) == pytest.approx(
        1e-6 + (1e-3 - 1e-6) * (1 + math.cos(math.pi / 40)) / 2
    )
    assert learning_rate(200, config) == pytest.approx((1e-6 + 1e-3) / 2)
    assert learning_rate(400, config) == learning_rate(1000, config) == 1e-6


def test_learning_rate_agrees_with_timm():
    from timm.scheduler import CosineLRScheduler

    config = OptimConfig(lr=5e-4, warmup_epochs=10, cosine_epochs=300)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=config.lr)
    scheduler = CosineLRScheduler(
        optimizer, t_initial=300, lr_min=1e-6, warmup_t=10, warmup_lr_init=1e-6, cycle_limit=1
    )
    for epoch in range(310):
        scheduler.step(epoch)
        assert learning_rate(epoch, config) == pytest.approx(optimizer.param_groups[0]["lr"])


def test_without_warm_up_training_starts_at_full_rate():
    assert learning_rate(0, OptimConfig(lr=0.1, warmup_epochs=0)) == pytest.approx(0.1)


@pytest.mark.parametrize(("epochs", "warmup"), [(300, 10), (64, 6.4), (5, 0.5)])
def test_a_schedule_may_end_with_the_run(epochs, warmup):
    settings = {"out": "runs/x", "epochs": epochs, "optim": {"cosine_epochs": 0, "lr": 0.1}}
    optim = PretrainConfig.model_validate(settings).optim
    assert (optim.cosine_epochs, optim.warmup_epochs, optim.lr) == (epochs, warmup, 0.1)
    assert learning_rate(epochs, optim) == optim.min_lr
    assert OptimConfig(cosine_epochs=400).of_run(epochs) == OptimConfig(cosine_epochs=400)


@pytest.mark.parametrize(("schedule", "at"), [("epoch", 3), ("step", 3.75)])
def test_the_rate_is_set_in_both_groups(schedule, at):
    optimizer = make_optimizer(Small(), OptimConfig())
    config = OptimConfig(schedule=schedule, warmup_epochs=2, cosine_epochs=8)
    rate = set_learning_rate(optimizer, config, 3, 0.75)
    assert rate == learning_rate(at, config)
    assert [group["lr"] for group in optimizer.param_groups] == [rate, rate]


def test_the_official_rule_spares_a_million_parameters_more_in_the_papers_network():
    model = PretrainingModel(
        EncoderConfig(),
        MaskingConfig(),
        TargetConfig(),
        n_views=3,
        image_channels=512,
        image_size=224,
    )
    parameters = list(model.named_parameters())
    official = parameter_groups(parameters, 0.05, "official", partial(official_name, "pretraining"))
    ours = parameter_groups(parameters, 0.05)
    difference = [p for p in ours[0]["params"] if all(p is not q for q in official[0]["params"])]
    # The convolutions of token embedding (.81 M) and token propagation (.18 M).
    assert sum(p.numel() for p in difference) == 989_568
    assert [p.ndim for p in difference] == [2] * len(difference)
    assert any(p is model.decoder.mask_token for p in ours[1]["params"])
