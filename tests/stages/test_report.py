import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from i2pmae.config import ReportConfig
from i2pmae.errors import ConfigError, DataError, StoreError
from i2pmae.stages import finetune, report
from i2pmae.stages.report_runs import charts_of
from i2pmae.stages.report_stores import spread_evenly
from i2pmae.stages.run_folder import RunFolder

from .test_finetune import config as finetune_config
from .test_segment import config as segment_config

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)


def written(subject, out, **changes):
    """What `report` returns, and what the page's script works from."""
    values = {"subject": subject, "out": out, "shapes": 20, "map": 12}
    result = report.run(ReportConfig(**(values | changes)))
    text = Path(out).read_text(encoding="utf-8")
    found = re.search(r'id="content">(.*?)</script>', text, re.S)
    return result, text, json.loads(found[1])


@pytest.fixture(scope="module")
def classifier_run(trained, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "classifier"
    result = finetune.run(finetune_config(out, checkpoint=trained, epochs=1, vote=0))
    return out, result


@pytest.fixture(scope="module")
def store_page(store, tmp_path_factory):
    return written(store, tmp_path_factory.mktemp("page") / "store.html")


@pytest.fixture(scope="module")
def classifier_page(classifier_run, tmp_path_factory):
    return written(classifier_run[0], tmp_path_factory.mktemp("page") / "classifier.html")


def test_a_store_shows_its_shapes_and_says_what_it_holds(store_page):
    result, text, content = store_page
    assert result["bytes"] == len(text.encode()) < report.MOST_BYTES
    assert len(content["shapes"]) == 20
    assert [layer["key"] for layer in content["layers"]] == [
        "plain",
        "saliency",
        "features",
        "mask",
    ]
    assert all(set(s["layers"]) == {"saliency", "features", "mask"} for s in content["shapes"])
    assert len(content["map"]["ids"]) == 12
    assert content["charts"] == []
    for said in ("No shape was skipped", "timm:test_vit", "feature_scale", "airplane"):
        assert said in text


def test_a_pretraining_run_has_curves_and_reconstruction_errors(trained, tmp_path):
    result, text, content = written(trained.parent, tmp_path / "a.html")
    titles = [chart["title"] for chart in content["charts"]]
    assert titles[:4] == ["Loss", "2D loss, features", "3D loss, points", "Learning rate"]
    assert "Throughput" in titles
    assert "Time spent waiting for data" in titles
    logged = [row["loss"] for row in RunFolder(trained.parent).rows()]
    assert content["charts"][0]["series"][0]["y"] == pytest.approx(logged, rel=1e-5)
    assert "error" in content["shapes"][0]["layers"]
    assert result["notes"] == []
    assert "never saw a label" in text


def test_a_run_whose_store_has_gone_keeps_its_curves(trained, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(trained.parent, run)
    saved = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps({**saved, "cache": "/no/such.zarr"}))
    result, _, content = written(run, tmp_path / "a.html")
    assert content["shapes"] == []
    assert len(content["charts"]) > 3
    assert "--cache" in result["notes"][0]
    again, _, content = written(run, tmp_path / "a.html", cache=saved["cache"], map=0)
    assert again["notes"] == []
    assert content["map"] is None
    assert len(content["shapes"]) == 20


def test_predictions_made_again_are_those_of_the_results(classifier_run, classifier_page):
    _, result = classifier_run
    _, text, content = classifier_page
    rows = re.findall(
        r'<tr><th scope="row">([^<]+)</th>((?:<td class="(?:right|wrong).*?</td>)+)', text
    )
    counts = np.array([[int(n) for n in re.findall(r">(\d+)</td>", cells)] for _, cells in rows])
    assert counts.sum() == result["n_test"]
    assert 100 * np.trace(counts) / counts.sum() == pytest.approx(result["accuracy"])
    mistakes = [shape for shape in content["shapes"] if shape["wrong"]]
    assert all(shape["predicted"] != shape["class_name"] for shape in mistakes)
    ranks = [shape["rank"] for shape in mistakes]
    assert ranks == sorted(ranks, reverse=True)
    assert "Worst mistakes" in text


def test_part_segmentation_shows_predicted_parts(parts_folder, tmp_path):
    run = tmp_path / "run"
    finetune.run(segment_config(run, data=parts_folder, epochs=1))
    result, _, content = written(run, tmp_path / "a.html")
    assert result["notes"] == []
    assert [layer["key"] for layer in content["layers"]] == [
        "predicted",
        "truth",
        "mistakes",
        "plain",
    ]
    assert len(content["shapes"]) == 6


def test_runs_of_several_seeds_share_their_charts(tmp_path):
    for seed in (0, 1):
        folder = tmp_path / f"seed-{seed}"
        folder.mkdir()
        RunFolder(folder).log({"epoch": 1, "loss": 2.0 + seed, "new_figure": 1})
    charts = charts_of(RunFolder(tmp_path))
    assert [chart.title for chart in charts] == ["Loss", "new figure"]
    assert [(line.name, line.y) for line in charts[0].series] == [
        ("seed-0", [2.0]),
        ("seed-1", [3.0]),
    ]


def test_shapes_are_spread_evenly_over_the_classes():
    labels = np.repeat([0, 1, 2], [100, 3, 50])
    chosen = spread_evenly(labels, 13, seed=0)
    assert np.bincount(labels[chosen]).tolist() == [5, 3, 5]
    assert len(set(chosen.tolist())) == 13
    assert sorted(labels[chosen]) == labels[chosen].tolist()
    assert len(spread_evenly(labels, 1000, seed=0)) == 153


def test_what_is_neither_a_run_nor_a_store_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="no run and no store at"):
        report.run(ReportConfig(subject=tmp_path / "none", out=tmp_path / "a.html"))
    broken = tmp_path / "run"
    broken.mkdir()
    (broken / "config.json").write_text("{")
    with pytest.raises(ConfigError, match=r"config\.json cannot be read"):
        report.run(ReportConfig(subject=broken, out=tmp_path / "a.html"))
    for settings in ('{"model_type": "bert"}', "[]"):  # another program's
        (broken / "config.json").write_text(settings)
        with pytest.raises(StoreError, match="holds no store"):
            report.run(ReportConfig(subject=broken, out=tmp_path / "a.html"))
    assert not (tmp_path / "a.html").exists()


