"""The measurement of a GPU, on a CPU: that its rows run, and that one that fails stops no other."""

import json
import signal
import subprocess
import sys
import time

import pytest
import torch

CPU = torch.device("cpu")


@pytest.fixture
def gpu(module):
    return module("gpu")


@pytest.fixture
def report(gpu, tmp_path):
    """A report of half a minute, and its rows as the file has them."""
    now = time.monotonic()
    report = gpu.Report(tmp_path / "found.json", {"device": "none"}, now, now + 30)
    return report, lambda: json.loads((tmp_path / "found.json").read_text())["rows"]


@pytest.mark.slow
def test_every_row_runs_without_a_gpu(gpu, tmp_path):
    found = tmp_path / "found.json"
    command = [sys.executable, gpu.__file__, "--quick", "--device", "cpu", "--json", found]
    command += ["--minutes", "60"]  # every row has the time it takes
    done = subprocess.run(command, capture_output=True, text=True, timeout=3600)
    assert done.returncode == 0, done.stderr
    result = json.loads(found.read_text())
    assert result["complete"]
    assert result["seconds"].keys() == {*gpu.SECTIONS, "all"}
    errors = {row["row"]: row["error"] for row in result["rows"] if "error" in row}
    assert set(errors.values()) == {gpu.NO_DEVICE}
    assert "time by kernel" in errors
    assert len(done.stdout.strip().splitlines()) >= len(result["rows"])
    for row in result["rows"]:
        if row["section"] == "equality":
            unequal = {name: n for name, n in row.items() if name.endswith("_differ")}
            assert not any(map(any_of, unequal.values())), row


def any_of(value):
    return any(value) if isinstance(value, list) else value


def test_a_row_that_fails_stops_no_other(gpu, report):
    keep, rows = report

    def fail():
        raise RuntimeError("out of\nluck")

    def make():
        yield gpu.Row("bad", fail)
        yield gpu.Row("needs one", fail, needs_cuda=True)
        yield gpu.Row("good", lambda: {"ms": 1.5})
        raise ValueError("no more")

    keep.run("step", make(), 30, CPU)
    keep.run("reader", iter([gpu.Row("next section", lambda: {"rate": 2.0})]), 30, CPU)
    found = {row["row"]: row for row in rows()}
    assert [*found] == ["bad", "needs one", "good", "after good", "next section"]
    assert found["bad"]["error"] == "RuntimeError: out of luck"
    assert "in fail" in found["bad"]["traceback"]
    assert found["needs one"]["error"] == gpu.NO_DEVICE
    assert found["good"]["ms"] == 1.5
    assert found["after good"]["error"] == "ValueError: no more"


def test_a_section_ends_when_its_time_is_up(gpu, report):
    keep, rows = report
    before = signal.getsignal(signal.SIGALRM)
    slow = [gpu.Row("long", lambda: time.sleep(20)), gpu.Row("never", dict)]
    keep.run("step", iter(slow), 0.2, CPU)
    keep.run("reader", iter([gpu.Row("short", dict)]), 30, CPU)
    found = rows()
    assert [row["row"] for row in found] == ["long", "short"]
    assert found[0]["error"].startswith("TimeIsUpError")
    assert found[0]["seconds"] < 5
    assert signal.getsignal(signal.SIGALRM) == before


def test_kernels_are_told_apart_by_their_names(gpu):
    names = {
        "_sample": "sampling",
        "nvjet_tst_128x64_64x6_1x2_h_bz_coopB_TNT": "matrix products",
        "void cutlass::Kernel2<cutlass_80_wmma_tensorop_bf16_s161616gemm_bf16>": "matrix products",
        "fmha_cutlassF_bf16_aligned_64x64_rf_sm80(PyTorchMemEffAttention)": "attention",
        "void pytorch_flash::flash_fwd_kernel<Flash_fwd_kernel_traits<64>>": "attention",
        "void at::native::sbtopk::gatherTopK<long, unsigned int, 2, false>": "sort, top-k",
        "void at_cuda_detail::cub::DeviceRadixSortOnesweepKernel<...>": "sort, top-k",
        "void at::native::(anonymous namespace)::multi_tensor_apply_kernel<...>": "optimizer",
        "void at::native::unrolled_elementwise_kernel<direct_copy_kernel_cuda>": "copies",
        "void at::native::bfloat16_copy_kernel_cuda(at::TensorIteratorBase&)": "copies",
        "Memcpy HtoD (Pinned -> Device)": "copies",
        "void at::native::_scatter_gather_elementwise_kernel<128, 8>": "gather, scatter, index",
        "void at::native::index_elementwise_kernel<128, 4>": "gather, scatter, index",
        "void at::native::vectorized_layer_norm_kernel<float, float>": "normalization",
        "void at::native::reduce_kernel<512, 1, ReduceOp<float>>": "reductions",
        "void at::native::vectorized_elementwise_kernel<4, CUDAFunctor_add>": "elementwise",
        "triton_poi_fused_add_3": "compiled",
        "something new": "other",
    }
    events = [
        {"cat": "gpu_memcpy" if "Memcpy" in name else "kernel", "name": name, "dur": 2000}
        for name in names
    ]
    events += [{"cat": "cuda_runtime", "name": "cudaLaunchKernel", "dur": 9}, {"name": "process"}]
    for name, kind in names.items():
        alone = gpu.by_class([event for event in events if event["name"] == name], n_steps=1)
        assert [*alone["ms_by_class"]] == [kind], name
    found = gpu.by_class(events, n_steps=2)
    assert found["ms_busy"] == pytest.approx(len(names))
    assert (found["kernels"], found["copies"]) == ((len(names) - 1) / 2, 0.5)


def test_what_a_step_is_given_is_taken_down(gpu, tmp_path):
    bench = gpu.Bench(gpu.QUICK, CPU, tmp_path, quick=True)
    inputs = gpu.inputs_of_step(bench, bench.config(), CPU)
    points, features, saliency, pixels = inputs.given
    assert points.shape == (2, 128, 3)
    assert features.dtype == torch.int8
    assert saliency.shape == features.shape[:4]
    assert pixels.shape == (2, 3, 128, 2)
    assert inputs.feature_scale.shape == (2, 512)
    assert {*gpu.step_inputs(bench).values()} == {0, pixels.numel()}


def test_stage_ones_encoder_is_measured_as_a_whole_and_by_parts(gpu, tmp_path):
    bench, rates = gpu.Bench(gpu.QUICK, CPU, tmp_path, quick=True), {}
    found = gpu.encode(bench, 2, rates, "fp32")
    parts = found["ms_by_part"]
    assert {"render", "image model", "quantize", "to host"} <= parts.keys()
    assert min(parts.values()) > 0
    assert rates == {"fp32": pytest.approx(2e3 / parts["image model"])}
    assert gpu.encode_in_thread(bench, 2, rates, "fp32")["share_of_image_model"] > 0
