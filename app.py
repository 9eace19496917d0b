"""The app: builds the page from lab/ui and serves it. ``python app.py``, then open http://localhost:7860."""

from __future__ import annotations

import os
from typing import Any

import gradio as gr
from starlette.middleware import Middleware

from lab import backup
from lab.ui import api, bilingual, chat, checklist, compare, filter, generate, header, job, publish, runs, train
from lab.ui.page import QUIET, Page
from lab.ui.shared import Guests
from lab.ui.texts import say
from lab.ui.theme import CSS, HEAD, theme

TABS = {"generate": generate, "filter": filter, "train": train, "compare": compare, "publish": publish, "chat": chat}

SPINS = "5000"
"""How often a thread of a model looks whether the others are done before it sleeps (GOMP_SPINCOUNT). Two that write at once,
a job and a chat, otherwise spend the cores on waiting for each other; alone it costs a little (bench/sharing.py)."""
CACHE = (3600, 24 * 3600)
"""Seconds between two looks for, and age of, uploaded and downloaded files that are removed."""


def translated(page: Page, language: str) -> list[Any]:
    """The labels of every component in ``language``."""
    return [gr.update(**words(language)) for _, words in page.labels]


def build() -> bilingual.Bilingual:
    """The whole page."""
    with bilingual.Bilingual(
        title=f"{say('title', 'ko')} · {say('title', 'en')}", analytics_enabled=False, delete_cache=CACHE
    ) as demo:
        page = header.build()
        with page.drawers:
            runs.build(page)
            checklist.build(page)
        outputs, look = job.build(page)
        with gr.Tabs():
            for name, tab in TABS.items():
                with page.label(gr.Tab(say(name, "ko"), id=name, elem_id=f"tab-{name}"), label=name):
                    tab.build(page)
        demo.words = [*page.labels, *page.first]
        again = job.bind(page, outputs, look)
        targets = [component for component, _ in page.labels]
        gr.on([demo.load, page.language.change], None, page.language, None, js=bilingual.speak())
        page.language.input(None, page.language, None, js=bilingual.REMEMBER)
        page.language.change(lambda language: translated(page, language), page.language, targets, **QUIET)
        demo.load(header.opened, None, [page.language, *page.taken, page.whose], **QUIET).then(*again, **QUIET)
        api.build()
    return demo


def launch(demo: gr.Blocks, **where: Any) -> Any:
    """Serve the page, and fetch the copied runs back where there are copies; ``where`` goes to Gradio's launch."""
    backup.keep()
    os.environ.setdefault("GOMP_SPINCOUNT", SPINS)  # for the workers too; read when torch is first imported
    return demo.queue(default_concurrency_limit=4, max_size=200).launch(
        theme=theme(),
        css=CSS,
        head=HEAD + bilingual.HEAD,
        run_history=False,
        footer_links=[],
        ssr_mode=False,
        max_file_size="200mb",
        app_kwargs={"middleware": [Middleware(Guests), Middleware(bilingual.Languages)]},
        **where,
    )


if __name__ == "__main__":
    launch(
        build(),
        server_name="0.0.0.0" if os.environ.get("SPACE_ID") else "127.0.0.1",
        server_port=int(os.environ.get("PORT") or os.environ.get("GRADIO_SERVER_PORT") or 7860),
    )
