"""The Compare tab: the verdict, charts, every number with its interval, votes, another run beside, answers side by side."""

from __future__ import annotations

import json
import re
import tempfile
from difflib import SequenceMatcher
from html import escape
from pathlib import Path
from typing import Any
from zipfile import ZIP_DEFLATED, ZipFile

import gradio as gr

from lab import report as rendering
from lab.config import preset_config
from lab.records import Pair, Verdict, read_json, read_rows
from lab.run import Run, runs
from lab.ui import compare_charts as charts
from lab.ui import form, story
from lab.ui.page import ACT, QUIET, Page, find, needed
from lab.ui.texts import reason, say

DRAWN = ("kept", "speed", "radar", "bits", "spared", "rates", "probes", "lengths", "scores")
BESIDE = ("rule_pass_rate", "bits_per_byte", "tokens_per_second")
"""Measures that are drawn for two runs."""
ORDERS = ("differ", "student_worse", "as_asked")
SAME = 4
"""Words in a row that two answers share by more than chance: of 100 pairs of free stories 2 had any."""
ROWS = 5
"""Prompts on one page of answers."""


def build(page: Page) -> None:
    """Make the tab."""
    page.about("about_compare")
    form.build(page, "compare", preset_config("compare", "mini"))
    verdict = gr.HTML()
    # Two beside each other, one below the other on a phone; whatever is missing leaves no gap.
    with gr.Row(equal_height=True, elem_id="figures"):
        kept = gr.HTML(visible=False, elem_id="kept")
        plots = [gr.Plot(show_label=False, visible=False, min_width=440) for _ in DRAWN]
    table, voted, rest = gr.HTML(), gr.HTML(), gr.HTML()
    page.show(view, [verdict, kept, *plots, table, rest], lambda run: [run.report_file])
    page.show(people, [voted], lambda run: [run.report_file, run.votes_file])
    with page.label(gr.Accordion("", open=False, visible=False, elem_id="answers"), label="answers_section") as reading:
        with gr.Row():
            order = page.label(
                gr.Dropdown(list(ORDERS), value=ORDERS[0], min_width=240, elem_id="answer-order"),
                lambda lang: {"label": say("order", lang), "choices": [(say(o, lang), o) for o in ORDERS]},
            )
            number = page.label(gr.Number(1, precision=0, min_width=90, scale=0, elem_id="answer-page"), label="page")
        sheet = gr.HTML()
    page.show(answers, [sheet], lambda run: [run.answers_file], (order, number))
    with page.label(gr.Accordion("", open=False, visible=False, elem_id="beside"), label="beside_section") as another:
        page.about("about_beside")
        other = page.label(gr.Dropdown([], value=None, elem_id="other"), label="other_run")
        note = gr.HTML()
        beside_plots = [gr.Plot(show_label=False, visible=False, min_width=300) for _ in BESIDE]
        beside_table = gr.HTML()
    page.show(beside, [note, *beside_plots, beside_table], lambda run: [run.report_file], (other,))
    page.run.change(others, page.run, other, **QUIET)
    pack = page.label(gr.Button("", visible=False, elem_id="pack-report"), value="report_files")
    packed = gr.File(visible=False, show_label=False, elem_id="report-files")
    page.show(drawers, [reading, another, pack], lambda run: [str(held(run))])
    pack.click(written, [page.run, page.language], packed, **ACT)


def view(run: Run | None, language: str) -> list[Any]:
    """The verdict with its warnings, what is kept as a table, one chart for each of DRAWN, the numbers with the judge's duels, and the rest below the votes."""
    report = read_json(run.report_file, {}) if run else {}
    models = report.get("models") or []
    if not models:
        said = (report.get("verdict") or {}).get(language, "")
        first = _box(said, [], language) + leaks(report, language) if said else story.empty("empty_compare", language)
        return [first, *[gr.update(visible=False)] * (1 + len(DRAWN)), "", ""]
    figures = {
        "kept": lambda: charts.kept(report, language) if report["retention"] else None,
        "spared": lambda: charts.spared(report, language),
        "probes": lambda: charts.probes(models, language) if any(m.get("probes") for m in models) else None,
    } | {
        n: lambda n=n: getattr(charts, n)(models, language)
        for n in ("rates", "speed", "bits", "radar", "lengths", "scores")
    }
    drawn = [figures[n]() for n in DRAWN]
    plots = [gr.update(value=f, visible=f is not None) for f in drawn]
    flags = [f[language] for f in report.get("flags", ())]
    below = rendering.html_table(models, language)
    below += f'<p class="count">{escape(rendering.measured_on(report, language))}</p>'
    below += differences(report, language) + duels(report, language)
    kept = rendering.html_kept(report, language)
    assert run is not None  # a report was read from it
    return [
        _box(report["verdict"][language], flags, language),
        gr.update(value=kept, visible=bool(kept)),
        *plots,
        below,
        leaks(report, language) + exercises(report, run, language) + provenance(report, language),
    ]


