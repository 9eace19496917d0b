"""The Generate tab: the teacher writes; its stories as cards."""

from __future__ import annotations

import gradio as gr

from lab.config import preset_config
from lab.run import Run
from lab.ui import form, story
from lab.ui.page import Page
from lab.ui.texts import say

SHELF = 12
"""Stories on one page."""


def build(page: Page) -> None:
    """Make the tab."""
    page.about("about_generate")
    form.build(page, "generate", preset_config("generate", "mini"))
    counts = gr.HTML()
    with gr.Row():
        search = page.label(gr.Textbox(max_length=200), label="search", info="search_info")
        number = page.label(gr.Number(1, minimum=1, precision=0, min_width=90, scale=0), label="page")
    shelf = gr.HTML()
    page.show(view, [counts, shelf], lambda run: [run.pairs_file], (search, number))


def view(run: Run | None, language: str, search: str = "", number: float = 1) -> list[str]:
    """Counts, and one page of stories, newest first."""
    pairs = list(run.pairs()) if run else []
    if not pairs:
        return ["", story.empty("empty_generate", language)]
    counts = story.facts(
        [
            (f"{len(pairs):,}", say("pairs", language)),
            (f"{sum(p.split == 'test' for p in pairs):,}", say("test_pairs", language)),
            (f"{len({p.character for p in pairs if p.character}):,}", say("characters", language)),
            (f"{sum(p.finish == 'length' for p in pairs):,}", say("truncated", language)),
        ]
    )
    found = [p for p in reversed(pairs) if not search or search in p.output or search in p.instruction]
    if not found:
        return [counts, story.empty("empty_match", language)]
    first = min(max(0, int(number or 1) - 1) * SHELF, (len(found) - 1) // SHELF * SHELF)
    shown = found[first : first + SHELF]
    where = say("page_of", language, found=f"{len(found):,}", first=first + 1, last=first + len(shown))
    return [counts, f'<p class="count">{where}</p>' + story.shelf([story.card(p, language) for p in shown])]
