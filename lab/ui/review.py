"""Human review, a panel of the Filter tab: one story at a time, by keyboard or thumb, and what people's words say about
the filter and the judge."""

from __future__ import annotations

import tempfile
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from lab import review
from lab.config import checked
from lab.run import Run
from lab.stages.filter import apply_cut, ledger
from lab.ui import story
from lab.ui.page import ACT, QUIET, Page, needed, notice
from lab.ui.texts import say

ACTS = {"drop": ("D", False), "skip": ("S", None), "keep": ("K", True)}
# The story's id travels with the press: a second press before the next story is there says the same thing again.
PRESS = """
const press = button => {
  const stars = [...element.querySelectorAll('[data-star]')];
  if (button.dataset.star) {
    const on = button.getAttribute('aria-pressed') !== 'true';
    stars.forEach(star => star.setAttribute('aria-pressed', String(on && star === button)));
    return;
  }
  const star = stars.find(star => star.getAttribute('aria-pressed') === 'true');
  const card = element.querySelector('[data-story]');
  trigger('submit', {id: card ? card.dataset.story : '', act: button.dataset.act, quality: star ? +star.dataset.star : 0});
};
element.addEventListener('click', event => {
  const button = event.target.closest('button[data-act], button[data-star]');
  if (button) press(button);
});
// By the place of the key, so that a Korean keyboard layout does not matter.
const acts = {KeyK: 'keep', ArrowRight: 'keep', KeyD: 'drop', ArrowLeft: 'drop', KeyS: 'skip', KeyU: 'undo'};
const onkey = event => {
  if (!element.isConnected) return document.removeEventListener('keydown', onkey);
  if (event.ctrlKey || event.metaKey || event.altKey || event.repeat || event.isComposing) return;
  if (event.target.closest('input, textarea, select, [contenteditable], [role=tab], [role=listbox]')) return;
  const box = element.getBoundingClientRect();
  if (!box.height || box.bottom < 0 || box.top > innerHeight) return;
  const star = /^(?:Digit|Numpad)([1-5])$/.exec(event.code);
  const button = element.querySelector(star ? `[data-star="${star[1]}"]` : `[data-act="${acts[event.code]}"]`);
  if (!button) return;
  event.preventDefault();
  press(button);
};
document.addEventListener('keydown', onkey);
"""
CSS = """
.desk { max-width:44rem; margin:0 auto; }
.desk .bar { height:.5rem; border-radius:99px; background:var(--wash); overflow:hidden; margin:.3rem 0 .8rem; }
.desk .bar b { display:block; height:100%; background:var(--accent); border-radius:99px; transition:width .3s; }
.desk .story .text { font-size:1.1rem; line-height:2; }
.desk .row { display:flex; gap:.5rem; margin-top:.6rem; }
.desk .hands { position:sticky; bottom:0; padding:.1rem 0 .6rem; background:var(--paper); }
.desk .row button { flex:1; margin:0; min-height:3.2rem; border-radius:12px; border:1.5px solid var(--line); background:var(--paper);
  color:var(--ink); font-size:1.02rem; cursor:pointer; touch-action:manipulation; }
.desk .row button:focus-visible { outline:3px solid var(--accent); outline-offset:1px; }
.desk .row button[aria-pressed=true] { background:#ffe6a8; color:#3b2f2a; border-color:#E69F00; }
.desk .row button.keep { border-color:#009E73; } .desk .row button.drop { border-color:#D55E00; }
.desk .row button.undo { flex:0 1 7rem; min-height:2.4rem; font-size:.9rem; margin-left:auto; }
.desk kbd { font:inherit; font-size:.74rem; color:var(--soft); border:1px solid var(--line); border-radius:5px; padding:0 .35em; margin-left:.4em; }
.desk .label { color:var(--soft); font-size:.86rem; margin-top:.7rem; }
@media (hover:none), (max-width:640px) { .desk kbd { display:none; } }
"""


