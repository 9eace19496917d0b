"""The Compare tab: the verdict, charts, every number with its interval, votes, another run beside, answers side by side."""

from __future__ import annotations

import tempfile
from html import escape
from pathlib import Path
from typing import Any
from zipfile import ZIP_DEFLATED, ZipFile

import gradio as gr

from lab import report as rendering
from lab import votes
from lab.config import preset_config
from lab.records import Pair, Verdict, read_json, read_rows
from lab.run import Run, runs
from lab.ui import compare_charts as charts
from lab.ui import form, story
from lab.ui.page import ACT, QUIET, Page, find, needed
from lab.ui.texts import say

DRAWN = ("kept", "rates", "speed", "bits", "probes", "radar", "lengths", "scores")
BESIDE = ("rule_pass_rate", "bits_per_byte", "tokens_per_second")
"""Measures that are drawn for two runs."""
ORDERS = ("differ", "student_worse", "as_asked")
ROWS = 5
"""Prompts on one page of answers."""


def build(page: Page) -> None:
    """Make the tab."""
    page.about("about_compare")
    form.build(page, "compare", preset_config("compare", "mini"))
    verdict = gr.HTML()
    plots = []
    for _ in range(0, len(DRAWN), 2):
        with gr.Row():
            plots += [gr.Plot(show_label=False, visible=False, min_width=300) for _ in range(2)]
    table = gr.HTML()
    page.show(view, [verdict, *plots, table], lambda run: [run.report_file])
    voted = gr.HTML()
    page.show(people, [voted], lambda run: [run.report_file, run.votes_file])
    with page.label(gr.Accordion("", open=False, elem_id="answers"), label="answers_section"):
        with gr.Row():
            order = page.label(
                gr.Dropdown(list(ORDERS), value=ORDERS[0], elem_id="answer-order"),
                lambda lang: {"label": say("order", lang), "choices": [(say(o, lang), o) for o in ORDERS]},
            )
            number = page.label(gr.Number(1, precision=0, min_width=90, scale=0, elem_id="answer-page"), label="page")
        sheet = gr.HTML()
    page.show(answers, [sheet], lambda run: [run.answers_file], (order, number))
    with page.label(gr.Accordion("", open=False, elem_id="beside"), label="beside_section"):
        page.about("about_beside")
        other = page.label(gr.Dropdown([], value=None, elem_id="other"), label="other_run")
        note = gr.HTML()
        beside_plots = [gr.Plot(show_label=False, visible=False, min_width=300) for _ in BESIDE]
        beside_table = gr.HTML()
    page.show(beside, [note, *beside_plots, beside_table], lambda run: [run.report_file], (other,))
    page.run.change(others, page.run, other, **QUIET)
    pack = page.label(gr.Button("", elem_id="pack-report"), value="report_files")
    packed = gr.File(visible=False, show_label=False, elem_id="report-files")
    pack.click(written, [page.run, page.language], packed, **ACT)


def view(run: Run | None, language: str) -> list[Any]:
    """The verdict with its warnings, one chart for each of DRAWN, and the table with the exercises."""
    report = read_json(run.report_file, {}) if run else {}
    models = report.get("models") or []
    if not models:
        said = (report.get("verdict") or {}).get(language, "")
        first = _box(said, [], language) + leaks(report, language) if said else story.empty("empty_compare", language)
        return [first, *(gr.update(visible=False) for _ in DRAWN), ""]
    figures = {
        "kept": lambda: charts.kept(report, language) if report["retention"] else None,
        "probes": lambda: charts.probes(models, language) if any(m.get("probes") for m in models) else None,
    } | {
        n: lambda n=n: getattr(charts, n)(models, language)
        for n in ("rates", "speed", "bits", "radar", "lengths", "scores")
    }
    drawn = [figures[n]() for n in DRAWN]
    plots = [gr.update(value=f, visible=f is not None) for f in drawn]
    flags = [f[language] for f in report.get("flags", ())]
    kept = "".join(
        f'<p class="count"><b>{escape(arm)}</b> {escape(rendering.kept_line(report, arm, language))}</p>'
        for arm in report["retention"]
    )
    below = f"{rendering.html_table(models, language)}{_count(report, language)}{differences(report, language)}"
    below += duels(report, language)
    assert run is not None  # a report was read from it
    return [
        _box(report["verdict"][language], flags, language) + kept,
        *plots,
        below + leaks(report, language) + exercises(report, run, language) + provenance(report, language),
    ]


def _box(said: str, flags: list[str], language: str) -> str:
    notes = "".join(f"<li>{escape(f)}</li>" for f in flags)
    return f'<div class="welcome"><b>{say("verdict", language)}</b> {escape(said)}{f"<ul>{notes}</ul>" if notes else ""}</div>'


def _count(report: dict[str, Any], language: str) -> str:
    words = say(
        "measured_on",
        language,
        prompts=report["prompts"],
        test=report["test_pairs"],
        reference=report["reference_stories"],
    )
    return f'<p class="count">{words}</p>'


def differences(report: dict[str, Any], language: str) -> str:
    """Every tested difference with its interval, folded."""
    table = rendering.html_differences(report, language)
    title = rendering.choose(rendering.DIFFERENCES, language)
    return f"<details><summary>{title}</summary>{table}</details>" if table else ""


