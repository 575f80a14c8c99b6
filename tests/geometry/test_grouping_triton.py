"""The kernel against the tensor version: interpreted here, compiled where there is a GPU."""

import re

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from i2pmae.geometry import grouping
from i2pmae.geometry.grouping import nearest_neighbors
from i2pmae.geometry.grouping_torch import nearest_neighbors_torch

pytest.importorskip("triton")


def make_cases() -> dict[str, tuple[Tensor, Tensor, int]]:
    """Queries (B, Q, 3), points (B, N, 3) and how many neighbors to find."""
    generator = torch.Generator().manual_seed(0)

    def cloud(batch: int, n_points: int) -> Tensor:
        return torch.randn(batch, n_points, 3, generator=generator)

    lattice = torch.cartesian_prod(*[torch.arange(4.0)] * 3)[None]
    few = cloud(2, 5)
    return {
        "a level of the paper's network": (cloud(2, 8), cloud(2, 2048), 32),
        "not a power of two": (cloud(2, 7), cloud(2, 777), 9),
        "all points": (cloud(2, 3), cloud(2, 33), 33),
        "one point": (cloud(2, 3), cloud(2, 1), 1),
        "8192 points": (cloud(1, 2), cloud(1, 8192), 3),
        "more than fit": (cloud(1, 2), cloud(1, 17000), 4),
        "ties": (lattice, lattice, 27),
        "few distinct points": (few, few.repeat(1, 7, 1), 20),
        "squares below normal floats": (1e-20 * cloud(1, 4), 1e-20 * cloud(1, 300), 20),
        "squares above floats": (1e25 * cloud(1, 4), 1e25 * cloud(1, 300), 20),
        "transposed memory": (cloud(3, 5).mT.contiguous().mT, cloud(3, 90).mT.contiguous().mT, 30),
    }


CASES = make_cases()


@pytest.fixture(scope="module")
def interpreted(interpret) -> dict[str, Tensor]:
    return interpret("i2pmae.geometry.grouping_triton", "nearest_neighbors_triton", CASES)


@pytest.mark.parametrize("name", CASES)
def test_interpreted_kernel_agrees_with_the_tensor_version(name, interpreted):
    assert torch.equal(interpreted[name], nearest_neighbors_torch(*CASES[name]))


@pytest.mark.parametrize("n_points", [512, 2048, 8192])
def test_machine_code_fuses_nothing_and_spills_nothing(n_points, tmp_path, monkeypatch):
    import triton.compiler as compiler
    from triton.backends.compiler import GPUTarget

    from i2pmae.geometry import grouping_triton

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    options = grouping_triton._launch_options(n_points)
    kinds = {"queries": "*fp32", "points": "*fp32", "found": "*i64"}
    kinds |= {"n_queries": "i32", "n_points": "i32", "k": "i32"}
    source = compiler.ASTSource(
        grouping_triton._search,
        {**kinds, "BLOCK": "constexpr"},
        constexprs={"BLOCK": options.pop("BLOCK")},
    )
    target = GPUTarget("cuda", 90, 32)
    code = compiler.compile(source, target=target, options=options).asm["sass"]
    assert "FMUL" in code
    assert not re.search("FFMA|FTZ|STL", code)  # fused, denormals lost, registers spilled


def test_cuda_clouds_go_to_the_kernel_as_one_operator(monkeypatch):
    called = []
    monkeypatch.setattr(
        grouping, "nearest_neighbors_torch", lambda *_: called.append("tensor version")
    )
    with FakeTensorMode():
        points = torch.empty(3, 100, 3, device="cuda")
        found = nearest_neighbors(points[:, :9], points, 7)
        assert (found.shape, found.dtype, found.device) == ((3, 9, 7), torch.int64, points.device)
        assert not called
        monkeypatch.setattr(grouping, "HAS_TRITON", False)
        nearest_neighbors(points[:, :9], points, 7)
    assert called


@pytest.mark.gpu
@pytest.mark.parametrize("name", CASES)
def test_compiled_kernel_agrees_with_the_tensor_version(name):
    queries, points, k = CASES[name]
    found = nearest_neighbors(queries.cuda(), points.cuda(), k).cpu()
    assert torch.equal(found, nearest_neighbors_torch(queries, points, k))


@pytest.mark.gpu
def test_compiled_kernel_agrees_on_a_training_batch():
    points = torch.randn(64, 2048, 3, generator=torch.Generator().manual_seed(2))
    queries = points[:, :512]
    found = nearest_neighbors(queries.cuda(), points.cuda(), 32).cpu()
    assert torch.equal(found, nearest_neighbors_torch(queries, points, 32))
