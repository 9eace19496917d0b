"""The Chat tab: teacher and student tell the same story side by side."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import gradio as gr

from lab import domain
from lab.problems import Problem
from lab.run import Run
from lab.ui.page import QUIET, Page, find, needed, told
from lab.ui.texts import say

LONGEST = 2000
"""Characters of a request."""


def build(page: Page) -> None:
    """Make the tab."""
    page.about("about_chat")
    prompt = page.label(
        gr.Textbox(lines=2, max_length=LONGEST, elem_id="prompt"), label="prompt", placeholder="prompt_hint"
    )
    with gr.Row():
        send = page.label(gr.Button("", variant="primary", min_width=140), value="send")
        dice = page.label(gr.Button("", min_width=140), value="dice")
        stop = page.label(gr.Button("", min_width=100), value="stop")
        clear = page.label(gr.Button("", min_width=100), value="clear")
    with gr.Row():
        columns = [
            page.label(
                gr.Chatbot(height=420, min_width=300, buttons=["copy"], feedback_options=None),
                label=who,
                placeholder="chat_empty",
            )
            for who in ("teacher", "student")
        ]
    with gr.Row():
        notes = [gr.HTML(min_width=300), gr.HTML(min_width=300)]
    with page.label(gr.Accordion("", open=False), label="settings"), gr.Row():
        temperature = page.label(gr.Slider(0.0, 1.5, value=0.8, step=0.05), label="temperature")
        seed = page.label(gr.Number(0, minimum=0, maximum=2**31 - 1, precision=0), label="seed")

    going = gr.on(
        [send.click, prompt.submit],
        answer,
        [page.run, page.language, prompt, *columns, temperature, seed],
        [*columns, *notes],
        concurrency_id="chat",
        concurrency_limit=1,
        show_progress="hidden",
        api_name="chat",
    )
    stop.click(None, None, None, cancels=[going], api_visibility="private")
    dice.click(rolled, None, prompt, **QUIET)
    clear.click(lambda: ([], [], "", ""), None, [*columns, *notes], cancels=[going], **QUIET)
    page.show(
        names,
        columns,
        lambda run: [run.folder / "run.json", *(run.stage_folder("train", a) / "done.json" for a in run.arms())],
    )


def rolled() -> str:
    """A request from the grid."""
    return domain.prompts(1, random.randrange(2**31))[0].instruction


def speakers(run: Run) -> tuple[tuple[str, str], tuple[str, str]]:
    """(key of who it is, SPEC) of both columns: the teacher, and the newest finished arm or else the student base."""
    arms = run.finished_arms()
    student = (
        ("student", f"run:{run.id}/{arms[-1]}")
        if arms
        else ("base", run.config("train", next(iter(run.arms()[-1:]), "")).student)
    )
    return ("teacher", run.config("generate").teacher), student


def names(run: Run | None, language: str) -> list[Any]:
    """The columns' titles: who speaks, and which model that is."""
    if run is None:
        return [gr.update(label=say(k, language)) for k in ("teacher", "student")]
    return [gr.update(label=f"{say(who, language)} · {spec}") for who, spec in speakers(run)]


def answer(
    run_id: str | None,
    language: str,
    prompt: str,
    left: list[dict[str, Any]],
    right: list[dict[str, Any]],
    temperature: float,
    seed: float,
) -> Iterator[list[Any]]:
    """Ask both for the same story and stream both columns."""
    from lab import chat  # opens torch; only when somebody talks

    run = needed(run_id, language)
    if not prompt.strip():
        raise gr.Error(say("nothing_asked", language), title=say("error", language), print_exception=False)
    asked = [[*plain(history), {"role": "user", "content": prompt.strip()[:LONGEST]}] for history in (left, right)]
    yield [*asked, note(say("loading", language)), note(say("loading", language))]
    try:
        specs = [spec for _, spec in speakers(find(run.id) or run)]
        for said in chat.talk(specs, asked, float(temperature), int(seed or 0)):
            columns = [[*a, {"role": "assistant", "content": s.text or "…"}] for a, s in zip(asked, said, strict=True)]
            yield [*columns, *(note(numbers(s, language)) for s in said)]
    except Problem as problem:
        raise told(problem, language) from None


def plain(history: list[dict[str, Any]]) -> list[dict[str, str]]:
    """The conversation with each content as one text; Gradio hands it over as a list of blocks."""
    return [
        {
            "role": m["role"],
            "content": m["content"]
            if isinstance(m["content"], str)
            else "".join(b.get("text", "") for b in m["content"]),
        }
        for m in history
    ]


def numbers(said: Any, language: str) -> str:
    """First token, speed and length of an answer."""
    speed = said.tokens / said.seconds if said.seconds else 0.0
    parts = [
        say("first_token", language, n=f"{said.first or 0:.2f}"),
        say("speed", language, n=f"{speed:.0f}"),
        say("length", language, n=len(said.text)),
    ]
    return " · ".join(parts + ([say("cut_off", language)] if said.finish == "length" else []))


def note(text: str) -> str:
    """The small line below a column."""
    return f'<p class="count">{text}</p>'