def held(run: Run | None) -> tuple[bool, bool]:
    """Whether there are answers (they come while the job is at work), and a report."""
    return (run.answers_file.exists(), run.report_file.exists()) if run else (False, False)


def drawers(run: Run | None, language: str) -> list[Any]:
    """What needs answers or a report shows once they are there."""
    answered, reported = held(run)
    return [gr.update(visible=answered), gr.update(visible=reported), gr.update(visible=reported)]


def _box(said: str, flags: list[str], language: str) -> str:
    notes = "".join(f"<li>{escape(f)}</li>" for f in flags)
    return f'<div class="welcome"><b>{say("verdict", language)}</b> {escape(said)}{f"<ul>{notes}</ul>" if notes else ""}</div>'


def _head(key: str, language: str) -> str:
    return rendering.choose(rendering.HEADS[key], language)


def differences(report: dict[str, Any], language: str) -> str:
    """Every tested difference with its interval, folded."""
    table = rendering.html_differences(report, language)
    return f"<details><summary>{_head('differences', language)}</summary>{table}</details>" if table else ""


def duels(report: dict[str, Any], language: str) -> str:
    """The judge's duels: who won how often, plain and at equal length."""
    told = (rendering.duel_line(report, d, language) for d in report.get("duels", ()))
    lines = [f"<p>{escape(said)}<small>{escape(note)}</small></p>" for said, note in told]
    return f'<h3>{_head("duels", language)}</h3><div class="duels">{"".join(lines)}</div>' if lines else ""


def people(run: Run | None, language: str) -> list[str]:
    """The blind votes of the Chat tab beside the judge."""
    report = rendering.current(run) if run else {}
    if not report.get("models"):
        return [""]
    lines = rendering.vote_lines(report, language)
    if not lines:
        return [f'<p class="count">{say("no_votes", language)}</p>']
    return [f"<h3>{_head('votes', language)}</h3>{''.join(f'<p>{escape(line)}</p>' for line in lines)}"]


def leaks(report: dict[str, Any], language: str) -> str:
    """Evaluation texts that share a passage with the training stories."""
    found = report.get("leaks") or []
    if not found:
        return f'<p class="count">{say("no_leaks", language)}</p>'
    rows = "".join(
        f"<tr><td>{escape(x['set'])} {escape(str(x['id']))}</td><td>{x['share']:.0%}</td><td lang='ko'>{escape(x['span'])}</td></tr>"
        for x in found[:10]
    )
    head = "".join(f"<th>{say(k, language)}</th>" for k in ("leak_text", "leak_share", "leak_passage"))
    said = say("leaks_title", language, count=sum(report["leak_counts"].values()), left=report.get("test_pairs_left_out", 0))  # fmt: skip
    return f'<details><summary>{said}</summary><div class="scroll"><table class="measures faults"><tr>{head}</tr>{rows}</table></div></details>'


def exercises(report: dict[str, Any], run: Run, language: str) -> str:
    """The questions of the course, answered by this run."""
    found = rendering.exercises(report, run, language)
    lines = "".join(f"<dt>{escape(asked)}</dt><dd>{escape(answer)}</dd>" for asked, answer in found)
    return f"<h3>{_head('exercises', language)}</h3><dl>{lines}</dl>"


def provenance(report: dict[str, Any], language: str) -> str:
    """Which weights exactly, with which settings, so that nobody compares a model with itself."""
    lines = rendering.html_list(rendering.provenance(report, language))
    return f"<details><summary>{_head('provenance', language)}</summary>{lines}</details>"


def difference(rows: dict[str, dict[str, Any]]) -> float:
    """How much better the teacher's answer to a prompt is than the best arm's: by the judge, else by broken rules."""
    teacher = rows.get("teacher") or rows.get("base")
    arms = [r for r in rows.values() if r["who"] == "arm"]
    if not teacher or not arms:
        return 0.0
    marks = [r["judge"] for r in (teacher, *arms)]
    if all(m is not None for m in marks):
        return marks[0] - max(marks[1:])
    return min(len(a["reasons"]) for a in arms) - len(teacher["reasons"])