def duels(report: dict[str, Any], language: str) -> str:
    """The judge's duels: who won how often, plain and at equal length."""
    lines = []
    for d in report.get("duels", ()):
        rate, equal = d["win_rate"], d["win_rate_at_equal_length"]
        said = say(
            "judged_duel",
            language,
            a=escape(d["a"]),
            b=escape(d["b"]),
            wins=d["wins"],
            ties=d["ties"],
            losses=d["losses"],
            rate=f"{rate['value']:.0%} ({rate['low']:.0%} – {rate['high']:.0%})",
            equal=f"{equal['value']:.0%} ({equal['low']:.0%} – {equal['high']:.0%})",
            judge=escape(d["judge"]),
        )
        more = say("one_order", language) if d["orders"] == 1 else say("both_orders", language, share=f"{d['disagreed']:.0%}")  # fmt: skip
        if d.get("same_family"):
            more += " " + say("judge_family", language, family=escape(d["same_family"]))
        lines.append(f"<p>{said}<small>{more}</small></p>")
    return f'<h3>{say("duels_title", language)}</h3><div class="duels">{"".join(lines)}</div>' if lines else ""


def people(run: Run | None, language: str) -> list[str]:
    """The blind votes of the Chat tab beside the judge."""
    report = read_json(run.report_file, {}) if run else {}
    found = votes.count(run) if run and report.get("models") else []
    if not found:
        return [f'<p class="count">{say("no_votes", language)}</p>' if report.get("models") else ""]
    lines = []
    for d in found:
        words = say("duel", language, first=escape(d.first), second=escape(d.second), wins=d.wins, losses=d.losses, ties=d.ties, bad=d.bad)  # fmt: skip
        if d.share is not None:
            words += " " + say("duel_share", language, first=escape(d.first), share=f"{d.share:.0%}", low=f"{d.low:.0%}", high=f"{d.high:.0%}")  # fmt: skip
        lines.append(f"<p>{words}</p>")
    return [f"<h3>{say('tally', language)}</h3>{''.join(lines)}"]


def leaks(report: dict[str, Any], language: str) -> str:
    """Evaluation texts that share a passage with the training stories."""
    found = report.get("leaks") or []
    if not found:
        return f'<p class="count">{say("no_leaks", language)}</p>'
    rows = "".join(
        f"<tr><td>{escape(x['set'])} {escape(str(x['id']))}</td><td>{x['share']:.0%}</td><td lang='ko'>{escape(x['span'])}</td></tr>"
        for x in found[:10]
    )
    said = say("leaks_title", language, count=sum(report["leak_counts"].values()), left=report.get("test_pairs_left_out", 0))  # fmt: skip
    return (
        f'<details><summary>{said}</summary><div class="scroll"><table class="measures">{rows}</table></div></details>'
    )


def exercises(report: dict[str, Any], run: Run, language: str) -> str:
    """The questions of the course, answered by this run."""
    at = 2 if language == "ko" else 0
    found = rendering.exercises(report, run)
    lines = "".join(f"<dt>{escape(x[at])}</dt><dd>{escape(x[at + 1])}</dd>" for x in found)
    return f"<h3>{say('exercises_title', language)}</h3><dl>{lines}</dl>"


def provenance(report: dict[str, Any], language: str) -> str:
    """Which weights exactly, so that nobody compares a model with itself."""
    rows = "".join(
        f"<tr><td>{escape(rendering.label(m, language))}</td><td>{escape(str(m['name']))}</td><td>{escape(str(m.get('revision') or '–'))}</td>"
        f"<td>{m.get('weights') or '–'}</td><td>{m.get('dtype') or '–'}</td><td>{m.get('device') or '–'}</td></tr>"
        for m in report["models"]
    )
    head = "".join(f"<th>{say(k, language)}</th>" for k in ("who", "model", "revision", "weights", "dtype", "device"))
    return (
        f"<details><summary>{say('provenance', language)}</summary>"
        f'<div class="scroll"><table class="measures"><tr>{head}</tr>{rows}</table></div></details>'
    )


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
        cards = [_card(r, language) for r in rows.values()]
        gap = f"{abs(difference(rows)):.2g}"
        parts.append(story.shelf(cards) + f'<p class="count">{say("gap", language, gap=gap)}</p>')
    return ["".join(parts)]


def _card(row: dict[str, Any], language: str) -> str:
    pair = Pair("", row["instruction"], row["text"], row["character"], tuple(row["keywords"]), finish=row["finish"])
    verdict = Verdict(
        "", not row["reasons"], tuple(row["reasons"]), {"found": row.get("found") or {}}, row.get("judge")
    )
    who = f'<span class="chip">{escape(rendering.label(row, language))}</span>'
    return story.card(pair, language, verdict, who)


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
    """The report as page, Markdown and JSON with all charts, packed for downloading."""
    folder = needed(run_id, language).report_file.parent
    if not (folder / "report.html").exists():
        raise gr.Error(say("empty_compare", language), title=say("error", language), print_exception=False)
    names = [
        "report.html",
        "report.md",
        "report.json",
        *(f"charts/{p.name}" for p in sorted((folder / "charts").glob("*"))),
    ]
    # A folder of Gradio's own: LAB_HOME may lie where it serves nothing from.
    path = Path(tempfile.mkdtemp()) / f"report-{run_id}.zip"
    with ZipFile(path, "w", ZIP_DEFLATED) as archive:
        for name in names:
            archive.write(folder / name, name)
    return gr.update(value=str(path), visible=True)
