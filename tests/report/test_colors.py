"""Colors of the page against WCAG's contrast: 4.5 for text, 3 for marks, in both themes."""

import re
from importlib import resources

import pytest

FILES = resources.files("i2pmae.report")
STYLE = (FILES / "style.css").read_text()
THEMES = {
    name: dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6}|\d+%)", block))
    for name, block in (
        ("light", re.search(r":root \{(.*?)\}", STYLE, re.S)[1]),
        ("dark", re.search(r":root\.dark \{(.*?)\}", STYLE, re.S)[1]),
    )
}
GROUNDS = ("paper", "panel", "tint")


def rgb(color):
    return [int(color[at : at + 2], 16) for at in (1, 3, 5)]


def luminance(color):
    linear = [v / 255 for v in color]
    linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in linear]
    return sum(weight * v for weight, v in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(one, other):
    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


def test_contrast_is_that_of_the_standard():
    assert contrast(rgb("#000000"), rgb("#ffffff")) == pytest.approx(21)
    assert contrast(rgb("#767676"), rgb("#ffffff")) == pytest.approx(4.54, abs=0.01)


@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize("text", ["ink", "soft", "blue", "wrong"])
def test_text_stands_out_from_every_ground(theme, text):
    colors = THEMES[theme]
    for ground in GROUNDS:
        assert contrast(rgb(colors[text]), rgb(colors[ground])) >= 4.5, ground


@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize(("kind", "base"), [("right", "blue"), ("wrong", "orange")])
def test_counts_stand_out_from_the_fullest_cell(theme, kind, base):
    found = re.search(rf"td\.{kind} \{{ background: .*calc\((\d+)% \+ var\(--(\S+)\)", STYLE)
    share = (int(found[1]) + int(THEMES[theme][found[2]].rstrip("%"))) / 100
    colors = THEMES[theme]
    cell = [
        share * full + (1 - share) * ground
        for full, ground in zip(rgb(colors[base]), rgb(colors["panel"]), strict=True)
    ]
    assert contrast(rgb(colors["ink"]), cell) >= 4.5


def test_marks_stand_out_in_both_themes():
    palette = re.search(r"PALETTE = \[(.*?)\]", (FILES / "script" / "basics.js").read_text())[1]
    splits = re.findall(r"\.split-\d \{ background: (#\w{6})", STYLE)
    assert len(splits) == 3
    for color in [*re.findall(r"#\w{6}", palette), *splits]:
        for theme in THEMES.values():
            assert contrast(rgb(color), rgb(theme["panel"])) >= 3, color