def answers(run: Run | None, language: str, order: str = ORDERS[0], number: float = 1) -> list[str]:
    """One page of prompts, all models' answers to each side by side, sorted by where teacher and student differ."""
    tasks: dict[str, dict[str, dict[str, Any]]] = {}
    for row in read_rows(run.answers_file) if run else ():
        if not row.get("sample"):
            key = row["who"] if row["who"] != "arm" else f"arm {row['name']}"
            tasks.setdefault(row["instruction"], {})[key] = row
    if not tasks:
        return [story.empty("empty_compare", language)]
    found = list(tasks.items())
    if order == "differ":
        found.sort(key=lambda x: -abs(difference(x[1])))
    elif order == "student_worse":
        found.sort(key=lambda x: -difference(x[1]))
    first = min(max(0, int(number or 1) - 1) * ROWS, (len(found) - 1) // ROWS * ROWS)
    parts = [
        f'<p class="count">{say("page_of", language, found=len(found), first=first + 1, last=min(first + ROWS, len(found)))}</p>'
    ]
    for _, rows in found[first : first + ROWS]:
        first = _first(rows)
        cards = "".join(_card(r, language, first) for r in rows.values())
        asked = escape(next(iter(rows.values()))["instruction"])
        parts.append(
            f'<p class="asked" lang="ko">{asked}</p><div class="stories answers">{cards}</div>{apart(rows, language)}'
        )
    return ["".join(parts)]


def apart(rows: dict[str, dict[str, Any]], language: str) -> str:
    """How each answer to a prompt differs from the teacher's (else the untrained student's): faults, judge's mark, length."""
    first, lines = _first(rows), []
    if not first:
        return ""
    for row in (r for r in rows.values() if r is not first):
        facts = []
        for key, has, lacks in (("only_here", row, first), ("not_here", first, row)):
            found = [reason(r, language) for r in has["reasons"] if r not in lacks["reasons"]]
            facts += [say(key, language, reasons=", ".join(found))] if found else []
        if row["judge"] is not None and first["judge"] is not None:
            facts.append(say("judge_apart", language, n=f"{row['judge'] - first['judge']:+.1f}"))
        facts.append(say("length_apart", language, n=f"{len(row['text']) - len(first['text']):+d}"))
        share = sum(end - start for start, end in same(row["text"], first["text"])) / max(1, len(row["text"]))
        facts += [say("same_apart", language, share=f"{share:.0%}")] if share else []
        lines.append(f"<li><b>{escape(rendering.label(row, language))}</b> {escape(' · '.join(facts))}</li>")
    whom = say("apart_from", language, who=escape(rendering.label(first, language)))
    return f'<div class="count">{whom}<ul>{"".join(lines)}</ul></div>' if lines else ""


def _first(rows: dict[str, dict[str, Any]]) -> dict[str, Any] | None:
    """Whose answer the others are held against."""
    return rows.get("teacher") or rows.get("base")


def same(text: str, other: str) -> list[tuple[int, int]]:
    """Where ``text`` goes on for ``SAME`` words or more as ``other`` does."""
    words, others = list(re.finditer(r"\S+", text)), other.split()
    blocks = SequenceMatcher(None, [w[0] for w in words], others, autojunk=False).get_matching_blocks()
    return [(words[b.a].start(), words[b.a + b.size - 1].end()) for b in blocks if b.size >= SAME]


def _card(row: dict[str, Any], language: str, first: dict[str, Any] | None) -> str:
    # Who it is stands where a story's request usually does, as all answer the same one.
    pair = Pair(
        "", rendering.label(row, language), row["text"], row["character"], tuple(row["keywords"]), finish=row["finish"]
    )
    verdict = Verdict(
        "", not row["reasons"], tuple(row["reasons"]), {"found": row.get("found") or {}}, row.get("judge")
    )
    marks = same(row["text"], first["text"]) if first and first is not row else []
    return story.card(pair, language, verdict, also=[(start, end, "same") for start, end in marks], good="rules_pass")


def others(run_id: str | None) -> Any:
    """The other runs of the same owner that have been compared."""
    run = find(run_id)
    there = [r for r in runs(run.owner) if r.id != run.id and r.done("compare")] if run else []
    return gr.update(choices=[(r.meta().get("title", r.id), r.id) for r in there], value=None)


def beside(run: Run | None, language: str, other_id: str | None = None) -> list[Any]:
    """This run and another in the same charts and table; says when they did not answer the same tasks."""
    hidden = [gr.update(visible=False) for _ in BESIDE]
    other = find(other_id)
    reports = [read_json(r.report_file, {}) for r in (run, other) if r]
    if len(reports) < 2 or not all(r.get("models") for r in reports) or run is None or other is None or run.owner != other.owner:  # fmt: skip
        return ["", *hidden, ""]
    same = reports[0].get("same_tasks") == reports[1].get("same_tasks")
    plots = [gr.update(value=charts.two_runs(reports, m, language), visible=True) for m in BESIDE]
    models = [m | {"name": f"{r['title']} · {m['name']}"} for r in reports for m in r["models"]]
    told = say("same_tasks" if same else "other_tasks", language)
    return [f'<p class="count">{told}</p>', *plots, rendering.html_table(models, language)]


def written(run_id: str | None, language: str) -> Any:
    """The report as page, Markdown and JSON with all charts and the votes of this moment, packed for downloading."""
    run = needed(run_id, language)
    report = rendering.current(run)
    if not report.get("models"):
        raise gr.Error(say("empty_compare", language), title=say("error", language), print_exception=False)
    # A folder of Gradio's own: LAB_HOME may lie where it serves nothing from.
    path = Path(tempfile.mkdtemp()) / f"report-{run_id}.zip"
    with ZipFile(path, "w", ZIP_DEFLATED) as archive:
        for name, text in rendering.pages(run, report).items():
            archive.writestr(name, text)
        archive.writestr("report.json", json.dumps(report, ensure_ascii=False, indent=1))
        for chart in sorted((run.report_file.parent / "charts").glob("*")):
            archive.write(chart, f"charts/{chart.name}")
    return gr.update(value=str(path), visible=True)
