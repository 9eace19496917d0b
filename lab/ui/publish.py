"""The Publish tab: the two cards exactly as they would be uploaded."""

from __future__ import annotations

import os
import re
from pathlib import Path

import gradio as gr

from lab.config import preset_config
from lab.run import Run
from lab.ui import form, story
from lab.ui.page import Page

FRONT_MATTER = re.compile(r"\A---\n(.*?)\n---\n", re.DOTALL)


def build(page: Page) -> None:
    """Make the tab. A shared Space would upload with its own token, so there the form can only preview."""
    page.about("about_publish")
    shared = bool(os.environ.get("SPACE_ID"))
    if shared:
        page.about("space_dry")
    form.build(page, "publish", preset_config("publish", "mini"), locked=shared, dry_run=True)
    empty = gr.HTML()
    made = []
    with gr.Tabs():
        for kind in ("dataset", "model"):
            with page.label(gr.Tab(""), label=f"{kind}_card"):
                made += [
                    gr.Markdown(elem_classes="card"),
                    gr.Code(language="yaml", show_label=False, interactive=False, visible=False),
                ]
    page.show(view, [empty, *made], lambda run: [run.publish_folder(k) / "README.md" for k in ("dataset", "model")])


def view(run: Run | None, language: str) -> list[object]:
    """Both cards as Markdown, each with its front matter below."""
    cards = [split(run.publish_folder(kind) / "README.md") if run else ("", "") for kind in ("dataset", "model")]
    found: list[object] = ["" if any(text for text, _ in cards) else story.empty("empty_publish", language)]
    for text, front in cards:
        found += [text, gr.update(value=front, visible=bool(front))]
    return found


def split(path: Path) -> tuple[str, str]:
    """(the card's text, its YAML front matter); two empty texts where there is no card."""
    if not path.exists():
        return "", ""
    text = path.read_text("utf-8")
    found = FRONT_MATTER.match(text)
    return (text[found.end() :], found[1]) if found else (text, "")
