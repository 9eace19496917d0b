"""The Train tab: arms side by side, what the chosen one is learning while it learns, and what it can become."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import lru_cache
from html import escape
from pathlib import Path
from typing import Any
from zipfile import ZIP_STORED, ZipFile

import gradio as gr

from lab import export, jobs
from lab.config import TrainConfig, checked, preset_config
from lab.problems import Problem
from lab.records import Pair, content_id, read_rows
from lab.run import Run, home
from lab.ui import form, shared, story
from lab.ui import train_charts as charts
from lab.ui.job import duration
from lab.ui.page import ACT, QUIET, Page, needed, notice
from lab.ui.texts import say
from lab.ui.theme import BLUE, GREEN, ORANGE

CONTROLS = {"unfiltered": {"arm": "unfiltered", "data": "unfiltered"}, "human": {"arm": "human", "data": "human"}}
"""What does skipping the filter cost, and how do stories by people compare?"""
NEWEST = "*"
"""Chosen at first: whichever arm is the newest, so the page follows a training that goes through several. No arm's name."""
PATIENCE = 180
"""Seconds for an estimate: loading the libraries on a busy machine, and counting tokens."""
WATCHED = ("learning_rate", "grad_norm", "tokens_per_second", "memory")


def build(page: Page) -> None:
    """Make the tab."""
    page.about("about_train")
    fields = form.build(
        page,
        "train",
        preset_config("train", "mini"),
        also=("exercise",),
        variants=CONTROLS,
        launcher="accelerate launch --config_file launch/ddp.yaml -m lab",
    )
    page.about("about_arms")
    _build_estimate(page, fields)
    arms = gr.HTML()
    with gr.Row():
        arm = page.label(
            gr.Dropdown([NEWEST], value=NEWEST, allow_custom_value=True, visible=False, min_width=260, elem_id="arm"),
            label="look_at",
        )
        beside = page.label(
            gr.Dropdown(
                [], multiselect=True, allow_custom_value=True, visible=False, min_width=260, elem_id="arms-beside"
            ),
            label="arms_beside",
            info="arms_beside_info",
        )
    counts = gr.HTML()
    curve = gr.Plot(show_label=False, visible=False)
    with gr.Row():
        plots = [gr.Plot(show_label=False, visible=False, min_width=300) for _ in WATCHED[:2]]
    with gr.Row():
        plots += [gr.Plot(show_label=False, visible=False, min_width=300) for _ in WATCHED[2:]]
    far = page.label(
        gr.Slider(0, 100, value=100, step=1, visible=False, elem_id="progress-of-answers"),
        label="answers_at",
        info="answers_at_info",
    )
    answered = gr.HTML(elem_id="told-at")
    drawer = page.label(gr.Accordion("", open=False, visible=False, elem_id="after"), label="after_section")
    with drawer:
        made = _build_after(page, arm)
    page.show(ledger, [arm, beside, arms], _files_of_arms, (arm,))
    page.show(live, [counts, curve, *plots], _files_of_arms, (arm, beside))
    page.show(told_at, [far, answered], lambda run: [_folder(run, a) / "answers.jsonl" for a in run.arms()], (arm, far))
    page.show(
        after,
        [drawer, *made],
        lambda run: [_folder(run, a) / n for a in run.arms() for n in ("done.json", "export.json", "inputs.json")],
        (arm,),
    )


def _folder(run: Run, arm: str) -> Path:
    return run.stage_folder("train", arm)


def _files_of_arms(run: Run) -> list[Path]:
    names = ("config.json", "log.jsonl", "done.json")
    return [run.job_file, run.pairs_file, run.verdicts_file, *(_folder(run, a) / n for a in run.arms() for n in names)]


def chosen(run: Run, arm: str | None) -> str:
    """The arm that a person chose, else the newest one, which is the one that is learning."""
    arms = run.arms()
    return arm if arm in arms else arms[-1] if arms else ""


def logged(run: Run, arm: str) -> tuple[dict[str, Any], ...]:
    """The arm's log as it stands."""
    path = _folder(run, arm) / "log.jsonl"
    try:
        facts = path.stat()
    except FileNotFoundError:
        return ()
    return _read(path, facts.st_mtime_ns, facts.st_size)


@lru_cache(maxsize=16)
def _read(path: Path, changed: int, size: int) -> tuple[dict[str, Any], ...]:
    """Rows of a file; finished arms do not change, and every visitor looks at all of them."""
    return tuple(read_rows(path))


