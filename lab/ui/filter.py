"""The Filter tab: how many stories passed and why the others did not, the cut that follows the sliders, the ledger of
every verdict, and human review."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gradio as gr
import numpy as np

from lab.checks import REASONS
from lab.config import FilterConfig, checked, preset_config
from lab.records import Pair, Verdict
from lab.run import Run
from lab.stages.filter import Cut, Table, apply_cut, curve, cut, decide, ledger, rules_off
from lab.ui import charts, form, review, story
from lab.ui.page import ACT, QUIET, Page, needed, notice
from lab.ui.texts import reason, say

SHELF = 12
TOPS = (1.0, 0.8, 0.5, 0.3)
SHOWN: dict[str, Callable[[Verdict], bool]] = {
    "all": lambda v: True,
    "kept": lambda v: v.kept,
    "dropped": lambda v: not v.kept,
    "unread": lambda v: bool(v.scores.get("unparsable")),
    "people": lambda v: v.by == "human",
}
NO_RULE = {"too_short", "too_long", "low_score", "below_cut", "reviewer"}
"""Reasons that have a control of their own."""
ON_CARD = """
element.addEventListener('click', event => {
  const button = event.target.closest('button[data-keep]');
  if (button) trigger('select', {id: button.dataset.id, keep: button.dataset.keep});
});
"""
CARD_CSS = """
.story .foot { align-items:center; }
button[data-keep] { margin-left:auto; border:1px solid var(--line); border-radius:99px; padding:.3rem .9rem; min-height:2rem;
  background:var(--paper); color:var(--ink); cursor:pointer; font-size:.82rem; }
