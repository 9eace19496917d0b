"""The Generate tab: look before you leap, then the teacher writes; its stories as cards, their spread as charts."""

from __future__ import annotations

import re
import tempfile
from dataclasses import replace
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from lab import domain, jobs
from lab.config import preset_config
from lab.records import Pair, Verdict, read_json
from lab.run import Run
from lab.shelf import STEP, shelf_of
from lab.stages.generate import ERRORS_SHOWN, export_pairs, import_pairs, read_own
from lab.ui import charts, form, shared, story
from lab.ui.job import duration
from lab.ui.page import ACT, Page, needed
from lab.ui.texts import reason, say

SHELF = 12
"""Stories on one page."""
STATES = {"ok": "good", "fail": "bad"}


LOOK_CSS = ".welcome { margin-bottom:.8rem; }"
SPREAD_CSS = """
.coverage { display:grid; grid-template-columns:repeat(auto-fill,minmax(max(9.2rem,(100% - 3rem)/5),1fr)); gap:.5rem .75rem; margin:.3rem 0 .6rem; }
.coverage div { display:flex; flex-wrap:wrap; justify-content:space-between; align-items:baseline; gap:0 .6rem; font-size:.86rem; color:var(--soft); }
.coverage b { color:var(--ink); font-variant-numeric:tabular-nums; }
.coverage i { flex:1 1 100%; height:.3rem; border-radius:99px; background:var(--wash); overflow:hidden; margin:.15rem 0; }
.coverage i b { display:block; height:100%; background:#0072B2; }
"""
PHRASINGS_CSS = """
td:first-child { white-space:normal; min-width:6.4rem; line-height:1.6; }
@media (max-width:640px) {
  th, td { padding:.35rem .2rem; font-size:.76rem; white-space:normal; overflow-wrap:normal; }
  td:first-child div { display:-webkit-box; -webkit-box-orient:vertical; -webkit-line-clamp:3; overflow:hidden; }
}
td:first-child i { font-style:normal; border-radius:.25rem; padding:0 .2em; background:var(--wash); }
"""


def build(page: Page) -> None:
    """Make the tab."""
    page.about("about_generate")
    form.build(page, "generate", preset_config("generate", "mini"), also=("preview", "check"))
    with page.label(gr.Accordion("", open=False, elem_id="look"), label="look_section") as drawer:
        page.about("about_look")
        ahead, teacher = gr.HTML(css_template=LOOK_CSS), gr.HTML(css_template=LOOK_CSS)
    counts, spread = gr.HTML(), gr.HTML(css_template=SPREAD_CSS, elem_id="spread")
    with gr.Row():
        plots = [gr.Plot(show_label=False, visible=False, min_width=300) for _ in range(2)]
    with gr.Row():
        search = page.label(
            gr.Textbox(max_length=200, min_width=200, elem_id="story-search"), label="search", placeholder="search_info"
        )
        number = page.label(gr.Number(1, precision=0, min_width=90, scale=0, elem_id="story-page"), label="page")
    shelf = gr.HTML()
    with page.label(gr.Accordion("", open=False, elem_id="phrasings"), label="phrasings_section"):
        page.about("about_phrasings")
        phrasings = gr.HTML(css_template=PHRASINGS_CSS)
    with page.label(gr.Accordion("", open=False, elem_id="own"), label="own_section"):
        _build_own(page)
    page.show(look, [drawer, ahead, teacher], lambda run: [run.preview_file, run.check_file])
    page.show(drawn, plots, lambda run: [run.pairs_file])
    page.show(view, [counts, shelf], lambda run: [run.pairs_file], (search, number))
    # The first batch may take a minute: its speed is shown before its first row.
    ends = lambda run: [run.job_file, run.stage_folder("generate") / "done.json"]  # noqa: E731
    page.show(live, [counts, spread, phrasings], ends)


def view(run: Run | None, language: str, search: str | None = "", number: float | None = 1) -> list[str]:
    """Counts, and one page of stories, newest first."""
    held = shelf_of(run.pairs_file).look() if run else None
    if run is None or held is None or not held.count:
        return [numbers(run, language) if run else "", story.empty("empty_generate", language)]
    first, wanted = max(0, int(number or 1) - 1) * SHELF, (search or "").strip()
    shown, found = held.page(first, SHELF, wanted)
    if not found:
        return [numbers(run, language), story.empty("empty_match", language)]
    if not shown:
        first = (found - 1) // SHELF * SHELF
        shown, found = held.page(first, SHELF, wanted)
    where = say("page_of", language, found=f"{found:,}", first=first + 1, last=first + len(shown))
    cards = story.shelf([story.card(p, language) for p in shown])
    return [numbers(run, language), f'<p class="count">{where}</p>{cards}']


def live(run: Run | None, language: str) -> list[str]:
    """What changes while the job goes on, besides stories and charts: numbers, coverage, what is told by phrasing."""
    if run is None:
        return ["", "", story.empty("empty_phrasings", language)]
    facts = measured(run)
    return [
        numbers(run, language),
        spread_of(facts, language),
        by_phrasing(facts.get("by_phrasing", {}), language),
    ]


