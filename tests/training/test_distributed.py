import signal
import threading
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch

from i2pmae.config import PretrainConfig
from i2pmae.errors import ConfigError, TrainingError
from i2pmae.geometry.draws import Part, uniform
from i2pmae.interrupts import Terminated, delayed_stop
from i2pmae.model.layers import Dropout, DropPath
from i2pmae.model.pretraining import TARGET_LEVEL
from i2pmae.model.row_norm import RowNorm
from i2pmae.training import distributed
from i2pmae.training.distributed import ProcessGroup
from i2pmae.training.pretraining import shared_losses


def test_alone_nothing_is_exchanged():
    model, process_group = torch.nn.Linear(2, 2), ProcessGroup()
    assert process_group.is_first
    assert process_group.wrap(model, synchronize_norms=True) is model
    assert torch.equal(process_group.mean(torch.ones(2, dtype=torch.float64)), torch.ones(2))
    with delayed_stop() as stop:
        assert not process_group.agree(stop, late=False)
        assert process_group.agree(stop, late=True)
    process_group.wait()


@pytest.mark.parametrize(
    ("batch_size", "accumulate", "count", "fits"),
    [(8, 1, 2, True), (8, 2, 4, True), (8, 3, 1, False), (6, 1, 4, False), (8, 4, 4, False)],
)
def test_a_step_must_be_divisible(batch_size, accumulate, count, fits):
    process_group = ProcessGroup(Part(0, count))
    if fits:
        process_group.check_batch(batch_size, accumulate)
    else:
        with pytest.raises(ConfigError, match=f"multiple of {count * accumulate}"):
            process_group.check_batch(batch_size, accumulate)


@pytest.mark.parametrize(
    ("batch_size", "accumulate", "count", "synchronize", "remedy"),
    [
        (4, 2, 1, True, None),
        (4, 4, 1, True, "lower accumulate, or set --batch-size to 8"),
        (2, 1, 2, True, None),
        (2, 1, 2, False, "set synchronize_norms=true, or set --batch-size to 4"),
    ],
)
def test_a_norm_over_shapes_needs_two(batch_size, accumulate, count, synchronize, remedy):
    process_group = ProcessGroup(Part(0, count))
    expected = pytest.raises(ConfigError, match=remedy) if remedy else nullcontext()
    with expected:
        process_group.check_norms(batch_size, accumulate, synchronize_norms=synchronize)


class Together:
    """Sums over threads that stand for processes, gradients included."""

    def __init__(self, n_threads):
        self.barrier = threading.Barrier(n_threads)
        self.addends = {}

    def __call__(self, addend):
        self.addends[threading.get_ident()] = addend
        self.barrier.wait(10)
        return sum(self.addends.values())


