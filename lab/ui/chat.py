"""The Chat tab: up to three speakers tell the same story side by side, openly or blind with votes."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from html import escape
from typing import Any

import gradio as gr
from gradio.context import LocalContext

from lab import domain, jobs, votes
from lab.chat import Said, faults
from lab.records import Prompt
from lab.run import Run
from lab.ui import charts, shared
from lab.ui.page import ACT, QUIET, Page, needed
from lab.ui.texts import reason, say

LONGEST = 2000
"""Characters of a request."""
SEATS = 3
"""Columns at most."""
READY = 4
"""Ready requests on show."""
SEEDS = 2**31
"""As many as endpoints take."""


@dataclass(frozen=True)
class Table:
    """A conversation as the server keeps it, where the page cannot forge it: who sits where, what they said, the vote.

    ``left`` is how many conversations had been left when it began: it stands as long as no more have been.
    """

    left: int = -1
    run: str = ""
    names: tuple[str, ...] = ()
    specs: tuple[str, ...] = ()
    blind: bool = False
    instruction: str = ""
    seed: int = 0
    temperature: float = 0.8
    said: tuple[Said, ...] = ()
    voted: bool = False

    @property
    def hidden(self) -> bool:
        """Whether the names are still a secret."""
        return self.blind and not self.voted

    @property
    def votable(self) -> bool:
        """Whether all have told their story to the end and nobody has voted on it yet."""
        return self.hidden and bool(self.said) and all(s.finish for s in self.said)


def build(page: Page) -> None:
    """Make the tab."""
    page.about("about_chat")
    ahead = gr.HTML("", elem_id="chat-line")
    table, left = gr.State(Table()), gr.State(0)
    with gr.Row(equal_height=True, elem_id="cast"):
        chosen = page.label(
            gr.Dropdown([], multiselect=True, max_choices=SEATS, scale=3, min_width=260, elem_id="speakers"),
            label="speakers",
            info="speakers_info",
        )
        blind = page.label(
            gr.Checkbox(False, scale=1, min_width=200, elem_id="blind"), label="blind", info="blind_info"
        )
    with gr.Row(elem_classes="columns"):
        seats = []
        notes = []
        for i in range(SEATS):
            with gr.Column(min_width=280, visible=i < 2) as seat:
                seats.append(seat)
                column = gr.Chatbot(
                    height=440,
                    buttons=["copy", "copy_all"],
                    feedback_options=None,
                    render_markdown=False,
                    elem_classes="teller",
                    elem_id=f"column-{'abc'[i]}",
                )
                page.first.append(
                    (column, lambda lang, i=i: {"label": head(Table(), i, lang), "placeholder": say("no_run", lang)})
                )
                notes.append((column, gr.HTML(said_by(None, "ko", []), elem_id=f"note-{'abc'[i]}")))
    columns = [c for c, _ in notes]
    lines = [n for _, n in notes]
    with gr.Row(visible=False, elem_id="votes") as ballot:
        voting = [
            page.label(
                gr.Button("", min_width=110, interactive=False, visible=choice != "c", elem_id=f"vote-{choice}"),
                value=f"vote_{choice}",
            )
            for choice in votes.CHOICES
        ]
    prompt = page.label(
        gr.Textbox(lines=1, max_lines=6, max_length=LONGEST, elem_id="prompt"),
        label="prompt",
        placeholder="prompt_hint",
        info="prompt_info",
    )
    with gr.Row():
        send = page.label(gr.Button("", variant="primary", min_width=140, elem_id="send"), value="send")
        stop = page.label(gr.Button("", min_width=90, elem_id="chat-stop"), value="stop")
        again = page.label(gr.Button("", min_width=120, elem_id="again"), value="again")
        dice = page.label(gr.Button("", min_width=120, elem_id="dice"), value="dice")
        clear = page.label(gr.Button("", min_width=100, elem_id="clear"), value="clear")
    ready = page.label(
        gr.Dataset(
            components=["textbox"], samples=[[p.instruction] for p in ready_prompts()], type="index", elem_id="ready"
        ),
        label="ready",
    )
    with page.label(gr.Accordion("", open=False), label="settings"), gr.Row():
        temperature = page.label(
            gr.Slider(0.0, 1.5, value=0.8, step=0.05, elem_id="chat-temperature"), label="temperature", info="chat_same"
        )
        seed = page.label(gr.Number(0, precision=0, elem_id="chat-seed"), label="seed")
    tally = gr.HTML(elem_id="tally")

    setting = [page.run, page.language, table, left, chosen, blind, seed, temperature]
    shown = [*columns, *lines, table, *voting]
    spoken: dict[str, Any] = {"concurrency_id": "chat", "concurrency_limit": 1, "show_progress": "hidden"}
    listening = [page.run, page.language, table, *columns]
    begun = gr.on([send.click, prompt.submit], ask, [*setting, prompt, *columns], [prompt, *shown], **ACT)
    going = begun.success(answer, listening, shown, api_visibility="private", **spoken)
    redone = again.click(retell, [*setting, *columns], [seed, *shown], **ACT)
    regoing = redone.success(answer, listening, shown, api_visibility="private", **spoken)
    for told in (going, regoing):
        # Words that were on their way when a conversation was left arrive after it was emptied; after this they cannot.
        told.then(settled, [page.language, table, left], shown, **QUIET)
    stop.click(None, None, None, cancels=[going, regoing], api_visibility="private")
    dice.click(lambda: rolled().instruction, None, prompt, **QUIET)
    ready.click(lambda index: ready_prompts()[index].instruction, ready, prompt, **QUIET)
    # Both queued: only the queue tells the page that a state has changed.
    clear.click(lambda so_far: so_far + 1, left, left, **ACT)
    page.run.change(leaving, [page.run, table, left], left, **ACT)
    left.change(emptied, page.language, shown, cancels=[going, regoing], **QUIET)
    for button, choice in zip(voting, votes.CHOICES, strict=True):
        button.click(
            voted_as(choice), [page.run, page.language, table], [*lines, table, *voting, *columns, tally], **ACT
        )
    chosen.input(seated, chosen, seats, **QUIET)
    # The ballot comes and goes with the switch, not with the stories: nothing moves under a finger that is about to press.
    blind.input(lambda on: gr.update(visible=on), blind, ballot, **QUIET)
    page.show(choices, [chosen, *seats], trained_files)
    page.show(titles, columns, trained_files, (table,))
    page.show(counted, [tally], lambda run: [run.votes_file])
    page.show(line, [ahead], lambda run: [f"{place()} {jobs.in_line()}"])


def trained_files(run: Run) -> list[Any]:
    """The files from which the speakers follow."""
    return [run.folder / "run.json", *(run.stage_folder("train", a) / "done.json" for a in run.arms())]


@cache
def ready_prompts() -> tuple[Prompt, ...]:
    """Short requests of the test split, which no student has seen."""
    held = [p for p in domain.prompts(600, 5) if p.split == "test"]
    return tuple(sorted(held, key=lambda p: len(p.instruction))[2 : 2 + READY])


def rolled() -> Prompt:
    """A request of the test split by chance."""
    return next(p for p in domain.prompts(200, random.randrange(2**31)) if p.split == "test")


def speakers(run: Run) -> dict[str, str]:
    """SPEC of everybody who can speak by name: ``teacher``, ``base`` (the untrained student), ``arm NAME`` for each arm."""
    arms = run.finished_arms()
    teacher = run.config("generate").teacher
    base = run.config("train", next(iter(run.arms()[-1:]), "")).student
    found = {"teacher": teacher} if teacher else {}
    if not base.startswith("scratch:"):
        found["base"] = base
    return found | {f"arm {a}": f"run:{run.id}/{a}" for a in arms}


def usual(known: Sequence[str]) -> list[str]:
    """Who speaks unless somebody chooses: the first and the last, so the teacher and the newest arm where there are any."""
    return list(dict.fromkeys([*known[:1], *known[-1:]]))


def called(name: str, language: str) -> str:
    """A speaker's name in words."""
    who, _, arm = name.partition(" ")
    return charts.name({"who": who, "name": arm}, language)


