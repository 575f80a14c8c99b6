"""The kernel against the tensor version: interpreted here, compiled where there is a GPU."""

import re

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from i2pmae.geometry import sampling
from i2pmae.geometry.sampling import farthest_points
from i2pmae.geometry.sampling_torch import farthest_points_torch

pytest.importorskip("triton")


def make_cases() -> dict[str, tuple[Tensor, int]]:
    """Clouds (B, N, 3) and how many points to choose."""
    generator = torch.Generator().manual_seed(0)

    def cloud(batch: int, n_points: int) -> Tensor:
        return torch.randn(batch, n_points, 3, generator=generator)

    lattice = torch.cartesian_prod(*[torch.arange(4.0)] * 3)[None]
    return {
        "several clouds": (cloud(3, 2048), 24),
        "not a power of two": (cloud(2, 777), 40),
        "one point": (cloud(2, 1), 1),
        "all points": (cloud(2, 33), 33),
        "all points, a power of two": (cloud(1, 64), 64),
        "one center": (cloud(1, 100), 1),
        "no cloud": (cloud(0, 10), 2),
        "8192 points": (cloud(2, 8192), 8),
        "one more than 8192": (cloud(1, 8193), 4),
        "more than fit": (cloud(1, 17000), 4),
        "ties": (lattice, 64),
        "few distinct points": (cloud(2, 5).repeat(1, 7, 1), 20),
        "all points alike": (torch.full((2, 20, 3), 0.3), 9),
        "near the origin": (1e-3 * cloud(2, 300), 20),
        "squares below normal floats": (1e-20 * cloud(1, 300), 20),
        "squares above floats": (1e25 * cloud(1, 300), 20),
        "transposed memory": (cloud(3, 90).mT.contiguous().mT, 30),
        "mirrored": (mirrored(64), 3),
    }


def mirrored(batch: int) -> Tensor:
    """Origin, (a, b, c), (b, a, c): equally far, unless multiply-adds are fused."""
    generator = torch.Generator().manual_seed(1)
    point = torch.rand(batch, 1, 3, generator=generator)
    return torch.cat([torch.zeros(batch, 1, 3), point, point[..., [1, 0, 2]]], dim=1)


CASES = make_cases()


@pytest.fixture(scope="module")
def interpreted(interpret) -> dict[str, Tensor]:
    return interpret("i2pmae.geometry.sampling_triton", "farthest_points_triton", CASES)


@pytest.mark.parametrize("name", CASES)
def test_interpreted_kernel_agrees_with_the_tensor_version(name, interpreted):
    assert torch.equal(interpreted[name], farthest_points_torch(*CASES[name]))


def test_fusing_multiply_adds_would_change_the_choice():
    x, y, z = mirrored(64)[:, 1:].double().unbind(dim=2)
    fused = ((x * x).float().double() + y * y).float().double()  # one rounding per step
    fused = (fused + z * z).float()
    assert (fused[:, 1] > fused[:, 0]).sum() > 3
    assert (farthest_points_torch(mirrored(64), 2)[:, 1] == 1).all()


@pytest.mark.parametrize("n_points", [1000, 8192])
def test_machine_code_fuses_nothing_and_spills_nothing(n_points, tmp_path, monkeypatch):
    import triton.compiler as compiler
    from triton.backends.compiler import GPUTarget

    from i2pmae.geometry import sampling_triton

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    options = sampling_triton._launch_options(n_points)
    kinds = {"points": "*fp32", "chosen": "*i64", "n_points": "i32", "n_centers": "i32"}
    source = compiler.ASTSource(
        sampling_triton._sample,
        {**kinds, "BLOCK": "constexpr"},
        constexprs={"BLOCK": options.pop("BLOCK")},
    )
    target = GPUTarget("cuda", 90, 32)
    code = compiler.compile(source, target=target, options=options).asm["sass"]
    fused = compiler.compile(source, target=target, options={**options, "enable_fp_fusion": True})
    assert "FMUL" in code
    assert not re.search("FFMA|FTZ|STL", code)  # fused, denormals lost, registers spilled
    assert "FFMA" in fused.asm["sass"]


def test_cuda_clouds_go_to_the_kernel_as_one_operator(monkeypatch):
    called = []
    monkeypatch.setattr(
        sampling, "farthest_points_torch", lambda *_: called.append("tensor version")
    )
    with FakeTensorMode():
        points = torch.empty(3, 100, 3, device="cuda")
        chosen = farthest_points(points, 7)
        assert (chosen.shape, chosen.dtype, chosen.device) == ((3, 7), torch.int64, points.device)
        assert not called
        monkeypatch.setattr(sampling, "HAS_TRITON", False)
        farthest_points(points, 7)
    assert called


def test_without_a_launcher_the_operator_warns_once_and_falls_back(monkeypatch, capsys):
    from triton.runtime import driver

    from i2pmae.geometry import sampling_triton
    from i2pmae.geometry.triton_launcher import can_launch

    def broken() -> None:
        raise RuntimeError("Failed to find C compiler")

    can_launch.cache_clear()
    monkeypatch.setattr(type(driver), "active", property(lambda _: broken()))
    points = CASES["not a power of two"][0]
    try:
        for _ in range(2):
            found = sampling_triton.farthest_points_triton(points, 9)
            assert torch.equal(found, farthest_points_torch(points, 9))
    finally:
        can_launch.cache_clear()
    assert capsys.readouterr().err.count("Failed to find C compiler") == 1


@pytest.mark.gpu
@pytest.mark.parametrize("name", CASES)
def test_compiled_kernel_agrees_with_the_tensor_version(name):
    points, n_centers = CASES[name]
    assert torch.equal(
        farthest_points(points.cuda(), n_centers).cpu(), farthest_points_torch(points, n_centers)
    )


@pytest.mark.gpu
def test_compiled_kernel_agrees_on_a_training_batch():
    points = torch.randn(64, 2048, 3, generator=torch.Generator().manual_seed(2))
    found = farthest_points(points.cuda(), 512).cpu()
    assert torch.equal(found, farthest_points_torch(points, 512))
