import base64
import json
import re
import shutil
from html import escape
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from i2pmae.config import EvaluateConfig, ReportConfig
from i2pmae.errors import ConfigError, DataError, StoreError
from i2pmae.report.evaluations import add_evaluations
from i2pmae.report.page import Page
from i2pmae.report.runs import charts_of, confusion_of
from i2pmae.stages import evaluate, finetune, report
from i2pmae.training.run_folder import RunFolder

from ..training.test_segment import config as segment_config
from .test_finetune import config as finetune_config


def written(subject, out, **changes):
    """What `report` returns, and what the page's script works from."""
    values = {"subjects": subject, "out": out, "shapes": 20, "map": 12}
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


def test_what_evaluate_found_is_on_the_page_of_the_run(trained, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(trained.parent, run)
    settings = {"checkpoint": run / "last.pt", "data": "procedural", "points": 128, "limit": 30}
    found = evaluate.run(EvaluateConfig(**settings, bootstrap=20))
    (run / "evaluation-other.json").write_text('{"scores": {"<b>": {}}}')
    result, text, _ = written(run, tmp_path / "a.html")
    settings_told = "last.pt on procedural (limit 30, points 128, bootstrap 20): "
    assert f"{settings_told}Percent of 30 shapes, test split" in text
    assert "parts by a linear probe, IoU" in text
    assert escape(found["conclusions"][0]) in text
    assert text.index("Is last.pt any good on procedural (") < text.index('id="results"')
    assert result["notes"] == ["evaluation-other.json is left out: it is damaged; evaluate again"]
    elsewhere = tmp_path / "last.pt"  # beside no run
    shutil.copy(trained, elsewhere)
    evaluate.run(EvaluateConfig(**settings | {"checkpoint": elsewhere}, bootstrap=20))
    assert not [*tmp_path.glob("*.json")]


def test_every_evaluation_of_a_run_is_kept_also_those_of_older_versions(trained, tmp_path):
    for name in ("config.json", "last.pt"):
        shutil.copy(trained.parent / name, tmp_path)
    shutil.copy(tmp_path / "last.pt", tmp_path / "epoch-0001.pt")
    settings = {"data": "procedural", "points": 128, "limit": 30, "bootstrap": 20}
    for more in ({}, {"batch_size": 8}, {"limit": 24}, {"checkpoint": tmp_path / "epoch-0001.pt"}):
        values = {"checkpoint": tmp_path / "last.pt", **settings, **more}
        evaluate.run(EvaluateConfig(**values))
    kept = sorted(tmp_path.glob("evaluation-*.json"))
    starts = ["procedural-epoch-0001", "procedural-last", "procedural-last"]
    assert [path.name[11:-14] for path in kept] == starts
    shutil.copy(kept[0], tmp_path / "evaluation-procedural.json")  # as it was called before
    page = Page("", "", [])
    add_evaluations(page, tmp_path)
    assert [table.title.split(" (")[0] for table in page.results] == [
        "epoch-0001.pt on procedural",
        "last.pt on procedural",
        "last.pt on procedural",
        "epoch-0001.pt on procedural",
    ]
    assert len({table.title for table in page.results}) == 3
    for k in range(6):
        shutil.copy(kept[0], tmp_path / f"evaluation-{k}.json")
    add_evaluations(page, tmp_path)
    assert page.notes == ["the first 8 of 10 evaluations are shown"]


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


def test_a_pretraining_run_shows_reconstructions_beside_the_truth(trained, tmp_path):
    _, text, content = written(trained.parent, tmp_path / "a.html", title="A <first> try")
    assert "<h1>A &lt;first&gt; try</h1>" in text
    clouds = content["clouds"]
    assert clouds["columns"] == ["visible input", "reconstruction", "truth"]
    assert len(clouds["rows"]) == 8
    for row in clouds["rows"]:
        kinds = [{*base64.b64decode(cloud["kinds"])} for cloud in row["clouds"]]
        assert kinds == [{0}, {0, 1}, {2}]


def test_neighbors_on_the_map_are_the_nearest_by_their_features(store_page):
    shown = store_page[2]["map"]
    assert all(len(near) == 6 and i not in near for i, near in enumerate(shown["neighbors"]))


def test_several_runs_are_compared_on_one_page(trained, classifier_run, tmp_path):
    unfinished = tmp_path / "unfinished"
    unfinished.mkdir()
    saved = json.loads((trained.parent / "config.json").read_text())
    saved["optim"]["lr"] = 0.125
    (unfinished / "config.json").write_text(json.dumps(saved))
    RunFolder(unfinished).log({"epoch": 1, "loss": 0.75})
    runs = (trained.parent, classifier_run[0], unfinished)
    result, text, content = written(runs, tmp_path / "a.html")
    assert result["subjects"] == [str(run) for run in runs]
    name = trained.parent.name
    assert f"<h1>{name}, classifier, unfinished</h1>" in text
    assert "pre-training, not finished" in text
    assert "Per class or category, percent" in text
    settings = text[text.index("Settings that differ") :].partition("</table>")[0]
    keys = re.findall(r'<th scope="row">(.*?)</th>', settings)
    assert "optim.lr" in keys
    assert not {"out", "task", "masking.ratio"} & {*keys}
    loss = next(chart for chart in content["charts"] if chart["title"] == "Loss")
    assert [line["name"] for line in loss["series"]] == [name, "classifier", "unfinished"]
    assert content["clouds"]["columns"] == ["truth", name]
    assert any("no reconstructions of unfinished" in note for note in result["notes"])


def test_a_store_is_not_compared_with_runs(store, trained, tmp_path):
    with pytest.raises(ConfigError, match=f"there is no run at {store}; give folders of runs"):
        written((trained.parent, store), tmp_path / "a.html")


def test_of_very_many_classes_those_with_the_most_mistakes_are_shown():
    counts = np.diag(np.full(100, 5))
    counts[90:, 0] = 2
    found = confusion_of(counts, [f"class {k}" for k in range(100)])
    assert len(found.names) == 64
    assert {"class 0", *(f"class {k}" for k in range(90, 100))} <= {*found.names}
    assert found.note == "The 64 of 100 classes with the most mistakes."


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
    charts = charts_of({"": RunFolder(tmp_path)})
    assert [chart.title for chart in charts] == ["Loss", "new figure"]
    assert [(line.name, line.y) for line in charts[0].series] == [
        ("seed-0", [2.0]),
        ("seed-1", [3.0]),
    ]


def test_what_is_neither_a_run_nor_a_store_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="no run and no store at"):
        report.run(ReportConfig(subjects=tmp_path / "none", out=tmp_path / "a.html"))
    broken = tmp_path / "run"
    broken.mkdir()
    (broken / "config.json").write_text("{")
    with pytest.raises(ConfigError, match=r"config\.json cannot be read"):
        report.run(ReportConfig(subjects=broken, out=tmp_path / "a.html"))
    for settings in ('{"model_type": "bert"}', "[]"):  # another program's
        (broken / "config.json").write_text(settings)
        with pytest.raises(StoreError, match="holds no store"):
            report.run(ReportConfig(subjects=broken, out=tmp_path / "a.html"))
    assert not (tmp_path / "a.html").exists()