def ledger(run: Run | None, language: str, arm: str | None = NEWEST) -> list[Any]:
    """The two choices of arms, and a row for every arm."""
    arms = run.arms() if run else []
    if run is None or not arms:
        hidden = gr.update(visible=False)
        return [hidden | {"value": NEWEST}, hidden | {"value": []}, story.empty("empty_train", language)]
    choice = gr.update(choices=[(say("newest_arm", language), NEWEST), *((a, a) for a in arms)], visible=len(arms) > 1)
    if arm not in (NEWEST, *arms):
        choice |= {"value": NEWEST}
    others = gr.update(choices=arms, visible=len(arms) > 1)
    return [choice, others, arms_table(run, arms, language)]


COLUMNS = ("arm", "method", "data", "keep_top", "pairs", "steps", "eval_loss", "time", "trainable")


def arms_table(run: Run, arms: list[str], language: str) -> str:
    """Every arm with what it learned from and what came of it; notes of its training below it."""
    rows = {arm: _row(run, arm, language) for arm in arms}
    known = [row["unseen"] for row in rows.values() if row["unseen"] is not None]
    head = "".join(f"<th>{say(c, language)}</th>" for c in COLUMNS)
    body = ""
    for row in rows.values():
        best = row["unseen"] is not None and len(known) > 1 and row["unseen"] == min(known)
        cells = [f"<b>{c}</b>" if best and name == "eval_loss" else c for name, c in zip(COLUMNS, row["cells"], strict=True)]  # fmt: skip
        body += f"<tr>{''.join(f'<td>{c}</td>' for c in cells)}</tr>"
        body += "".join(
            f'<tr class="note"><td colspan="{len(COLUMNS)}">{escape(note)}</td></tr>' for note in row["notes"]
        )
    return f'<div class="scroll"><table class="measures arms"><tr>{head}</tr>{body}</table></div>'


def _row(run: Run, arm: str, language: str) -> dict[str, Any]:
    config, done, rows = run.config("train", arm), run.done("train", arm), logged(run, arm)
    assert isinstance(config, TrainConfig)
    job = jobs.look(run)
    if done:
        state = "done" if done["inputs"] == run.inputs_hash("train") else "stale"
        chip = "good" if state == "done" else "bad"
        said = say(f"state_{state}", language)
    elif arm == run.arms()[-1] and job.state == "running" and job.stage == "train":
        chip, said = "", say("short_running", language)
    else:
        chip, said = "bad", say("state_partial", language)
    unseen = (done or {}).get("eval_loss") or next((r["eval_loss"] for r in rows[::-1] if "eval_loss" in r), None)
    reached = {
        "steps": max((r.get("step", 0) for r in rows), default=0),
        "seconds": sum(r.get("seconds", 0) for r in rows if "loss" in r),
    }
    facts = reached | (done or {})
    share = facts.get("trainable", 0) / facts["parameters"] if facts.get("parameters") else None
    cells = [
        f'{escape(arm)}<small><span class="chip {chip}">{said}</span></small>',
        say(f"method_{config.method}", language),
        say(f"data_{config.data}", language),
        f"{config.keep_top:.0%}" if config.data != "human" else "–",
        f"{facts['pairs']:,}" if "pairs" in facts else "–",
        f"{facts['steps']:,}",
        "–" if unseen is None else f"{unseen:.3f}",
        duration(facts["seconds"], language),
        "–" if share is None else f"{share:.2%}" if share < 0.1 else f"{share:.0%}",
    ]
    return {"cells": cells, "unseen": unseen, "notes": [_note(r["note"], language) for r in rows if r.get("note")]}


def _note(note: Any, language: str) -> str:
    return str(note.get(language) or note.get("en", "")) if isinstance(note, dict) else str(note)


def live(run: Run | None, language: str, arm: str | None = None, beside: list[str] | None = None) -> list[Any]:
    """The newest numbers of the chosen arm, its losses beside those of other arms, and what it is watched by."""
    name = chosen(run, arm) if run else ""
    rows = logged(run, name) if run and name else ()
    if run is None or not rows:
        return ["", *(gr.update(visible=False) for _ in (1, *WATCHED))]
    wanted = set(beside or ()) & set(run.arms()) or set(run.arms())
    others = {a: logged(run, a) for a in run.arms() if a != name and a in wanted}
    figures = [charts.losses(rows, others, language)]
    drawn = {
        "learning_rate": (charts.points(rows, "learning_rate"), BLUE, ".1e"),
        "grad_norm": (charts.points(rows, "grad_norm"), ORANGE, ""),
        "tokens_per_second": (charts.speeds(rows), GREEN, ",.0f"),
        "memory": ([(s, m / 2**20) for s, m in charts.points(rows, "memory")], "#6B6B6B", ",.0f"),
    }
    for key in WATCHED:
        found, colour, form_of_ticks = drawn[key]
        title = "memory_mb" if key == "memory" else key
        figures.append(charts.line(title, found, colour, language, form_of_ticks) if found else None)
    shown = [gr.update(value=f, visible=f is not None) for f in figures]
    return [f"<h3>{escape(name)}</h3>{story.facts(_newest(run, name, rows, language))}", *shown]