def choices(run: Run | None, language: str) -> list[Any]:
    """Who can be asked, with the usual two chosen, and as many seats."""
    known = list(speakers(run)) if run else []
    picked = usual(known)
    return [gr.update(choices=[(called(n, language), n) for n in known], value=picked), *seated(picked)]


def seated(chosen: list[str]) -> list[Any]:
    """A column for each speaker, two at least so that the page does not jump."""
    return [gr.update(visible=i < max(2, len(chosen))) for i in range(SEATS)]


def head(table: Table, seat: int, language: str) -> str:
    """What stands above a column: who speaks or, while it is a secret, a letter."""
    letter = "ABC"[seat]
    if seat >= len(table.names):
        return letter
    if table.hidden:
        return f"{letter} · {say('secret', language)}"
    return f"{letter} · {called(table.names[seat], language)} · {table.specs[seat]}"


def place() -> int:
    """How many stories are told before that of who asks: the one that is being told and those that wait before it; 0 when
    they wait for none."""
    page, request = LocalContext.blocks.get(None), LocalContext.request.get(None)
    if page is None or request is None:
        return 0
    line = page._queue.event_queue_per_concurrency_id.get("chat")  # made when the first story is asked for
    return next((i for i, e in enumerate(line.queue if line else (), 1) if e.session_hash == request.session_hash), 0)


