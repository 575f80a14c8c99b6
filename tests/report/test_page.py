import json
import re

import pytest

from i2pmae.report.page import Chart, Page, Series, Shape, Table, render


@pytest.fixture
def page():
    return Page("first", "Pre-training run", [["9", "epochs"]])


def embedded(text):
    found = re.search(r'<script type="application/json" id="content">(.*?)</script>', text, re.S)
    return json.loads(found[1])


def test_what_there_is_none_of_has_no_section(page):
    text = render(page)
    assert "<h1>first</h1>" in text
    for section in ("curves", "shapes", "map", "data", "results", "mistakes"):
        assert f'<section id="{section}"' not in text


def test_names_from_data_cannot_become_part_of_the_page(page):
    evil = "</script><script>alert(1)</script>"
    page.shapes.append(Shape(evil, evil, "", 1, "", "", {}))
    page.provenance.append(Table(evil, [evil], [[evil, evil]]))
    text = render(page)
    assert "<script>alert" not in text
    assert embedded(text)["shapes"][0]["id"] == evil


def test_curves_are_a_table_as_well(page):
    page.charts.append(Chart("Loss", "", [Series("a", [1, 2], [0.5, 0.25]), Series("b", [2], [7])]))
    text = render(page)
    rows = re.findall(r"<tr><th scope=\"row\">(\d)</th><td>(.*?)</td><td>(.*?)</td></tr>", text)
    assert rows == [("1", "0.5", ""), ("2", "0.25", "7")]
    assert embedded(text)["charts"][0]["series"][1]["y"] == [7]


def test_a_page_refers_to_nothing_outside(page):
    text = render(page)
    assert not re.findall(r"(?:src|href)=[\"'](?!#|data:)", text)
    assert "@import" not in text
    assert not re.findall(r"https?://(?!www\.w3\.org)", text)
    assert "default-src 'none'" in text