def _newest(run: Run, arm: str, rows: tuple[dict[str, Any], ...], language: str) -> list[tuple[str, str]]:
    """Where the arm's training stands, in numbers."""
    newest: dict[str, Any] = {}
    for row in rows:
        newest |= {k: v for k, v in row.items() if v is not None}
    job = jobs.look(run)
    going = job.state in jobs.GOING and job.stage == "train" and job.total and arm == run.arms()[-1]
    step = f"{newest.get('step', 0):,.0f}"
    items = [(f"{step} / {job.total:,}" if going else step, say("steps", language))]
    items += [(f"{newest[k]:.3f}", say(k, language)) for k in ("loss", "eval_loss") if k in newest]
    shapes = {"learning_rate": "{:.2g}", "grad_norm": "{:.2f}"}
    items += [(shapes[k].format(newest[k]), say(k, language)) for k in shapes if k in newest]
    if speeds := charts.speeds(rows):
        items.append((f"{speeds[-1][1]:,.0f}", say("tokens_per_second", language)))
    if "memory" in newest:
        items.append((size(newest["memory"]), say("memory", language)))
    if going and job.seconds_left:
        items.append((duration(job.seconds_left, language), say("time_left", language)))
    return items


def size(count: float) -> str:
    """Bytes in MB or GB."""
    return f"{count / 2**30:.1f} GB" if count >= 2**30 else f"{count / 2**20:,.0f} MB"


def told_at(run: Run | None, language: str, arm: str | None = None, far: float = 100) -> list[Any]:
    """The fixed requests as the chosen arm answered them ``far`` per cent of the way through what it has learned so far."""
    name = chosen(run, arm) if run else ""
    path = _folder(run, name) / "answers.jsonl" if run and name else None
    rows = list(read_rows(path)) if path and path.exists() else []
    if run is None or not rows:
        return [gr.update(visible=False), ""]
    steps = sorted({r["step"] for r in rows})
    at = steps[round((len(steps) - 1) * min(100, max(0, far)) / 100)]
    # A training that went on from a checkpoint may have answered a step twice: the last answer counts.
    answers = {r["instruction"]: r["text"] for r in rows if r["step"] == at}
    cards = [
        story.card(Pair(content_id(asked), asked, text or say("said_nothing", language), "", ()), language)
        for asked, text in answers.items()
    ]
    unseen = next((r["eval_loss"] for r in logged(run, name) if r.get("step") == at and "eval_loss" in r), None)
    where = say("answers_of", language, arm=escape(name), step=f"{at:,}", nth=steps.index(at) + 1, count=len(steps))
    if unseen is not None:
        where += f" · {say('eval_loss', language)} {unseen:.3f}"
    return [gr.update(visible=len(steps) > 1), f'<p class="count">{where}</p>{story.shelf(cards)}']


def _build_estimate(page: Page, fields: dict[str, Any]) -> None:
    """The button that tells memory and minutes before the start."""
    ask = page.label(gr.Button("", size="md", elem_id="estimate"), value="start_estimate")
    said = gr.HTML(elem_id="estimated")

    def estimate(run_id: str | None, language: str, *values: Any) -> str:
        run = needed(run_id, language)
        shared.slow_down()
        given = dict(zip(fields, values, strict=True))
        base = run.config("train", given["arm"])
        config = checked(base, **given)
        shared.allow(config)
        return estimated(asked(["estimate", run.id, *form.flags(config, base)], language), language)

    # One at a time: each is a process of its own, as this one may not load the libraries that know.
    ask.click(estimate, [page.run, page.language, *fields.values()], said, concurrency_id="estimate", concurrency_limit=1, api_visibility="private")  # fmt: skip
    page.run.change(lambda: "", None, said, **QUIET)