def line(run: Run | None, language: str) -> list[str]:
    """The visitor's place among those who wait for a story, and the jobs that use the machine."""
    before, busy = place(), jobs.in_line()
    parts = [say("chat_place", language, n=before)] if before else []
    if busy:
        parts.append(say("chat_busy", language, n=busy - 1))
    return [f'<p class="in-line" role="status">{" ".join(parts) or "&nbsp;"}</p>']


def ballots(table: Table) -> list[Any]:
    """The buttons of the vote: pressed only when all stories stand; the third for a third story."""
    return [gr.update(interactive=table.votable, visible=c != "c" or len(table.names) == SEATS) for c in votes.CHOICES]


def titles(run: Run | None, language: str, table: Table) -> list[Any]:
    """The heads of all columns, and what to do while they are empty."""
    todo = say("chat_empty" if run else "no_run", language)
    return [gr.update(label=head(table, seat, language), placeholder=todo) for seat in range(SEATS)]


def ask(
    run_id: str | None,
    language: str,
    table: Table,
    left: int,
    chosen: list[str],
    blind: bool,
    seed: float,
    temperature: float,
    prompt: str,
    *columns: list[dict[str, Any]],
) -> list[Any]:
    """Take the request down: seat the speakers (shuffled when blind), empty the box, show that it is being worked on."""
    run = needed(run_id, language)
    if not prompt.strip():
        raise gr.Error(say("nothing_asked", language), title=say("error", language), print_exception=False)
    known = speakers(run)
    names = [n for n in dict.fromkeys(chosen or usual(list(known))) if n in known][:SEATS]
    if len(names) < 1 + blind:
        raise gr.Error(say("too_few_speakers", language), title=say("error", language), print_exception=False)
    shared.slow_down()
    allow(run, [known[n] for n in names])
    stands = (table.left, table.run) == (left, run.id)
    same = stands and sorted(table.names) == sorted(names) and table.blind == bool(blind)
    goes_on = same and not table.voted
    if not goes_on:
        if blind:
            random.SystemRandom().shuffle(names)
        table = Table(left, run.id, tuple(names), tuple(known[n] for n in names), bool(blind))
    told_so_far = [plain(c) if goes_on else [] for c in columns]
    return [
        "",
        *opening(table, prompt.strip()[:LONGEST], int(seed or 0) % SEEDS, float(temperature), told_so_far, language),
    ]


def allow(run: Run, specs: Sequence[str]) -> None:
    """Problem when one of these may not be opened for who asks: the names come from files that a zip may have brought."""
    for spec in specs:
        shared.allow_spec("teacher", spec)
    shared.allow_address(run.config("generate").base_url)


