import threading

import pytest
import torch

from i2pmae.config import PretrainConfig
from i2pmae.errors import ConfigError
from i2pmae.geometry.draws import Part
from i2pmae.interrupts import Terminated, delayed_stop
from i2pmae.model.tokenizer import RowNorm
from i2pmae.training import distributed
from i2pmae.training.distributed import Team


def test_alone_nothing_is_exchanged():
    model, team = torch.nn.Linear(2, 2), Team()
    assert team.is_first
    assert team.wrap(model, synchronize_norms=True) is model
    assert torch.equal(team.mean(torch.ones(2, dtype=torch.float64)), torch.ones(2))
    with delayed_stop() as stop:
        assert not team.agree(stop, late=False)
        assert team.agree(stop, late=True)
    team.wait()


@pytest.mark.parametrize(
    ("batch_size", "accumulate", "count", "fits"),
    [(8, 1, 2, True), (8, 2, 4, True), (8, 3, 1, False), (6, 1, 4, False), (8, 4, 4, False)],
)
def test_a_step_must_be_divisible(batch_size, accumulate, count, fits):
    config = PretrainConfig(out="unused", batch_size=batch_size, accumulate=accumulate)
    team = Team(Part(0, count))
    if fits:
        team.check_batch(config)
    else:
        with pytest.raises(ConfigError, match=f"multiple of {count * accumulate}"):
            team.check_batch(config)


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
        assert Team(Part(0, 2), together=True).agree(stop, late=False)
        with pytest.raises(Terminated):
            stop.obey()


@pytest.mark.parametrize("kind", ["mps", "cuda"])
def test_processes_without_a_device_of_their_own_are_refused(monkeypatch, kind):
    for name, value in {"RANK": "0", "LOCAL_RANK": "7", "WORLD_SIZE": "8"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with (
        pytest.raises(ConfigError, match=r"--device mps|lower --nproc-per-node"),
        distributed.team(torch.device(kind)),
    ):
        pass
