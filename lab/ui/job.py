"""The job panel: what the worker is doing, time left, stop and go on; one look that a reload re-attaches to."""

from __future__ import annotations

import logging
from html import escape
from typing import Any

import gradio as gr

from lab import jobs
from lab.config import STAGES
from lab.problems import Problem
from lab.run import Run
from lab.ui import shared
from lab.ui.page import ACT, QUIET, Page, find, needed, notice
from lab.ui.texts import LANGUAGES, say

LOG = logging.getLogger(__name__)
SECONDS = 1.5
"""Between two looks."""
NOW = ("model", "judged", "timed")
"""What a comparison tells of itself: whom it is measuring, and how."""


def steps(run: Run | None, language: str, job: jobs.Job | None = None) -> str:
    """The five stages with their states, each a link to its tab; the one at work or cut off shows that instead."""
    cells = []
    for stage in STAGES:
        state = run.state(stage) if run else "empty"
        if job and job.stage == stage and job.state in ("running", "failed", "died"):
            state = job.state
        words = say(f"short_{state}" if state in ("running", "failed", "died") else f"state_{state}", language)
        cells.append(
            f'<button type="button" class="step is-{state}" data-go="{stage}"><i aria-hidden="true"></i>{say(stage, language)} <small>{words}</small></button>'
        )
    return f'<div class="steps">{"".join(cells)}</div>'


def duration(seconds: float, language: str) -> str:
    """Time in words, coarse."""
    if seconds >= 90:
        return say("minutes", language, n=round(seconds / 60))
    return say("seconds", language, n=max(1, round(seconds)))


def panel(job: jobs.Job, language: str) -> str:
    """The job in words with a bar."""
    words = (
        say("job_" + job.state, language, place=job.place)
        if job.state == "waiting"
        else say("job_" + job.state, language)
    )
    stage = say(job.stage, language) if job.stage in (*STAGES, "preview", "check", "export") else ""
    left, bar, small, now = "", "", "", ""
    if job.state in jobs.GOING:
        share = 100 * (job.done + job.under_way) / job.total if job.total else 0
        left = f"{job.done:,} / {job.total:,}" if job.total else say("starting", language)
        if job.seconds_left:
            left += " · " + say("left", language, time=duration(job.seconds_left, language))
        bar = f'<div class="bar" role="progressbar" aria-valuenow="{share:.0f}" aria-valuemin="0" aria-valuemax="100"><b style="width:{share:.1f}%"></b></div>'
        now = "".join(_small(say(f"now_{k}", language, names=job.facts[k])) for k in NOW if job.facts.get(k))
    if job.state == "failed" and job.error:
        small = job.error.get(language, "")
    elif job.state == "died":
        small = job.last_line
    elif job.note and job.state != "idle":
        small = job.note.get(language, "")
    title = f"<b>{stage}</b> · {words}" if stage else words
    below = now + (_small(small) if small else "")
    return f'<div class="job {job.state}" role="status"><div class="line"><span>{title}</span><span>{left}</span></div>{bar}{below}</div>'


def _small(text: str) -> str:
    return f'<div class="small">{escape(text)}</div>'


def build(page: Page) -> tuple[list[Any], Any]:
    """Make the panel; returns (its outputs, its look function) for ``bind``."""
    strip = gr.HTML(elem_id="strip")
    with gr.Row(equal_height=True, elem_id="job"):
        with gr.Column(scale=5, min_width=260):
            text = gr.HTML()
        stop = page.label(
            gr.Button("", variant="stop", visible=False, scale=1, min_width=110, elem_id="stop"), value="stop"
        )
        go_on = page.label(gr.Button("", visible=False, scale=1, min_width=110, elem_id="go-on"), value="go_on")
    page.first += [
        (strip, lambda lang: {"value": steps(None, lang)}),
        (text, lambda lang: {"value": panel(jobs.Job(), lang)}),
    ]

    def look(run_id: str | None, language: str) -> list[Any]:
        run = find(run_id)
        try:
            job = jobs.look(run) if run else jobs.Job()
        except Problem as problem:
            job = jobs.Job(state="failed", error={"en": problem.en, "ko": problem.ko})
        going = job.state in jobs.GOING
        again = job.state in ("stopped", "failed", "died") and bool(job.argv)
        return [steps(run, language, job), panel(job, language), gr.update(visible=going), gr.update(visible=again)]

    def ask_stop(run_id: str | None, language: str) -> None:
        jobs.stop(needed(run_id, language))
        notice(language, "stopping")

    def resume(run_id: str | None, language: str) -> None:
        run = needed(run_id, language)
        shared.admit(run)
        shared.allow_run(run, "")
        jobs.start(run, list(jobs.look(run).argv))

    chosen = [page.run, page.language]
    stop.click(ask_stop, chosen, None, **ACT)
    go_on.click(resume, chosen, None, **ACT)
    return [strip, text, stop, go_on], look


def bind(page: Page, outputs: list[Any], look: Any) -> Any:
    """Look at every tick and whenever run or language change, and draw the views whose files changed since the last look.

    Called after all tabs are built; returns the function and its components for the page's opening.
    """
    # Held on the server and changed in place: a look claims what it is about to draw, so that of several looks that set
    # out together (opening, the run's choice, a tick) one draws, and none comes late over what a visitor has chosen since.
    claims = gr.State({})
    inputs = [page.run, page.language, claims, *(x for view in page.views for x in view.inputs)]
    everything = [*outputs, *(x for view in page.views for x in view.outputs)]

    def look_again(run_id: str | None, language: str, claimed: dict[Any, str], *values: Any) -> list[Any]:
        run, rest = find(run_id), iter(values)
        given = [[next(rest) for _ in view.inputs] for view in page.views]
        stamps = [view.stamp(run, language) for view in page.views]
        changed = [i for i, stamp in enumerate(stamps) if claimed.get(i) != stamp]
        claimed.update((i, stamps[i]) for i in changed)
        drawn = {}
        shown = look(run_id, language)
        for i in changed:
            try:
                drawn[i] = page.views[i].fill(run_id, language, *given[i])
                continue
            except Problem as problem:
                said = {"en": problem.en, "ko": problem.ko}
            except Exception:
                # A file that reads but holds something else (a zip from anywhere) must not blank the other tabs.
                LOG.exception("a view of run %s failed", run_id)
                said = {lang: say("cannot_show", lang) for lang in LANGUAGES}
            stamps[i] = claimed[i] = ""  # so that the next tick looks again, and the message stays until it is mended
            shown[1] = panel(jobs.Job(state="failed", error=said), language)
        told = f"{run_id} {shown!r}"
        if claimed.get("panel") == told:
            shown = [gr.skip() for _ in shown]
        claimed["panel"] = told
        for i, view in enumerate(page.views):
            overtaken = claimed[i] != stamps[i]
            shown += [gr.skip() for _ in view.outputs] if i not in drawn or overtaken else drawn[i]
        return shown

    gr.on([gr.Timer(SECONDS).tick, page.run.change, page.language.change], look_again, inputs, everything, **QUIET)
    return look_again, inputs, everything