def retell(
    run_id: str | None,
    language: str,
    table: Table,
    left: int,
    chosen: list[str],
    blind: bool,
    seed: float,
    temperature: float,
    *columns: list[dict[str, Any]],
) -> list[Any]:
    """The last request once more with the next seed."""
    needed(run_id, language)
    if table.left != left or table.voted:
        raise gr.Error(say("nothing_to_repeat", language), title=say("error", language), print_exception=False)
    shared.slow_down()
    before = []
    for column in map(plain, columns):
        asked = [i for i, m in enumerate(column) if m["role"] == "user"]
        before.append(column[: asked[-1]] if asked else [])
    following = (int(seed or 0) + 1) % SEEDS
    return [following, *opening(table, table.instruction, following, float(temperature), before, language)]


def opening(
    table: Table, instruction: str, seed: int, temperature: float, before: list[list[dict[str, str]]], language: str
) -> list[Any]:
    """The columns with the new request in them, before the first word of an answer."""
    table = replace(table, instruction=instruction, seed=seed, temperature=temperature, said=(), voted=False)
    taken = len(table.names)
    asked = [[*b, {"role": "user", "content": instruction}] if i < taken else [] for i, b in enumerate(before)]
    columns = [gr.update(value=c, label=head(table, i, language)) for i, c in enumerate(asked)]
    wait = [said_by(None, language, [], say("in_line", language) if i < taken else "") for i in range(SEATS)]
    return [*columns, *wait, table, *ballots(table)]


def answer(run_id: str | None, language: str, table: Table, *columns: list[dict[str, Any]]) -> Iterator[list[Any]]:
    """Let all speakers tell their story at once, and stream every column."""
    from lab import chat

    run = needed(run_id, language)
    asked = [plain(c) for c in columns[: len(table.names)]]
    opens = said_by(None, language, [], say("loading", language))
    blank = [gr.skip()] * (SEATS - len(table.names))
    closed = [gr.skip()] * len(votes.CHOICES)
    yield [*[gr.skip()] * SEATS, *(opens for _ in asked), *blank, table, *closed]
    rules, base_url = run.config("filter"), run.config("generate").base_url
    for said in chat.talk(table.specs, asked, table.temperature, table.seed, base_url=base_url):
        grown = [[*a, {"role": "assistant", "content": s.text or "…"}] for a, s in zip(asked, said, strict=True)]
        table = replace(table, said=tuple(said))
        below = []
        for a, s in zip(asked, said, strict=True):
            requests = [m["content"] for m in a if m["role"] == "user"]
            found = faults(requests, s.text, s.finish, rules) if s.finish else None
            below.append(said_by(s, language, found, hidden=table.hidden))
        ended = all(s.finish for s in said)
        if ended:  # a look that set out before the request may have drawn the heads of an empty table meanwhile
            grown = [gr.update(value=g, label=head(table, i, language)) for i, g in enumerate(grown)]
        yield [*grown, *blank, *below, *blank, table, *(ballots(table) if ended else closed)]


def voted_as(choice: str) -> Any:
    """The handler of a vote's button."""

    def voted(run_id: str | None, language: str, table: Table) -> list[Any]:
        """Keep the vote and lift the secret."""
        run = needed(run_id, language)
        if not table.votable or table.run != run.id or votes.CHOICES.index(choice) == len(table.names) == 2:
            raise gr.Error(say("nothing_to_vote", language), title=say("error", language), print_exception=False)
        told_by = [
            {
                "name": n,
                "spec": p,
                "revision": s.trained or s.revision,
                "text": s.text,
                "tokens": s.tokens,
                "seconds": round(s.seconds, 3),
            }
            for n, p, s in zip(table.names, table.specs, table.said, strict=True)
        ]
        votes.vote(
            run, choice, told_by, table.instruction, shared.owner(), seed=table.seed, temperature=table.temperature
        )
        table = replace(table, voted=True)
        rules = run.config("filter")
        below = [
            said_by(s, language, faults([table.instruction], s.text, s.finish, rules), choice_of=choice == "abc"[i])
            for i, s in enumerate(table.said)
        ]
        below += [gr.skip()] * (SEATS - len(below))
        return [
            *below,
            table,
            *ballots(table),
            *titles(run, language, table),
            counted(run, language)[0],
        ]

    return voted


