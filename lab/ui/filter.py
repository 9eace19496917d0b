"""The Filter tab: how many stories passed, why the others did not, and a ledger of every verdict."""

from __future__ import annotations

from collections import Counter
from typing import Any

import gradio as gr

from lab.config import preset_config
from lab.run import Run
from lab.ui import charts, form, story
from lab.ui.page import QUIET, Page
from lab.ui.texts import REASON_TEXTS, reason, say

SHELF = 12


def build(page: Page) -> None:
    """Make the tab."""
    page.about("about_filter")
    form.build(page, "filter", preset_config("filter", "mini"))
    counts = gr.HTML()
    chart = gr.Plot(show_label=False, visible=False)
    with gr.Row():
        show = page.label(
            gr.Radio(["all", "kept", "dropped"], value="all"),
            lambda lang: {
                "label": say("show", lang),
                "choices": [(say(f"show_{x}", lang), x) for x in ("all", "kept", "dropped")],
            },
        )
        why = page.label(
            gr.Dropdown(["", *REASON_TEXTS], value=""),
            lambda lang: {
                "label": say("reason", lang),
                "choices": [(say("any_reason", lang), ""), *((reason(r, lang), r) for r in REASON_TEXTS)],
            },
        )
        number = page.label(gr.Number(1, minimum=1, precision=0, min_width=90, scale=0), label="page")
    ledger = gr.HTML()
    gr.on([show.input, why.input], lambda: 1, None, number, **QUIET)
    page.show(numbers, [counts, chart], lambda run: [run.verdicts_file])
    page.show(rows, [ledger], lambda run: [run.verdicts_file], (show, why, number))


def numbers(run: Run | None, language: str) -> list[Any]:
    """Counts, and the bar chart of reasons."""
    verdicts = list(run.verdicts()) if run else []
    if not verdicts:
        return ["", gr.update(visible=False)]
    kept = sum(v.kept for v in verdicts)
    counts = story.facts(
        [
            (f"{kept:,}", say("kept", language)),
            (f"{len(verdicts) - kept:,}", say("dropped", language)),
            (f"{kept / len(verdicts):.0%}", say("pass_rate", language)),
        ]
    )
    reasons = Counter(r for v in verdicts for r in v.reasons)
    return [
        counts,
        gr.update(value=charts.reasons_bar(reasons, language), visible=True) if reasons else gr.update(visible=False),
    ]


def rows(run: Run | None, language: str, show: str = "all", why: str = "", number: float = 1) -> list[str]:
    """One page of the ledger, with the place that gave the reason marked."""
    verdicts = {v.id: v for v in run.verdicts()} if run else {}
    if run is None or not verdicts:
        return [story.empty("empty_filter", language)]
    found = [
        (p, v)
        for p in run.pairs()
        if (v := verdicts.get(p.id)) and (show == "all" or v.kept == (show == "kept")) and (not why or why in v.reasons)
    ]
    if not found:
        return [story.empty("empty_match", language)]
    first = min(max(0, int(number or 1) - 1) * SHELF, (len(found) - 1) // SHELF * SHELF)
    shown = found[first : first + SHELF]
    where = say("page_of", language, found=f"{len(found):,}", first=first + 1, last=first + len(shown))
    return [f'<p class="count">{where}</p>' + story.shelf([story.card(p, language, v) for p, v in shown])]