def build(page: Page) -> None:
    """Make the panel."""
    page.about("about_review")
    with gr.Row():
        who = page.label(
            gr.Textbox("", max_length=40, elem_id="reviewer", min_width=200),
            label="reviewer",
            placeholder="reviewer_hint",
        )
    desk = gr.HTML(js_on_load=PRESS, css_template=CSS, elem_id="desk")
    facts = gr.HTML(elem_id="review-facts")
    with gr.Row():
        words = gr.Button("", variant="primary", visible=False, elem_id="apply-words")
        best = gr.Button("", visible=False, elem_id="apply-best")
    with gr.Row():
        out = page.label(gr.Button("", min_width=140, elem_id="csv-out"), value="csv_out")
        back = page.label(gr.UploadButton(file_types=[".csv"], min_width=140, elem_id="csv-in"), label="csv_in")
    made = gr.File(visible=False, show_label=False, elem_id="csv")
    page.show(view, [desk], lambda run: [run.verdicts_file], (who,), programmed=True)
    page.show(
        summary,
        [facts, words, best],
        lambda run: [run.verdicts_file, run.reviews_file, run.stage_folder("filter") / "config.json"],
    )

    def act(run_id: str | None, language: str, name: str, event: gr.EventData) -> list[Any]:
        run = needed(run_id, language)
        if event.act == "undo":
            review.undo(run, name.strip())
        else:
            review.say_word(run, name, str(event.id), ACTS[event.act][1], int(event.quality) or None)
        return [*view(run, language, name), *summary(run, language)]

    def apply(run_id: str | None, language: str, threshold: bool) -> None:
        run = needed(run_id, language)
        config = run.config("filter")
        score = review.review_summary(run)["best_threshold"] if threshold else None
        kept = apply_cut(run, checked(config, min_score=score))["kept"]
        notice(language, "cut_saved", kept=f"{kept:,}")

    def export(run_id: str | None, language: str) -> Any:
        run = needed(run_id, language)
        path = Path(tempfile.mkdtemp()) / f"review-{run.id}.csv"
        review.export_csv(run, path)
        return gr.update(value=str(path), visible=True)

    def take(run_id: str | None, language: str, name: str, file: str) -> list[Any]:
        run = needed(run_id, language)
        taken = review.import_csv(run, Path(file), name.strip() or "csv")
        notice(language, "csv_taken", n=taken)
        return [*view(run, language, name), *summary(run, language)]

    chosen = [page.run, page.language]
    desk.submit(act, [*chosen, who], [desk, facts, words, best], **QUIET)
    words.click(lambda run, lang: apply(run, lang, False), chosen, None, **ACT)
    best.click(lambda run, lang: apply(run, lang, True), chosen, None, **ACT)
    out.click(export, chosen, made, **ACT)
    back.upload(take, [*chosen, who, back], [desk, facts, words, best], **ACT)


def view(run: Run | None, language: str, who: str = "") -> list[str]:
    """The next story of the reviewer with buttons; the filter's verdict is not shown, so that it sways nobody."""
    if run is None or not ledger(run).pairs:
        return [story.empty("empty_filter", language)]
    if not who.strip():
        return [story.empty("review_name", language)]
    desk = review.desk(run, who.strip())
    share = 100 * desk.seen / max(1, desk.total)
    head = (
        f'<div class="label">{say("review_progress", language, seen=desk.seen, total=desk.total)}</div><div class="bar" '
        f'role="progressbar" aria-valuenow="{share:.0f}" aria-valuemin="0" aria-valuemax="100"><b style="width:{share:.1f}%"></b></div>'
    )
    undo = f'<button type="button" class="undo" data-act="undo">{say("undo", language)}<kbd>U</kbd></button>'
    if desk.pair is None:
        body = f'{story.empty("review_done", language)}<div class="row">{undo}</div>'
    else:
        stars = "".join(
            f'<button type="button" data-star="{n}" aria-pressed="false" aria-label="{say("quality", language)} {n}">{n}</button>'
            for n in range(1, 6)
        )
        hands = "".join(
            f'<button type="button" class="{act}" data-act="{act}">{say(act, language)}<kbd>{key}</kbd></button>'
            for act, (key, _) in ACTS.items()
        )
        body = (
            f'<div data-story="{escape(desk.pair.id)}">{story.card(desk.pair, language)}</div>'
            f'<div class="label">{say("quality", language)}</div><div class="row">{stars}</div>'
            f'<div class="hands"><div class="row">{hands}</div></div><div class="row">{undo}</div>'
        )
    return [f'<div class="desk">{head}{body}</div>']


def summary(run: Run | None, language: str) -> list[Any]:
    """What people said so far: agreement with filter and judge, estimated precision, and the two buttons that act on it."""
    hidden = gr.update(visible=False)
    facts = review.review_summary(run) if run and ledger(run).pairs else {}
    if not facts or not facts["reviewed"]:
        pending = facts.get("pending", 0)
        return ["", gr.update(visible=bool(pending), value=say("apply_words", language, n=pending)), hidden]

    def number(value: dict[str, Any], key: str, form: str, name: str) -> tuple[str, str]:
        if value[key] is None:
            return "–", say(name, language)
        return f"{value[key]:{form}}", f"{say(name, language)} {value['low']:{form}}~{value['high']:{form}}"

    people = ", ".join(f"{name} {count}" for name, count in facts["reviewers"].items())
    shown = [
        (f"{facts['reviewed']}", f"{say('reviewed', language)}: {people}"),
        number(facts["filter"], "kappa", ".2f", "kappa_filter"),
        number(facts["judge"], "kappa", ".2f", "kappa_judge"),
        number(facts["precision"], "share", ".0%", "precision"),
    ]
    best, config = facts["best_threshold"], run.config("filter")
    return [
        story.facts(shown) + f'<p class="count">{say("review_note", language)}</p>',
        gr.update(visible=bool(facts["pending"]), value=say("apply_words", language, n=facts["pending"])),
        gr.update(visible=best is not None and best != config.min_score, value=say("apply_best", language, score=best)),
    ]
