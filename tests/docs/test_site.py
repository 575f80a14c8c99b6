"""The built site: links, search from a disk, wide tables."""

import re
import subprocess
import sys
from html import unescape
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

pytest.importorskip("mkdocs")
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", folder]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


def test_every_link_within_the_site_leads_somewhere(site):
    pages = {page: page.read_text() for page in site.rglob("*.html") if page.name != "404.html"}
    anchors = {page: {*re.findall(r'\bid="([^"]+)"', text)} for page, text in pages.items()}
    assert len(pages) > 20
    broken = []
    for page, text in pages.items():
        for link in re.findall(r'\b(?:href|src)="([^"]+)"', text):
            target = urlsplit(unescape(link))
            if target.scheme or target.netloc:
                continue
            path = (page.parent / unquote(target.path)).resolve() if target.path else page
            anchor = unquote(target.fragment)
            if not path.exists() or (anchor and path in anchors and anchor not in anchors[path]):
                broken.append(f"{page.relative_to(site)}: {link}")
    assert broken == []


def test_search_works_from_a_disk_and_nothing_is_fetched(browser, site):
    context = browser.new_context(viewport={"width": 1280, "height": 800}, offline=True)
    page = context.new_page()
    fetched = []
    page.on("request", lambda request: fetched.append(request.url))
    page.goto((site / "index.html").as_uri())
    page.locator(".md-search__input").click()
    page.wait_for_selector(".md-search-result__meta")
    page.wait_for_timeout(1000)
    for message in (
        "already holds a run",
        "holds no finished run: neither",
        "all workers are gone and none came back",
    ):
        page.keyboard.press("Control+A")
        page.keyboard.type(message)
        page.wait_for_timeout(1500)
        found = page.locator(".md-search-result__item").all_text_contents()
        assert re.search("Troubleshooting|All error messages|i2pmae\\.", "".join(found)), message
    assert {url.partition(":")[0] for url in fetched} <= {"file", "data", "blob", "about"}
    context.close()


@pytest.mark.parametrize("width", [390, 1280])
def test_wide_tables_scroll_inside_their_column(browser, site, width):
    context = browser.new_context(viewport={"width": width, "height": 800}, offline=True)
    page = context.new_page()
    for name in ("results", "results-voxels", "reference", "scale"):
        page.goto((site / f"{name}.html").as_uri())
        page.wait_for_selector(".md-typeset__table")
        assert page.evaluate("document.documentElement.scrollWidth") <= width, name
    page.goto((site / "results-voxels.html").as_uri())
    page.wait_for_selector(".md-typeset__table")
    wide = page.locator(".md-typeset__scrollwrap").evaluate_all(
        "all => all.filter(one => one.scrollWidth > one.clientWidth).length"
    )
    assert wide > 0
    context.close()