def test_a_store_in_a_bucket_is_one(monkeypatch, tmp_path):
    monkeypatch.setattr(report, "store_page", lambda config: config.subject)
    config = ReportConfig(subject="s3://bucket/a.zarr", out=tmp_path / "a.html")
    assert report._page(config) == Path("s3://bucket/a.zarr")


def test_a_folder_is_no_page(store, tmp_path):
    with pytest.raises(ConfigError, match=f"name a file, as {tmp_path / 'report.html'}"):
        report.run(ReportConfig(subject=store, out=tmp_path))


def test_a_page_that_cannot_be_written_is_one_clear_error(store, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="--out"):
        written(store, tmp_path / "file" / "a.html", shapes=0, map=0)


@pytest.fixture(scope="module")
def browser():
    """A real browser; Debian's, as a test tool's own cannot be had everywhere."""
    playwright = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("no chromium here")
    os.environ.setdefault("PLAYWRIGHT_SKIP_VALIDATE_HOST_REQUIREMENTS", "1")
    with playwright.sync_playwright() as tool:
        browser = tool.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def opened(browser):
    """Open a page; nothing may be said on the console and nothing fetched."""
    contexts, said = [], []

    def open_page(path, width):
        context = browser.new_context(viewport={"width": width, "height": 800}, offline=True)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: fetched.append(request.url))
        page.goto(Path(path).as_uri())
        return page

    fetched: list[str] = []
    yield open_page
    for context in contexts:
        context.close()
    assert said == []
    assert {url.partition(":")[0] for url in fetched} <= {"file", "data"}


