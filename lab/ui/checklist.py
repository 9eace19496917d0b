"""The drawer with the eight checks before a student goes out, each with a link to the tab that mends it."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from lab import checklist
from lab.config import STAGES
from lab.run import Run
from lab.ui import story
from lab.ui.page import Page
from lab.ui.texts import say


def build(page: Page) -> None:
    """Make the drawer; its head counts what is in order."""
    with gr.Accordion("", open=False, elem_id="checklist") as drawer:
        listed = gr.HTML()
    page.first.append((drawer, lambda lang: {"label": say("checklist", lang)}))
    page.show(view, [drawer, listed], files)


def files(run: Run) -> list[Path]:
    """What ends a stage; the growing files of a stage at work are not read at every look."""
    done = [run.stage_folder(stage) / "done.json" for stage in STAGES if stage != "train"]
    done += [run.stage_folder("train", arm) / "done.json" for arm in run.arms()]
    return [*done, run.reviews_file, run.report_file, run.stage_folder("generate") / "config.json"]


def view(run: Run | None, language: str) -> list[Any]:
    """The head of the drawer and the list."""
    if run is None:
        return [gr.update(label=say("checklist", language)), story.empty("no_run", language)]
    items = checklist.check(run)
    good = sum(i.state == "ok" for i in items)
    rows = "".join(_row(i, language) for i in items)
    head = say("checklist_head", language, good=good, total=len(items))
    return [gr.update(label=head), f'<ul class="checks">{rows}</ul>']


def _row(item: checklist.Item, language: str) -> str:
    value, target = item.said(language)
    goal = f"{say('target', language)}: {target}"
    return (
        f'<li class="{item.state}"><b>{say("check_" + item.name, language)}</b>'
        f'<span class="state">{say("check_state_" + item.state, language)}</span>'
        f'<span class="value">{escape(value) or "–"}</span><small>{escape(goal)}</small>'
        f"<p>{say('why_' + item.name, language)}</p>"
        f'<button type="button" class="go" data-go="{item.tab}">{say("go_to", language, tab=say(item.tab, language))}</button></li>'
    )
