import pytest
import torch

from i2pmae.device import is_exporting, pick_device, pick_dtype
from i2pmae.errors import ConfigError


def test_auto_takes_what_is_there():
    expected = "cuda" if torch.cuda.is_available() else None
    found = pick_device("auto").type
    assert found == expected or found in ("mps", "cpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_not_there_is_named():
    with pytest.raises(ConfigError, match="--device cuda"):
        pick_device("cuda")


def test_precision_by_name():
    cpu = torch.device("cpu")
    assert pick_dtype("fp32", cpu) is torch.float32
    assert pick_dtype("bf16", cpu) is torch.bfloat16
    assert pick_dtype("auto", cpu) in (torch.float32, torch.bfloat16)


class Told(torch.nn.Module):
    """Says whether it is exported."""

    def forward(self, x):
        return x + 1 if is_exporting() else x


def test_an_export_is_no_compiled_call():
    model, zero = Told(), torch.zeros(2)
    assert not model(zero).any()
    assert not torch.compile(model, backend="eager", fullgraph=True)(zero).any()
    assert torch.export.export(model, (zero,)).module()(zero).all()
