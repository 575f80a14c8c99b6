"""Every script runs and prints one JSON object with the keys that are documented."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"
STEP_SIZES = ("step_seconds_by_batch", "step_mb_by_batch", "step_seconds_by_points")
FIDELITY = ("features_vs_fp32", "all_vs_fp32", "cosine", "cosine_standardized", "bytes_per_shape")


def run(script: str, *options: str) -> dict:
    """What a script prints, which must be nothing but one JSON object."""
    command = [sys.executable, FOLDER / script, "--json", *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("folder", [FOLDER, FOLDER.parent / "experiments"])
def test_the_readme_describes_every_script(folder):
    readme = (folder / "README.md").read_text()
    scripts = {file.name for file in folder.glob("*.py")}
    assert {name for name in scripts if f"## `{name}`" not in readme} == set()


def test_startup():
    found = run("startup.py", "--quick")
    assert found["imports_torch"] is False
    assert min(found[name] for name in ("python_s", "import_s", "help_s")) > 0


def test_random_shapes():
    found = run("random_shapes.py", "--quick")
    ratio = found["procedural-random_2048_per_s"] / found["procedural_2048_per_s"]
    assert found["vs_procedural_2048"] == pytest.approx(ratio)  # of a single turn
    assert min(found.values()) > 0


@pytest.mark.slow
def test_step():
    found = run("step.py", "--quick")
    ways = ("fp32", "bf16", "3d_only_fp32", "fp32_all", "bf16_all")
    assert {f"units_{way}" for way in ways} | {"peak_rss_mb"} <= found.keys()
    assert min(found[f"units_{way}"] for way in ways) > 0
    ratio = found["units_fp32"] / found["units_3d_only_fp32"]
    assert found["guidance_cost"] == pytest.approx(ratio - 1)


@pytest.mark.slow
def test_finetune_step():
    found = run("finetune_step.py", "--quick")  # it stops if the two networks differ
    ratio = found["units_plain"] / found["units_fp32"]
    assert found["speedup_fp32"] == pytest.approx(ratio)


@pytest.mark.slow
def test_reader():
    found = run("reader.py", "--shapes", "512", "--points", "64", "--turns", "1")
    assert found.keys() >= {"shapes_per_s", "vs_zarr_oindex", "vs_memory_copy"}
    assert min(found.values()) > 0


@pytest.mark.slow
def test_extract():
    found = run("extract.py", "--quick")
    assert found["overhead"] == found["lite0_overhead"] > 0
    ratio = found["lite0_bare_shapes_per_s"] / found["lite0_shapes_per_s"]
    assert ratio == pytest.approx(found["overhead"])  # of a single turn


@pytest.mark.slow
def test_memory_of_extract():
    found = run("extract.py", "--quick", "--memory")
    assert found["memory_growth"] == found["peak_rss_mb_24"] / found["peak_rss_mb_8"]
    assert found["memory_growth"] == pytest.approx(1, abs=0.2)


@pytest.mark.slow
def test_surfaces():
    found = run("surfaces.py", "--quick")
    ways = {key.removeprefix("ms_") for key in found if key.startswith("ms_")}
    assert ways == {"sum", "nearest", "surface-depth", "surface-normals", "surface-shaded"}
    for way in ways - {"sum"}:
        assert found[f"speed_{way}"] == pytest.approx(found["ms_sum"] / found[f"ms_{way}"])


@pytest.mark.slow
def test_loaders():
    found = run("loaders.py", "--quick")
    for way in ("read", "stage"):
        rates = [found[f"{way}_shapes_per_s_{n}"] for n in (1, 2)]
        assert found[f"{way}_speedup"] == pytest.approx(rates[1] / rates[0])  # of a single turn
        assert 0 < found[f"{way}_possible"] <= 2
        assert found[f"{way}_main_ms"] > 0
        assert found[f"{way}_loader_ms"] >= 0  # in ticks of 10 ms


@pytest.mark.slow
def test_workers():
    found = run("workers.py", "--quick")  # it stops if one worker and two write other bytes
    ratio = found["seconds_1"] / found["seconds_2"]
    assert found["speedup_2_workers"] == pytest.approx(ratio)  # of a single turn
    assert found["seconds_1"] > found["asleep_seconds"] > 0  # it did wait for the source
    assert found["seconds_2"] > found["asleep_seconds"] / 2


@pytest.mark.slow
def test_store_size():
    found = run("store_size.py", "--quick")
    assert found.keys() >= set(FIDELITY)
    assert found["features_vs_fp32"] < found["all_vs_fp32"] < 1 / 4
    assert found["cosine"] > 0.999
    # Standardizing takes off the mean, which int8 keeps well: the same error weighs more.
    assert 0.998 < found["cosine_standardized"] < found["cosine"]


@pytest.mark.slow
def test_scaling_of_steps():
    found = run("scaling.py", "--quick", "--only", "step")
    assert found["exponents"].keys() == {*STEP_SIZES, "step_mb_by_points"}
    assert found["step_seconds_by_batch"].keys() == {"2", "4"}
    assert 0 < found["step_mb_by_batch"]["2"] < found["step_mb_by_batch"]["4"]


@pytest.mark.slow
def test_scaling_of_stores_and_threads():
    found = run("scaling.py", "--quick", "--only", "store", "reader")
    assert found["open_seconds_by_shapes"].keys() == {"100", "1000"}
    assert found["first_batch_seconds_by_shapes"].keys() == {"100", "1000"}
    assert found["reader_shapes_per_s_by_threads"].keys() == {"1", "2"}
    assert found["exponents"].keys() == found.keys() - {"exponents"}


def test_exponents_are_slopes_of_the_logarithms(module):
    exponent = module("scaling").exponent
    assert exponent({1: 3.0, 10: 300.0, 100: 30000.0}) == pytest.approx(2)
    assert exponent({100: 0.5, 10000: 0.5}) == pytest.approx(0)
    assert exponent({7: 1.0}) == 0


class TestSmallerEncodings:
    @pytest.fixture
    def features(self):
        """Three shapes whose channels depend on one another; some patches are not read."""
        generator = np.random.default_rng(0)
        mixing = generator.standard_normal((24, 512)) * np.geomspace(3, 0.01, 24)[:, None]
        features = generator.standard_normal((3, 1, 8, 8, 24)) @ mixing
        features[generator.random((3, 1, 8, 8)) < 0.2] = 0
        return features.astype(np.float32)

    def test_components_come_back_to_half_a_step(self, module, features):
        script = module("store_size")
        basis = script.principal_components(features.reshape(-1, 512))
        assert np.allclose(basis.T @ basis, np.eye(512), atol=1e-4)
        codes, scale = script.quantize_components(features @ basis, 0.1)
        assert codes.dtype == np.int8
        error = np.abs(codes * scale[:, None, None, None] - features @ basis)
        assert (error <= 0.501 * scale[:, None, None, None]).all()
        assert not codes[~features.any(axis=-1)].any()

    def test_codebooks_find_the_nearest_entry(self, module, features):
        script = module("store_size")
        known = features[features.any(axis=-1)]
        books = script.codebooks(np.tile(known, (4, 1)))
        codes, decoded = script.nearest_entries(features, books)
        patch = tuple(np.argwhere(features.any(axis=-1))[0])
        distances = np.square(books[1].numpy() - features[patch][8:16]).sum(axis=1)
        assert distances[codes[patch][1]] == pytest.approx(distances.min(), abs=1e-5)
        assert np.array_equal(decoded[patch][8:16], books[1][codes[patch][1]].numpy())
        assert not decoded[~features.any(axis=-1)].any()


def test_scale_plan():
    found = run("scale_plan.py", "--quick")
    assert set(found["plan"]) == {"1000000", "10000000", "100000000", "1000000000"}
    smallest, *_, largest = found["plan"].values()
    assert largest["TB"] == pytest.approx(1000 * smallest["TB"])
    assert {row["shards"] for row in found["curve"].values()} == {1, 4}
    # every array has a file per shard, but the axes of the views, and two of metadata in all
    assert all(row["files"] == 12 * row["shards"] + 1 + 14 for row in found["curve"].values())


@pytest.mark.slow
def test_the_scale_page_shows_the_plan_of_the_defaults():
    page = (FOLDER.parent / "docs" / "scale.md").read_text()
    plan = run("scale_plan.py", "--quick")["plan"]["1000000000"]
    rows = dict(re.findall(r"^\| ([^|]+) \|.*\| ([^|]+) \|$", page, re.M))
    assert rows["shards"] == f"{plan['shards'] / 1e6:.1f} million"
    assert rows["files"] == f"{plan['files'] / 1e6:.0f} million"
    assert rows["store"] == f"{plan['TB']:.0f} TB"
    assert rows["stage one, GPU-hours"] == f"{round(plan['GPU-hours of stage one'], -2):,.0f}"
    assert rows["stage two, GPU-hours"] == f"{plan['GPU-hours of stage two']:.0f}"
    assert rows["order of an epoch in memory, per process"] == (
        f"{plan['GB in memory per reader']:.0f} GB"
    )