def asked(args: list[str], language: str) -> dict[str, Any]:
    """What ``python -m lab ARGS --json`` prints; Problem with its message when it fails."""
    where = {**os.environ, "LAB_HOME": str(home()), "LAB_LANGUAGE": language}
    try:
        done = subprocess.run(
            [sys.executable, "-m", "lab", *args, "--json"],
            cwd=jobs.ROOT,
            env=where,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
    except subprocess.TimeoutExpired:
        done = None
    if done is None or done.returncode:
        last = (done.stderr.strip().splitlines() or [""])[-1] if done else f"> {PATIENCE} s"
        raise Problem(last, last)
    return json.loads(done.stdout)


def estimated(found: dict[str, Any], language: str) -> str:
    """Memory, minutes and trainable share before the start, and a warning where it will not fit."""
    items = [
        (f"{size(found['bytes'])} / {size(found['free_bytes'])}", say("needed_of_free", language)),
        (
            duration(found["seconds"], language),
            say("measured_time" if found["measured"] else "reckoned_time", language),
        ),
        (f"{found['steps']:,}", say("steps", language)),
        (f"{found['trainable_share']:.1%}", say("trainable", language)),
        (f"{found['rows']} × {found['accumulation']}", say("rows_and_accumulation", language)),
        (f"{found['device']} · {found['precision']}", say("device", language)),
    ]
    warning = found["warning"]
    alert = f'<div class="welcome" role="alert">{escape(warning[language])}</div>' if warning else ""
    return alert + story.facts(items)


def _build_after(page: Page, arm: gr.Dropdown) -> list[Any]:
    """Merge, GGUF, download; the components that ``after`` fills."""
    page.about("about_after")
    with gr.Row():
        merge = page.label(gr.Button("", min_width=160, elem_id="merge"), value="merge")
        kind = page.label(
            gr.Dropdown(list(export.TYPES), value=export.TYPES[0], min_width=160, elem_id="gguf-type"),
            lambda lang: {
                "label": say("gguf_type", lang),
                "choices": [(say(f"gguf_{k}", lang), k) for k in export.TYPES],
            },
        )
        make = page.label(gr.Button("", min_width=160, elem_id="gguf"), value="make_gguf")
    there = gr.HTML(elem_id="exported")
    take = page.label(gr.Button("", visible=False, elem_id="take-exported"), value="take_exported")
    files = page.label(gr.File(visible=False, file_count="multiple", interactive=False, elem_id="exported-files"), label="exported_files")  # fmt: skip
    here = [page.run, page.language, arm]

    def begin(what: Callable[[str], str], run_id: str | None, language: str, name: str, wanted: str) -> None:
        run = needed(run_id, language)
        shared.admit(run)
        jobs.start(run, ["export", run.id, "--arm", chosen(run, name), "--format", what(wanted), "--json"])
        notice(language, "started")

    def packed(run_id: str | None, language: str, name: str) -> Any:
        run = needed(run_id, language)
        shared.slow_down()
        made = pack(run, chosen(run, name))
        return gr.update(value=[str(path) for path in made], visible=True)

    merge.click(lambda *given: begin(lambda _: "merged", *given), [*here, kind], None, **ACT)
    make.click(lambda *given: begin(str, *given), [*here, kind], None, **ACT)
    take.click(packed, here, files, **ACT)
    return [there, merge, take]


def after(run: Run | None, language: str, arm: str | None = None) -> list[Any]:
    """The drawer (of a trained arm only), what has been made of it, and which buttons make sense."""
    name = chosen(run, arm) if run else ""
    if run is None or not name or not run.done("train", name):
        return [gr.update(visible=False), "", gr.skip(), gr.skip()]
    made = export.exported(run, name)
    lines = [f'<p class="count"><code>python -m lab export {run.id} --arm {escape(name)} --format merged | f16 | q8_0 | f32</code></p>']  # fmt: skip
    for kind, path in made.items():
        bytes_ = sum(p.stat().st_size for p in path.glob("*")) if path.is_dir() else path.stat().st_size
        use = say("use_merged", language) if kind == "merged" else f"llama-server -m {path.name}"
        lines.append(
            f'<div class="link"><b>{escape(path.name)} · {size(bytes_)}</b><small>{say("of_arm", language, arm=escape(name))} · {escape(use)}</small></div>'
        )
    adapter = (_folder(run, name) / "adapter").exists()
    return [gr.update(visible=True), "".join(lines), gr.update(visible=adapter), gr.update(visible=bool(made))]


def pack(run: Run, arm: str) -> list[Path]:
    """Files to download: the merged model as one zip, GGUF files as they are."""
    folder = Path(tempfile.gettempdir()) / "fairytale-distillery" / run.owner / run.id / arm
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    found = []
    for kind, path in export.exported(run, arm).items():
        if kind == "merged":
            target = folder / f"{arm}-merged.zip"
            with ZipFile(target, "w", ZIP_STORED) as file:
                for part in sorted(path.glob("*")):
                    file.write(part, f"{arm}/{part.name}")
        else:
            target = Path(shutil.copy2(path, folder / path.name))
        found.append(target)
    return found