@pytest.mark.parametrize("shift", [0.0, 1000.0])
def test_synchronized_norms_are_those_of_all_rows(shift):
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(30, 4, generator=generator) + shift
    weight = torch.randn(30, 4, generator=generator)
    whole = RowNorm(4).train()
    inputs = rows.clone().requires_grad_()
    expected = whole(inputs)
    (expected * weight).sum().backward()

    together, parts, found = Together(2), [rows[:10].clone(), rows[10:].clone()], {}
    norms = [RowNorm(4).train() for _ in parts]

    def work(index):
        norms[index].total = together
        found[index] = norms[index](parts[index].requires_grad_())

    threads = [threading.Thread(target=work, args=(index,)) for index in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    output = torch.cat([found[0], found[1]])
    (output * weight).sum().backward()
    close = {"rtol": 1e-4, "atol": 1e-5 * max(1, shift)}
    torch.testing.assert_close(output, expected, **close)
    torch.testing.assert_close(torch.cat([part.grad for part in parts]), inputs.grad, **close)
    for norm in norms:
        torch.testing.assert_close(norm.running_mean, whole.running_mean)
        torch.testing.assert_close(norm.running_var, whole.running_var, rtol=1e-4, atol=0)


def test_a_signal_of_another_process_stops_this_one(monkeypatch):
    def all_reduce(wish, _operation):
        wish.fill_(15)

    monkeypatch.setattr(distributed.dist, "all_reduce", all_reduce)
    with delayed_stop() as stop:
        assert ProcessGroup(Part(0, 2), together=True).agree(stop, late=False)
        with pytest.raises(Terminated):
            stop.obey()


@pytest.mark.parametrize("synchronize_norms", [True, False])
def test_what_is_random_or_synchronized_knows_the_others(monkeypatch, synchronize_norms):
    monkeypatch.setattr(distributed, "DistributedDataParallel", lambda model, **_: model)
    model, part = torch.nn.Sequential(RowNorm(2), DropPath(0.5), Dropout(0.5)), Part(1, 2)
    ProcessGroup(part, together=True).wrap(model, synchronize_norms=synchronize_norms)
    assert model[1].part == model[2].part == part
    assert (model[0].total == distributed._Total.apply) == synchronize_norms
    generator = ProcessGroup(part, together=True).generator(0, torch.device("cpu"))
    ours, whole = uniform((2, 3), generator), torch.Generator().manual_seed(0)
    assert torch.equal(ours, torch.rand(4, 3, generator=whole)[2:])


@pytest.mark.parametrize(
    ("compared", "expected"),
    [((3, 1), (3 * 1 + 1 * 5) / 4), ((1, 3), (1 * 1 + 3 * 5) / 4), ((4, 4), 3)],
)
def test_losses_count_by_what_they_are_means_of(monkeypatch, compared, expected):
    """One process has 3 visible and 1 hidden tokens, the other 1 and 3."""
    outputs = [
        SimpleNamespace(
            masks=[torch.arange(4)[None] >= n_visible] * (TARGET_LEVEL + 1),
            loss=torch.tensor(0.0),
            loss_2d=torch.tensor(loss_2d),
            loss_3d=torch.tensor(loss_3d),
            n_compared=torch.tensor(n_compared),
        )
        for n_compared, (n_visible, loss_2d, loss_3d) in zip(
            compared, ((3, 1.0, 10.0), (1, 5.0, 30.0)), strict=True
        )
    ]
    total = torch.tensor([float(sum(compared)), 4.0])
    monkeypatch.setattr(distributed.dist, "all_reduce", lambda counts: counts.copy_(total))
    targets = PretrainConfig(out="unused").targets
    found = [
        shared_losses(outputs[k], targets, ProcessGroup(Part(k, 2), together=True))
        for k in range(2)
    ]
    loss, loss_2d, loss_3d = (sum(found) / 2).tolist()
    assert (loss_2d, loss_3d) == (expected, (1 * 10 + 3 * 30) / 4)
    assert loss == pytest.approx(targets.weight_2d * loss_2d + targets.weight_3d * loss_3d)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (RuntimeError("Connection closed by peer [127.0.0.1]:1"), TrainingError),
        (RuntimeError("Socket Timed out"), TrainingError),
        (RuntimeError("shape mismatch"), RuntimeError),
    ],
)
def test_a_lost_process_is_one_line_and_a_bug_is_none(monkeypatch, error, expected):
    for name, value in {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    monkeypatch.setattr(distributed, "_store", lambda: None)
    monkeypatch.setattr(distributed.dist, "init_process_group", lambda *_, **__: None)
    before = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(expected) as raised, distributed.process_group(torch.device("cpu")):
            raise error
    finally:
        signal.signal(signal.SIGTERM, before)
    assert ("without an error message" in str(raised.value)) == (expected is TrainingError)


@pytest.mark.parametrize("kind", ["mps", "cuda"])
def test_processes_without_a_device_of_their_own_are_refused(monkeypatch, kind):
    for name, value in {"RANK": "0", "LOCAL_RANK": "7", "WORLD_SIZE": "8"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with (
        pytest.raises(ConfigError, match=r"--device mps|lower --nproc-per-node"),
        distributed.process_group(torch.device(kind)),
    ):
        pass