def test_a_store_in_a_bucket_is_one(monkeypatch, tmp_path):
    monkeypatch.setattr(report, "store_page", lambda config: config.subject)
    config = ReportConfig(subjects="s3://bucket/a.zarr", out=tmp_path / "a.html")
    assert report._page(config) == Path("s3://bucket/a.zarr")


def test_a_folder_is_no_page(store, tmp_path):
    with pytest.raises(ConfigError, match=f"name a file, as {tmp_path / 'report.html'}"):
        report.run(ReportConfig(subjects=store, out=tmp_path))


def test_a_page_that_cannot_be_written_is_one_clear_error(store, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="--out"):
        written(store, tmp_path / "file" / "a.html", shapes=0, map=0)


@pytest.fixture
def opened(browser):
    """Open a page; nothing may be said on the console and nothing fetched."""
    contexts, said = [], []

    def open_page(path, width, **options):
        context = browser.new_context(
            viewport={"width": width, "height": 800}, offline=True, bypass_csp=True, **options
        )
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


def drawn(page):
    """Wait for what is painted in the next frame, or in the one in which it comes into sight."""
    frames = "for (let i = 0; i < 3; i++) await new Promise(requestAnimationFrame)"
    page.evaluate(f"async () => {{ {frames}; await new Promise(done => setTimeout(done)) }}")


def picture_of(canvas):
    return canvas.evaluate("c => c.toDataURL()")


@pytest.mark.parametrize("width", [1280, 390])
def test_in_a_browser_shapes_turn_and_filters_filter(opened, classifier_page, width):
    page = opened(classifier_page[0]["page"], width)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    canvas = page.locator("#gallery canvas").first
    canvas.scroll_into_view_if_needed()
    drawn(page)
    before = picture_of(canvas)
    box = canvas.bounding_box()
    page.mouse.move(box["x"] + 50, box["y"] + 50)
    page.mouse.down()
    page.mouse.move(box["x"] + 90, box["y"] + 60, steps=3)
    page.mouse.up()
    drawn(page)
    turned = picture_of(canvas)
    assert turned != before
    canvas.focus()
    page.keyboard.press("ArrowLeft")
    drawn(page)
    assert picture_of(canvas) != turned
    page.keyboard.press("Home")
    drawn(page)
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
    drawn(page)
    assert visible.count() == len(shapes)


