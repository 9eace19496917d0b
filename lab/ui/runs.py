"""The drawer that manages runs: rename, duplicate, delete with undo, zip out and in."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import gradio as gr

from lab import archive, jobs
from lab.run import Run
from lab.ui import header, shared
from lab.ui.page import ACT, QUIET, Page, find, needed, notice
from lab.ui.texts import say

GUEST_BYTES = 200_000_000
"""Unpacked size of a zip that a visitor of a shared Space brings."""
ZIPS_LAST = 3600
"""Seconds that a packed zip waits for its download."""


def build(page: Page) -> None:
    """Make the drawer. What makes a run out of nothing (a zip, a deleted run) is there without a run, too: after a restart
    that lost everything it is the way back."""
    with page.label(gr.Accordion("", open=False, elem_id="manage"), label="manage"):
        with gr.Column(visible=False, elem_id="run-at-hand") as at_hand:
            with gr.Row(equal_height=True):
                name = page.label(
                    gr.Textbox(max_length=120, scale=3, min_width=200, elem_id="title"), label="title_of_run"
                )
                rename = page.label(gr.Button("", scale=1, min_width=110, elem_id="rename"), value="rename")
            with gr.Row():
                copy = page.label(gr.Button("", min_width=110, elem_id="duplicate"), value="duplicate")
                delete = page.label(gr.Button("", min_width=110, variant="stop", elem_id="delete"), value="delete")
                pack = page.label(gr.Button("", min_width=110, elem_id="pack"), value="zip_out")
            packed = page.label(gr.File(interactive=False, visible=False, elem_id="packed"), label="zip_ready")
        with gr.Row():
            unpack = page.label(
                gr.UploadButton("", file_types=[".zip"], min_width=110, elem_id="unpack"), label="zip_in"
            )
            undo = page.label(gr.Button("", min_width=110, visible=False, elem_id="undelete"), value="undelete")
    here = [page.run, page.language]
    rename.click(_renamed, [*here, name], page.taken, **ACT)
    copy.click(_duplicated, here, page.taken, **ACT)
    delete.click(_deleted, here, page.taken, **ACT)
    undo.click(_undone, page.language, page.taken, **ACT)
    pack.click(_packed, here, packed, **ACT)
    unpack.upload(_unpacked, [unpack, page.language], page.taken, **ACT)
    page.run.change(_titled, page.run, [name, packed], **QUIET)
    page.show(_possible, [at_hand, undo], lambda run: [str(archive.deleted(run.owner))])


def _possible(run: Run | None, language: str) -> list[Any]:
    """What can be managed: a run at hand, a deleted one."""
    return [gr.update(visible=run is not None), gr.update(visible=archive.deleted(shared.owner()) is not None)]


def _titled(run_id: str | None) -> list[Any]:
    run = find(run_id)
    return [run.meta().get("title", run.id) if run else "", gr.update(value=None, visible=False)]


def _renamed(run_id: str | None, language: str, title: str) -> list[Any]:
    run = needed(run_id, language)
    run.rename(title)
    return [*header.chosen(run.id, language)[:-1], gr.skip()]  # the number of pairs stays as it was typed


def _duplicated(run_id: str | None, language: str) -> list[Any]:
    run = needed(run_id, language)
    shared.slow_down()
    shared.room()
    _quiet(run, language)
    copy = archive.duplicate(run, say("copy_of", language, title=run.meta().get("title", run.id)))
    return header.chosen(copy.id, language)


def _deleted(run_id: str | None, language: str) -> list[Any]:
    run = needed(run_id, language)
    _quiet(run, language)
    archive.delete(run)
    notice(language, "deleted")
    return header.chosen(None, language)


def _undone(language: str) -> list[Any]:
    run = archive.undelete(shared.owner())
    return header.chosen(run.id, language)


def _packed(run_id: str | None, language: str) -> Any:
    run = needed(run_id, language)
    _quiet(run, language)
    place = Path(tempfile.gettempdir()) / "fairytale-zips"
    place.mkdir(exist_ok=True)
    for old in place.iterdir():
        if time.time() - old.stat().st_mtime > ZIPS_LAST:
            for file in old.iterdir():
                file.unlink()
            old.rmdir()
    path = archive.pack(run, Path(tempfile.mkdtemp(dir=place)))
    return gr.update(value=str(path), visible=True)


def _unpacked(path: str, language: str) -> list[Any]:
    shared.slow_down()
    shared.room()
    run = archive.unpack(Path(path), shared.owner(), GUEST_BYTES if shared.shared() else archive.MOST_BYTES)
    notice(language, "made", title=run.meta()["title"])
    return header.chosen(run.id, language)


def _quiet(run: Run, language: str) -> None:
    """Tell the visitor to stop a job first that is still writing into the run."""
    if jobs.look(run).state in jobs.GOING:
        raise gr.Error(say("stop_first", language), title=say("error", language), print_exception=False)
