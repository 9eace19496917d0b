"""The header: title, language, the run at hand, a new run, and the whole job in one button."""

from __future__ import annotations

from typing import Any

import gradio as gr

from lab import jobs
from lab.config import PRESETS
from lab.problems import Problem
from lab.run import new_run, runs
from lab.ui.page import ACT, QUIET, Page, find, needed, told
from lab.ui.texts import preferred, say

DROP = (
    '<svg viewBox="0 0 24 24" width="26" height="26" aria-hidden="true" style="display:inline-block;vertical-align:-4px;margin-right:.35rem">'
    '<path d="M12 2C9 7 5 10.5 5 15a7 7 0 0 0 14 0c0-4.5-4-8-7-13z" fill="#a8502f"/>'
    '<path d="M8.5 15a3.5 3.5 0 0 0 3.5 3.5" fill="none" stroke="#fff" stroke-width="1.6" stroke-linecap="round"/></svg>'
)
"""The mark of the app: what comes out of a still."""


def title(language: str) -> str:
    """The masthead."""
    return f'<div class="masthead"><h1>{DROP}{say("title", language)}</h1><p>{say("subtitle", language)}</p></div>'


def welcome(language: str) -> str:
    """What distillation is and what to press first."""
    return f'<div class="welcome"><p>{say("welcome", language)}</p><p><b>{say("welcome_next", language)}</b></p></div>'


def choices() -> list[tuple[str, str]]:
    """All runs by title, newest first."""
    return [(run.meta().get("title", run.id), run.id) for run in runs()]


def build() -> Page:
    """Make the header; the page that the tabs are built on."""
    with gr.Row():
        with gr.Column(scale=4, min_width=260):
            head = gr.HTML(title("ko"))
        language = gr.Radio(
            [("한국어", "ko"), ("English", "en")],
            value="ko",
            label="언어 · Language",
            container=False,
            scale=1,
            min_width=180,
            elem_id="language",
        )
    with gr.Row(equal_height=True):
        run = gr.Dropdown([], scale=3, min_width=240, elem_id="run")
        pairs = gr.Number(200, minimum=1, maximum=50_000, precision=0, scale=1, min_width=100)
        whole = gr.Button("", variant="primary", scale=1, min_width=170, elem_id="whole")
    page = Page(run, language)
    hello = page.label(gr.HTML(welcome("ko")), lambda lang: {"value": welcome(lang)})
    page.label(head, lambda lang: {"value": title(lang)})
    page.label(run, label="run")
    page.label(pairs, label="whole_pairs")
    page.label(whole, value="whole")
    with (
        page.label(gr.Accordion("", open=False, elem_id="new-run"), label="new_section") as drawer,
        gr.Row(equal_height=True),
    ):
        preset = page.label(gr.Dropdown(list(PRESETS), value="mini", scale=2), label="preset", info="preset_info")
        named = page.label(gr.Textbox(max_length=120, scale=2), label="new_title", placeholder="new_hint")
        new = page.label(gr.Button("", scale=1, min_width=150, elem_id="new"), value="new")

    def make(preset_name: str, name: str, lang: str) -> list[Any]:
        try:
            made = new_run(preset_name, name.strip())
        except Problem as problem:
            raise told(problem, lang) from None
        gr.Info(say("made", lang, title=made.meta()["title"]), title=say("notice", lang))
        return [gr.update(choices=choices(), value=made.id), "", gr.update(visible=False), gr.update(open=False)]

    def everything(run_id: str | None, lang: str, count: float) -> None:
        at = needed(run_id, lang)
        try:
            jobs.start(at, ["run", at.id, "--pairs", str(int(count or 200)), "--json"])
        except Problem as problem:
            raise told(problem, lang) from None
        gr.Info(say("started", lang), title=say("notice", lang))

    def planned(run_id: str | None) -> Any:
        at = find(run_id)
        try:
            return at.config("generate").pairs if at else gr.skip()
        except Problem:
            return gr.skip()

    new.click(make, [preset, named, language], [run, named, hello, drawer], **ACT)
    whole.click(everything, [run, language, pairs], None, **ACT)
    run.change(planned, run, pairs, **QUIET)
    page.greeting = hello
    page.drawer = drawer
    return page


def opened(request: gr.Request) -> list[Any]:
    """When the page opens: the browser's language, the runs, the newest one (or ``?run=``) chosen."""
    found = choices()
    ids = [value for _, value in found]
    asked = request.query_params.get("run", "")
    chosen = asked if asked in ids else next(iter(ids), None)
    return [
        preferred(request.headers.get("accept-language", "")),
        gr.update(choices=found, value=chosen),
        gr.update(visible=not ids),
        gr.update(open=not ids),
    ]
