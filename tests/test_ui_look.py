"""The theme can be read: every text on its ground in light and dark, by WCAG's own formula."""

import re

import pytest

from lab.ui import charts, theme

TEXTS = (
    ("body-text-color", "body-background-fill"),
    ("body-text-color", "block-background-fill"),
    ("body-text-color-subdued", "body-background-fill"),
    ("body-text-color-subdued", "block-background-fill"),
    ("block-info-text-color", "block-background-fill"),
    ("block-title-text-color", "block-background-fill"),
    ("block-label-text-color", "block-label-background-fill"),
    ("body-text-color", "input-background-fill"),
    ("input-placeholder-color", "input-background-fill"),
    ("button-primary-text-color", "button-primary-background-fill"),
    ("button-primary-text-color-hover", "button-primary-background-fill-hover"),
    ("button-secondary-text-color", "button-secondary-background-fill"),
    ("button-secondary-text-color-hover", "button-secondary-background-fill-hover"),
    ("button-cancel-text-color", "button-cancel-background-fill"),
    ("checkbox-label-text-color", "checkbox-label-background-fill"),
    ("checkbox-label-text-color-selected", "checkbox-label-background-fill-selected"),
    ("link-text-color", "body-background-fill"),
    ("link-text-color", "block-background-fill"),
)
SIGNS = {"light": ("#0072B2", "#D55E00", "#009E73"), "dark": ("#56B4E9", "#D55E00", "#E69F00", "#009E73")}
"""What is no text: dots of the steps and lines of charts. Orange on light paper stands beside words and other shapes."""


def light(colour):
    """Relative luminance."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    r, g, b = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
    return 0.2126 * r + 0.7152 * g + 0.0722 * b


def contrast(one, other):
    low, high = sorted((light(one), light(other)))
    return (high + 0.05) / (low + 0.05)


def colours(kind):
    """Gradio's variables as the browser resolves them."""
    css = theme.theme()._get_theme_css()
    first, dark = css.split(".dark", 1)
    found = dict(re.findall(r"--([\w-]+): ([^;]+);", first))
    if kind == "dark":
        found |= dict(re.findall(r"--([\w-]+): ([^;]+);", dark))

    def resolved(name):
        value = found[name]
        while inside := re.fullmatch(r"var\(--([\w-]+)\)", value):
            value = found[inside[1]]
        return {"white": "#ffffff", "black": "#000000"}.get(value, value)

    return resolved


@pytest.mark.parametrize("kind", ["light", "dark"])
def test_every_text_of_the_theme_can_be_read_on_its_ground(kind):
    """WCAG 2.2 AA asks 4.5 to 1 for text."""
    colour = colours(kind)
    found = {(ink, ground): round(contrast(colour(ink), colour(ground)), 2) for ink, ground in TEXTS}
    assert {pair: ratio for pair, ratio in found.items() if ratio < 4.5} == {}


@pytest.mark.parametrize("kind", ["light", "dark"])
def test_signs_and_the_chosen_tab_stand_out(kind):
    """WCAG 2.2 AA asks 3 to 1 for what is no text."""
    own = dict(re.findall(r"--(\w+):(#\w{6})", re.search(rf"^{ {'light': ':root', 'dark': '.dark'}[kind] } {{(.*)}}$", theme.CSS, re.M)[1]))  # fmt: skip
    assert [sign for sign in SIGNS[kind] if contrast(sign, own["paper"]) < 3] == []
    ground = colours(kind)("body-background-fill")
    assert contrast(own["accent"], ground) >= 4.5


def test_the_numbers_on_the_funnels_bars_can_be_read():
    (bars,) = charts.funnel(10, [{"reason": "too_long", "dropped": 4, "left": 6}], "ko").data
    assert [pair for pair in zip(bars.textfont.color, bars.marker.color, strict=True) if contrast(*pair) < 4.5] == []