def picture_of(canvas):
    return canvas.evaluate("c => c.toDataURL()")


@pytest.mark.parametrize("width", [1280, 390])
def test_in_a_browser_shapes_turn_and_filters_filter(opened, classifier_page, width):
    page = opened(classifier_page[0]["page"], width)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    canvas = page.locator("#gallery canvas").first
    canvas.scroll_into_view_if_needed()
    page.wait_for_timeout(200)
    before = picture_of(canvas)
    box = canvas.bounding_box()
    page.mouse.move(box["x"] + 50, box["y"] + 50)
    page.mouse.down()
    page.mouse.move(box["x"] + 90, box["y"] + 60, steps=3)
    page.mouse.up()
    page.wait_for_timeout(100)
    turned = picture_of(canvas)
    assert turned != before
    canvas.focus()
    page.keyboard.press("ArrowLeft")
    page.wait_for_timeout(100)
    assert picture_of(canvas) != turned
    page.keyboard.press("Home")
    page.wait_for_timeout(100)
    assert picture_of(canvas) == before

    shapes = classifier_page[2]["shapes"]
    visible = page.locator("#gallery article:visible")
    page.select_option("#outcome", "wrong")
    n_wrong = sum(shape["wrong"] for shape in shapes)
    assert page.locator("#count").text_content() == f"{n_wrong} of {len(shapes)} shapes"
    assert visible.count() == min(n_wrong, 18)
    wanted = shapes[-1]["class_name"]
    page.select_option("#outcome", "")
    page.select_option("#class", wanted)
    assert visible.count() == sum(shape["class_name"] == wanted for shape in shapes)
    page.fill("#find", "no such shape")
    assert visible.count() == 0
    page.click("#filters button[type=reset]")
    page.wait_for_timeout(100)
    assert visible.count() == len(shapes)


def test_in_a_browser_colors_change_and_a_shape_is_enlarged(opened, store_page):
    page = opened(store_page[0]["page"], 1280)
    canvas = page.locator("#gallery canvas").first
    canvas.scroll_into_view_if_needed()
    page.wait_for_timeout(200)
    seen = {picture_of(canvas)}
    for layer in ("plain", "features", "mask"):
        page.select_option("#layer", layer)
        page.wait_for_timeout(100)
        seen.add(picture_of(canvas))
    page.click("#theme")
    page.wait_for_timeout(100)
    seen.add(picture_of(canvas))
    assert len(seen) == 5
    visible = page.locator("#gallery article:visible")
    assert visible.count() == 18
    page.click("#more")
    assert visible.count() == 20
    page.locator("#gallery article button").first.click()
    page.wait_for_timeout(200)
    assert page.locator("#large-title").text_content() == store_page[2]["shapes"][0]["id"]
    assert page.locator("#views img").evaluate("i => i.naturalWidth") == 3 * 96
    page.keyboard.press("Escape")
    assert not page.locator("#large").is_visible()


def test_in_a_browser_the_map_and_the_curves_answer_mouse_and_keys(opened, trained, tmp_path):
    result, _, content = written(trained.parent, tmp_path / "a.html")
    page = opened(result["page"], 1280)
    page.locator("#charts svg").first.focus()
    page.keyboard.press("ArrowLeft")
    epochs = len(RunFolder(trained.parent).rows())
    said = page.locator("#charts output").first.text_content()
    assert said.startswith(f"epoch {epochs - 1}: ")
    page.locator("#plane path").nth(3).hover()
    assert content["map"]["ids"][3] in page.locator("#tip p").text_content()
    page.locator("#plane").focus()
    told = set()
    for key in ("ArrowRight", "ArrowLeft", "ArrowUp", "ArrowDown"):
        page.keyboard.press(key)
        told.add(page.locator("#tip p").text_content())
    assert len(told) > 1
    page.locator("#kinds button").first.click()
    assert 0 < page.locator("#plane path.off").count() < len(content["map"]["ids"])
