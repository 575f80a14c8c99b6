"""Steps from a graph: a CUDA graph is emulated here; tests marked `gpu` capture a real one."""

import gc
import json
import sys
import weakref
from functools import partial

import numpy as np
import pytest
import torch
import torch._dynamo
from torch import nn

from i2pmae.config import EncoderConfig
from i2pmae.errors import ConfigError
from i2pmae.stages import pretrain
from i2pmae.training import compiled_step
from i2pmae.training.compiled_step import WARM_UP, CompiledStep, pick_mode
from i2pmae.training.run_folder import RunFolder

from ..conftest import pretrain_config
from ..stages.test_pretrain import assert_same_run

SMALL_ENCODER = EncoderConfig(
    n_centers=(8, 4, 4),
    group_sizes=(4, 4, 4),
    widths=(12, 24, 48),
    depths=(1, 1, 1),
    embedding_width=8,
)


class Noisy(nn.Module):
    """Draws from torch's own generator and keeps statistics, as the network does."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(3)
        self.layer = nn.Linear(3, 4)
        self.unused = nn.Linear(3, 4)

    def losses(self, batch):
        found = self.layer(self.norm(batch["x"]) + torch.rand(3, device=batch["x"].device))
        error = (found - batch["y"]).square().mean()
        return torch.stack([error, found.detach().mean()])


def make_batches(n, device="cpu"):
    draws = torch.Generator().manual_seed(1)
    parts = [torch.randn(8, 7, generator=draws).to(device) for _ in range(n)]
    return [
        {"x": x.contiguous(), "y": y.contiguous()} for x, y in (p.split([3, 4], 1) for p in parts)
    ]


def train(mode, parts=1, steps=8, device="cpu"):
    """Losses and the network, trained as the loop does."""
    torch.manual_seed(0)
    model = Noisy().to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    step = CompiledStep(model.losses, model.parameters(), mode)
    batches = make_batches(parts * steps, device)
    found = []
    for k in range(steps):
        optimizer.param_groups[0]["lr"] = 0.01 / (1 + k)
        found.append(step(batches[k * parts : (k + 1) * parts], seed=k))
        assert model.unused.weight.grad is None
        nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return torch.stack(found), model


def losses_of_epochs(out):
    return [row["loss"] for row in RunFolder(out).rows()]


def model_of(work):
    losses, _ = work.args
    return losses.__self__


@pytest.fixture
def as_it_is(monkeypatch):
    """Nothing is compiled."""
    monkeypatch.setattr(compiled_step, "compile_losses", lambda losses, **_: losses)


@pytest.fixture
def emulated(monkeypatch):
    """A CUDA graph as a CPU can have it; the list of what happens."""
    happened = []

    def aside(_stream, work):
        happened.append("aside")
        return work()

    def record(_stream, work):
        happened.append("captured")
        model = model_of(work)
        before = {name: x.clone() for name, x in model.state_dict().items()}
        with torch.random.fork_rng():
            result = work()  # a capture allocates what is written later, and computes nothing
        model.load_state_dict(before)
        written = [p.grad for p in model.parameters() if p.grad is not None]
        for tensor in (result, *written):
            tensor.fill_(torch.nan)

        def replay():
            happened.append("replayed")
            for p in model.parameters():
                p.grad = None
            result.copy_(work())
            computed = [p.grad for p in model.parameters() if p.grad is not None]
            for own, new in zip(written, computed, strict=True):
                own.copy_(new)

        return replay, result

    monkeypatch.setattr(compiled_step, "_aside", aside)
    monkeypatch.setattr(compiled_step, "_record", record)
    monkeypatch.setattr(torch.cuda, "Stream", lambda: None)
    return happened


@pytest.mark.usefixtures("as_it_is")
@pytest.mark.parametrize("parts", [1, 3])
def test_a_captured_step_trains_like_a_plain_one(emulated, parts):
    expected, plain = train("default", parts)
    found, replayed = train("cuda-graph", parts)
    assert emulated == ["aside"] * WARM_UP + ["captured"] + ["replayed"] * (8 - WARM_UP)
    assert torch.equal(found, expected)
    for name, tensor in plain.state_dict().items():
        assert torch.equal(replayed.state_dict()[name], tensor), name


@pytest.mark.usefixtures("as_it_is", "emulated")
@pytest.mark.parametrize("failing", ["_aside", "_record"])
def test_what_does_not_work_is_given_up_with_one_warning(monkeypatch, capsys, failing):
    expected, _ = train("default")

    def fails(_stream, work):
        for parameter in model_of(work).parameters():
            parameter.grad = torch.ones_like(parameter)
        raise RuntimeError("operation not permitted when stream is capturing\nand so on")

    monkeypatch.setattr(compiled_step, failing, fails)
    plain, handled = compiled_step.forward_backward, []

    def watched(*given):
        handled.append(sys.exc_info()[0])
        return plain(*given)

    monkeypatch.setattr(compiled_step, "forward_backward", watched)
    found, _ = train("cuda-graph")
    assert set(handled) == {None}  # an error that is being handled holds the failed pass's memory
    said = capsys.readouterr().err
    assert said.count("--compile cuda-graph does not work here") == 1
    assert "stream is capturing" in said
    assert "and so on" not in said
    assert torch.equal(found, expected)


@pytest.mark.usefixtures("emulated")
def test_an_error_of_a_step_that_has_worked_is_not_hidden():
    model = Noisy()
    step = CompiledStep(model.losses, model.parameters(), "cuda-graph")
    batches = make_batches(WARM_UP + 2)
    for k, batch in enumerate(batches[:-1]):
        step([batch], k)
        model.zero_grad()
    with pytest.raises(RuntimeError):
        step([{"x": torch.zeros(5, 3), "y": torch.zeros(5, 4)}], 0)


@pytest.mark.parametrize(
    ("mode", "device", "together"), [("cuda-graph", "cpu", False), ("default", "cpu", True)]
)
def test_modes_that_cannot_work_stop_before_training(mode, device, together):
    with pytest.raises(ConfigError, match=f"--compile {mode}: only"):
        pick_mode(mode, torch.device(device), together=together)
    assert pick_mode("off", torch.device(device), together=together) == "off"


@pytest.mark.parametrize(
    ("device", "together", "expected"),
    [("cuda", False, "cuda-graph"), ("cuda", True, "off"), ("cpu", False, "off")],
)
def test_a_graph_is_replayed_wherever_it_can_be(device, together, expected):
    device = torch.device(device)
    assert pick_mode("auto", device, together=together) == expected
    for setting in ("auto", "cuda-graph"):  # it is given up where a run moves
        assert pick_mode(setting, device, together=together, begun="cuda-graph") == expected
    assert pick_mode("auto", device, together=together, begun="off") == "off"


def test_a_run_goes_on_as_it_began():
    for begun in ("off", "default", "reduce-overhead"):
        found = pick_mode("auto", torch.device("cpu"), together=False, begun=begun)
        assert found == begun


@pytest.mark.parametrize("begun", [None, "off", "cuda-graph"])
def test_a_run_of_any_machine_resumes_on_a_cpu(store, tmp_path, monkeypatch, capsys, begun):
    config = pretrain_config(store, tmp_path / "run", epochs=1, compile="off")
    pretrain.run(config)
    path = config.out / "config.json"
    settings = json.loads(path.read_text())
    del settings["compile"]  # as in version 0.1
    path.write_text(json.dumps(settings | ({"compile": begun} if begun else {})))
    longer, told = config.model_copy(update={"epochs": 2, "compile": "auto"}), []

    def picked(*given, **named):
        told.append(named["begun"])
        return pick_mode(*given, **named)

    monkeypatch.setattr(pretrain, "pick_mode", picked)
    pretrain.run(longer, resume=True)
    assert told == [begun or "off"]
    assert ("continues without the graph" in capsys.readouterr().err) == (begun == "cuda-graph")
    assert len(RunFolder(config.out).rows()) == 2


def test_torch_graphs_hold_whole_steps():
    cpu = torch.device("cpu")
    with pytest.raises(ConfigError, match="accumulate=2"):
        pick_mode("reduce-overhead", cpu, together=False, accumulate=2)
    assert pick_mode("default", cpu, together=False, accumulate=2) == "default"


@pytest.mark.usefixtures("as_it_is")
def test_a_run_resumes_to_the_same_numbers(store, tmp_path, monkeypatch):
    config = pretrain_config(store, tmp_path / "whole", compile="default", epochs=2, accumulate=2)
    pretrain.run(config)
    cut = config.model_copy(update={"out": tmp_path / "cut"})
    taken, plain_step = [], CompiledStep.__call__

    def stopping(step, batches, seed):
        taken.append(seed)
        if len(taken) == 7:
            raise KeyboardInterrupt
        return plain_step(step, batches, seed)

    with monkeypatch.context() as patch:
        patch.setattr(CompiledStep, "__call__", stopping)
        with pytest.raises(KeyboardInterrupt):
            pretrain.run(cut)
    pretrain.run(cut, resume=True)
    assert len(set(taken)) == 7
    assert_same_run(cut.out, config.out)
    with pytest.raises(ConfigError, match="compile: the run has default, this command expects off"):
        pretrain.run(cut.model_copy(update={"compile": "off"}), resume=True)


@pytest.mark.usefixtures("as_it_is")
def test_what_a_compiled_step_holds_is_free_after_the_run(store, tmp_path, monkeypatch):
    made = []

    class Watched(CompiledStep):
        def __init__(self, *given):
            super().__init__(*given)
            made.append(weakref.ref(self))

    monkeypatch.setattr(pretrain, "CompiledStep", Watched)
    gc.disable()
    try:
        pretrain.run(pretrain_config(store, tmp_path / "run", compile="default", epochs=1))
        assert [ref() for ref in made] == [None]
    finally:
        gc.enable()


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_a_compiled_run_computes_the_same_and_compiles_once(store, tmp_path, monkeypatch, backend):
    """In two epochs of a run, saved and checked as always."""
    changes = {"compile": "default", "epochs": 2, "encoder": SMALL_ENCODER, "points": 64}
    config = pretrain_config(store, tmp_path / "compiled", **changes)
    if backend == "aot_eager":  # what inductor is given
        compiled = partial(torch.compile, backend=backend, fullgraph=True, dynamic=False)
        monkeypatch.setattr(compiled_step, "compile_losses", lambda losses, **_: compiled(losses))
    counters = torch._dynamo.utils.counters
    torch.compiler.reset()
    counters.clear()
    pretrain.run(config)
    assert counters["stats"]["unique_graphs"] == 1
    monkeypatch.setattr(compiled_step, "compile_losses", lambda losses, **_: losses)
    pretrain.run(config.model_copy(update={"out": tmp_path / "plain"}))
    found, expected = (losses_of_epochs(tmp_path / name) for name in ("compiled", "plain"))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


@pytest.mark.gpu
@pytest.mark.usefixtures("as_it_is")
@pytest.mark.parametrize("parts", [1, 2])
def test_on_a_gpu_a_captured_step_trains_like_a_plain_one(parts):
    expected, plain = train("default", parts, device="cuda")
    found, replayed = train("cuda-graph", parts, device="cuda")
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    for name, tensor in plain.state_dict().items():
        torch.testing.assert_close(replayed.state_dict()[name], tensor, rtol=1e-4, atol=1e-5)


@pytest.mark.gpu
@pytest.mark.usefixtures("as_it_is")
def test_on_a_gpu_a_broken_capture_leaves_everything_in_order(monkeypatch, capsys):
    expected, _ = train("default", device="cuda")
    forward = Noisy.losses

    def waiting(model, batch):
        if torch.cuda.is_current_stream_capturing():
            batch["x"].sum().item()
        return forward(model, batch)

    monkeypatch.setattr(Noisy, "losses", waiting)
    found, _ = train("cuda-graph", device="cuda")
    assert "--compile cuda-graph does not work here" in capsys.readouterr().err
    assert torch.cuda.current_stream() == torch.cuda.default_stream()
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_on_a_gpu_a_run_replays_its_steps(store, tmp_path, monkeypatch, capsys, precision):
    config = pretrain_config(
        store, tmp_path / "graph", compile="cuda-graph", device="cuda", precision=precision
    )
    pretrain.run(config)
    assert "does not work here" not in capsys.readouterr().err
    monkeypatch.setattr(compiled_step, "WARM_UP", 10**6)
    pretrain.run(config.model_copy(update={"out": tmp_path / "plain"}))
    found, expected = (losses_of_epochs(tmp_path / name) for name in ("graph", "plain"))
    np.testing.assert_allclose(found, expected, rtol=1e-4 if precision == "fp32" else 1e-2)
    assert len(RunFolder(tmp_path / "graph").rows()) == config.epochs
