"""The app: builds the page from lab/ui and serves it. ``python app.py``, then open http://localhost:7860."""

from __future__ import annotations

import os
from typing import Any

import gradio as gr

from lab.ui import chat, compare, filter, generate, header, job, publish, train
from lab.ui.page import QUIET, Page
from lab.ui.texts import say
from lab.ui.theme import CSS, theme

TABS = {"generate": generate, "filter": filter, "train": train, "compare": compare, "publish": publish, "chat": chat}


def translated(page: Page, language: str) -> list[Any]:
    """The labels of every component in ``language``."""
    return [gr.update(**words(language)) for _, words in page.labels]


def build() -> gr.Blocks:
    """The whole page."""
    with gr.Blocks(title=f"{say('title', 'ko')} · {say('title', 'en')}", analytics_enabled=False) as demo:
        page = header.build()
        outputs, look = job.build(page)
        with gr.Tabs():
            for name, tab in TABS.items():
                with page.label(gr.Tab(say(name, "ko"), id=name), label=name):
                    tab.build(page)
        # What a visitor sees before the first answer of the server is Korean already.
        for component, words in page.labels:
            for key, text in words("ko").items():
                setattr(component, key, text)
        again = job.bind(page, outputs, look)
        targets = [component for component, _ in page.labels]
        page.language.change(lambda language: translated(page, language), page.language, targets, **QUIET)
        demo.load(header.opened, None, [page.language, page.run, page.greeting, page.drawer], **QUIET).then(
            *again, **QUIET
        )
    return demo


if __name__ == "__main__":
    build().queue(default_concurrency_limit=4).launch(
        server_name="0.0.0.0" if os.environ.get("SPACE_ID") else "127.0.0.1",
        server_port=int(os.environ.get("PORT") or os.environ.get("GRADIO_SERVER_PORT") or 7860),
        theme=theme(),
        css=CSS,
        run_history=False,
        footer_links=[],
        ssr_mode=False,
    )
