"""The header: title, language, the run at hand with the state of every stage, a new run, and the whole job in one button."""

from __future__ import annotations

import os
import sys
import threading
import time
from functools import lru_cache
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from lab import backup, example, jobs
from lab.config import PRESETS, STAGES
from lab.problems import Problem
from lab.run import Run, home, new_run, runs
from lab.ui import bilingual, shared
from lab.ui.page import ACT, QUIET, Page, find, needed, notice
from lab.ui.texts import say

_LISTING = threading.Lock()
DROP = (
    '<svg viewBox="0 0 24 24" width="26" height="26" aria-hidden="true" style="display:inline-block;vertical-align:-4px;margin-right:.35rem">'
    '<path d="M12 2C9 7 5 10.5 5 15a7 7 0 0 0 14 0c0-4.5-4-8-7-13z" fill="#a8502f"/>'
    '<path d="M8.5 15a3.5 3.5 0 0 0 3.5 3.5" fill="none" stroke="#fff" stroke-width="1.6" stroke-linecap="round"/></svg>'
)
"""The mark of the app: what comes out of a still."""

MARKS = {"empty": "○", "partial": "◐", "done": "●", "stale": "◌"}
"""A stage's state as one sign, in the list of runs."""
TRY_PAIRS = 60
"""Pairs of the first try: enough to see every stage at work within minutes on two CPU cores."""


def title(language: str) -> str:
    """The masthead."""
    return f'<div class="masthead"><h1>{DROP}{say("title", language)}</h1><p>{say("subtitle", language)}</p></div>'


def welcome(language: str) -> str:
    """What distillation is, in three sentences."""
    steps = "".join(f"<li>{say(f'welcome_{i}', language)}</li>" for i in (1, 2, 3))
    return f'<div class="welcome"><h2>{say("welcome", language)}</h2><ol>{steps}</ol></div>'


def needs(preset: str, language: str) -> str:
    """What a preset asks of time, memory and network, in plain words, and what of it is missing here."""
    lacking = "".join(f"<li>{say(key, language)}</li>" for key in missing(preset))
    words = say("needs_" + preset.replace("-", "_"), language)
    return f'<div class="needs"><b>{escape(preset)}</b> {words}{f"<ul>{lacking}</ul>" if lacking else ""}</div>'


def missing(preset: str) -> list[str]:
    """Keys of the texts that say what this machine lacks for the preset; seen without opening torch."""
    if preset == "mini":
        return []
    return [
        key
        for key, here in (
            ("no_gpu", Path("/dev/nvidia0").exists() or sys.platform == "darwin"),
            ("no_network", os.environ.get("LAB_OFFLINE") != "1"),
            ("no_key", preset != "api" or bool(os.environ.get("OPENAI_API_KEY"))),
        )
        if not here
    ]


