"""Every figure of the results page follows from the runs beside it."""

import importlib
import json
import re
import shutil
from pathlib import Path

from i2pmae.config import FinetuneConfig, PretrainConfig, to_plain

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "docs" / "results"
INTERVAL = re.compile(r"[-+]\d+\.\d \[[-+]\d+\.\d, [-+]\d+\.\d\]")
MAIN_ARMS = {"random", "3d-only", "masking-only", "targets-only", "i2p-mae"}


def test_summary_and_tables_follow_from_the_runs(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    guidance = importlib.import_module("guidance")
    shutil.copytree(RESULTS / "runs", tmp_path / "runs")
    summary = guidance.summarize(tmp_path)
    assert summary == json.loads((RESULTS / "summary.json").read_text())
    assert summary.keys() >= MAIN_ARMS
    tables = (tmp_path / "tables.md").read_text()
    assert tables == (RESULTS / "tables.md").read_text()
    assert tables.strip() in (ROOT / "docs" / "results.md").read_text()


def test_runs_differ_from_the_recipe_by_what_their_arm_says():
    runs = [json.loads(path.read_text()) for path in RESULTS.glob("runs/*/*.json")]
    by_arm = {}
    for run in runs:
        is_fine_tuned = run["arm"].startswith("finetune-")
        kind = FinetuneConfig if is_fine_tuned else PretrainConfig
        left_out = {"out": "out"} | ({"data": "data", "checkpoint": "x"} if is_fine_tuned else {})
        each = [*run["settings"].values()] if is_fine_tuned else [run["settings"]]
        # Settings that there were not yet had their defaults.
        whole = [to_plain(kind.model_validate(values | left_out)) for values in each]
        assert [settings.pop("seed") for settings in whole] == [run["seed"]] * len(whole)
        by_arm.setdefault(run["arm"], []).append(whole)
    for settings in by_arm.values():
        assert all(other == settings[0] for other in settings)
    base = by_arm["i2p-mae"][0][0]
    for arm, part in {"3d-only": {"targets", "masking"}, "targets-only": {"masking"}}.items():
        found = by_arm[arm][0][0]
        assert {key for key in base if base[key] != found[key]} == part


def test_the_readme_repeats_rows_of_the_table():
    first = (RESULTS / "tables.md").read_text().split("\n\n")[0].splitlines()
    cells = {row.split("`")[1]: _cells(row) for row in first[2:]}
    columns = [_cells(first[0]).index(name) for name in ("seeds", "svm", "labels_5", "furniture")]
    rows = [row for row in (ROOT / "README.md").read_text().splitlines() if row.startswith("| `")]
    assert len(rows) >= 5
    for row in rows:
        arm = row.split("`")[1]
        assert _cells(row.replace("&plusmn;", "±"))[1:] == [cells[arm][k] for k in columns]


def test_the_readme_repeats_what_fine_tuning_reaches():
    rows = map(_cells, (RESULTS / "tables.md").read_text().splitlines())
    means = {row[0].strip("`"): [cell.split()[0] for cell in row[3:5]] for row in rows if row[3:5]}
    start, scratch = (means[f"finetune-{arm}-as-they-lie"] for arm in ("16-epochs", "scratch"))
    text = " ".join((ROOT / "README.md").read_text().split())
    for with_it, without in zip(start, scratch, strict=True):
        assert f"{with_it}% against {without}%" in text


def test_differences_in_the_prose_are_of_the_tables():
    known = set(INTERVAL.findall((RESULTS / "tables.md").read_text()))
    for page in (ROOT / "README.md", ROOT / "docs" / "results.md"):
        prose = [row for row in page.read_text().splitlines() if not row.startswith("| `")]
        told = INTERVAL.findall(" ".join(" ".join(prose).split()))
        assert len(told) >= 2
        assert set(told) <= known, page


def _cells(row):
    return [cell.strip() for cell in row.strip("|").split("|")]
