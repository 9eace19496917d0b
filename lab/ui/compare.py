"""The Compare tab: teacher, student before and student after as bars with intervals, and the whole table."""

from __future__ import annotations

from html import escape
from typing import Any

import gradio as gr

from lab.config import preset_config
from lab.records import read_json
from lab.run import Run
from lab.ui import charts, form, story
from lab.ui.page import Page
from lab.ui.texts import say

DRAWN = ("perplexity", "rule_pass_rate", "probes", "tokens_per_second")
MEASURES = ("perplexity", "bits_per_byte", "rule_pass_rate", "probes", "tokens_per_second", "size_bytes")


def build(page: Page) -> None:
    """Make the tab."""
    page.about("about_compare")
    form.build(page, "compare", preset_config("compare", "mini"))
    verdict = gr.HTML()
    plots = []
    for _ in range(0, len(DRAWN), 2):
        with gr.Row():
            plots += [gr.Plot(show_label=False, visible=False, min_width=300) for _ in range(2)]
    table = gr.HTML()
    page.show(view, [verdict, *plots, table], lambda run: [run.report_file])


def view(run: Run | None, language: str) -> list[Any]:
    """The verdict, one chart for each main measure, and the table."""
    report = read_json(run.report_file, {}) if run else {}
    models = report.get("models") or []
    if not models:
        return [story.empty("empty_compare", language), *(gr.update(visible=False) for _ in DRAWN), ""]
    said = (report.get("verdict") or {}).get(language, "")
    verdict = f'<div class="welcome"><b>{say("verdict", language)}</b> {escape(said)}</div>' if said else ""
    plots = [
        gr.update(value=charts.comparison(models, m, language), visible=any(x.get(m) for x in models)) for m in DRAWN
    ]
    return [verdict, *plots, table(models, language)]


def table(models: list[dict[str, Any]], language: str) -> str:
    """Every measure of every model, with its interval below."""
    head = "".join(
        f"<th>{escape(charts.name(m, language))}<small>{escape(str(m.get('name', '')))}</small></th>" for m in models
    )
    body = "".join(
        f"<tr><td>{say(measure, language)}</td>{''.join(f'<td>{_cell(m, measure)}</td>' for m in models)}</tr>"
        for measure in MEASURES
    )
    return f'<div class="scroll"><table class="measures"><tr><th>{say("measure", language)}</th>{head}</tr>{body}</table></div>'


def _cell(model: dict[str, Any], measure: str) -> str:
    if model.get(measure) is None:
        return "–"
    number = charts.value(model, measure)
    form_of = {
        "rule_pass_rate": "{:.0%}",
        "probes": "{:.0%}",
        "tokens_per_second": "{:,.0f}",
        "size_bytes": "{:.1f}",
    }.get(measure, "{:.3g}")
    if measure == "size_bytes":
        number /= 1e6
    text = form_of.format(number)
    bounds = charts.interval(model, measure)
    return text + (f"<small>{form_of.format(bounds[0])}–{form_of.format(bounds[1])}</small>" if bounds else "")