def kept(language: str) -> str:
    """On a shared Space: whose runs these are and how long they last."""
    if not shared.shared():
        return ""
    whose = say("space_guest" if shared.guest() else "space_user", language, n=shared.GUEST_RUNS)
    if backup.repo():
        copies = backup.last()
        fault = copies["fault"] and escape(copies["fault"][language])
        last = say("space_copied", language, n=backup.PAUSE // 60)
        last += f" {say('space_copy_fault', language, why=fault)}" if fault else ""
    else:
        last = say("space_kept" if os.environ.get("LAB_HOME") else "space_lost", language)
    return f'<p class="about">{whose} {last}</p>'


def glance(run: Run, language: str) -> str:
    """A run's title with the state of its stages and, while one is going or has ended badly, its job."""
    job = jobs.look(run).state
    marks = "".join(MARKS[run.state(stage)] for stage in STAGES)
    words = f" · {say('short_' + job, language)}" if job in (*jobs.GOING, "failed", "died") else ""
    return f"{run.meta().get('title', run.id)}  {marks}{words}"


def choices(language: str) -> list[tuple[str, str]]:
    """All runs of who asks, newest first."""
    found = []
    for run in runs(shared.owner()):
        try:
            found.append((glance(run, language), run.id))
        except Problem:  # a broken run.json or job.json must not hide the other runs
            found.append((f"{run.id} · {say('short_failed', language)}", run.id))
    return found


def lately(language: str) -> list[tuple[str, str]]:
    """``choices`` of the last second: thirty who share an app need not each ask the files how every run stands."""
    with _LISTING:
        return _choices_at(int(time.monotonic()), home(), shared.owner(), language)


@lru_cache(maxsize=64)
def _choices_at(_second: int, _home: Path, _owner: str, language: str) -> list[tuple[str, str]]:
    return choices(language)


def build() -> Page:
    """Make the header; the page that the tabs are built on."""
    with gr.Row(elem_id="head"):
        with gr.Column(scale=4, min_width=260):
            head = gr.HTML()
        with gr.Column(scale=1, min_width=180):
            language = gr.Radio(
                [("한국어", "ko"), ("English", "en")],
                label="언어 · Language",
                container=False,
                min_width=180,
                elem_id="language",
            )
            if shared.shared():
                gr.LoginButton("Hugging Face 로그인 · Sign in", size="sm")
    with gr.Column(elem_id="greeting", visible=False) as greeting:
        hello = gr.HTML()
        with gr.Row():
            try_it = gr.Button("", variant="primary", elem_id="try", min_width=200)
            see = gr.Button("", elem_id="example", min_width=200, visible=example.FILE.exists())
    with gr.Row(equal_height=True, elem_id="bar"):
        run = gr.Dropdown([], scale=3, min_width=240, elem_id="run")
        pairs = gr.Number(200, precision=0, scale=1, min_width=100, elem_id="whole-pairs")
        whole = gr.Button("", variant="primary", scale=1, min_width=170, elem_id="whole")
    whose = gr.HTML(visible=shared.shared())
    page = Page(run, language, drawers=gr.Row(elem_id="drawers"))
    page.whose = whose
    page.label(hello, lambda lang: {"value": welcome(lang)})
    page.label(try_it, value="try_it")
    page.label(see, value="see_example")
    page.label(head, lambda lang: {"value": title(lang)})
    page.label(run, label="run", info="run_info")
    page.label(pairs, label="whole_pairs", info="whole_info")
    page.label(whole, value="whole")
    with page.drawers, page.label(gr.Accordion("", open=False, elem_id="new-run"), label="new_section") as drawer:
        with gr.Row(equal_height=True):
            preset = page.label(gr.Dropdown(list(PRESETS), value="mini", scale=2, elem_id="preset"), label="preset")
            named = page.label(
                gr.Textbox(max_length=120, scale=2, elem_id="new-title"), label="new_title", placeholder="new_hint"
            )
            new = page.label(gr.Button("", scale=1, min_width=150, elem_id="new"), value="new")
        words = gr.HTML(elem_id="needs")
    page.taken = [run, greeting, pairs]
    page.first += [
        (language, lambda lang: {"value": lang}),
        (words, lambda lang: {"value": needs(preset.value, lang)}),
    ]

    def make(preset_name: str, name: str, lang: str) -> list[Any]:
        made = created(preset_name, name)
        notice(lang, "made", title=made.meta()["title"])
        return ["", *chosen(made.id, lang), gr.update(open=False)]

    def everything(run_id: str | None, lang: str, count: float) -> None:
        start_whole(needed(run_id, lang), int(count or 200), lang)

    def first(lang: str) -> list[Any]:
        made = created("mini", say("try_title", lang))
        start_whole(made, TRY_PAIRS, lang)
        return chosen(made.id, lang)

    def shown(lang: str) -> list[Any]:
        shared.slow_down()
        shared.room()
        made = example.take(shared.owner(), say("example_title", lang))
        return chosen(made.id, lang)

    new.click(make, [preset, named, language], [named, *page.taken, drawer], **ACT)
    try_it.click(first, language, page.taken, **ACT)
    see.click(shown, language, page.taken, **ACT)
    whole.click(everything, [run, language, pairs], None, **ACT)
    gr.on([preset.change, language.change], needs, [preset, language], words, **QUIET)
    language.change(kept, language, whose, **QUIET)
    run.input(planned, run, pairs, **QUIET)
    page.show(
        lambda at, lang: [gr.update(choices=lately(lang))],
        [run],
        lambda at: ["\n".join(label for label, _ in lately("en"))],
    )
    return page


def created(preset: str, name: str) -> Run:
    """A new run of who asks, within a guest's limit."""
    shared.slow_down()
    shared.room()
    return new_run(preset, name, shared.owner())


def chosen(run_id: str | None, language: str) -> list[Any]:
    """The run's drop-down with this run chosen, the greeting as long as there is none, and how many pairs it plans.

    All at once: a number that came after the run would come over what its visitor has typed since.
    """
    _choices_at.cache_clear()  # or the next look would not know a run that has just been made
    found = choices(language)
    ids = [value for _, value in found]
    at = run_id if run_id in ids else next(iter(ids), None)
    return [gr.update(choices=found, value=at), gr.update(visible=not ids), planned(at)]


def planned(run_id: str | None) -> Any:
    """How many pairs the run plans."""
    run = find(run_id)
    try:
        return run.config("generate").pairs if run else gr.skip()
    except Problem:
        return gr.skip()


def start_whole(run: Run, pairs: int, language: str) -> None:
    """Generate, filter, train, compare in a worker."""
    shared.admit(run)
    for stage in ("generate", "filter", "train", "compare"):
        changes = {"pairs": pairs} if stage == "generate" else {}
        shared.allow(run.config(stage, "distilled" if stage == "train" else "", **changes))
    shared.allow_run(run, "")
    jobs.start(run, ["run", run.id, "--pairs", str(pairs), "--json"])
    notice(language, "started")


def opened(request: gr.Request) -> list[Any]:
    """When the page opens: the visitor's language, the runs, the newest one (or ``?run=``) chosen."""
    language = bilingual.chosen(request.headers)
    return [language, *chosen(request.query_params.get("run"), language), kept(language)]
