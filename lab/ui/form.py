"""A stage's form, made from its knobs: fields, the command line that does the same, and the start button."""

from __future__ import annotations

import shlex
from dataclasses import fields
from functools import partial
from typing import Any

import gradio as gr

from lab import jobs
from lab.config import STAGES, StageConfig, as_flags, checked
from lab.problems import Problem
from lab.run import Run
from lab.ui import shared
from lab.ui.page import ACT, QUIET, Page, find, needed, notice
from lab.ui.texts import say

ENDED = {"failed": "failed", "died": "cut", "stopped": "cut"}
"""What a tab says of a job of its own that ended too early."""


def flags(config: StageConfig, base: StageConfig) -> list[str]:
    """The flags for ``config`` where the command line starts from ``base``: also those that go back to a default."""
    found = as_flags(config)
    for f in fields(config):
        value = getattr(config, f.name)
        if value == f.default and getattr(base, f.name) != value:
            name = f.name.replace("_", "-")
            found += [f"--no-{name}"] if isinstance(value, bool) else [f"--{name}={value}"]
    return found


def _standing(run: Run, stage: str) -> str:
    job, state = jobs.look(run), run.state(stage)
    if job.stage == stage and job.state in jobs.GOING:
        return "going"
    if job.stage == stage and state != "done" and job.state in ENDED:
        return ENDED[job.state]
    return "stale" if state == "stale" else ""


def standing(stage: str, run: Run | None, language: str) -> list[str]:
    """Above the form: that this stage is at work, failed or was cut off, or that what stands below is older than the
    stage before it."""
    state = _standing(run, stage) if run else ""
    return [f'<p class="standing {state}">{say(f"standing_{state}", language)}</p>' if state else ""]


def _field(page: Page, stage: str, knob: Any, value: Any) -> Any:
    """A number gets no bounds: Gradio refuses in English alone, ``checked`` in the visitor's language."""
    meta, named = knob.metadata, f"{stage}-{knob.name.replace('_', '-')}"
    if isinstance(knob.default, bool):
        made: Any = gr.Checkbox(value, elem_id=named)
    elif meta["choices"]:
        made = gr.Dropdown(list(meta["choices"]), value=value, elem_id=named)
    elif isinstance(knob.default, str):
        made = gr.Textbox(value, lines=meta["lines"], max_length=20_000, elem_id=named)
    elif isinstance(knob.default, float) and meta["high"] <= 5:
        if meta["step"] < 0.001:
            made = gr.Number(value, step=meta["step"], elem_id=named)
        else:
            made = gr.Slider(meta["low"], meta["high"], value=value, step=meta["step"], elem_id=named)
    else:
        whole = isinstance(knob.default, int)
        made = gr.Number(value, step=meta["step"], precision=0 if whole else None, elem_id=named)
    return page.label(made, lambda language: {"label": meta[language], "info": meta[f"help_{language}"] or None})


def build(
    page: Page,
    stage: str,
    preset: StageConfig,
    locked: bool = False,
    also: tuple[str, ...] = (),
    variants: dict[str, dict[str, Any]] | None = None,
    launcher: str = "",
    **always: Any,
) -> dict[str, Any]:
    """The form of ``stage``, filled from ``preset``; ``always`` holds values that the app fills in itself, ``locked`` for good; its fields.

    ``also`` names commands that take the same options and get a button beside the start, ``variants`` buttons that start
    the stage itself with some values changed. ``launcher`` is what starts the same command on several devices.
    """
    variants = variants or {}
    knobs = fields(STAGES[stage])
    made: dict[str, Any] = {}
    page.show(partial(standing, stage), [gr.HTML()], lambda run: [_standing(run, stage)])
    with page.label(gr.Accordion("", open=False), label="settings"):
        for more in (False, True):
            rest = [k for k in knobs if k.metadata["more"] is more]
            if not rest:
                continue
            with page.label(gr.Accordion("", open=False), label="more") if more else gr.Group():
                for at in range(0, len(rest), 3):
                    with gr.Row():
                        for knob in rest[at : at + 3]:
                            made[knob.name] = _field(
                                page, stage, knob, always.get(knob.name, getattr(preset, knob.name))
                            )
        command = page.label(
            gr.Textbox("", interactive=False, buttons=["copy"], elem_classes="command"), label="command"
        )
        lines = [command]
        if launcher:
            box = gr.Textbox("", interactive=False, buttons=["copy"], elem_classes="command")
            lines.append(page.label(box, label="command_many"))
        secret: list[Any] = []
        if "base_url" in made:
            box = gr.Textbox("", type="password", max_length=500, elem_id="endpoint-key")
            secret = [page.label(box, label="endpoint_key", info="endpoint_key_info")]
    with gr.Row():
        starts = {
            name: page.label(
                gr.Button(
                    "", variant="primary" if name == stage else "secondary", elem_id=f"start-{name}", min_width=160
                ),
                value=f"start_{name}",
            )
            for name in (*also, *variants, stage)
        }
    inputs = [made[k.name] for k in knobs]

    def settings(run: Run, values: tuple[Any, ...]) -> tuple[StageConfig, StageConfig]:
        """What the fields say, and what the command line would start from."""
        given = dict(zip((k.name for k in knobs), values, strict=True)) | (always if locked else {})
        base = run.config(stage, given["arm"]) if stage == "train" else run.config(stage)
        return checked(base, **given), base

    def configured(run: Run, values: tuple[Any, ...], command: str = stage) -> list[str]:
        return [command, run.id, *flags(*settings(run, values))]

    def line(run_id: str | None, *values: Any) -> Any:
        run = find(run_id)
        try:
            said = shlex.join(configured(run, values)) if run else f"{stage} RUN"
        except Problem:
            return [""] * len(lines) if launcher else ""
        return [f"python -m lab {said}", f"{launcher} {said}"] if launcher else f"python -m lab {said}"

    def begin(name: str, run_id: str | None, language: str, *given: Any) -> None:
        run = needed(run_id, language)
        command, changed = (stage, variants[name]) if name in variants else (name, {})
        values = tuple(changed.get(k.name, v) for k, v in zip(knobs, given, strict=False))
        key = "".join(given[len(inputs) :])
        shared.admit(run)
        shared.allow(settings(run, values)[0])
        shared.allow_run(run, stage)
        jobs.start(run, [*configured(run, values, command), "--json"], key)
        notice(language, "started")

    def stored(run_id: str | None) -> list[Any]:
        run = find(run_id)
        if run is None:
            return [gr.skip() for _ in knobs]
        try:
            config = (
                run.config(stage, next(iter(run.arms()[-1:]), "distilled")) if stage == "train" else run.config(stage)
            )
        except Problem:
            return [gr.skip() for _ in knobs]
        return [always.get(k.name, getattr(config, k.name)) for k in knobs]

    page.run.change(stored, page.run, inputs, **QUIET).then(line, [page.run, *inputs], lines, **QUIET)
    gr.on([x.input for x in inputs], line, [page.run, *inputs], lines, **QUIET)
    for name, button in starts.items():
        button.click(partial(begin, name), [page.run, page.language, *inputs, *secret], None, **ACT)
    return made