def test_in_a_browser_colors_change_and_a_shape_is_enlarged(opened, store_page):
    page = opened(store_page[0]["page"], 1280)
    canvas = page.locator("#gallery canvas").first
    canvas.scroll_into_view_if_needed()
    drawn(page)
    seen = {picture_of(canvas)}
    for layer in ("plain", "features", "mask"):
        page.select_option("#layer", layer)
        drawn(page)
        seen.add(picture_of(canvas))
    page.click("#theme")
    drawn(page)
    seen.add(picture_of(canvas))
    assert len(seen) == 5
    visible = page.locator("#gallery article:visible")
    assert visible.count() == 18
    page.click("#more")
    assert visible.count() == 20
    page.locator("#gallery article button").first.click()
    drawn(page)
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


def test_in_a_browser_the_wheel_zooms_what_was_clicked_and_pictures_are_saved(opened, store_page):
    page = opened(store_page[0]["page"], 1280)
    canvas = page.locator("#gallery canvas").first
    canvas.scroll_into_view_if_needed()
    canvas.hover()
    page.mouse.wheel(0, 50)
    drawn(page)
    assert canvas.evaluate("c => c.viewer.zoom") == 1  # the page has scrolled
    canvas.click()
    page.mouse.wheel(0, -100)
    page.wait_for_function("document.querySelector('#gallery canvas').viewer.zoom > 1.1")
    page.locator("#gallery article .text button").first.click()
    with page.expect_download() as saved:
        page.click("#save button")
    assert saved.value.suggested_filename.endswith("airplane_00.png")
    with Image.open(saved.value.path()) as picture:
        assert picture.size == (1000, 1000)
        assert picture.convert("L").getextrema()[0] < 200
    page.keyboard.press("Escape")
    with page.expect_download() as saved:
        page.locator("#plane-tools .save").click()
    with Image.open(saved.value.path()) as picture:
        assert picture.size == (1200, 1200)
        assert len(picture.getcolors(1 << 24)) > 5


def test_in_a_browser_the_map_fits_zooms_and_shows_neighbors(opened, store_page):
    page = opened(store_page[0]["page"], 1280)
    shown = store_page[2]["map"]
    box = page.locator("#plane").bounding_box()
    assert box["height"] <= 800
    mark = page.locator("#plane path").nth(3)
    mark.click()
    cards = page.locator("#near figure")
    assert cards.count() == 7
    told = cards.all_text_contents()
    assert shown["ids"][3] in told[0]
    for text, near in zip(told[1:], shown["neighbors"][3], strict=True):
        assert shown["ids"][near] in text
    wide = mark.bounding_box()["width"]
    page.click("#zoom-in")
    width = "Number(document.getElementById('plane').getAttribute('viewBox').split(' ')[2])"
    assert page.evaluate(width) == pytest.approx(640 / 1.5)
    assert mark.bounding_box()["width"] == pytest.approx(wide, rel=0.1)  # marks keep their size
    page.click("#zoom-all")
    assert page.evaluate(width) == 640


def test_in_a_browser_clouds_of_a_row_turn_together(opened, trained, tmp_path):
    page = opened(written(trained.parent, tmp_path / "a.html")[0]["page"], 1280)
    canvases = page.locator("#clouds canvas")
    canvases.first.focus()
    drawn(page)
    page.keyboard.press("ArrowLeft")
    yaws = canvases.evaluate_all("all => all.map(c => c.viewer.yaw)")
    assert yaws[0] == yaws[1] == yaws[2] != yaws[3]


def test_on_paper_every_shape_is_drawn_and_the_colors_are_light(opened, store_page):
    page = opened(store_page[0]["page"], 1280, color_scheme="dark")
    is_dark = "document.documentElement.classList.contains('dark')"
    assert page.evaluate(is_dark)
    page.emulate_media(media="print", color_scheme="dark")
    drawn(page)
    assert not page.evaluate(is_dark)
    painted = page.locator("#gallery article:visible canvas").evaluate_all(
        "all => all.map(c => c.getContext('2d').getImageData(0, 0, c.width, c.height).data"
        ".some(v => v))"
    )
    assert len(painted) == 18
    assert all(painted)
    assert not page.locator("#filters").is_visible()
    style = "getComputedStyle(document.body).printColorAdjust"
    assert page.evaluate(style) == "exact"
    assert page.pdf().count(b"/Subtype /Image") >= 18
    page.emulate_media(media="screen", color_scheme="dark")
    drawn(page)
    assert page.evaluate(is_dark)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_on_any_page(
    opened, store_page, classifier_page, trained, tmp_path, scheme
):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    runs = written((trained.parent, trained.parent), tmp_path / "a.html")
    for result in (store_page[0], classifier_page[0], runs[0]):
        page = opened(result["page"], 1280, color_scheme=scheme)
        found = axe.run(page)
        assert found.response["violations"] == [], found.generate_report()