def measured(run: Run) -> dict[str, Any]:
    """What the job has measured so far while it goes on, else what done.json says."""
    job = jobs.look(run)
    return job.facts if job.state in jobs.GOING and job.stage == "generate" else run.done("generate") or {}


def numbers(run: Run, language: str) -> str:
    """What there is, how fast it comes, and how different the stories are: live from the job, then from done.json."""
    held = shelf_of(run.pairs_file).look()
    job = jobs.look(run)
    going = job.state in jobs.GOING and job.stage == "generate"
    if not held.count and not going:
        return ""
    items = [
        (f"{held.count:,}", say("pairs", language)),
        (f"{held.test:,}", say("test_pairs", language)),
        (f"{len(held.characters):,}", say("characters", language)),
        (f"{len(held.words):,}", say("keywords", language)),
        (f"{held.cut_off:,}", say("truncated", language)),
    ]
    facts = measured(run)
    if going and "tokens_per_second" in facts:
        items.append((f"{facts['tokens_per_second']:,.0f}", say("tokens_per_second", language)))
    if facts.get("dollars"):
        items.append((f"${facts['dollars']:,.2f}", say("dollars", language)))
    return story.facts(items)


SPREAD = {
    "distinct_1": "{:.0%}",
    "distinct_2": "{:.0%}",
    "distinct_3": "{:.0%}",
    "near_duplicates": "{:.1%}",
    "self_bleu": "{:.0f}",
}


def spread_of(facts: dict[str, Any], language: str) -> str:
    """How different the stories are, and for each attribute of the grid how many of its values were asked for how often."""
    items = [
        (shape.format(facts[key]), say(key, language)) for key, shape in SPREAD.items() if facts.get(key) is not None
    ]
    text = story.facts(items) if items else ""
    cells = ""
    for name, c in facts.get("coverage", {}).items():
        times = f"{c['least']:,}" if c["least"] == c["most"] else f"{c['least']:,}-{c['most']:,}"
        cells += (
            f"<div><span>{say(f'cover_{name}', language)}</span> <b>{c['used']:,} / {c['of']:,}</b>"
            f'<i aria-hidden="true"><b style="width:{100 * c["used"] / c["of"]:.1f}%"></b></i>'
            f"<small>{say('times_each', language, times=times)}</small></div>"
        )
    if cells:
        text += f'<p class="count">{say("coverage_title", language)}</p><div class="coverage">{cells}</div>'
    return text


def by_phrasing(found: dict[str, dict[str, Any]], language: str) -> str:
    """A table of what each instruction phrasing brought, most alike first."""
    if not found:
        return story.empty("empty_phrasings", language)
    rows = "".join(
        f"<tr><td><div>{_phrasing(id_)}</div></td><td>{g['pairs']:,}</td><td>{g['characters']:,.0f}</td>"
        f"<td>{g['cut_off']:.0%}</td><td>{g['distinct_2']:.0%}</td></tr>"
        for id_, g in sorted(found.items(), key=lambda x: x[1]["distinct_2"])
    )
    keys = ("phrasing", "pairs", "mean_length", "truncated", "two_words")
    head = "".join(f"<th>{say(key, language)}</th>" for key in keys)
    return f'<div class="scroll"><table class="measures"><tr>{head}</tr>{rows}</table></div>'


SLOTS = {"A": "주인공", "k1": "낱말 1", "k2": "낱말 2"} | {name: ko for ko, name in domain.ATTRIBUTES.items()}


def _phrasing(id_: str) -> str:
    """A phrasing as people read it, its slots marked with what goes there."""

    def named(slot: re.Match[str]) -> str:
        word = SLOTS[slot[1]]
        return f"<i>{word}</i>" + (domain.particle(word, slot[2], slot[3]) if slot[2] is not None else "")

    return next((domain.SLOT.sub(named, escape(p["text"])) for p in domain.phrasings() if p["id"] == id_), escape(id_))


def drawn(run: Run | None, language: str) -> list[Any]:
    """The charts of coverage and length."""
    held = shelf_of(run.pairs_file).look() if run else None
    if run is None or held is None or not held.count:
        return [gr.update(visible=False)] * 2
    rules = run.config("filter")
    shown = [
        charts.coverage(held.characters, language) if held.characters else None,
        charts.lengths(held.lengths, STEP, (rules.min_chars, rules.max_chars), language),
    ]
    return [gr.update(value=figure, visible=figure is not None) for figure in shown]


def look(run: Run | None, language: str) -> list[Any]:
    """What the preview and the teacher check found; the drawer opens once there is something."""
    ahead = read_json(run.preview_file) if run else None
    teacher = read_json(run.check_file) if run else None
    return [
        gr.update(open=bool(ahead or teacher)),
        _ahead(ahead, language) if ahead else "",
        _teacher(teacher, language) if teacher else "",
    ]