button[data-keep]:hover, button[data-keep]:focus-visible { border-color:var(--accent); }
"""


def build(page: Page) -> None:
    """Make the tab."""
    page.about("about_filter")
    fields = form.build(page, "filter", preset_config("filter", "mini"))
    counts = gr.HTML()
    # Sliders that have nothing to cut are not shown; the ledger below says what to do first.
    with page.label(gr.Accordion("", open=True, visible=False, elem_id="cut"), label="cut") as drawer:
        _build_cut(page, fields)
    _build_ledger(page)
    with page.label(gr.Accordion("", open=False, visible=False, elem_id="review"), label="review") as opinions:
        review.build(page)
    page.show(numbers, [counts, drawer, opinions], lambda run: [run.verdicts_file])


def _build_cut(page: Page, fields: dict[str, Any]) -> None:
    """Sliders and switches, what they would leave, and the button that saves it."""
    page.about("about_cut")
    knobs = {name: FilterConfig.__dataclass_fields__[name].metadata for name in ("min_score", "min_chars", "max_chars")}
    with gr.Row():
        with gr.Column(scale=2, min_width=300):
            sliders = [
                page.label(
                    gr.Slider(meta["low"], meta["high"], step=meta["step"], elem_id=f"cut-{name}".replace("_", "-")),
                    lambda lang, meta=meta: {"label": meta[lang]},
                )
                for name, meta in knobs.items()
            ]
            top = page.label(gr.Radio(list(TOPS), value=1.0, elem_id="cut-top"), label="keep_top")
            rules = page.label(gr.CheckboxGroup([], elem_id="cut-rules"), label="rules", info="rules_info")
            save = page.label(gr.Button("", variant="primary", elem_id="cut-save"), value="save_cut")
        with gr.Column(scale=3, min_width=300):
            live = gr.HTML(elem_id="cut-live")
            line = gr.Plot(show_label=False, visible=False)
            steps = gr.Plot(show_label=False, visible=False)
    controls = [*sliders, top, rules]
    # Of which run and settings the controls are. A look that set out before they came brings what they held before.
    origin = gr.Textbox("", visible=False, elem_id="cut-origin")

    def configured(run: Run, values: tuple[Any, ...]) -> FilterConfig:
        stored = run.config("filter")
        shown = _switchable(ledger(run).table, stored)
        off = sorted((rules_off(stored) - set(shown)) | (set(shown) - set(values[4])))
        return checked(
            stored,
            min_score=values[0],
            min_chars=values[1],
            max_chars=values[2],
            keep_top=values[3],
            off=",".join(off),
        )

    def preview(run: Run | None, language: str, *values: Any) -> list[Any]:
        hidden = gr.update(visible=False)
        table = ledger(run).table if run else None
        if run is None or table is None or not table.verdicts:
            return ["", hidden, hidden]
        known = run.config("filter")
        config = configured(run, values) if values[-1] == f"{run.id} {known}" else known
        result = cut(table, config)
        funnel = charts.funnel(len(result.kept), result.funnel(), language)
        drawn = [gr.update(value=funnel, visible=True)]
        if not np.isnan(table.judge).all():
            points = curve(table, config)
            drawn.insert(0, gr.update(value=charts.pass_curve(points, config.min_score, language), visible=True))
        else:
            drawn.insert(0, hidden)
        return [outcome(table, result, language), *drawn]

    def apply(run_id: str | None, language: str, *values: Any) -> None:
        run = needed(run_id, language)
        facts = apply_cut(run, configured(run, values))
        notice(language, "cut_saved", kept=f"{facts['kept']:,}")

    def stored(run: Run | None, language: str) -> list[Any]:
        """Controls and form fields as the run has them stored."""
        if run is None:
            return [gr.skip() for _ in (*controls, origin, *fields)]
        config, table = run.config("filter"), ledger(run).table
        names = _switchable(table, config)
        tops = sorted({*TOPS, config.keep_top}, reverse=True)
        found = table.counts()
        return [
            config.min_score,
            config.min_chars,
            config.max_chars,
            gr.update(
                choices=[(say("top_all", language) if t == 1 else f"{t:.0%}", t) for t in tops], value=config.keep_top
            ),
            gr.update(
                choices=[(f"{reason(r, language)} {found.get(r, 0):,}", r) for r in names],
                value=[r for r in names if r not in rules_off(config)],
            ),
            f"{run.id} {config}",
            *(getattr(config, name) for name in fields),
        ]

    files = lambda run: [run.stage_folder("filter") / "config.json", run.verdicts_file]  # noqa: E731
    page.show(stored, [*controls, origin, *fields.values()], files)
    page.show(preview, [live, line, steps], files, (*controls, origin), programmed=True)
    save.click(apply, [page.run, page.language, *controls], None, **ACT)


def _switchable(table: Table, config: FilterConfig) -> list[str]:
    """The rules that found something in this run, or are off."""
    found = table.counts()
    return [r for r in REASONS if r not in NO_RULE and (found.get(r) or r in rules_off(config))]


def outcome(table: Table, result: Cut, language: str) -> str:
    """What a cut would leave, in numbers, with a warning when it is less than half."""
    total, kept = len(result.kept), int(result.kept.sum())
    stored = sum(v.kept for v in table.verdicts)
    text = story.facts(
        [
            (f"{kept:,} / {total:,}", say("would_keep", language)),
            (f"{kept / total:.1%}", say("pass_rate", language)),
            (f"{kept - stored:+,}", say("against_stored", language)),
        ]
    )
    counts = result.counts()
    if kept < 0.5 * total and counts:
        worst = max(counts, key=counts.__getitem__)
        words = {"reason": reason(worst, language), "rows": f"{counts[worst]:,}"}
        alone = f"{result.alone().get(worst, 0):,}"
        text += f'<div class="welcome" role="alert">{say("pass_low", language, **words, alone=alone)}</div>'
    return text


def numbers(run: Run | None, language: str) -> list[Any]:
    """What is stored: counts, and what a judge could not read or a person decided; the drawers that need verdicts."""
    verdicts = ledger(run).table.verdicts if run else ()
    drawers = [gr.update(visible=bool(verdicts))] * 2
    if not verdicts:
        return ["", *drawers]
    kept = sum(v.kept for v in verdicts)
    shown = [
        (f"{kept:,}", say("kept", language)),
        (f"{len(verdicts) - kept:,}", say("dropped", language)),
        (f"{kept / len(verdicts):.0%}", say("pass_rate", language)),
    ]
    for kind in ("unread", "people"):
        if count := sum(map(SHOWN[kind], verdicts)):
            shown.append((f"{count:,}", say(f"show_{kind}", language)))
    return [story.facts(shown), *drawers]


def _build_ledger(page: Page) -> None:
    """Browse and search every verdict; restore or reject by hand."""
    with gr.Row():
        show = page.label(
            gr.Radio(list(SHOWN), value="all", elem_id="ledger-show"),
            lambda lang: {"label": say("show", lang), "choices": [(say(f"show_{x}", lang), x) for x in SHOWN]},
        )
    with gr.Row():
        why = page.label(
            gr.Dropdown(["", *REASONS], value="", min_width=160, elem_id="ledger-reason"),
            lambda lang: {
                "label": say("reason", lang),
                "choices": [(say("any_reason", lang), ""), *((reason(r, lang), r) for r in REASONS)],
            },
        )
        text = page.label(
            gr.Textbox("", max_length=200, min_width=160, elem_id="ledger-search"),
            label="search",
            placeholder="search_info",
        )
        number = page.label(gr.Number(1, precision=0, min_width=90, scale=0, elem_id="ledger-page"), label="page")
    shelf = gr.HTML(js_on_load=ON_CARD, css_template=CARD_CSS, elem_id="ledger")
    gr.on([show.input, why.input, text.input], lambda: 1, None, number, **QUIET)
    inputs = (show, why, text, number)
    page.show(rows, [shelf], lambda run: [run.verdicts_file], inputs, programmed=True)

    def act(
        run_id: str | None, language: str, show: str, why: str, text: str, number: float, event: gr.EventData
    ) -> str:
        run = needed(run_id, language)
        decide(run, str(event.id), event.keep == "keep")
        return rows(run, language, show, why, text, number)[0]

    shelf.select(act, [page.run, page.language, *inputs], shelf, **ACT)


def rows(
    run: Run | None, language: str, show: str = "all", why: str = "", text: str = "", number: float = 1
) -> list[str]:
    """One page of the ledger, with the place that gave the reason marked.

    In the order of their ids, which are hashes: each page is a sample. The file stands in the order of writing, which
    brings requests of one phrasing together.
    """
    book = ledger(run) if run else None
    if book is None or not book.pairs:
        return [story.empty("empty_filter", language)]
    text = text.strip()
    found = [
        (p, v)
        for p, v in zip(book.pairs, book.table.verdicts, strict=True)
        if SHOWN[show](v) and (not why or why in v.reasons) and (not text or text in p.output or text in p.instruction)
    ]
    if not found:
        return [story.empty("empty_match", language)]
    first = min(max(0, int(number or 1) - 1) * SHELF, (len(found) - 1) // SHELF * SHELF)
    shown = sorted(found, key=lambda row: row[0].id)[first : first + SHELF]
    where = say("page_of", language, found=f"{len(found):,}", first=first + 1, last=first + len(shown))
    return [f'<p class="count">{where}</p>' + story.shelf([_card(p, v, language) for p, v in shown])]


def _card(pair: Pair, verdict: Verdict, language: str) -> str:
    """A story with its verdict and the button that turns it round."""
    act = "drop" if verdict.kept else "keep"
    button = f'<button type="button" data-id="{pair.id}" data-keep="{act}">{say(f"hand_{act}", language)}</button>'
    return story.card(pair, language, verdict, button)