def leaving(run_id: str | None, table: Table, left: int) -> int:
    """How many conversations were left for another run; unchanged, so that nothing is emptied, where there is none.

    On a slow phone a new page comes to this only after its visitor has sent the first request.
    """
    return left + (table.run not in ("", run_id))


def emptied(language: str) -> list[Any]:
    """A fresh table."""
    columns = [gr.update(value=[], label=head(Table(), seat, language)) for seat in range(SEATS)]
    return [*columns, *[said_by(None, language, [])] * SEATS, Table(), *ballots(Table())]


def settled(language: str, table: Table, left: int) -> list[Any]:
    """When a telling has ended, also by being cancelled: a fresh table if its conversation has been left."""
    shown = emptied(language)
    return [gr.skip()] * len(shown) if table.left == left else shown


def counted(run: Run | None, language: str) -> list[str]:
    """All votes of the run as sentences, one for each pair of speakers."""
    duels = votes.count(run) if run else []
    rows = []
    for d in duels:
        first, second = called(d.first, language), called(d.second, language)
        line = say("duel", language, first=first, second=second, wins=d.wins, losses=d.losses, ties=d.ties, bad=d.bad)
        if d.share is not None and d.low is not None and d.high is not None:
            part = say("duel_share", language, first=first, share=f"{d.share:.0%}", low=f"{d.low:.0%}", high=f"{d.high:.0%}")  # fmt: skip
            line += f" {part}" + (f" {say('duel_open', language)}" if d.low <= 0.5 <= d.high else "")
        rows.append(f"<li>{escape(line)}</li>")
    return [f'<div class="tally"><b>{say("tally", language)}</b><ul>{"".join(rows)}</ul></div>' if rows else ""]


def plain(history: list[dict[str, Any]]) -> list[dict[str, str]]:
    """The conversation with each content as one text; Gradio hands it over as a list of blocks."""
    return [
        {
            "role": m["role"],
            "content": m["content"]
            if isinstance(m["content"], str)
            else "".join(b.get("text", "") for b in m["content"]),
        }
        for m in history or []
    ]


def said_by(
    said: Said | None,
    language: str,
    found: list[str] | None,
    instead: str = "",
    hidden: bool = False,
    choice_of: bool = False,
) -> str:
    """What stands below a column: who speaks (model, revision, what was trained), numbers, the filter's verdict.

    While the names are a secret nothing is told that gives them away: no model, no speed.
    """
    if said is None:
        return f'<div class="said"><p>{escape(instead) or "&nbsp;"}</p></div>'
    speed = said.tokens / said.seconds if said.seconds else 0.0
    numbers = [say("length", language, n=len(said.text))]
    who = ""
    if not hidden:
        numbers = [
            say("first_token", language, n=f"{said.first or 0:.2f}"),
            say("speed", language, n=f"{speed:.0f}"),
            *numbers,
        ]
        parts = [said.spec, f"{say('revision', language)} {said.revision[:12]}" if said.revision else ""]
        if said.trained:
            parts += [f"{say('base_of', language)} {said.base}" if said.base else "", f"{say('trained', language)} {said.trained}"]  # fmt: skip
        who = f'<p class="who">{escape(" · ".join(p for p in parts if p))}</p>'
    if said.finish == "length":
        numbers.append(say("cut_off", language))
    chips = ""
    if found is not None:
        chips = "".join(f'<span class="chip bad">{escape(reason(r, language))}</span>' for r in found) or (
            f'<span class="chip good">{say("rules_pass", language)}</span>'
        )
    if choice_of:
        chips += f'<span class="chip pick">{say("your_choice", language)}</span>'
    return f'<div class="said">{who}<p>{" · ".join(numbers)}</p><p class="chips">{chips}</p></div>'
