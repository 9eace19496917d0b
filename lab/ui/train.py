"""The Train tab: one arm of the student, its learning curve while it learns."""

from __future__ import annotations

from typing import Any

import gradio as gr

from lab.config import preset_config
from lab.records import read_rows
from lab.run import Run
from lab.ui import charts, form, story
from lab.ui.page import Page
from lab.ui.texts import say


def build(page: Page) -> None:
    """Make the tab."""
    page.about("about_train")
    form.build(page, "train", preset_config("train", "mini"))
    arm = page.label(gr.Dropdown([], allow_custom_value=True, visible=False), label="arm")
    counts = gr.HTML()
    curve = gr.Plot(show_label=False, visible=False)
    page.show(
        view,
        [arm, counts, curve],
        lambda run: [run.stage_folder("train", a) / "log.jsonl" for a in run.arms()],
        (arm,),
    )


def view(run: Run | None, language: str, arm: str | None = None) -> list[Any]:
    """The arms to choose from, the newest numbers, and the curve."""
    arms = run.arms() if run else []
    if run is None or not arms:
        return [gr.update(visible=False), story.empty("empty_train", language), gr.update(visible=False)]
    chosen = arm if arm in arms else arms[-1]
    rows = list(read_rows(run.stage_folder("train", chosen) / "log.jsonl"))
    choice = gr.update(choices=arms, value=chosen, visible=len(arms) > 1)
    if not rows:
        return [choice, story.empty("empty_train", language), gr.update(visible=False)]
    newest: dict[str, Any] = {}
    for row in rows:
        newest |= {k: v for k, v in row.items() if v is not None}
    items = [(f"{newest.get('step', 0):,.0f}", say("steps", language))]
    items += [(f"{newest[k]:.3f}", say(k, language)) for k in ("loss", "eval_loss") if k in newest]
    if "learning_rate" in newest:
        items.append((f"{newest['learning_rate']:.2g}", say("learning_rate", language)))
    return [choice, story.facts(items), gr.update(value=charts.loss_curve(rows, language), visible=True)]
