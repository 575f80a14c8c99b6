"""Every figure of the results pages follows from the runs beside it."""

import importlib
import json
import re
import shutil
from pathlib import Path

from i2pmae.checkpoints.names import shipped
from i2pmae.config import FinetuneConfig, PretrainConfig, to_plain

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "docs" / "results"
PAGES = [ROOT / "docs" / name for name in ("results.md", "results-voxels.md")]
INTERVAL = re.compile(r"[-+]\d+\.\d \[[-+]\d+\.\d, [-+]\d+\.\d\]")
SETS_OF_ENCODERS = {
    "modelnet10_vox24": "ModelNet10 (24^3 voxels)",
    "furniture_meshes": "206 furniture meshes",
    "kicad_parts": "2,483 electronics parts",
}
MAIN_ARMS = {"random", "3d-only", "masking-only", "targets-only", "i2p-mae"}


def test_summary_and_tables_follow_from_the_runs(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "experiments")
    guidance = importlib.import_module("guidance")
    shutil.copytree(RESULTS / "runs", tmp_path / "runs")
    summary = guidance.summarize(tmp_path)
    assert summary == json.loads((RESULTS / "summary.json").read_text())
    assert summary.keys() >= MAIN_ARMS
    found = sorted(tmp_path.glob("*tables.md"))
    assert [path.name for path in found] == sorted(p.name for p in RESULTS.glob("*tables.md"))
    for path in found:
        assert path.read_text() == (RESULTS / path.name).read_text()
        assert any(path.read_text().strip() in page.read_text() for page in PAGES), path


def test_runs_differ_from_the_recipe_by_what_their_arm_says():
    runs = [json.loads(path.read_text()) for path in RESULTS.glob("runs/**/*.json")]
    by_arm = {}
    for run in runs:
        is_fine_tuned = "finetune-" in run["arm"]
        kind = FinetuneConfig if is_fine_tuned else PretrainConfig
        left_out = {"out": "out"} | ({"data": "data", "checkpoint": "x"} if is_fine_tuned else {})
        each = [*run["settings"].values()] if is_fine_tuned else [run["settings"]]
        # Settings that there were not yet had their defaults.
        whole = [to_plain(kind.model_validate(values | left_out)) for values in each]
        assert [settings.pop("seed") for settings in whole] == [run["seed"]] * len(whole)
        for settings in whole:  # `auto` was float32 on the CPUs of these runs
            assert settings.pop("precision") in ("auto", "fp32")
            for where in ("device", "compile"):
                settings.pop(where, None)
        by_arm.setdefault(run["arm"], []).append(whole)
    for settings in by_arm.values():
        assert all(other == settings[0] for other in settings)
    base = by_arm["i2p-mae"][0][0]
    for arm, part in {"3d-only": {"targets", "masking"}, "targets-only": {"masking"}}.items():
        found = by_arm[arm][0][0]
        assert {key for key in base if base[key] != found[key]} == part


def test_the_readme_repeats_rows_of_the_table():
    first = (RESULTS / "kicad-tables.md").read_text().split("\n\n")[0].splitlines()
    cells = {row.split("`")[1]: _cells(row) for row in first[2:]}
    columns = [_cells(first[0]).index(name) for name in ("seeds", "svm", "labels_5", "map")]
    rows = [row for row in (ROOT / "README.md").read_text().splitlines() if row.startswith("| `")]
    assert len(rows) >= 5
    for row in rows:
        arm = row.split("`")[1]
        assert _cells(row.replace("&plusmn;", "±"))[1:] == [cells[arm][k] for k in columns]


def test_the_readme_repeats_what_fine_tuning_reaches():
    rows = map(_cells, (RESULTS / "kicad-tables.md").read_text().splitlines())
    means = {row[0].strip("`"): [cell.split()[0] for cell in row[3:5]] for row in rows if row[3:5]}
    start, scratch = (means[f"kicad/finetune-{arm}"] for arm in ("i2p-mae", "scratch"))
    text = " ".join((ROOT / "README.md").read_text().split())
    for with_it, without in zip(start, scratch, strict=True):
        assert f"{with_it}% against {without}%" in text


def test_differences_in_the_prose_are_of_the_tables():
    tables = "".join(path.read_text() for path in RESULTS.glob("*tables.md"))
    known = set(INTERVAL.findall(tables))
    for page in (ROOT / "README.md", *PAGES):
        prose = [row for row in page.read_text().splitlines() if not row.startswith("| `")]
        told = INTERVAL.findall(" ".join(" ".join(prose).split()))
        assert len(told) >= 2
        assert set(told) <= known, page


def test_rows_of_pictures_follow_from_their_figures(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "experiments")
    views = importlib.import_module("views")
    page = (ROOT / "docs" / "results.md").read_text()
    found = json.loads((RESULTS / "views-furniture.json").read_text())
    assert "\n".join([*views.HEAD, *map(views.row, found)]) in page


def test_tables_of_encoders_follow_from_their_figures(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "experiments")
    encoders = importlib.import_module("encoders")
    shutil.copytree(RESULTS / "encoders", tmp_path / "encoders")
    tables = encoders.summarize(tmp_path / "encoders")
    assert tables == (RESULTS / "encoders" / "tables.md").read_text()
    page = (ROOT / "docs" / "encoders.md").read_text()
    assert all(part.strip() in page for part in tables.split("\n\n"))
    results = (ROOT / "docs" / "results.md").read_text()
    blocks = tables.split("\n\n")
    shown = [
        table
        for title, table in zip(blocks[::2], blocks[1::2], strict=True)
        if "modelnet" not in title
    ]
    rows = [
        row
        for row in "\n".join(shown).splitlines()
        if row.startswith("| ") and " minus " not in row
    ]
    told = re.findall(r"^\| (?:furniture|parts) (\|.*)$", results, re.MULTILINE)
    assert told == [row for row in rows if not row.startswith("| encoder")]
    for path in (RESULTS / "encoders").glob("*.json"):
        found = json.loads(path.read_text())["scores"]["i2pmae-small"]
        for key, measure in encoders.MEASURES.items():
            listed = shipped()["i2pmae-small"].scores[f"{SETS_OF_ENCODERS[path.stem]}: {measure}"]
            assert listed == round(found[key]["mean"], 1)


def _cells(row):
    return [cell.strip() for cell in row.strip("|").split("|")]


def test_the_readme_repeats_figures_of_the_shipped_encoder():
    rows = [_cells(row) for row in (ROOT / "docs" / "encoders.md").read_text().splitlines()]
    names = {"i2pmae-small": "i2pmae-small", "3D only": "3d-only", "Untrained": "untrained"}
    names["Pooled 2D features, no 3D network"] = "2d-features"
    for row in map(_cells, (ROOT / "README.md").read_text().splitlines()):
        if row[0] in names:
            name = names.pop(row[0])
            known = [[cell.split()[0] for cell in cells[1:]] for cells in rows if cells[0] == name]
            told = [cell.replace("*", "").split(" / ") for cell in row[1:]]
            assert told == known[: len(told)]
    assert not names