def _ahead(found: dict[str, Any], language: str) -> str:
    """The estimate in numbers, and the five stories with the rules' verdicts."""
    e = found["estimate"]
    unknown = say("unknown", language)
    money = say("no_price", language) if e["dollars"] is None else f"${e['dollars']:,.2f}"
    items = [
        (unknown if e["minutes"] is None else _time(e["minutes"] * 60, language), say("estimate_minutes", language)),
        (f"{e['tokens']:,}" if e["tokens"] else unknown, say("estimate_tokens", language)),
        (money, say("estimate_money", language)),
        (f"${e['people_dollars']:,.0f}", say("estimate_people", language, weeks=f"{e['people_weeks']:g}")),
    ]
    if e["kept"] is not None:
        bounds = {"low": f"{e['kept_low']:,}", "high": f"{e['kept_high']:,}"}
        items.append((f"{e['kept']:,} / {e['pairs']:,}", say("estimate_kept", language, **bounds)))
    said = say(
        "estimate_note",
        language,
        teacher=escape(found["teacher"]),
        passed=e.get("passed", 0),
        batch=e["batch"],
        speed=f"{e['tokens_per_second']:,.0f}" if e["tokens_per_second"] else "?",
    )
    text = f"<h3>{say('preview_title', language)}</h3>{story.facts(items)}" + f'<p class="count">{said}</p>'
    if found["foreign"]:
        text += f'<div class="welcome" role="alert">{say("foreign_note", language, n=found["foreign"])}</div>'
    return text + story.shelf([_card(row, language) for row in found["stories"]])


def _teacher(found: dict[str, Any], language: str) -> str:
    """The verdict, every finding, and the worst story beside the best."""
    verdict = say(f"teacher_{found['verdict']}", language)
    rows = "".join(
        f'<li><span class="chip {STATES.get(f["state"], "")}">{say("finding_" + f["state"], language)}</span> {escape(_worded(f[language], language))}</li>'
        for f in found["findings"]
    )
    text = f'<h3>{say("check_title", language)}</h3><div class="welcome" role="status"><b>{verdict}</b> <small>{escape(found["teacher"])}</small><ul class="findings">{rows}</ul></div>'
    stories = found["stories"]
    shown = [("worst_sample", stories[0]), ("best_sample", stories[-1])] if len(stories) > 1 else []
    return text + story.shelf(
        [f'<div><p class="count">{say(key, language)}</p>{_card(row, language)}</div>' for key, row in shown]
    )


def _worded(text: str, language: str) -> str:
    """The filter's reasons in a text as people know them."""
    return re.sub(r"\b[a-z]+(?:_[a-z]+)+\b", lambda found: reason(found[0], language), text)


def _card(row: dict[str, Any], language: str) -> str:
    return story.card(Pair.of(row["pair"]), language, Verdict.of(row["verdict"]), good="rules_pass")


def _time(seconds: float, language: str) -> str:
    """Time in words, hours where minutes are many."""
    if seconds >= 3 * 3600:
        return say("hours", language, n=f"{seconds / 3600:.0f}")
    return duration(seconds, language)


def _build_own(page: Page) -> None:
    """Bring one's own pairs; take the run's pairs away."""
    page.about("about_own")
    with gr.Row():
        upload = page.label(gr.UploadButton("", file_types=[".jsonl"], min_width=160, elem_id="upload"), label="upload")
        make = page.label(gr.Button("", min_width=160, elem_id="download"), value="download")
    told_here = gr.HTML()
    files = page.label(gr.File(visible=False, file_count="multiple", interactive=False), label="files")

    def bring(run_id: str | None, language: str, file: str) -> str:
        run = needed(run_id, language)
        shared.slow_down()
        rows, faults = read_own(Path(file))
        if faults:
            return faulty(faults, language)
        shared.allow(replace(preset_config("generate", "mini"), pairs=len(rows)))
        facts = import_pairs(run, Path(file))
        said = say("imported", language, n=f"{facts['pairs']:,}")
        return f'<div class="welcome" role="status">{said}</div>'

    def take(run_id: str | None, language: str) -> Any:
        run = needed(run_id, language)
        folder = Path(tempfile.gettempdir()) / "fairytale-distillery" / run.owner
        made = export_pairs(run, folder)
        return gr.update(value=[str(path) for path in made], visible=True)

    upload.upload(bring, [page.run, page.language, upload], told_here, **ACT)
    make.click(take, [page.run, page.language], files, **ACT)


def faulty(faults: list[tuple[int, str, str]], language: str) -> str:
    """Every line of an upload that is no pair, and what is wrong with it."""
    rows = "".join(
        f"<tr><td>{number}</td><td>{escape(ko if language == 'ko' else en)}</td></tr>"
        for number, en, ko in faults[:ERRORS_SHOWN]
    )
    more = len(faults) - ERRORS_SHOWN
    below = f'<p class="count">{say("more_lines", language, n=more)}</p>' if more > 0 else ""
    head = f"<tr><th>{say('line_number', language)}</th><th>{say('what_is_wrong', language)}</th></tr>"
    return (
        f'<div class="welcome" role="alert">{say("import_faults", language, n=len(faults))}</div>'
        f'<div class="scroll"><table class="measures faults">{head}{rows}</table></div>{below}'
    )
